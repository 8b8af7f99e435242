"""The forms in which a server answers requests: simple replies, structured or extended chunks.

Each method builds one whole reply, but ``data`` and ``piece``, which are the head before a read's
bytes, and ``hole``. offset and length are those of the request; at and length those of a part.
Source: proto.md, "Transmission phase".
"""

from __future__ import annotations

import struct
from typing import Protocol

from nbd.block_status import Status
from nbd.protocol import (
    CHUNK_HEADER,
    CHUNK_MAGIC,
    CHUNK_WITH_OFFSET,
    EXTENDED_CHUNK,
    EXTENDED_CHUNK_MAGIC,
    EXTENDED_CHUNK_WITH_OFFSET,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    Chunk,
    ChunkFlag,
    Error,
    ErrorChunk,
    wire_text,
)

_DONE = int(ChunkFlag.DONE)
_NONE, _DATA, _HOLE, _STATUS, _STATUS_EXT, _ERROR = (
    int(Chunk.NONE),
    int(Chunk.OFFSET_DATA),
    int(Chunk.OFFSET_HOLE),
    int(Chunk.BLOCK_STATUS),
    int(Chunk.BLOCK_STATUS_EXT),
    int(Chunk.ERROR),
)
_OFFSET_HOLE = struct.Struct("!QI")
"""The twin of protocol.OffsetHole."""


class ReplyForm(Protocol):
    """How one connection's replies look."""

    def done(self, cookie: int, offset: int) -> bytes:
        """Success of a command that yields nothing."""

    def all_done(self, requests: list[tuple[int, int]]) -> bytes:
        """``done`` for each of (cookie, offset)."""

    def data(self, cookie: int, offset: int, length: int) -> bytes:
        """What precedes the bytes of a read."""

    def nothing_read(self, cookie: int, offset: int) -> bytes:
        """Success of a read of no bytes."""

    def piece(self, cookie: int, offset: int, at: int, length: int, last: bool) -> bytes:
        """What precedes the data at *at*, one part of a read."""

    def hole(self, cookie: int, offset: int, at: int, length: int, last: bool) -> bytes:
        """Zeroes at *at*, one part of a read."""

    def error(self, cookie: int, offset: int, error: Error, text: str) -> bytes:
        """Failure."""

    def status(self, cookie: int, offset: int, status: Status) -> bytes:
        """The extents of every selected context."""


class SimpleReplies:
    """What every client understands. There are no contexts here, and so no status."""

    def done(self, cookie: int, offset: int) -> bytes:
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)

    def all_done(self, requests: list[tuple[int, int]]) -> bytes:
        return _all_simple(requests)

    def data(self, cookie: int, offset: int, length: int) -> bytes:
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)

    nothing_read = done

    def piece(self, cookie: int, offset: int, at: int, length: int, last: bool) -> bytes:
        raise AssertionError("a simple reply has no parts")

    hole = piece

    def error(self, cookie: int, offset: int, error: Error, text: str) -> bytes:
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, int(error), cookie)

    def status(self, cookie: int, offset: int, status: Status) -> bytes:
        raise AssertionError("meta contexts were selected without structured replies")


class StructuredReplies:
    """Chunks; only success without a payload stays simple, which is legal and shorter."""

    def done(self, cookie: int, offset: int) -> bytes:
        return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, 0, cookie)

    def all_done(self, requests: list[tuple[int, int]]) -> bytes:
        return _all_simple(requests)

    def data(self, cookie: int, offset: int, length: int) -> bytes:
        return CHUNK_WITH_OFFSET.pack(CHUNK_MAGIC, _DONE, _DATA, cookie, length + 8, offset)

    def nothing_read(self, cookie: int, offset: int) -> bytes:
        return CHUNK_HEADER.pack(CHUNK_MAGIC, _DONE, _NONE, cookie, 0)

    def piece(self, cookie: int, offset: int, at: int, length: int, last: bool) -> bytes:
        return CHUNK_WITH_OFFSET.pack(CHUNK_MAGIC, last, _DATA, cookie, length + 8, at)

    def hole(self, cookie: int, offset: int, at: int, length: int, last: bool) -> bytes:
        return CHUNK_HEADER.pack(CHUNK_MAGIC, last, _HOLE, cookie, 12) + _OFFSET_HOLE.pack(
            at, length
        )

    def error(self, cookie: int, offset: int, error: Error, text: str) -> bytes:
        body = error_body(error, text)
        return CHUNK_HEADER.pack(CHUNK_MAGIC, _DONE, _ERROR, cookie, len(body)) + body

    def status(self, cookie: int, offset: int, status: Status) -> bytes:
        chunks: list[bytes] = []
        for number, extents in status.items():
            flags = _DONE if len(chunks) == len(status) - 1 else 0
            flat = [value for extent in extents for value in extent]
            body = struct.pack(f"!I{len(flat)}I", number, *flat)
            chunks.append(CHUNK_HEADER.pack(CHUNK_MAGIC, flags, _STATUS, cookie, len(body)) + body)
        return b"".join(chunks)


class ExtendedReplies:
    """Chunks with 64-bit lengths that repeat the request's offset; nothing is simple any more."""

    def done(self, cookie: int, offset: int) -> bytes:
        return EXTENDED_CHUNK.pack(EXTENDED_CHUNK_MAGIC, _DONE, _NONE, cookie, offset, 0)

    nothing_read = done

    def all_done(self, requests: list[tuple[int, int]]) -> bytes:
        return b"".join([self.done(cookie, offset) for cookie, offset in requests])

    def data(self, cookie: int, offset: int, length: int) -> bytes:
        return EXTENDED_CHUNK_WITH_OFFSET.pack(
            EXTENDED_CHUNK_MAGIC, _DONE, _DATA, cookie, offset, length + 8, offset
        )

    def piece(self, cookie: int, offset: int, at: int, length: int, last: bool) -> bytes:
        return EXTENDED_CHUNK_WITH_OFFSET.pack(
            EXTENDED_CHUNK_MAGIC, last, _DATA, cookie, offset, length + 8, at
        )

    def hole(self, cookie: int, offset: int, at: int, length: int, last: bool) -> bytes:
        return self._chunk(last, _HOLE, cookie, offset, _OFFSET_HOLE.pack(at, length))

    def error(self, cookie: int, offset: int, error: Error, text: str) -> bytes:
        return self._chunk(_DONE, _ERROR, cookie, offset, error_body(error, text))

    def status(self, cookie: int, offset: int, status: Status) -> bytes:
        chunks: list[bytes] = []
        for number, extents in status.items():
            flags = _DONE if len(chunks) == len(status) - 1 else 0
            flat = [value for extent in extents for value in extent]
            body = struct.pack(f"!II{len(flat)}Q", number, len(extents), *flat)
            chunks.append(self._chunk(flags, _STATUS_EXT, cookie, offset, body))
        return b"".join(chunks)

    def _chunk(self, flags: int, kind: int, cookie: int, offset: int, body: bytes) -> bytes:
        head = EXTENDED_CHUNK.pack(EXTENDED_CHUNK_MAGIC, flags, kind, cookie, offset, len(body))
        return head + body


def _all_simple(requests: list[tuple[int, int]]) -> bytes:
    pack = SIMPLE_REPLY.pack
    return b"".join([pack(SIMPLE_REPLY_MAGIC, 0, cookie) for cookie, _offset in requests])


def error_body(error: Error, text: str) -> bytes:
    """The payload of an error chunk."""
    body: bytes = ErrorChunk.build({"error": int(error), "message": wire_text(text), "rest": b""})
    return body
