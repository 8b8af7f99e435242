"""A peer that breaks the protocol: it costs the connection; the node, its data, its role stay.

Each row of the tables of errors and hostile input that a peer alone can bring about.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from replblk.model.generation import UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Policy, Protocol, Role
from replblk.sim.world import SECOND_NS
from replblk.wire.framing import frame
from replblk.wire.hot import block_request, data_header, trim_header
from replblk.wire.packets import (
    ID_SYNCER,
    Barrier,
    BarrierAck,
    BlockDesc,
    Cmd,
    Features,
    ProtocolPacket,
    Sizes,
    StateChange,
    StateReply,
    StateWord,
    SyncUuid,
    Uuids,
)
from tests.support.lab import BLOCK
from tests.support.scripted_peer import Rig, ScriptedPeer

MINE = b"untouched!!!" * 341 + b"...."


class Watch:
    """What must be the same after an attack as before."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.data = self._data()
        self.role = rig.state("alpha").role

    def _data(self) -> bytes:
        return self.rig.on_disk("alpha", 0, self.rig.drive("alpha").layout.usable_sectors * 512)

    def over(self, *, breaks: bool = True) -> None:
        """The connection broke (or not); the peer behaves again; all is as before."""
        rig = self.rig
        if breaks:
            rig.breaks()
        rig.peer.hang_up()
        rig.behave()
        state = rig.state("alpha")
        assert state.disk is DiskState.UP_TO_DATE
        assert state.role is self.role
        assert self._data() == self.data
        if self.role is Role.PRIMARY:
            rig.write("alpha", 200 * BLOCK, MINE)
            assert rig.read("alpha", 0, BLOCK) == MINE


def rig_with_data(**options: object) -> Rig:
    rig = Rig(**options)
    rig.drive("alpha").store.preset(0, MINE)
    return rig


def primary(**options: object) -> Rig:
    rig = rig_with_data(**options)
    rig.peer.obliging = True
    rig.meet()
    rig.primary("alpha")
    return rig


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
def test_features_nobody_can_agree_on_stop_the_node_with_a_sentence(
    said: bytes, words: str
) -> None:
    rig = rig_with_data()
    watch = Watch(rig)
    rig.sockets()
    rig.peer.raw(rig.peer.data, said)
    rig.reaches("alpha", conn=ConnState.STANDALONE)
    assert any(words in line for line in rig.alpha.told) or any(
        words in line for line in rig.world.transcript.lines()
    )
    watch.over()


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
    assert rig.state("alpha").conn in (ConnState.WF_CONNECTION, ConnState.STANDALONE)
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


# -- connected --------------------------------------------------------------------------------

END = 1 << 40
TOP = (1 << 64) - 8


def request(cmd: Cmd, sector: int, size: int) -> Callable[[ScriptedPeer], None]:
    return lambda p: p.send_payload(cmd, block_request(sector, ID_SYNCER, size))


def ack(cmd: Cmd, block_id: bytes = b"whatever") -> Callable[[ScriptedPeer], None]:
    return lambda p: p.send_ack(cmd, 0, block_id, 4096)


