"""The numbers and structures of the NBD protocol, so that every other file speaks in names.

All integers on the wire are unsigned and big-endian; sizes and offsets are bytes; strings are
UTF-8 without a final NUL. ``construct`` describes every structure; those that each request needs
have a ``struct`` twin (``COMPACT_REQUEST``, ``SIMPLE_REPLY``, ``CHUNK_HEADER``, ...), which a
property test holds equal. Source: the NBD protocol document (doc/proto.md of the nbd project).
"""

from __future__ import annotations

import errno as host
import struct
from enum import IntEnum, IntFlag

from construct import (
    Const,
    GreedyBytes,
    GreedyRange,
    Int16ub,
    Int32ub,
    Int64ub,
    Prefixed,
    PrefixedArray,
    Struct,
    Terminated,
)

NBD_MAGIC = 0x4E42444D41474943  # "NBDMAGIC"
OPTION_MAGIC = 0x49484156454F5054  # "IHAVEOPT"
OLDSTYLE_MAGIC = 0x00420281861253
OPTION_REPLY_MAGIC = 0x0003E889045565A9
REQUEST_MAGIC = 0x25609513
SIMPLE_REPLY_MAGIC = 0x67446698
CHUNK_MAGIC = 0x668E33EF
EXTENDED_REQUEST_MAGIC = 0x21E41C71
EXTENDED_CHUNK_MAGIC = 0x6E8A278C

STRING_MAX = 4096
"""Longest name, description, query or message in bytes (protocol: MUST)."""

BASE_ALLOCATION = "base:allocation"
"""The meta context that every server may offer: its flags are AllocationFlag."""


class HandshakeFlag(IntFlag):
    """What both sides say first: NBD_FLAG_* of the server, NBD_FLAG_C_* of the client."""

    FIXED_NEWSTYLE = 1
    NO_ZEROES = 2


class TransmissionFlag(IntFlag):
    """What an export can do: NBD_FLAG_*."""

    HAS_FLAGS = 1 << 0
    READ_ONLY = 1 << 1
    SEND_FLUSH = 1 << 2
    SEND_FUA = 1 << 3
    ROTATIONAL = 1 << 4
    SEND_TRIM = 1 << 5
    SEND_WRITE_ZEROES = 1 << 6
    SEND_DF = 1 << 7
    CAN_MULTI_CONN = 1 << 8
    SEND_RESIZE = 1 << 9
    SEND_CACHE = 1 << 10
    SEND_FAST_ZERO = 1 << 11
    BLOCK_STATUS_PAYLOAD = 1 << 12


class Option(IntEnum):
    """What a client asks while haggling: NBD_OPT_*."""

    EXPORT_NAME = 1
    ABORT = 2
    LIST = 3
    PEEK_EXPORT = 4
    STARTTLS = 5
    INFO = 6
    GO = 7
    STRUCTURED_REPLY = 8
    LIST_META_CONTEXT = 9
    SET_META_CONTEXT = 10
    EXTENDED_HEADERS = 11


class Reply(IntEnum):
    """What a server answers to an option: NBD_REP_*; bit 31 marks errors."""

    ACK = 1
    SERVER = 2
    INFO = 3
    META_CONTEXT = 4
    ERR_UNSUP = 0x80000001
    ERR_POLICY = 0x80000002
    ERR_INVALID = 0x80000003
    ERR_PLATFORM = 0x80000004
    ERR_TLS_REQD = 0x80000005
    ERR_UNKNOWN = 0x80000006
    ERR_SHUTDOWN = 0x80000007
    ERR_BLOCK_SIZE_REQD = 0x80000008
    ERR_TOO_BIG = 0x80000009
    ERR_EXT_HEADER_REQD = 0x8000000A


REPLY_ERROR_BIT = 0x80000000


class Info(IntEnum):
    """Pieces of information about an export: NBD_INFO_*."""

    EXPORT = 0
    NAME = 1
    DESCRIPTION = 2
    BLOCK_SIZE = 3


