"""A write in several packets is done when the last piece is acknowledged."""

from __future__ import annotations

from typing import Any

import pytest

from replblk.engine.split_writes import SplitWrites
from replblk.model.errors import PeerError
from replblk.wire.packets import Cmd


class Write:
    """As much of a write as pieces look at."""

    def __init__(self, volume: object) -> None:
        self.volume = volume
        self.block_id = b"the whole"
        self.rs_ack = True


def sent(pieces: int) -> tuple[SplitWrites, Any, Any, list[tuple[Any, bool]]]:
    done: list[tuple[Any, bool]] = []
    split = SplitWrites(lambda write, ok: done.append((write, ok)), lambda write: None)
    volume: Any = object()
    write: Any = Write(volume)
    for number in range(pieces):
        split.sent(write, bytes([number]) * 8, number * 2048, 1 << 20)
    return split, volume, write, done


def ack(number: int, size: int = 1 << 20) -> tuple[int, bytes, int]:
    return number * 2048, bytes([number]) * 8, size


def test_all_pieces_in_any_order() -> None:
    split, volume, write, done = sent(3)
    for number in (2, 0, 1):
        assert not done
        assert split.on_ack(Cmd.P_WRITE_ACK, volume, *ack(number))
    assert done == [(write, True)]
    assert not write.rs_ack
    assert len(split) == 0


def test_one_refused_piece_makes_the_write_refused() -> None:
    split, volume, write, done = sent(3)
    split.on_ack(Cmd.P_NEG_ACK, volume, *ack(1, size=0))
    split.on_ack(Cmd.P_WRITE_ACK, volume, *ack(0))
    split.on_ack(Cmd.P_WRITE_ACK, volume, *ack(2))
    assert done == [(write, False)]


def test_in_sync_only_if_all_pieces_are() -> None:
    split, volume, write, done = sent(2)
    for number in range(2):
        split.on_ack(Cmd.P_RS_WRITE_ACK, volume, *ack(number))
    assert done == [(write, True)]
    assert write.rs_ack


def test_what_is_not_a_piece_is_not_ours() -> None:
    split, volume, _, _ = sent(1)
    assert not split.on_ack(Cmd.P_WRITE_ACK, volume, *ack(9))


@pytest.mark.parametrize(
    ("cmd", "what"),
    [
        (Cmd.P_WRITE_ACK, (8, bytes(8), 1 << 20)),
        (Cmd.P_WRITE_ACK, (0, bytes(8), 512)),
        (Cmd.P_RECV_ACK, (0, bytes(8), 1 << 20)),
    ],
    ids=["sector", "size", "kind"],
)
def test_wrong_acknowledgements_cost_the_connection(cmd: Cmd, what: Any) -> None:
    split, volume, _, done = sent(2)
    with pytest.raises(PeerError):
        split.on_ack(cmd, volume, *what)
    assert not done


def test_of_another_volume() -> None:
    split, _, _, _ = sent(1)
    other: Any = object()
    with pytest.raises(PeerError):
        split.on_ack(Cmd.P_WRITE_ACK, other, *ack(0))


def test_after_a_loss_nothing_is_remembered() -> None:
    split, volume, _, done = sent(2)
    split.connection_lost()
    assert not split.on_ack(Cmd.P_WRITE_ACK, volume, *ack(0))
    assert not done


def test_receipts_of_all_pieces_make_a_write_received() -> None:
    received: list[Any] = []
    split = SplitWrites(lambda write, ok: None, received.append)
    volume: Any = object()
    write: Any = Write(volume)
    for number in range(2):
        split.sent_for_receipt(write, bytes([number]) * 8, number * 2048)
    assert split.on_ack(Cmd.P_RECV_ACK, volume, *ack(0))
    assert not received
    assert split.on_ack(Cmd.P_RECV_ACK, volume, *ack(1))
    assert received == [write]
    assert not split.on_ack(Cmd.P_RECV_ACK, volume, *ack(1)), "once is enough"
