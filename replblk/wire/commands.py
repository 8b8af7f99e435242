"""The packet table: every command, which socket carries it, and how long its payload may be.

Lengths are payload bytes, without the header. Also here: protocol versions, feature flags, and the
flag bits and reserved block ids that packets carry. Source: the packet index of protocol 86..101.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import Literal

from replblk.model.units import REQUEST_BYTES_MAX

Socket = Literal["data", "meta"]

PRO_VERSION_MIN = 86
PRO_VERSION_MAX = 101
PRO_VERSION_UNAGREED = 80
"""What the version counts as until features were exchanged: it selects the oldest header."""

FF_TRIM = 1
FF_THIN_RESYNC = 2
FF_WSAME = 4
FF_WZEROES = 8

ID_SYNCER = b"\xff" * 8
"""block_id of resync traffic."""
ID_IN_SYNC = (4711).to_bytes(8, "big")
ID_OUT_OF_SYNC = (4712).to_bytes(8, "big")

DP_HARDBARRIER = 1
DP_RW_SYNC = 2
DP_MAY_SET_IN_SYNC = 4
DP_UNPLUG = 8
DP_FUA = 16
DP_FLUSH = 32
DP_DISCARD = 64
DP_SEND_RECEIVE_ACK = 128
DP_SEND_WRITE_ACK = 256
DP_WSAME = 512
DP_ZEROES = 1024

CF_DISCARD_MY_DATA = 1
CF_DRY_RUN = 2

UUID_FLAG_DISCARD_MY_DATA = 1
UUID_FLAG_CRASHED_PRIMARY = 2
UUID_FLAG_INCONSISTENT = 4
UUID_FLAG_SKIP_INITIAL_SYNC = 8
UUID_FLAG_LEFTOVER_BITS = 1 << 63
"""Not DRBD's, which passes over it: equal generations with bits set are resynced by bitmap."""
UUID_FLAG_HANDS_OVER = 1 << 62
UUID_FLAG_TAKES_OVER = 1 << 61
UUID_FLAG_DOES_NOT = 1 << 60
UUID_FLAG_ASKS_FOR_ROLE = 1 << 59
"""Not DRBD's either: what two replblk nodes say while the Primary role moves, and only then."""
UUID_FLAG_DETACHES = 1 << 58
"""Not DRBD's either: a Primary with nothing in flight is about to ask whether it may detach."""
UUID_FLAG_BEGINS = 1 << 57
"""Not DRBD's either: the current UUID is not on the disk yet; it is told again when it is."""

DDSF_FORCED = 1
DDSF_NO_RESYNC = 2

STRING_BYTES = 64
"""Room for an algorithm name, the terminating NUL included."""
DIGEST_BYTES_MAX = 64
BITMAP_PACKET_BYTES = 4096
"""A bitmap packet never exceeds this, its header included."""
LOGICAL_BLOCK_BYTES_MAX = 65536
DATA_HEADER_BYTES = 24
PAYLOAD_BYTES_MAX = DATA_HEADER_BYTES + DIGEST_BYTES_MAX + REQUEST_BYTES_MAX
"""Longest payload of any packet: header of a block, its digest, 1 MiB of data."""


class Cmd(IntEnum):
    """Every command with a number in protocol 86..101, by DRBD's name."""

    P_DATA = 0x00
    P_DATA_REPLY = 0x01
    P_RS_DATA_REPLY = 0x02
    P_BARRIER = 0x03
    P_BITMAP = 0x04
    P_BECOME_SYNC_TARGET = 0x05
    P_BECOME_SYNC_SOURCE = 0x06
    P_UNPLUG_REMOTE = 0x07
    P_DATA_REQUEST = 0x08
    P_RS_DATA_REQUEST = 0x09
    P_SYNC_PARAM = 0x0A
    P_PROTOCOL = 0x0B
    P_UUIDS = 0x0C
    P_SIZES = 0x0D
    P_STATE = 0x0E
    P_SYNC_UUID = 0x0F
    P_AUTH_CHALLENGE = 0x10
    P_AUTH_RESPONSE = 0x11
    P_STATE_CHG_REQ = 0x12
    P_PING = 0x13
    P_PING_ACK = 0x14
    P_RECV_ACK = 0x15
    P_WRITE_ACK = 0x16
    P_RS_WRITE_ACK = 0x17
    P_SUPERSEDED = 0x18
    P_NEG_ACK = 0x19
    P_NEG_DREPLY = 0x1A
    P_NEG_RS_DREPLY = 0x1B
    P_BARRIER_ACK = 0x1C
    P_STATE_CHG_REPLY = 0x1D
    P_OV_REQUEST = 0x1E
    P_OV_REPLY = 0x1F
    P_OV_RESULT = 0x20
    P_CSUM_RS_REQUEST = 0x21
    P_RS_IS_IN_SYNC = 0x22
    P_SYNC_PARAM89 = 0x23
    P_COMPRESSED_BITMAP = 0x24
    P_DELAY_PROBE = 0x27
    P_OUT_OF_SYNC = 0x28
    P_RS_CANCEL = 0x29
    P_CONN_ST_CHG_REQ = 0x2A
    P_CONN_ST_CHG_REPLY = 0x2B
    P_RETRY_WRITE = 0x2C
    P_PROTOCOL_UPDATE = 0x2D
    P_TRIM = 0x31
    P_RS_THIN_REQ = 0x32
    P_RS_DEALLOCATED = 0x33
    P_WSAME = 0x34
    P_ZEROES = 0x36
    P_INITIAL_META = 0xFFF1
    P_INITIAL_DATA = 0xFFF2
    P_CONNECTION_FEATURES = 0xFFFE


