"""A whole session of two fresh nodes, every byte written out.

A and B have 132 sectors each (17 bitmap bits, the last one half covered) and fresh metadata; both
speak version 101 with all four features. They connect, A is forced to be Primary, B is synchronised
in three requests, one block is replicated, B leaves. Each step is a value and the bytes it must be:
value -> bytes and bytes -> value are both held to it, and each of the four streams (two sockets,
two directions) is read again cut at every place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import pytest
from bitarray import bitarray
from bitarray.util import zeros

from replblk.model.generation import UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Policy, Protocol, Role
from replblk.wire.bitmap_code import BitmapDecoder, encode_bitmap
from replblk.wire.framing import Deframer, Packet, frame
from replblk.wire.packets import (
    DP_RW_SYNC,
    DP_SEND_WRITE_ACK,
    ID_SYNCER,
    Barrier,
    BarrierAck,
    BlockAck,
    BlockData,
    BlockRequest,
    Cmd,
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
)

FEATURES = 0x0F
AGREED = 101
UNAGREED = 80
BITS = 17
CURRENT = 0xA1B2C3D4E5F60719
SYNC = 0x1122334455667788
HANDLE = b"\xde\xad\xbe\xef\x00\x11\x22\x33"


@dataclass(frozen=True)
class Step:
    """One packet: who sends it on which socket, what it says, and its bytes in hexadecimal."""

    sender: Literal["A", "B"]
    socket: Literal["data", "meta"]
    cmd: Cmd
    says: Message
    header: str
    payload: str = ""
    apv: int = AGREED

    @property
    def bytes(self) -> bytes:
        return bytes.fromhex(self.header + self.payload)


def state(role: Role, peer: Role, conn: ConnState, disk: DiskState, pdsk: DiskState) -> StateWord:
    return StateWord(State(role=role, peer=peer, conn=conn, disk=disk, pdsk=pdsk).packed())


def both(
    cmd: Cmd, says: Message, header: str, payload: str, apv: int = AGREED
) -> tuple[Step, Step]:
    """The same packet from either side."""
    return (
        Step("A", "data", cmd, says, header, payload, apv),
        Step("B", "data", cmd, says, header, payload, apv),
    )


def ping(sender: Literal["A", "B"]) -> tuple[Step, Step]:
    """A ping and its answer: everything before it on this socket has been seen by the other."""
    return (
        Step(sender, "meta", Cmd.P_PING, None, "8620ec20 0000 0013 00000000 00000000"),
        Step(
            "B" if sender == "A" else "A",
            *("meta", Cmd.P_PING_ACK, None, "8620ec20 0000 0014 00000000 00000000"),
        ),
    )


def resync(
    sector: int, size: int, seq: int, place: str, extent: str, reply: str
) -> tuple[Step, ...]:
    """One request of the target, the data, and the acknowledgement that it is written."""
    block = b"\x5a" * size
    return (
        Step(
            *("B", "data", Cmd.P_RS_DATA_REQUEST, BlockRequest(sector, ID_SYNCER, size)),
            "8620ec20 0000 0009 00000018 00000000",
            f"{place} ffffffffffffffff {extent} 00000000",
        ),
        Step(
            *("A", "data", Cmd.P_RS_DATA_REPLY, BlockData(sector, ID_SYNCER, 0, 0, block)),
            f"8620ec20 0000 0002 {reply} 00000000",
            f"{place} ffffffffffffffff 00000000 00000000 {block.hex()}",
        ),
        Step(
            *("B", "meta", Cmd.P_RS_WRITE_ACK, BlockAck(sector, ID_SYNCER, size, seq)),
            "8620ec20 0000 0017 00000018 00000000",
            f"{place} ffffffffffffffff {extent} 0000000{seq}",
        ),
    )


PRI, SEC, UNK = Role.PRIMARY, Role.SECONDARY, Role.UNKNOWN
INCONSISTENT, UP_TO_DATE = DiskState.INCONSISTENT, DiskState.UP_TO_DATE

SESSION: tuple[Step, ...] = (
    # Two sockets: each is opened by the side whose initial packet tells what it is for.
    Step("A", "data", Cmd.P_INITIAL_DATA, None, "83740267 fff2 0000", apv=UNAGREED),
    Step("B", "meta", Cmd.P_INITIAL_META, None, "83740267 fff1 0000", apv=UNAGREED),
    *both(
        Cmd.P_CONNECTION_FEATURES,
        Features(protocol_min=86, feature_flags=FEATURES, protocol_max=101),
        "83740267 fffe 0048",
        "00000056 0000000f 00000065" + "00" * 60,
        UNAGREED,
    ),
    # Settings and what each knows of its volume, sent without waiting.
    *both(
        Cmd.P_PROTOCOL,
        ProtocolPacket(
            *(Protocol.C, Policy.DISCONNECT, Policy.DISCONNECT, Policy.DISCONNECT, 0, False, "")
        ),
        "8620ec20 0000 000b 00000019 00000000",
        "00000003" + "00" * 21,
    ),
    *both(
        Cmd.P_SYNC_PARAM89,
        SyncParam(250, "", "", 20, 10, 100, 102400),
        "8620ec20 0000 0023 00000094 00000000",
        "000000fa" + "00" * 128 + "00000014 0000000a 00000064 00019000",
    ),
    *both(
        Cmd.P_SIZES,
        Sizes(d_size=132, u_size=0, c_size=132, max_bio_size=1 << 20, discard_enabled=1),
        "8620ec20 0000 000d 00000038 00000000",
        "0000000000000084 0000000000000000 0000000000000084 00100000 0000 0000"
        "00000200 00000200 00000000 00000200 00000000 01000000",
    ),
    *both(
        Cmd.P_UUIDS,
        Uuids(UuidSet().current, 0, 0, 0, dirty_bits=BITS, flags=0),
        "8620ec20 0000 000c 00000030 00000000",
        "0000000000000004" + "00" * 24 + "0000000000000011 0000000000000000",
    ),
    *both(
        Cmd.P_STATE,
        state(SEC, UNK, ConnState.WF_CONNECTION, INCONSISTENT, DiskState.DUNKNOWN),
        "8620ec20 0000 000e 00000004 00000000",
        "0000c882",
    ),
    *both(
        Cmd.P_STATE,
        state(SEC, SEC, ConnState.CONNECTED, INCONSISTENT, INCONSISTENT),
        "8620ec20 0000 000e 00000004 00000000",
        "000088aa",
    ),
    # A is forced to be Primary: it asks B, and announces its new generation.
    *ping("A"),
    Step(
        *("A", "data", Cmd.P_STATE_CHG_REQ, StateChange(mask=0x1E03, val=0x1001)),
        *("8620ec20 0000 0012 00000008 00000000", "00001e03 00001001"),
    ),
    Step(
        *("B", "meta", Cmd.P_STATE_CHG_REPLY, StateReply(1)),
        *("8620ec20 0000 001d 00000004 00000000", "00000001"),
    ),
    Step(
        *("A", "data", Cmd.P_UUIDS, Uuids(CURRENT, 4, 0, 0, BITS, 0)),
        "8620ec20 0000 000c 00000030 00000000",
        "a1b2c3d4e5f60719 0000000000000004" + "00" * 16 + "0000000000000011 0000000000000000",
    ),
    Step(
        *("A", "data", Cmd.P_STATE),
        state(PRI, SEC, ConnState.CONNECTED, UP_TO_DATE, INCONSISTENT),
        *("8620ec20 0000 000e 00000004 00000000", "000090a9"),
    ),
    # B finds that it must be synchronised and says so, since A still reports Connected.
    Step(
        *("B", "data", Cmd.P_UUIDS, Uuids(4, 0, 0, 0, BITS, 0)),
        "8620ec20 0000 000c 00000030 00000000",
        "0000000000000004" + "00" * 24 + "0000000000000011 0000000000000000",
    ),
    Step(
        *("B", "data", Cmd.P_STATE),
        state(SEC, PRI, ConnState.WF_BITMAP_T, INCONSISTENT, UP_TO_DATE),
        *("8620ec20 0000 000e 00000004 00000000", "000108e6"),
    ),
    # Both bitmaps have all 17 bits set: one run.
    Step(
        *("A", "data", Cmd.P_COMPRESSED_BITMAP, b"\xe2\x0f\x00"),
        *("8620ec20 0000 0024 00000003 00000000", "e20f00"),
    ),
    Step(
        *("B", "data", Cmd.P_COMPRESSED_BITMAP, b"\xe2\x0f\x00"),
        *("8620ec20 0000 0024 00000003 00000000", "e20f00"),
    ),
    Step(
        *("A", "data", Cmd.P_SYNC_UUID, SyncUuid(SYNC)),
        *("8620ec20 0000 000f 00000008 00000000", "1122334455667788"),
    ),
    # 28 KiB, then what is aligned to 4 KiB, then the rest up to the end of the device.
    *resync(0x00, 28672, 1, "0000000000000000", "00007000", "00007018"),
    *resync(0x38, 4096, 2, "0000000000000038", "00001000", "00001018"),
    *resync(0x40, 34816, 3, "0000000000000040", "00008800", "00008818"),
    # B is done: the ping makes sure that A has seen the acknowledgements before the new state.
    *ping("B"),
    Step(
        *("B", "data", Cmd.P_STATE),
        state(SEC, PRI, ConnState.CONNECTED, UP_TO_DATE, UP_TO_DATE),
        *("8620ec20 0000 000e 00000004 00000000", "000110a6"),
    ),
    *ping("A"),
    # A write of 4 KiB at sector 8, protocol C, and the end of its epoch.
    Step(
        *("A", "data", Cmd.P_DATA),
        BlockData(8, HANDLE, 1, DP_RW_SYNC | DP_SEND_WRITE_ACK, b"\xc3" * 4096),
        "8620ec20 0000 0000 00001018 00000000",
        "0000000000000008 deadbeef00112233 00000001 00000102" + "c3" * 4096,
    ),
    Step("A", "data", Cmd.P_UNPLUG_REMOTE, None, "8620ec20 0000 0007 00000000 00000000"),
    Step(
        *("B", "meta", Cmd.P_WRITE_ACK, BlockAck(8, HANDLE, 4096, 4)),
        "8620ec20 0000 0016 00000018 00000000",
        "0000000000000008 deadbeef00112233 00001000 00000004",
    ),
    Step(
        *("A", "data", Cmd.P_BARRIER, Barrier(bytes(4))),
        *("8620ec20 0000 0003 00000008 00000000", "00000000 00000000"),
    ),
    Step(
        *("B", "meta", Cmd.P_BARRIER_ACK, BarrierAck(bytes(4), 1)),
        *("8620ec20 0000 001c 00000008 00000000", "00000000 00000001"),
    ),
    # B leaves gracefully.
    Step(
        *("B", "data", Cmd.P_CONN_ST_CHG_REQ, StateChange(mask=0x1F0, val=0x10)),
        *("8620ec20 0000 002a 00000008 00000000", "000001f0 00000010"),
    ),
    Step(
        *("A", "meta", Cmd.P_CONN_ST_CHG_REPLY, StateReply(1)),
        *("8620ec20 0000 002b 00000004 00000000", "00000001"),
    ),
)

NAMED = [
    pytest.param(step, id=f"{number:02}-{step.sender}-{step.cmd.name}")
    for number, step in enumerate(SESSION)
]


@pytest.mark.parametrize("step", NAMED)
def test_what_a_node_says_is_these_bytes(step: Step) -> None:
    payload = encode(step.cmd, step.says, features=FEATURES, apv=step.apv)
    assert frame(step.cmd, 0, payload, step.apv) == step.bytes


@pytest.mark.parametrize("step", NAMED)
def test_these_bytes_are_understood(step: Step) -> None:
    stream = Deframer(step.socket)
    stream.apv = step.apv
    stream.feed(step.bytes)
    packet = stream.next()
    assert packet is not None
    assert (packet.cmd, packet.volume) == (step.cmd, 0)
    assert decode(packet.cmd, packet.payload, features=FEATURES, apv=step.apv) == step.says
    assert stream.next() is None


def listen(steps: list[Step], pieces: list[bytes]) -> list[Packet]:
    """What a node reads that agrees on the version as soon as the steps say so."""
    stream = Deframer(steps[0].socket)
    versions = iter([step.apv for step in steps[1:]] + [AGREED])
    stream.apv = steps[0].apv
    packets = []
    for piece in pieces:
        stream.feed(piece)
        while (packet := stream.next()) is not None:
            packets.append(packet)
            stream.apv = next(versions)
    return packets


@pytest.mark.parametrize("socket", ["data", "meta"])
@pytest.mark.parametrize("sender", ["A", "B"])
def test_a_stream_cut_anywhere_is_the_same_session(sender: str, socket: str) -> None:
    steps = [step for step in SESSION if (step.sender, step.socket) == (sender, socket)]
    # Blocks are cut short here: where they are cut inside matters to no one.
    steps = [step for step in steps if len(step.bytes) < 1000]
    whole = b"".join(step.bytes for step in steps)
    expected = [Packet(step.cmd, 0, bytes.fromhex(step.payload)) for step in steps]
    assert listen(steps, [whole]) == expected
    assert listen(steps, [bytes((byte,)) for byte in whole]) == expected
    for cut in range(len(whole)):
        assert listen(steps, [whole[:cut], whole[cut:]]) == expected


def test_the_bitmap_of_a_fresh_volume_is_the_one_exchanged() -> None:
    fresh = ~zeros(BITS, endian="little")
    assert list(encode_bitmap(fresh, apv=AGREED, use_rle=True)) == [
        (Cmd.P_COMPRESSED_BITMAP, b"\xe2\x0f\x00")
    ]
    into: bitarray = zeros(BITS, endian="little")
    decoder = BitmapDecoder(BITS, AGREED)
    decoder.feed(Cmd.P_COMPRESSED_BITMAP, b"\xe2\x0f\x00", into)
    assert decoder.complete
    assert into == fresh
