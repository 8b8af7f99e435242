"""Every structure of the protocol survives a round trip; the struct twins equal construct."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nbd import protocol as p
from nbd.reply_forms import ExtendedReplies, StructuredReplies
from tests.support.nbd_bytes import replies

u16, u32, u64 = (st.integers(0, (1 << bits) - 1) for bits in (16, 32, 64))
raw = st.binary(max_size=300)

FORMS: list[tuple[Any, dict[str, st.SearchStrategy[Any]]]] = [
    (p.Greeting, {"flags": u16}),
    (p.ClientFlags, {"flags": u32}),
    (p.OptionRequest, {"option": u32, "length": u32}),
    (p.OptionReply, {"option": u32, "type": u32, "length": u32}),
    (p.ExportNameReply, {"size": u64, "flags": u16}),
    (p.InfoRequest, {"name": raw, "infos": st.lists(u16, max_size=20)}),
    (p.ServerReply, {"name": raw, "description": raw}),
    (p.InfoExport, {"size": u64, "flags": u16}),
    (p.InfoBlockSize, {"minimum": u32, "preferred": u32, "maximum_payload": u32}),
    (p.InfoText, {"type": u16, "text": raw}),
    (p.MetaQuery, {"name": raw, "queries": st.lists(raw, max_size=5)}),
    (p.BlockStatusPayload, {"length": u64, "contexts": st.lists(u32, max_size=5)}),
    (p.MetaContextReply, {"id": u32, "name": raw}),
    (p.OffsetData, {"offset": u64, "data": raw}),
    (p.OffsetHole, {"offset": u64, "length": u32}),
    (p.ErrorChunk, {"error": u32, "message": raw, "rest": raw}),
]
TWINS: list[tuple[Any, Any, int, dict[str, st.SearchStrategy[Any]]]] = [
    (
        p.CompactRequest,
        p.COMPACT_REQUEST,
        p.REQUEST_MAGIC,
        {"flags": u16, "command": u16, "cookie": u64, "offset": u64, "length": u32},
    ),
    (p.SimpleReply, p.SIMPLE_REPLY, p.SIMPLE_REPLY_MAGIC, {"error": u32, "cookie": u64}),
    (
        p.ExtendedRequest,
        p.EXTENDED_REQUEST,
        p.EXTENDED_REQUEST_MAGIC,
        {"flags": u16, "command": u16, "cookie": u64, "offset": u64, "length": u64},
    ),
    (
        p.ExtendedChunkHeader,
        p.EXTENDED_CHUNK,
        p.EXTENDED_CHUNK_MAGIC,
        {"flags": u16, "type": u16, "cookie": u64, "offset": u64, "length": u64},
    ),
    (
        p.ChunkHeader,
        p.CHUNK_HEADER,
        p.CHUNK_MAGIC,
        {"flags": u16, "type": u16, "cookie": u64, "length": u32},
    ),
]


@pytest.mark.parametrize(("form", "fields"), FORMS)
@settings(deadline=None)
@given(data=st.data())
def test_what_was_built_is_parsed_again(
    form: Any, fields: dict[str, st.SearchStrategy[Any]], data: st.DataObject
) -> None:
    values = data.draw(st.fixed_dictionaries(fields))
    found = form.parse(form.build(values))
    assert {name: found[name] for name in values} == values


@pytest.mark.parametrize(("form", "twin", "magic", "fields"), TWINS)
@settings(deadline=None)
@given(data=st.data())
def test_struct_twins_equal_construct(
    form: Any,
    twin: Any,
    magic: int,
    fields: dict[str, st.SearchStrategy[Any]],
    data: st.DataObject,
) -> None:
    values = data.draw(st.fixed_dictionaries(fields))
    built = form.build(values)
    in_order = [values[name] for name in fields]
    assert built == twin.pack(magic, *in_order)
    assert twin.unpack(built) == (magic, *in_order)
    assert form.sizeof() == twin.size


@settings(deadline=None)
@given(cookie=u64, offset=u64, content=st.binary(min_size=1, max_size=50))
def test_the_read_chunk_is_a_chunk_header_with_an_offset(
    cookie: int, offset: int, content: bytes
) -> None:
    head = p.ChunkHeader.build(
        {"flags": 1, "type": p.Chunk.OFFSET_DATA, "cookie": cookie, "length": len(content) + 8}
    )
    fast = p.CHUNK_WITH_OFFSET.pack(p.CHUNK_MAGIC, 1, 1, cookie, len(content) + 8, offset)
    assert fast + content == head + p.OffsetData.build({"offset": offset, "data": content})


@settings(deadline=None)
@given(
    cookie=u64,
    status=st.dictionaries(
        u32, st.lists(st.tuples(st.integers(1, (1 << 32) - 1), u32), min_size=1), min_size=1
    ),
)
def test_block_status_chunks_are_what_construct_describes(
    cookie: int, status: dict[int, list[tuple[int, int]]]
) -> None:
    for form, name in ((StructuredReplies(), "chunk"), (ExtendedReplies(), "extended")):
        said = replies(form.status(cookie, 0, status))
        assert [(answer.form, answer.cookie, answer.extents) for answer in said] == [
            (name, cookie, status)
        ]


@settings(deadline=None)
@given(text=st.text(max_size=6000))
def test_texts_on_the_wire_are_utf8_without_nul_and_bounded(text: str) -> None:
    wired = p.wire_text(text)
    assert len(wired) <= p.STRING_MAX
    assert b"\0" not in wired
    wired.decode("utf-8")


@settings(deadline=None)
@given(number=st.integers(-10, 200))
def test_only_errors_that_nbd_allows_leave_the_server(number: int) -> None:
    assert p.nbd_error(number) in set(p.Error) - {p.Error.ENOTSUP, p.Error.EOVERFLOW}
