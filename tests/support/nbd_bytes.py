"""Bytes that an NBD client sends, and what a server's bytes say, for tests without sockets."""

from __future__ import annotations

from dataclasses import dataclass, field

from nbd.handshake import Handshake
from nbd.protocol import (
    CHUNK_HEADER,
    CHUNK_MAGIC,
    COMPACT_REQUEST,
    EXTENDED_CHUNK,
    EXTENDED_CHUNK_MAGIC,
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    REQUEST_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    BlockStatus,
    BlockStatusExt,
    Chunk,
    Command,
    CommandFlag,
    ErrorChunk,
    InfoRequest,
    MetaQuery,
    OffsetHole,
    OptionReply,
    OptionRequest,
)

CLIENT_FLAGS = bytes((0, 0, 0, 3))


def option(number: int, data: bytes = b"") -> bytes:
    head: bytes = OptionRequest.build({"option": number, "length": len(data)})
    return head + data


def go(name: str = "", *infos: int, number: int = 7) -> bytes:
    return option(number, InfoRequest.build({"name": name.encode(), "infos": list(infos)}))


def meta(number: int, name: str, *queries: str) -> bytes:
    """LIST_META_CONTEXT (9) or SET_META_CONTEXT (10)."""
    fields = {"name": name.encode(), "queries": [query.encode() for query in queries]}
    return option(number, MetaQuery.build(fields))


def request(
    command: int,
    offset: int = 0,
    length: int = 0,
    *,
    cookie: int = 1,
    flags: int = 0,
    data: bytes = b"",
) -> bytes:
    if command == Command.WRITE and data and not length:
        length = len(data)
    return COMPACT_REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length) + data


def extended(
    command: int,
    offset: int = 0,
    length: int = 0,
    *,
    cookie: int = 1,
    flags: int = 0,
    data: bytes = b"",
) -> bytes:
    """A request with the extended header; with data, PAYLOAD_LEN is set."""
    if data:
        flags, length = flags | CommandFlag.PAYLOAD_LEN, length or len(data)
    head = EXTENDED_REQUEST.pack(EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)
    return head + data


def option_replies(raw: bytes) -> list[tuple[int, int, bytes]]:
    """(option, type, data) of every option reply in *raw*, which holds nothing else."""
    found = []
    while raw:
        head = OptionReply.parse(raw)
        found.append((head.option, head.type, raw[20 : 20 + head.length]))
        raw = raw[20 + head.length :]
    return found


@dataclass
class Said:
    """One reply: its form ("simple" or "chunk"), error and text, a read's data, extents by id."""

    form: str
    cookie: int
    error: int = 0
    text: str = ""
    data: bytes = b""
    extents: dict[int, list[tuple[int, int]]] = field(default_factory=dict)
    offset: int = 0
    """In the header of an extended chunk."""
    pieces: list[tuple[int, int, bytes | None]] = field(default_factory=list, compare=False)
    """(offset, length, data or None for a hole) of every part of a read that came in chunks."""


def replies(raw: bytes, read_lengths: dict[int, int] | None = None) -> list[Said]:
    """Every reply in *raw*. read_lengths: cookie -> length of reads answered in simple form."""
    found = []
    while raw:
        magic = int.from_bytes(raw[:4])
        if magic == SIMPLE_REPLY_MAGIC:
            _, error, cookie = SIMPLE_REPLY.unpack_from(raw)
            length = 0 if error else (read_lengths or {}).get(cookie, 0)
            found.append(Said("simple", cookie, error, "", raw[16 : 16 + length]))
            raw = raw[16 + length :]
            continue
        offset, head, form, status = 0, 20, "chunk", Chunk.BLOCK_STATUS
        if magic == EXTENDED_CHUNK_MAGIC:
            head, form, status = 32, "extended", Chunk.BLOCK_STATUS_EXT
            _, flags, kind, cookie, offset, length = EXTENDED_CHUNK.unpack_from(raw)
        else:
            assert magic == CHUNK_MAGIC
            _, flags, kind, cookie, length = CHUNK_HEADER.unpack_from(raw)
        payload, raw = raw[head : head + length], raw[head + length :]
        assert len(payload) == length
        if kind == status:
            told = (BlockStatus if form == "chunk" else BlockStatusExt).parse(payload)
            extents = {told.context: [tuple(extent) for extent in told.extents]}
            if found and found[-1].form == "more":
                assert found[-1].cookie == cookie
                extents = found.pop().extents | extents
            last = form if flags else "more"
            found.append(Said(last, cookie, extents=extents, offset=offset))
            continue
        if kind in (Chunk.OFFSET_DATA, Chunk.OFFSET_HOLE):
            piece: tuple[int, int, bytes | None]
            if kind == Chunk.OFFSET_DATA:
                assert len(payload) > 8
                piece = (int.from_bytes(payload[:8]), len(payload) - 8, payload[8:])
            else:
                hole = OffsetHole.parse(payload)
                assert hole.length > 0
                piece = (hole.offset, hole.length, None)
            said = Said(form, cookie, offset=offset)
            if found and found[-1].form == "more":
                assert (found[-1].cookie, found[-1].offset) == (cookie, offset)
                said = found.pop()
            said.form = form if flags else "more"
            said.data += bytes(piece[1]) if piece[2] is None else piece[2]
            said.pieces.append(piece)
            found.append(said)
            continue
        assert flags == 1, "every other chunk of this server is the last of its reply"
        if kind == Chunk.ERROR:
            told = ErrorChunk.parse(payload)
            assert told.rest == b""
            text = told.message.decode()
            found.append(Said(form, cookie, told.error, text, offset=offset))
        else:
            assert kind == Chunk.NONE
            assert payload == b""
            found.append(Said(form, cookie, offset=offset))
    return found


def fed(handshake: Handshake, *pieces: bytes) -> bytes:
    """Give a handshake bytes as a server would; returns everything it sends but the greeting."""
    sent = b"".join(handshake.take())
    greeting, out = sent[:18], sent[18:]
    assert greeting[:8] == b"NBDMAGIC"
    rest = b"".join(pieces)
    while rest:
        used = handshake.receive(memoryview(rest))
        fresh = b"".join(handshake.take())
        if not used and not fresh:
            break
        out += fresh
        rest = rest[used:]
    return out
