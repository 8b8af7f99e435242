"""Recorded sessions of replblk and the kernel's DRBD, without a kernel.

Every byte of both is decoded and encoded again; then the kernel's half is fed to a node, which must
answer as replblk did when it was recorded, or as the table of freedoms (``comparable``) allows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from replblk.wire.packets import BlockAck, BlockRequest, Cmd, Message, SyncUuid, Uuids
from tests.conformance.transcripts.recording import Recording, recordings
from tests.conformance.transcripts.replay import Replay, Said, decoded, spoken, to_bytes
from tests.interop.kernel.capture import complaints, dissected, write_capture
from tests.interop.kernel.recorder import Talk
from tests.support.tools import need

every = pytest.mark.parametrize("path", recordings(), ids=lambda path: path.name.partition(".")[0])


def test_there_are_recordings() -> None:
    """An empty folder would make every other test pass."""
    assert len(recordings()) >= 5
    assert sum(path.stat().st_size for path in recordings()) < 1 << 20


@every
def test_every_packet_is_encoded_as_it_came(path: Path) -> None:
    """Both directions of every connection: value and bytes are the same thing."""
    recording = Recording.load(path)
    count = 0
    for number, connection in enumerate(recording.connections):
        for sender, stream in decoded(recording, number).items():
            original = b"".join(p.data for p in connection.pieces if p.sender == sender)
            at = 0
            for said in stream.packets:
                again = to_bytes(said)
                came = original[at : at + len(again)]
                at += len(again)
                if sender == "kernel" and said.cmd is Cmd.P_DATA_REQUEST:
                    # The kernel does not clear the pad at its end.
                    came, again = came[:-4], again[:-4]
                assert came == again, said
            assert at == len(original)
            count += len(stream.packets)
    assert count > 50


@every
def test_a_node_answers_a_recorded_kernel(path: Path) -> None:
    """The kernel's bytes are fed to a node: what it says is what was said when it was recorded."""
    recording = Recording.load(path)
    replay = Replay(recording)
    replay.run()
    assert not replay.errors
    for number in range(len(recording.connections)):
        recorded = spoken(decoded(recording, number)["replblk"].packets)
        own = spoken(replay.sent[number].packets)
        assert in_order(own) == in_order(recorded), f"connection {number}"
        assert in_any_order(own) == in_any_order(recorded), f"connection {number}"
    assert recording.state.startswith(replay.state)


def free(said: Said) -> bool:
    """Packets whose order among each other is free: each answers, or asks for, a block."""
    return isinstance(said.message, BlockAck | BlockRequest)


def comparable(said: Said) -> tuple[str, Message]:
    """A packet without what is drawn by chance."""
    message = said.message
    if isinstance(message, Uuids):
        message = replace(
            message,
            current=min(message.current, 5),
            bitmap=min(message.bitmap, 5),
            history0=min(message.history0, 5),
            history1=min(message.history1, 5),
        )
    elif isinstance(message, SyncUuid):
        message = SyncUuid(0)
    return said.cmd.name, message


def in_order(packets: list[Said]) -> list[tuple[str, Message]]:
    """What must come in the same order."""
    return [comparable(said) for said in packets if not free(said)]


def in_any_order(packets: list[Said]) -> Counter[tuple[str, Message]]:
    """What must only come."""
    return Counter(comparable(said) for said in packets if free(said))


@every
def test_the_dissector_finds_nothing_malformed(path: Path, tmp_path: Path) -> None:
    """tshark's own reading of the same bytes."""
    need("tshark")
    recording = Recording.load(path)
    talks = []
    for number, found in enumerate(recording.connections):
        pieces = [(piece.at / 1e6, piece.sender, piece.data) for piece in found.pieces]
        talks.append(Talk(number, found.opener, found.opened / 1e6, {}, pieces))
    capture = tmp_path / "session.pcap"
    write_capture(capture, talks)
    assert dissected(capture) > 50
    assert not complaints(capture)