class Command(IntEnum):
    """What a client asks of a disk: NBD_CMD_*."""

    READ = 0
    WRITE = 1
    DISC = 2
    FLUSH = 3
    TRIM = 4
    CACHE = 5
    WRITE_ZEROES = 6
    BLOCK_STATUS = 7
    RESIZE = 8


class CommandFlag(IntFlag):
    """Modifiers of a command: NBD_CMD_FLAG_*."""

    FUA = 1 << 0
    NO_HOLE = 1 << 1
    DF = 1 << 2
    REQ_ONE = 1 << 3
    FAST_ZERO = 1 << 4
    PAYLOAD_LEN = 1 << 5


class AllocationFlag(IntFlag):
    """What an extent of base:allocation is: NBD_STATE_*. None of them is always a safe answer."""

    HOLE = 1
    ZERO = 2


class ChunkFlag(IntFlag):
    """Modifiers of a structured chunk: NBD_REPLY_FLAG_*."""

    DONE = 1


class Chunk(IntEnum):
    """Kinds of structured chunk: NBD_REPLY_TYPE_*; bit 15 marks errors."""

    NONE = 0
    OFFSET_DATA = 1
    OFFSET_HOLE = 2
    BLOCK_STATUS = 5
    BLOCK_STATUS_EXT = 6
    ERROR = 0x8001
    ERROR_OFFSET = 0x8002


CHUNK_ERROR_BIT = 0x8000


class Error(IntEnum):
    """The only error numbers that may go over the wire, whatever the hosts' errno are: NBD_E*."""

    EPERM = 1
    EIO = 5
    ENOMEM = 12
    EINVAL = 22
    ENOSPC = 28
    EOVERFLOW = 75
    ENOTSUP = 95
    ESHUTDOWN = 108


_FROM_HOST = {
    host.EPERM: Error.EPERM,
    host.EACCES: Error.EPERM,
    host.EROFS: Error.EPERM,
    host.EIO: Error.EIO,
    host.ENOMEM: Error.ENOMEM,
    host.EINVAL: Error.EINVAL,
    host.ENOSPC: Error.ENOSPC,
    host.EDQUOT: Error.ENOSPC,
    host.EFBIG: Error.ENOSPC,
    host.ESHUTDOWN: Error.ESHUTDOWN,
}

ERROR_TEXT = {
    Error.EPERM: "the export does not permit this now",
    Error.EIO: "input/output error on the server's disk",
    Error.ENOMEM: "the server is out of memory",
    Error.EINVAL: "the request is not valid for this export",
    Error.ENOSPC: "no space left on the server's disk",
    Error.EOVERFLOW: "the request is too large to be answered in one piece",
    Error.ENOTSUP: "the server can't do this faster than by writing",
    Error.ESHUTDOWN: "the server is shutting down",
}


def nbd_error(errno: int) -> Error:
    """The error a client is told for an errno of the host; what NBD has no word for is EIO.

    ENOTSUP and EOVERFLOW are EIO too: NBD allows them only as answers to flags that the server
    judges before an export is asked (FAST_ZERO, DF).
    """
    return _FROM_HOST.get(errno, Error.EIO)


# --- haggling -------------------------------------------------------------------------------

Greeting = Struct(
    "magic" / Const(NBD_MAGIC, Int64ub),
    "style" / Const(OPTION_MAGIC, Int64ub),
    "flags" / Int16ub,
)
ClientFlags = Struct("flags" / Int32ub)
OptionRequest = Struct(
    "magic" / Const(OPTION_MAGIC, Int64ub),
    "option" / Int32ub,
    "length" / Int32ub,
)
OptionReply = Struct(
    "magic" / Const(OPTION_REPLY_MAGIC, Int64ub),
    "option" / Int32ub,
    "type" / Int32ub,
    "length" / Int32ub,
)
ExportNameReply = Struct("size" / Int64ub, "flags" / Int16ub)
EXPORT_NAME_PADDING = bytes(124)
InfoRequest = Struct(
    "name" / Prefixed(Int32ub, GreedyBytes),
    "infos" / PrefixedArray(Int16ub, Int16ub),
    Terminated,
)
ServerReply = Struct("name" / Prefixed(Int32ub, GreedyBytes), "description" / GreedyBytes)
InfoExport = Struct("type" / Const(Info.EXPORT, Int16ub), "size" / Int64ub, "flags" / Int16ub)
InfoBlockSize = Struct(
    "type" / Const(Info.BLOCK_SIZE, Int16ub),
    "minimum" / Int32ub,
    "preferred" / Int32ub,
    "maximum_payload" / Int32ub,
)
InfoText = Struct("type" / Int16ub, "text" / GreedyBytes)
MetaQueryHead = Struct("name" / Prefixed(Int32ub, GreedyBytes), "count" / Int32ub)
MetaQuery = Struct(
    "name" / Prefixed(Int32ub, GreedyBytes),
    "queries" / PrefixedArray(Int32ub, Prefixed(Int32ub, GreedyBytes)),
    Terminated,
)
MetaContextReply = Struct("id" / Int32ub, "name" / GreedyBytes)