class Tail(Enum):
    """What may follow the fixed part of a payload."""

    NONE = "nothing"
    BLOCK = "digest and data"
    DIGEST = "digest"
    STRING = "NUL-terminated name"
    BITMAP = "bitmap words or code"
    BYTES = "opaque bytes"
    FIELDS = "more fields, by version or feature"


@dataclass(frozen=True, slots=True)
class Spec:
    """One row of the packet table. fixed_len and max_len bound the payload, in bytes."""

    cmd: Cmd
    socket: Literal["data", "meta", "both"]
    fixed_len: int
    tail: Tail
    volume_meaningful: bool
    max_len: int


SPECS: dict[Cmd, Spec] = {}
"""Packets that somebody answers to. Obsolete and reserved commands have no row."""


def _packets(
    socket: Literal["data", "meta", "both"],
    fixed_len: int,
    *names: Cmd,
    volume: bool = True,
    tail: Tail = Tail.NONE,
    max_len: int | None = None,
) -> None:
    for cmd in names:
        SPECS[cmd] = Spec(
            cmd, socket, fixed_len, tail, volume, fixed_len if max_len is None else max_len
        )


# An accepted connection turns out to be "data" or "meta" only by its initial packet.
_packets("both", 0, Cmd.P_INITIAL_META, Cmd.P_INITIAL_DATA, volume=False)
_packets("data", 72, Cmd.P_CONNECTION_FEATURES, volume=False)
_packets("data", 64, Cmd.P_AUTH_CHALLENGE, volume=False, tail=Tail.BYTES, max_len=128)
_packets("data", 1, Cmd.P_AUTH_RESPONSE, volume=False, tail=Tail.BYTES, max_len=64)
_packets(
    "data",
    24,
    Cmd.P_PROTOCOL,
    Cmd.P_PROTOCOL_UPDATE,
    volume=False,
    tail=Tail.STRING,
    max_len=24 + STRING_BYTES,
)
_packets("data", 4, Cmd.P_SYNC_PARAM, tail=Tail.STRING, max_len=4 + STRING_BYTES)
_packets("data", 132, Cmd.P_SYNC_PARAM89, tail=Tail.FIELDS, max_len=148)
_packets("data", 32, Cmd.P_SIZES, tail=Tail.FIELDS, max_len=56)
_packets("data", 48, Cmd.P_UUIDS)
_packets("data", 4, Cmd.P_STATE)
_packets("data", 8, Cmd.P_SYNC_UUID, Cmd.P_STATE_CHG_REQ)
_packets("data", 8, Cmd.P_CONN_ST_CHG_REQ, Cmd.P_BARRIER, volume=False)
_packets("data", 0, Cmd.P_UNPLUG_REMOTE)
_packets("both", 8, Cmd.P_DELAY_PROBE)
_packets("data", 0, Cmd.P_BITMAP, tail=Tail.BITMAP, max_len=4088)
_packets("data", 2, Cmd.P_COMPRESSED_BITMAP, tail=Tail.BITMAP, max_len=4088)
_packets(
    "data",
    DATA_HEADER_BYTES,
    Cmd.P_DATA,
    Cmd.P_DATA_REPLY,
    Cmd.P_RS_DATA_REPLY,
    tail=Tail.BLOCK,
    max_len=PAYLOAD_BYTES_MAX,
)
_packets("data", 28, Cmd.P_TRIM, Cmd.P_ZEROES)
_packets(
    "data",
    28,
    Cmd.P_WSAME,
    tail=Tail.BLOCK,
    max_len=28 + DIGEST_BYTES_MAX + LOGICAL_BLOCK_BYTES_MAX,
)
_packets("data", 24, Cmd.P_DATA_REQUEST, Cmd.P_RS_DATA_REQUEST, Cmd.P_RS_THIN_REQ, Cmd.P_OV_REQUEST)
_packets(
    "data",
    24,
    Cmd.P_CSUM_RS_REQUEST,
    Cmd.P_OV_REPLY,
    tail=Tail.DIGEST,
    max_len=24 + DIGEST_BYTES_MAX,
)
_packets("data", 16, Cmd.P_OUT_OF_SYNC, Cmd.P_RS_DEALLOCATED)
_packets("meta", 0, Cmd.P_PING, Cmd.P_PING_ACK, volume=False)
_packets("meta", 8, Cmd.P_BARRIER_ACK, volume=False)
_packets("meta", 4, Cmd.P_STATE_CHG_REPLY)
_packets("meta", 4, Cmd.P_CONN_ST_CHG_REPLY, volume=False)
_packets(
    "meta",
    24,
    Cmd.P_RECV_ACK,
    Cmd.P_WRITE_ACK,
    Cmd.P_RS_WRITE_ACK,
    Cmd.P_SUPERSEDED,
    Cmd.P_RETRY_WRITE,
    Cmd.P_NEG_ACK,
    Cmd.P_NEG_DREPLY,
    Cmd.P_NEG_RS_DREPLY,
    Cmd.P_OV_RESULT,
    Cmd.P_RS_IS_IN_SYNC,
    Cmd.P_RS_CANCEL,
)

UNAGREED_ONLY = frozenset({Cmd.P_INITIAL_META, Cmd.P_INITIAL_DATA, Cmd.P_CONNECTION_FEATURES})
"""Packets that are possible before a protocol version is agreed, and never after."""
