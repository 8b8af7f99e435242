"""Every message survives the wire, and no bytes get anything but ``PeerError`` out of reading."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replblk.model.errors import PeerError
from replblk.model.state import State
from replblk.model.units import SECTOR_BYTES
from replblk.model.vocabulary import Code, ConnState, DiskState, Policy, Protocol, Role
from replblk.wire import hot
from replblk.wire.framing import frame
from replblk.wire.layouts import PLAIN
from replblk.wire.packets import (
    FF_WSAME,
    ID_IN_SYNC,
    ID_OUT_OF_SYNC,
    RATE_LIMITS,
    SPECS,
    Barrier,
    BarrierAck,
    BlockAck,
    BlockData,
    BlockDesc,
    BlockRange,
    BlockRequest,
    Cmd,
    DelayProbe,
    Features,
    Message,
    ProtocolPacket,
    Sizes,
    StateChange,
    StateReply,
    StateWord,
    SyncParam,
    SyncUuid,
    Uuids,
    decode,
    encode,
    sync_param_command,
)

u8 = st.integers(0, 0xFF)
u16 = st.integers(0, 0xFFFF)
u32 = st.integers(0, 0xFFFFFFFF)
u64 = st.integers(0, (1 << 64) - 1)
handle = st.binary(min_size=8, max_size=8)
names = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=63)
versions = st.integers(86, 101)
policies = st.sampled_from(Policy)
sectors = st.integers(0, 1 << 51)
words = st.builds(
    State,
    role=st.sampled_from(Role),
    peer=st.sampled_from(Role),
    conn=st.sampled_from(ConnState),
    disk=st.sampled_from(DiskState),
    pdsk=st.sampled_from(DiskState),
    susp=st.booleans(),
    susp_fen=st.booleans(),
).map(State.packed)


def sizes(least: int, most: int) -> st.SearchStrategy[int]:
    return st.integers(least, most // SECTOR_BYTES).map(lambda count: count * SECTOR_BYTES)


BY_MESSAGE: dict[type[Any], st.SearchStrategy[Any]] = {
    Features: st.builds(Features, u32, u32, st.integers(1, 0xFFFFFFFF)),
    Uuids: st.builds(Uuids, u64, u64, u64, u64, u64, u64),
    StateWord: words.map(StateWord),
    StateChange: st.builds(StateChange, u32, u32),
    StateReply: st.sampled_from(Code).map(lambda code: StateReply(int(code))),
    SyncUuid: st.integers(5, (1 << 64) - 1).map(SyncUuid),
    Barrier: st.binary(min_size=4, max_size=4).map(Barrier),
    BarrierAck: st.builds(BarrierAck, st.binary(min_size=4, max_size=4), u32),
    DelayProbe: st.builds(DelayProbe, u32, u32),
    BlockData: st.builds(BlockData, u64, handle, u32, u32, st.binary(max_size=100)),
    BlockRange: st.builds(BlockRange, u64, handle, u32, u32, sizes(1, 128 << 20)),
    BlockRequest: st.builds(BlockRequest, u64, handle, sizes(1, 1 << 20)),
    BlockAck: st.builds(BlockAck, u64, handle, sizes(0, 128 << 20), u32),
    BlockDesc: st.builds(BlockDesc, u64, sizes(1, 1 << 20)),
}


def messages(cmd: Cmd) -> st.SearchStrategy[Any]:
    if cmd is Cmd.P_OV_RESULT:
        results = st.sampled_from([ID_IN_SYNC, ID_OUT_OF_SYNC])
        return st.builds(BlockAck, u64, results, sizes(0, 1 << 20), u32)
    if PLAIN[cmd].tail == "digest":
        return st.builds(BlockRequest, u64, handle, sizes(1, 1 << 20), st.binary(max_size=64))
    return BY_MESSAGE[PLAIN[cmd].message]


said = st.sampled_from(list(PLAIN)).flatmap(lambda cmd: st.tuples(st.just(cmd), messages(cmd)))


@given(said, versions, st.integers(0, 15))
def test_packets_of_fixed_layout_come_back_as_sent(
    packet: tuple[Cmd, Message], apv: int, features: int
) -> None:
    cmd, message = packet
    payload = encode(cmd, message, features=features, apv=apv)
    assert SPECS[cmd].fixed_len <= len(payload) <= SPECS[cmd].max_len
    assert decode(cmd, payload, features=features, apv=apv) == message
    assert decode(cmd, memoryview(payload), features=features, apv=apv) == message


@given(
    st.builds(
        ProtocolPacket,
        st.sampled_from(Protocol),
        *(policies, policies, policies),
        u32,
        st.booleans(),
        names,
    ),
    st.integers(87, 101),
    st.sampled_from([Cmd.P_PROTOCOL, Cmd.P_PROTOCOL_UPDATE]),
)
def test_protocol_settings_come_back_as_sent(sent: ProtocolPacket, apv: int, cmd: Cmd) -> None:
    payload = encode(cmd, sent, features=0, apv=apv)
    assert len(payload) == 24 + len(sent.integrity_alg) + 1
    assert decode(cmd, payload, features=0, apv=apv) == sent


@given(
    st.builds(
        SyncParam,
        verify_alg=names,
        csums_alg=names,
        **{name: st.integers(*limits) for name, limits in RATE_LIMITS.items()},
    ),
    versions,
)
def test_sync_parameters_come_back_as_far_as_the_version_carries_them(
    sent: SyncParam, apv: int
) -> None:
    cmd = sync_param_command(apv)
    got = decode(cmd, encode(cmd, sent, features=0, apv=apv), features=0, apv=apv)
    assert isinstance(got, SyncParam)
    assert got.resync_rate == sent.resync_rate
    assert got.verify_alg == (sent.verify_alg if apv >= 88 else "")
    assert got.csums_alg == (sent.csums_alg if apv >= 89 else "")
    if apv >= 95:
        assert got == sent


@given(
    st.builds(
        Sizes,
        *(sectors, sectors, sectors, u32, u16, u16),
        *(u32, u32, u32, u32, u32),
        *(u8, u8, u8),
    )
)
def test_sizes_come_back_as_sent(sent: Sizes) -> None:
    payload = encode(Cmd.P_SIZES, sent, features=FF_WSAME, apv=101)
    assert decode(Cmd.P_SIZES, payload, features=FF_WSAME, apv=101) == sent
    short = decode(Cmd.P_SIZES, payload[:32], features=0, apv=101)
    assert encode(Cmd.P_SIZES, short, features=0, apv=101) == payload[:32]


@given(st.sampled_from(Cmd), st.binary(max_size=160), versions, st.integers(0, 15))
def test_random_payloads_raise_nothing_but_peer_errors(
    cmd: Cmd, payload: bytes, apv: int, features: int
) -> None:
    with suppress(PeerError):
        decode(cmd, payload, features=features, apv=apv)


@given(st.data(), st.sampled_from(list(SPECS)), versions, st.integers(0, 15))
def test_random_payloads_of_the_right_length_raise_nothing_but_peer_errors(
    data: st.DataObject, cmd: Cmd, apv: int, features: int
) -> None:
    length = st.sampled_from([SPECS[cmd].fixed_len, min(SPECS[cmd].max_len, 200)])
    size = data.draw(length)
    payload = data.draw(st.binary(min_size=size, max_size=size))
    with suppress(PeerError):
        decode(cmd, payload, features=features, apv=apv)


@given(said, st.data())
def test_truncated_packets_are_refused(packet: tuple[Cmd, Message], data: st.DataObject) -> None:
    cmd, message = packet
    payload = encode(cmd, message, features=15, apv=101)
    cut = data.draw(st.integers(0, SPECS[cmd].fixed_len - 1))
    with pytest.raises(PeerError, match=f"{cmd.name} with {cut} bytes of payload"):
        decode(cmd, payload[:cut], features=15, apv=101)


# --- struct and construct say the same ------------------------------------------------------------


@given(u64, handle, u32, u32)
def test_hot_packets_are_made_byte_for_byte_as_by_construct(
    sector: int, block_id: bytes, first: int, second: int
) -> None:
    def slow(cmd: Cmd, message: Message) -> bytes:
        return encode(cmd, message, features=15, apv=101)

    assert hot.data_header(sector, block_id, first, second) == slow(
        Cmd.P_DATA, BlockData(sector, block_id, first, second)
    )
    assert hot.trim_header(sector, block_id, first, second, first) == slow(
        Cmd.P_TRIM, BlockRange(sector, block_id, first, second, first)
    )
    assert hot.block_ack(sector, block_id, first, second) == slow(
        Cmd.P_WRITE_ACK, BlockAck(sector, block_id, first, second)
    )
    assert hot.block_request(sector, block_id, first) == slow(
        Cmd.P_DATA_REQUEST, BlockRequest(sector, block_id, first)
    )
    assert hot.barrier(block_id[:4]) == slow(Cmd.P_BARRIER, Barrier(block_id[:4]))
    assert hot.barrier_ack(block_id[:4], first) == slow(
        Cmd.P_BARRIER_ACK, BarrierAck(block_id[:4], first)
    )


@given(u64, handle, u32, u32, st.integers(0, 65535), st.integers(0, 1 << 20))
def test_hot_packets_with_their_header_are_those_of_the_framing(
    sector: int, block_id: bytes, first: int, second: int, volume: int, size: int
) -> None:
    data = frame(
        Cmd.P_DATA, volume, hot.data_header(sector, block_id, first, second) + bytes(size), 101
    )
    head = hot.data_packet(Cmd.P_DATA, volume, sector, block_id, first, second, size)
    assert head + bytes(size) == data
    assert hot.ack_packet(Cmd.P_NEG_ACK, volume, sector, block_id, first, second) == frame(
        Cmd.P_NEG_ACK, volume, hot.block_ack(sector, block_id, first, second), 101
    )


def outcome(read: Any, *args: Any, **options: Any) -> Any:
    """What reading gives, or PeerError itself if it was refused."""
    try:
        return read(*args, **options)
    except PeerError:
        return PeerError


near_a_size = st.builds(
    lambda head, size, tail: head + size.to_bytes(4, "big") + tail,
    st.binary(min_size=16, max_size=24),
    st.one_of(sizes(0, 256 << 20), u32),
    st.binary(max_size=8),
)


@given(st.one_of(near_a_size, st.binary(max_size=40)))
def test_hot_packets_are_read_and_refused_as_by_construct(payload: bytes) -> None:
    def slow(cmd: Cmd) -> Any:
        got = outcome(decode, cmd, payload, features=15, apv=101)
        return got if got is PeerError else tuple(getattr(got, name) for name in got.__slots__)

    data = slow(Cmd.P_DATA)
    assert outcome(hot.parse_data, payload) == (data if data is PeerError else data[:4])
    trim = slow(Cmd.P_TRIM)
    assert outcome(hot.parse_trim, payload) == (trim if trim is PeerError else trim[:5])
    assert outcome(hot.parse_block_ack, payload) == slow(Cmd.P_RS_WRITE_ACK)
    barrier = slow(Cmd.P_BARRIER)
    assert outcome(hot.parse_barrier, payload) == (barrier if barrier is PeerError else barrier[0])
    assert outcome(hot.parse_barrier_ack, payload) == slow(Cmd.P_BARRIER_ACK)
    request = slow(Cmd.P_CSUM_RS_REQUEST)
    assert outcome(hot.parse_block_request, payload) == (
        request if request is PeerError else request[:3]
    )