# --- transmission ---------------------------------------------------------------------------

CompactRequest = Struct(
    "magic" / Const(REQUEST_MAGIC, Int32ub),
    "flags" / Int16ub,
    "command" / Int16ub,
    "cookie" / Int64ub,
    "offset" / Int64ub,
    "length" / Int32ub,
)
ExtendedRequest = Struct(
    "magic" / Const(EXTENDED_REQUEST_MAGIC, Int32ub),
    "flags" / Int16ub,
    "command" / Int16ub,
    "cookie" / Int64ub,
    "offset" / Int64ub,
    "length" / Int64ub,
)
SimpleReply = Struct(
    "magic" / Const(SIMPLE_REPLY_MAGIC, Int32ub),
    "error" / Int32ub,
    "cookie" / Int64ub,
)
ChunkHeader = Struct(
    "magic" / Const(CHUNK_MAGIC, Int32ub),
    "flags" / Int16ub,
    "type" / Int16ub,
    "cookie" / Int64ub,
    "length" / Int32ub,
)
ExtendedChunkHeader = Struct(
    "magic" / Const(EXTENDED_CHUNK_MAGIC, Int32ub),
    "flags" / Int16ub,
    "type" / Int16ub,
    "cookie" / Int64ub,
    "offset" / Int64ub,
    "length" / Int64ub,
)
OffsetData = Struct("offset" / Int64ub, "data" / GreedyBytes)
OffsetHole = Struct("offset" / Int64ub, "length" / Int32ub)
ErrorChunk = Struct(
    "error" / Int32ub,
    "message" / Prefixed(Int16ub, GreedyBytes),
    "rest" / GreedyBytes,
)
BlockStatus = Struct(
    "context" / Int32ub,
    "extents" / GreedyRange(Int32ub[2]),
    Terminated,
)
BlockStatusExt = Struct(
    "context" / Int32ub,
    "extents" / PrefixedArray(Int32ub, Int64ub[2]),
    Terminated,
)
BlockStatusPayload = Struct("length" / Int64ub, "contexts" / GreedyRange(Int32ub), Terminated)
COMPACT_REQUEST = struct.Struct("!IHHQQI")
EXTENDED_REQUEST = struct.Struct("!IHHQQQ")
SIMPLE_REPLY = struct.Struct("!IIQ")
CHUNK_HEADER = struct.Struct("!IHHQI")
CHUNK_WITH_OFFSET = struct.Struct("!IHHQIQ")
"""A chunk header and the offset that opens the payload of OFFSET_DATA."""
EXTENDED_CHUNK = struct.Struct("!IHHQQQ")
EXTENDED_CHUNK_WITH_OFFSET = struct.Struct("!IHHQQQQ")
"""The same for extended headers."""


def wire_text(text: str) -> bytes:
    """*text* as the protocol wants messages: UTF-8 without NUL, at most 4096 bytes, never cut
    inside a character."""
    raw = text.replace("\0", " ").encode("utf-8", "replace")
    if len(raw) <= STRING_MAX:
        return raw
    return raw[:STRING_MAX].decode("utf-8", "ignore").encode("utf-8")
