"""What a server answers to pipelined requests: parsed, judged and put together, without any I/O.

Nothing a server says is trusted: a reply must belong to a request in flight, a chunk may not be
longer than the request allows, data must lie inside it and cover it whole. Offsets and lengths in
bytes. Raises NbdError; the connection is of no more use then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from construct import ConstructError

from nbd.protocol import (
    CHUNK_ERROR_BIT,
    CHUNK_HEADER,
    CHUNK_MAGIC,
    ERROR_TEXT,
    EXTENDED_CHUNK,
    EXTENDED_CHUNK_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    STRING_MAX,
    BlockStatus,
    BlockStatusExt,
    Chunk,
    ChunkFlag,
    Command,
    Error,
    ErrorChunk,
    OffsetHole,
)

CHUNK_OVERHEAD_MAX = STRING_MAX + 64
"""What a chunk may hold beside the request's data: an error's message, an offset."""
STATUS_BYTES_MAX = 16 << 20
"""A million extents, the most that the protocol allows, in the longer form."""


Described = dict[str, list[tuple[int, int]]]
"""(length, flags) of neighbouring ranges, by the name of the meta context that explains them."""


class NbdError(Exception):
    """A server's refusal, or a connection that failed.

    code: the NBD error number, or the option reply (bit 31 set); None if the connection failed.
    """

    def __init__(self, text: str, code: int | None = None) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a submitted request: error 0, or an NBD error and the server's sentence."""

    cookie: int
    error: int = 0
    text: str = ""
    data: bytes = b""
    extents: Described = field(default_factory=dict)

    def checked(self) -> Answer:
        """The answer of a success; raises NbdError for any other."""
        if self.error:
            raise NbdError(self.text, self.error)
        return self


@dataclass(slots=True)
class Request:
    """A request in flight and what has come of its answer so far. contexts: how many it asks to be
    described, 0: all."""

    command: int
    offset: int
    length: int
    contexts: int = 0
    data: bytearray | None = None
    covered: int = 0
    error: int = 0
    text: str = ""
    extents: Described = field(default_factory=dict)