CONNECTED: dict[str, Callable[[ScriptedPeer], object]] = {
    # writes
    "a write beyond the end": lambda p: p.write(END, b"evil" * 128),
    "a write at the top": lambda p: p.write(TOP, b"evil" * 1024),
    "a write of odd length": lambda p: p.write(0, b"evil"),
    "a write too long": lambda p: p.raw(
        p.data, struct.pack(">IHHII", 0x8620EC20, 0, 0, 24 + (2 << 20), 0)
    ),
    "a write with half a header": lambda p: p.send_payload(Cmd.P_DATA, b"x" * 10),
    "a trim of nothing": lambda p: p.send_payload(
        Cmd.P_TRIM, trim_header(0, b"12345678", 1, 64, 0)
    ),
    "a trim beyond the end": lambda p: p.send_payload(
        Cmd.P_TRIM, trim_header(8, b"12345678", 1, 64, 128 << 20)
    ),
    "a trim at the top": lambda p: p.send_payload(
        Cmd.P_ZEROES, trim_header(TOP, b"12345678", 1, 64, 1 << 20)
    ),
    "a trim with a tail": lambda p: p.send_payload(
        Cmd.P_TRIM, trim_header(0, b"12345678", 1, 64, 4096) + b"tail"
    ),
    "an odd trim": lambda p: p.send_payload(Cmd.P_TRIM, trim_header(0, b"12345678", 1, 64, 4097)),
    "write same": lambda p: p.send_payload(
        Cmd.P_WSAME, trim_header(0, b"12345678", 1, 512, 4096) + b"e" * 512
    ),
    # resync data
    "resync data not asked for": lambda p: p.send_payload(
        Cmd.P_RS_DATA_REPLY, data_header(0, ID_SYNCER, 0, 0) + b"evil" * 1024
    ),
    "deallocated not asked for": lambda p: p.send(Cmd.P_RS_DEALLOCATED, BlockDesc(0, 4096)),
    "a negative answer to nothing": ack(Cmd.P_NEG_RS_DREPLY, ID_SYNCER),
    "a cancel of nothing": ack(Cmd.P_RS_CANCEL, ID_SYNCER),
    "in sync, says who": ack(Cmd.P_RS_IS_IN_SYNC, ID_SYNCER),
    "an answer to no read": lambda p: p.send_payload(
        Cmd.P_DATA_REPLY, data_header(0, b"12345678", 0, 0) + b"evil" * 128
    ),
    "a refusal of no read": ack(Cmd.P_NEG_DREPLY),
    "a request beyond the end": request(Cmd.P_RS_DATA_REQUEST, END, 4096),
    "a request of nothing": request(Cmd.P_RS_DATA_REQUEST, 0, 0),
    "a request too large": request(Cmd.P_DATA_REQUEST, 0, 2 << 20),
    "a read at the top": request(Cmd.P_DATA_REQUEST, TOP, 4096),
    "an odd read": request(Cmd.P_DATA_REQUEST, 0, 100),
    "a checksum request": lambda p: p.send_payload(
        Cmd.P_CSUM_RS_REQUEST, block_request(0, ID_SYNCER, 4096) + b"d" * 20
    ),
    "a verify reply": lambda p: p.send_payload(
        Cmd.P_OV_REPLY, block_request(0, ID_SYNCER, 4096) + b"d" * 20
    ),
    # acknowledgements
    "an ack of nothing": ack(Cmd.P_WRITE_ACK),
    "a received of nothing": ack(Cmd.P_RECV_ACK),
    "superseded": ack(Cmd.P_SUPERSEDED),
    "retry": ack(Cmd.P_RETRY_WRITE),
    "an ack too short": lambda p: p.send_payload(Cmd.P_WRITE_ACK, b"x" * 8),
    "a barrier ack of nothing": lambda p: p.send(Cmd.P_BARRIER_ACK, BarrierAck(b"1234", 5)),
    "a ping with a payload": lambda p: p.send_payload(Cmd.P_PING, b"x"),
    "P_DATA on the meta socket": lambda p: p.send_payload(
        Cmd.P_DATA, data_header(0, b"12345678", 1, 256) + b"evil" * 128, on="meta"
    ),
    "rubbish on the meta socket": lambda p: p.raw(p.meta, b"\0" * 16),
    "rubbish on the data socket": lambda p: p.raw(p.data, b"\0" * 16),
    "an ack for another volume": lambda p: p.send_payload(Cmd.P_WRITE_ACK, bytes(24), volume=9),
    # barriers
    "an empty epoch": lambda p: p.send(Cmd.P_BARRIER, Barrier(b"1234")),
    # bitmaps
    "a bitmap out of the blue": lambda p: p.send_payload(Cmd.P_BITMAP, b"\xff" * 32),
    "a packed bitmap out of the blue": lambda p: p.send_payload(
        Cmd.P_COMPRESSED_BITMAP, b"\xe2\x0f\x00"
    ),
    "P_SYNC_UUID in the wrong state": lambda p: p.send(Cmd.P_SYNC_UUID, SyncUuid(123456)),
    "P_SYNC_UUID 4": lambda p: p.send_payload(Cmd.P_SYNC_UUID, (4).to_bytes(8, "big")),
    # states
    "a role of 3": lambda p: p.send_payload(Cmd.P_STATE, b"\0\0\0\3"),
    "a disk of 15": lambda p: p.send_payload(Cmd.P_STATE, struct.pack(">I", 15 << 9)),
    "a connection of 31": lambda p: p.send_payload(Cmd.P_STATE, struct.pack(">I", 31 << 4)),
    "a disconnect that wants more": lambda p: p.send(
        Cmd.P_CONN_ST_CHG_REQ, StateChange(0xFFFFFFFF, 0)
    ),
    "out of sync beyond the end": lambda p: p.send(Cmd.P_OUT_OF_SYNC, BlockDesc(END, 4096)),
    "P_PROTOCOL again": lambda p: p.send(Cmd.P_PROTOCOL, p.protocol),
    "features again": lambda p: p.send_payload(Cmd.P_CONNECTION_FEATURES, bytes(72)),
    "a challenge": lambda p: p.send_payload(Cmd.P_AUTH_CHALLENGE, bytes(64)),
}


