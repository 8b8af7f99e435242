"""A peer that breaks the protocol before it is connected: rubbish, silence, wrong parameters.

It costs the connection; the node, its data, its role stay. Each row of the tables of errors and
hostile input that a peer alone can bring about.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Policy, Protocol
from replblk.wire.framing import frame
from replblk.wire.hot import data_header
from replblk.wire.packets import (
    Cmd,
    ProtocolPacket,
    Sizes,
    Uuids,
)
from tests.support.hostile import Watch, rig_with_data
from tests.support.scripted_peer import Rig, ScriptedPeer

# -- before anything is believed --------------------------------------------------------------


@pytest.mark.parametrize(
    "rubbish",
    [
        b"GET / HTTP/1.1\r\nHost: alpha\r\n\r\n",
        b"\0" * 100,
        b"\xff" * 4096,
        frame(Cmd.P_DATA, 0, b"x" * 24, 80),
        frame(Cmd.P_CONNECTION_FEATURES, 0, bytes(72), 80),
        struct.pack(">IHH", 0x83740267, 0xFFF2, 100) + bytes(100),
        b"\x83\x74",
        b"",
    ],
    ids=[
        *("http", "zeroes", "ones", "P_DATA", "features", "a length", "two bytes", "silence"),
    ],
)
def test_rubbish_instead_of_the_initial_packet(rubbish: bytes) -> None:
    rig = rig_with_data()
    watch = Watch(rig)
    peer = rig.peer
    peer.ports.links.listen(False)
    opened: list[int] = []
    peer.open(opened.append)
    rig.run_until(lambda: bool(opened))
    peer.raw(opened[0], rubbish)
    rig.run_for(3)
    assert (opened[0], "closed by the peer") in peer.lost
    assert rig.state("alpha").conn is ConnState.WF_CONNECTION
    peer.ports.links.listen(True)
    watch.over(breaks=False)


def test_a_flood_of_connections_that_say_nothing() -> None:
    rig = rig_with_data()
    watch = Watch(rig)
    peer = rig.peer
    peer.ports.links.listen(False)
    for _ in range(60):
        peer.open(lambda link: None)
        rig.run_for(0.001)
    assert len(peer.lost) >= 60 - 16  # most are turned away at once
    rig.run_for(3)
    peer.ports.links.listen(True)
    watch.over(breaks=False)


def test_one_socket_and_never_the_other() -> None:
    rig = rig_with_data()
    watch = Watch(rig)
    peer = rig.peer
    peer.ports.links.listen(False)
    peer.open(lambda link: peer.raw(link, frame(Cmd.P_INITIAL_DATA, 0, b"", 80)))
    rig.run_for(20)
    assert rig.state("alpha").conn is ConnState.WF_CONNECTION
    peer.ports.links.listen(True)
    watch.over(breaks=False)


# -- features ---------------------------------------------------------------------------------


def features(low: int, high: int, flags: int = 15) -> bytes:
    return struct.pack(">IIII", low, flags, high, 0) + bytes(56)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (frame(Cmd.P_CONNECTION_FEATURES, 0, features(110, 120), 80), "incompatible DRBD dialects"),
        (frame(Cmd.P_CONNECTION_FEATURES, 0, features(1, 85), 80), "incompatible DRBD dialects"),
    ],
    ids=["too new", "too old"],
)
def test_features_nobody_can_agree_on_are_told_and_cost_this_connection_only(
    said: bytes, words: str
) -> None:
    rig = rig_with_data()
    watch = Watch(rig)
    rig.sockets()
    rig.peer.raw(rig.peer.data, said)
    rig.run_for(5)
    assert rig.state("alpha").conn is ConnState.WF_CONNECTION
    assert rig.told("alpha", words)
    watch.over(breaks=False)


@pytest.mark.parametrize(
    "said",
    [
        b"\0" * 200,
        struct.pack(">IHH", 0x83740267, 0xFFFE, 71) + bytes(71),
        struct.pack(">IHH", 0x83740267, 0xFFFE, 65535),
        struct.pack(">IHIII", 0x8620EC20, 0, 0xFFFE, 72, 0) + bytes(72),
        frame(Cmd.P_PROTOCOL, 0, bytes(25), 80),
        b"",
    ],
    ids=["zeroes", "short", "long", "wrong header", "another packet", "silence"],
)
def test_rubbish_instead_of_features(said: bytes) -> None:
    rig = rig_with_data()
    watch = Watch(rig)
    rig.sockets()
    rig.peer.raw(rig.peer.data, said)
    rig.run_for(5)
    assert rig.state("alpha").conn is ConnState.WF_CONNECTION
    watch.over(breaks=False)


# -- parameters -------------------------------------------------------------------------------


def agreed() -> Rig:
    """Features are agreed, alpha has sent its parameters, the peer none of its own."""
    rig = rig_with_data()
    rig.sockets()
    peer = rig.peer
    peer.say_features()
    peer.apv, peer.features = 101, 15
    for deframer in peer._deframers.values():
        deframer.apv = 101
    rig.gets(Cmd.P_STATE)
    return rig


def protocol(**fields: int) -> bytes:
    values = {"protocol": 3, "p0": 0, "p1": 0, "p2": 0, "flags": 0, "two": 0, **fields}
    return struct.pack(">6I", *values.values()) + b"\0"


PARAMETERS: dict[str, Callable[[ScriptedPeer], None]] = {
    "P_STATE before P_PROTOCOL": lambda p: p.send(Cmd.P_STATE, p.state()),
    "P_UUIDS before P_PROTOCOL": lambda p: p.send(Cmd.P_UUIDS, Uuids(1, 2, 3, 4, 5, 6)),
    "P_DATA before P_PROTOCOL": lambda p: p.write(0, b"evil" * 128),
    "protocol 9": lambda p: p.send_payload(Cmd.P_PROTOCOL, protocol(protocol=9)),
    "policy 77": lambda p: p.send_payload(Cmd.P_PROTOCOL, protocol(p1=77)),
    "two primaries 2": lambda p: p.send_payload(Cmd.P_PROTOCOL, protocol(two=2)),
    "no NUL": lambda p: p.send_payload(Cmd.P_PROTOCOL, protocol()[:-1] + b"sha1"),
    "a name of 64": lambda p: p.send_payload(Cmd.P_PROTOCOL, protocol()[:-1] + b"a" * 64),
    "P_PROTOCOL too short": lambda p: p.send_payload(Cmd.P_PROTOCOL, b"abc"),
    "P_PROTOCOL twice": lambda p: [p.send(Cmd.P_PROTOCOL, p.protocol) for _ in "12"],  # type: ignore[dict-item,return-value]
    "P_SYNC_PARAM89 short": lambda p: p.send_payload(Cmd.P_SYNC_PARAM89, bytes(140)),
    "P_SYNC_PARAM89 no NUL": lambda p: p.send_payload(Cmd.P_SYNC_PARAM89, b"a" * 148),
    "P_SIZES of the other kind": lambda p: p.send_payload(Cmd.P_SIZES, bytes(32)),
    "an unknown command": lambda p: p.raw(p.data, struct.pack(">IHHII", 0x8620EC20, 0, 0x99, 0, 0)),
    "an obsolete command": lambda p: p.raw(
        p.data, struct.pack(">IHHII", 0x8620EC20, 0, 0x05, 0, 0)
    ),
    "a meta command": lambda p: p.send_payload(Cmd.P_WRITE_ACK, bytes(24), on="data"),
    "a second features": lambda p: p.send_payload(Cmd.P_CONNECTION_FEATURES, bytes(72)),
    "a header of 80": lambda p: p.raw(p.data, frame(Cmd.P_PROTOCOL, 0, protocol(), 80)),
    "a huge length": lambda p: p.raw(
        p.data, struct.pack(">IHHII", 0x8620EC20, 0, 0x00, 0xFFFFFFF0, 0) + b"x" * 100
    ),
    "a pad": lambda p: p.raw(p.data, struct.pack(">IHHII", 0x8620EC20, 0, 0x0B, 25, 1)),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_that_break_the_protocol(name: str) -> None:
    rig = agreed()
    watch = Watch(rig)
    PARAMETERS[name](rig.peer)
    watch.over()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", Protocol.A),
        ("after_sb_0p", Policy.DISCARD_LEAST_CHG),
        ("two_primaries", True),
        ("integrity_alg", "sha1"),
    ],
)
def test_settings_that_differ_end_in_standalone(field: str, value: object) -> None:
    rig = agreed()
    watch = Watch(rig)
    good = rig.peer.protocol
    values = {name: getattr(good, name) for name in ProtocolPacket.__slots__}
    rig.peer.send(Cmd.P_PROTOCOL, ProtocolPacket(**{**values, field: value}))  # type: ignore[arg-type]
    rig.reaches("alpha", conn=ConnState.STANDALONE)
    assert any("incompatible" in t and t.endswith(" settings") for t in rig["alpha"].told)
    watch.over()


def test_silence_after_the_features_is_noticed_by_the_ping() -> None:
    rig = agreed()
    watch = Watch(rig)
    rig.peer.pongs = False
    rig.breaks()
    watch.over()


def test_negotiating_before_the_generation_is_known() -> None:
    rig = agreed()
    watch = Watch(rig)
    peer = rig.peer
    peer.disk = DiskState.NEGOTIATING
    peer.say_parameters(but=frozenset({Cmd.P_UUIDS}))
    rig.breaks()
    peer.disk = DiskState.UP_TO_DATE
    watch.over()


def test_a_volume_that_is_not_there_is_skipped_when_described_and_refused_when_used() -> None:
    rig = agreed()
    watch = Watch(rig)
    peer = rig.peer
    peer.send(Cmd.P_PROTOCOL, peer.protocol)
    peer.send(Cmd.P_STATE, peer.state(), volume=3)
    peer.send(Cmd.P_SIZES, Sizes(1, 2, 3, 4), volume=65535)
    peer.say_parameters(but=frozenset({Cmd.P_PROTOCOL}))
    rig.meet()
    assert rig.told("alpha", "which is not configured locally")
    peer.send_payload(Cmd.P_DATA, data_header(0, b"12345678", 1, 256) + b"evil" * 128, volume=3)
    watch.over()


@pytest.mark.parametrize("sectors", [1 << 51, (1 << 51) + 8, (1 << 64) - 1, 8])
def test_impossible_sizes(sectors: int) -> None:
    rig = agreed()
    watch = Watch(rig)
    peer = rig.peer
    good, peer.sectors = peer.sectors, sectors
    peer.say_parameters()
    rig.run_for(2)
    peer.sectors = good
    watch.over(breaks=False)