class Replies:
    """The requests in flight of one connection, and the answers nobody has fetched yet."""

    def __init__(
        self,
        structured: bool,
        contexts: dict[int, str] | None = None,
        extended: bool = False,
    ) -> None:
        """contexts: the meta contexts that were selected, by id. extended: not structured."""
        self._structured = structured and not extended
        self._extended = extended
        self._contexts = contexts or {}
        self.ids = {name: number for number, name in self._contexts.items()}
        """Of the contexts that were selected."""
        self.pending: dict[int, Request] = {}
        self.answers: list[Answer] = []

    def receive(self, received: bytearray, at: int) -> int:
        """Look at received bytes from *at* on; returns how many were used. Offer the rest again
        with more."""
        begin, end = at, len(received)
        with memoryview(received) as view:
            while end - at >= SIMPLE_REPLY.size:
                magic, error, cookie = SIMPLE_REPLY.unpack_from(received, at)
                if magic == SIMPLE_REPLY_MAGIC and not self._extended:
                    head = SIMPLE_REPLY.size
                    used = self._on_simple(cookie, error, view, at + head)
                elif magic == CHUNK_MAGIC and self._structured:
                    head = CHUNK_HEADER.size
                    if end - at < head:
                        break
                    _, flags, kind, cookie, length = CHUNK_HEADER.unpack_from(received, at)
                    used = self._on_chunk(cookie, flags, kind, length, view, at + head)
                elif magic == EXTENDED_CHUNK_MAGIC and self._extended:
                    head = EXTENDED_CHUNK.size
                    if end - at < head:
                        break
                    _, flags, kind, cookie, offset, length = EXTENDED_CHUNK.unpack_from(
                        received, at
                    )
                    if offset != self._request(cookie).offset:
                        raise NbdError("the server answered with another offset than was asked")
                    used = self._on_chunk(cookie, flags, kind, length, view, at + head)
                else:
                    raise NbdError("the server sent something that is not an NBD reply")
                if used < 0:
                    break
                at += head + used
        return at - begin

    def _request(self, cookie: int) -> Request:
        request = self.pending.get(cookie)
        if request is None:
            raise NbdError(f"the server answered a request that was not sent (cookie {cookie})")
        return request

    def _on_simple(self, cookie: int, error: int, view: memoryview, at: int) -> int:
        """Returns how many bytes from *at* on belong to the reply, -1 if more must come."""
        request = self._request(cookie)
        data = b""
        if request.command == Command.READ and not error:
            if self._structured:
                raise NbdError("the server sent a simple reply to a read")
            if len(view) - at < request.length:
                return -1
            data = bytes(view[at : at + request.length])
        del self.pending[cookie]
        self.answers.append(Answer(cookie, error, error_text(error) if error else "", data))
        return len(data)

    def _on_chunk(
        self, cookie: int, flags: int, kind: int, length: int, view: memoryview, at: int
    ) -> int:
        """Returns how many bytes from *at* on belong to the chunk, -1 if more must come."""
        request = self._request(cookie)
        extents = STATUS_BYTES_MAX if request.command == Command.BLOCK_STATUS else 0
        if length > request.length + CHUNK_OVERHEAD_MAX + extents:
            raise NbdError(f"the server announced a chunk of {length} bytes")
        if len(view) - at < length:
            return -1
        payload = bytes(view[at : at + length])
        if kind & CHUNK_ERROR_BIT:
            told = parsed(ErrorChunk, payload)
            request.error = told.error or int(Error.EIO)
            request.text = shown(told.message) or error_text(request.error)
        elif kind == Chunk.OFFSET_DATA:
            self._cover(request, int.from_bytes(payload[:8]), payload[8:])
        elif kind == Chunk.OFFSET_HOLE:
            hole = parsed(OffsetHole, payload)
            if hole.length > request.length:
                raise NbdError("the server told of a hole that was not asked for")
            self._cover(request, hole.offset, bytes(hole.length))
        elif kind == (Chunk.BLOCK_STATUS_EXT if self._extended else Chunk.BLOCK_STATUS):
            told = parsed(BlockStatusExt if self._extended else BlockStatus, payload)
            self._describe(request, told.context, [(size, flags) for size, flags in told.extents])
        elif kind != Chunk.NONE:
            raise NbdError(f"the server sent a chunk of unknown type {kind}")
        if flags & ChunkFlag.DONE:
            self._on_last_chunk(cookie, request)
        return length

    def _cover(self, request: Request, offset: int, data: bytes) -> None:
        start = offset - request.offset
        if request.command != Command.READ or not 0 <= start <= request.length - len(data):
            raise NbdError("the server sent data that were not asked for")
        if request.data is None:
            request.data = bytearray(request.length)
        request.data[start : start + len(data)] = data
        request.covered += len(data)

    def _describe(self, request: Request, number: int, extents: list[tuple[int, int]]) -> None:
        name = self._contexts.get(number)
        if request.command != Command.BLOCK_STATUS or name is None or name in request.extents:
            raise NbdError("the server described what was not asked for")
        lengths = [length for length, _flags in extents]
        if 0 in lengths or not lengths or sum(lengths[:-1]) >= request.length:
            raise NbdError("the server described another range than was asked for")
        request.extents[name] = extents

    def _on_last_chunk(self, cookie: int, request: Request) -> None:
        del self.pending[cookie]
        if request.error:
            self.answers.append(Answer(cookie, request.error, request.text))
            return
        if request.command == Command.READ and request.covered != request.length:
            raise NbdError("the server's answer to a read is not complete")
        asked = request.command == Command.BLOCK_STATUS and request.length
        if asked and len(request.extents) < (request.contexts or len(self._contexts)):
            raise NbdError("the server did not describe every context")
        self.answers.append(
            Answer(cookie, data=bytes(request.data or b""), extents=request.extents)
        )


def error_text(error: int) -> str:
    """A sentence for an error that came without one."""
    known = error in set(Error)
    return ERROR_TEXT[Error(error)] if known else f"the server answered error {error}"


def shown(raw: bytes) -> str:
    """A server's text, whatever its bytes are."""
    return raw.decode("utf-8", "replace")


def parsed(form: Any, data: bytes) -> Any:
    """What *data* means as a construct; what it can't mean is the server's fault."""
    try:
        return form.parse(data)
    except ConstructError as bad:
        raise NbdError("the server's reply does not have the form the protocol demands") from bad