@pytest.mark.parametrize("role", ["primary", "secondary"])
@pytest.mark.parametrize("name", CONNECTED)
def test_an_established_connection_is_abused(name: str, role: str) -> None:
    if role == "primary":
        rig = primary()
    else:
        rig = rig_with_data()
        rig.meet()
        rig.run_for(0.1)
    watch = Watch(rig)
    CONNECTED[name](rig.peer)
    watch.over()


HARMLESS: dict[str, Callable[[ScriptedPeer], object]] = {
    "a result of verify": ack(Cmd.P_OV_RESULT, b"whatever"),
    "a resync ack of nothing": ack(Cmd.P_RS_WRITE_ACK, ID_SYNCER),
    "a verify request": request(Cmd.P_OV_REQUEST, 0, 4096),
    "a negative ack of nothing": ack(Cmd.P_NEG_ACK),
    "an answer to no state request": lambda p: p.send(Cmd.P_STATE_CHG_REPLY, StateReply(1)),
    "an answer to no leaving": lambda p: p.send(Cmd.P_CONN_ST_CHG_REPLY, StateReply(1)),
    "many pings": lambda p: [p.send(Cmd.P_PING) for _ in range(500)],
    "many ping acks": lambda p: [p.send(Cmd.P_PING_ACK) for _ in range(500)],
    "unplug": lambda p: p.send(Cmd.P_UNPLUG_REMOTE),
    "a delay probe": lambda p: p.send_payload(Cmd.P_DELAY_PROBE, bytes(8)),
    "a fast clock of sync params": lambda p: p.send_payload(
        Cmd.P_SYNC_PARAM89, struct.pack(">I128x4I", *(0xFFFFFFFF,) * 5)
    ),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_odd_but_harms_nobody_costs_nothing(name: str) -> None:
    rig = primary()
    watch = Watch(rig)
    HARMLESS[name](rig.peer)
    rig.run_for(2)
    assert rig.state("alpha").conn >= ConnState.CONNECTED
    watch.over(breaks=False)


def masks() -> Iterator[tuple[int, int]]:
    for bit in range(32):
        yield 1 << bit, 1 << bit
        yield 1 << bit, 0
        yield 0xFFFFFFFF, 1 << bit
    yield 0xFFFFFFFF, 0xFFFFFFFF
    yield 0xFFFFFFFF, 0


def test_state_requests_with_any_mask_change_nothing_of_ours() -> None:
    rig = rig_with_data()
    rig.meet()
    rig.run_for(0.1)
    before = rig.state("alpha")
    for asked, (mask, val) in enumerate(masks(), 1):
        rig.peer.send(Cmd.P_STATE_CHG_REQ, StateChange(mask, val))
        replies = rig.gets(Cmd.P_STATE_CHG_REPLY, asked)
        assert rig.peer.says(replies).retcode == -17
        assert rig.state("alpha") == before
    Watch(rig).over(breaks=False)


# -- what only shows in the middle of something --------------------------------------------------


@pytest.mark.parametrize("how", ["sector", "size", "id", "twice", "negative twice"])
def test_wrong_acknowledgements_of_a_real_write(how: str) -> None:
    rig = rig_with_data()
    rig.meet()
    rig.primary("alpha")
    rig.run_for(0.1)
    watch = Watch(rig)
    write = rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    packet = rig.gets(Cmd.P_DATA)
    block_id = bytes(packet.payload[8:16])
    peer = rig.peer
    if how == "sector":
        peer.send_ack(Cmd.P_WRITE_ACK, 8, block_id, BLOCK)
    elif how == "size":
        peer.send_ack(Cmd.P_WRITE_ACK, 0, block_id, 512)
    elif how == "id":
        peer.send_ack(Cmd.P_WRITE_ACK, 0, b"\0" * 8, BLOCK)
    elif how == "twice":
        peer.ack(packet)
        peer.ack(packet)
    else:
        peer.ack(packet, Cmd.P_NEG_ACK)
        peer.ack(packet)
    rig.breaks()
    assert rig.done(write).errno == 0  # the disk here has it
    assert rig.out_of_sync_kib("alpha") == 4
    watch.over()


@pytest.mark.parametrize("how", ["count", "number", "early"])
def test_wrong_barrier_acknowledgements(how: str) -> None:
    rig = rig_with_data()
    rig.meet()
    rig.primary("alpha")
    watch = Watch(rig)
    rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    packet = rig.gets(Cmd.P_DATA)
    peer = rig.peer
    if how == "early":
        rig.submit("alpha", "flush", 0)
        barrier = rig.gets(Cmd.P_BARRIER)
        peer.send(Cmd.P_BARRIER_ACK, BarrierAck(bytes(barrier.payload[:4]), 1))
    else:
        peer.ack(packet)
        barrier = rig.gets(Cmd.P_BARRIER)
        number = bytes(barrier.payload[:4])
        wrong = bytes(255 - byte for byte in number) if how == "number" else number
        peer.send(Cmd.P_BARRIER_ACK, BarrierAck(wrong, 7 if how == "count" else 1))
    rig.breaks()
    assert rig.out_of_sync_kib("alpha") == 4
    watch.over()


def test_a_peer_that_acknowledges_nothing_is_given_up() -> None:
    rig = Rig(timeout=10, ko_count=2)
    rig.meet()
    rig.primary("alpha")
    begun = rig.world.now_ns
    write = rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    assert rig.done(write).errno == 0
    assert SECOND_NS < rig.world.now_ns - begun < 5 * SECOND_NS
    assert rig.told("alpha", "Remote failed to finish a request within")


def test_a_peer_that_pings_but_never_answers_a_state_request_is_given_up() -> None:
    rig = rig_with_data()
    rig.meet()
    rig.peer.consents = False
    waiting = rig.ask("alpha", "primary")
    rig.gets(Cmd.P_STATE_CHG_REQ)
    rig.breaks()
    assert rig.answered(waiting).exit_code == 0  # alone, and UpToDate
    assert rig.state("alpha").role is Role.PRIMARY


def test_a_peer_that_pings_but_never_lets_us_leave_is_left() -> None:
    rig = rig_with_data()
    rig.meet()
    rig.peer.consents = False
    waiting = rig.ask("alpha", "disconnect")
    assert rig.answered(waiting).exit_code == 0
    assert rig.state("alpha").conn is ConnState.STANDALONE


def test_a_dead_peer_is_noticed_by_the_ping() -> None:
    rig = primary()
    rig.peer.pongs = False
    rig.breaks()
    assert rig.told("alpha", "PingAck did not arrive in time")


def test_zeroes_to_a_peer_that_knows_neither_trim_nor_zeroes_go_as_data_it_can_take() -> None:
    rig = rig_with_data(device_bytes=16 << 20)
    rig.peer.offer = Features(86, 0, 101)
    rig.peer.obliging = True
    rig.meet()
    rig.primary("alpha")
    request = rig.submit("alpha", "zero", 0, 4 << 20)
    rig.run_until(lambda: request.done)
    assert request.errno == 0
    sizes = [len(packet.payload) - 24 for packet in rig.peer.of(Cmd.P_DATA)]
    assert sum(sizes) == 4 << 20
    assert max(sizes) <= 1 << 20


# -- bitmaps ----------------------------------------------------------------------------------


def exchanging(*, source: bool, device_bytes: int = 1 << 20) -> Rig:
    """alpha is in WFBitMapS or WFBitMapT; of the peer's bitmap nothing has come yet."""
    rig = rig_with_data(device_bytes=device_bytes)
    peer = rig.peer
    if source:
        peer.uuids, peer.disk = UuidSet(), DiskState.INCONSISTENT
    else:
        peer.uuids = peer.uuids.new_current(0x77 << 32, primary=True)
    rig.passes("alpha", ConnState.WF_BITMAP_S if source else ConnState.WF_BITMAP_T)
    rig.run_for(0.01)
    return rig


BITMAPS: dict[str, list[tuple[Cmd, bytes]]] = {
    "a piece of the wrong length": [(Cmd.P_BITMAP, b"\xff" * 9)],
    "a piece too long": [(Cmd.P_BITMAP, b"\xff" * 4080)],
    "an end before the end": [(Cmd.P_BITMAP, b"")],
    "an unknown code": [(Cmd.P_COMPRESSED_BITMAP, b"\x81\x00")],
    "a set run beyond the end": [(Cmd.P_COMPRESSED_BITMAP, b"\xb2\x7f\xcf\xde\x0f")],
    "a clear run beyond the end": [(Cmd.P_COMPRESSED_BITMAP, b"\x32\x7f\xcf\xde\x0f")],
    "a code cut short": [(Cmd.P_COMPRESSED_BITMAP, b"\x82\x7f")],
    "nothing but pad": [(Cmd.P_COMPRESSED_BITMAP, b"\x82")],
    "something else in between": [
        (Cmd.P_COMPRESSED_BITMAP, b"\x82\x00"),
        (Cmd.P_UNPLUG_REMOTE, b""),
    ],
}


@pytest.mark.parametrize("source", [False, True], ids=["target", "source"])
@pytest.mark.parametrize("name", BITMAPS)
def test_a_bitmap_that_breaks_the_code(name: str, source: bool) -> None:
    rig = exchanging(source=source)
    data = rig.on_disk("alpha", 0, BLOCK)
    for cmd, payload in BITMAPS[name]:
        rig.peer.send_payload(cmd, payload)
    rig.breaks()
    rig.run_for(3)
    assert rig.alpha.alive
    assert rig.on_disk("alpha", 0, BLOCK) == data
    assert rig.state("alpha").disk in (DiskState.UP_TO_DATE, DiskState.OUTDATED)


def test_pings_and_acknowledgements_may_come_in_the_middle_of_a_bitmap() -> None:
    """The rule "nothing but bitmap" is for the data socket: the meta socket knows nothing of it."""
    rig = exchanging(source=False, device_bytes=300 << 20)
    peer = rig.peer
    words = -(-rig.drive("alpha").layout.usable_sectors // 8 // 64)
    assert words > 510
    peer.send_payload(Cmd.P_BITMAP, bytes(8 * 510))
    rig.run_for(0.01)
    peer.send(Cmd.P_PING)
    rig.gets(Cmd.P_PING_ACK)
    left = words - 510
    while left:
        piece = min(left, 510)
        peer.send_payload(Cmd.P_BITMAP, bytes(8 * piece))
        left -= piece
    peer.send_payload(Cmd.P_BITMAP, b"")
    rig.passes("alpha", ConnState.WF_SYNC_UUID)


def test_a_peer_that_reports_every_state_there_is() -> None:
    """Connected: each possible report of role, connection and disk; the node bears them all."""
    rig = rig_with_data()
    for conn in ConnState:
        rig.behave()
        for role in Role:
            for disk in DiskState:
                word = State(role=role, conn=conn, disk=disk, pdsk=DiskState.UP_TO_DATE)
                rig.peer.send(Cmd.P_STATE, StateWord(word.packed()))
                rig.run_for(0.01)
                if not rig.peer.data:
                    rig.behave()
        rig.peer.hang_up()
        rig.breaks()
    assert rig.on_disk("alpha", 0, BLOCK) == MINE
