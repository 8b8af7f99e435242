"""An established connection is abused: it breaks; the node, its data, its role stay."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest

from replblk.model.vocabulary import ConnState
from replblk.wire.hot import block_request, data_header, trim_header
from replblk.wire.packets import (
    ID_SYNCER,
    Barrier,
    BarrierAck,
    BlockDesc,
    Cmd,
    StateChange,
    StateReply,
    SyncUuid,
)
from tests.support.hostile import Watch, primary, rig_with_data
from tests.support.scripted_peer import ScriptedPeer

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
