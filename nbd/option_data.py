"""Reads what clients send with their options; what can't be read becomes the reply that says so.

Names and queries are UTF-8 without NUL, at most 4096 bytes. What a client sent is never echoed.
"""

from __future__ import annotations

from collections.abc import Iterable

from construct import ConstructError

from nbd.protocol import (
    BASE_ALLOCATION,
    STRING_MAX,
    InfoRequest,
    MetaQuery,
    MetaQueryHead,
    Reply,
)

QUERIES_MAX = 1024
"""Queries of one LIST_META_CONTEXT or SET_META_CONTEXT."""


class MalformedError(Exception):
    """Option data that can't be read; the reply that says so."""

    def __init__(self, reply: Reply, text: str) -> None:
        super().__init__(text)
        self.reply = reply


def export_name(raw: bytes) -> str:
    """An export name as the protocol allows it."""
    return _text(raw, "an export name")


def info_request(data: bytes) -> tuple[str, set[int]]:
    """INFO and GO: the export's name and the information that is asked for."""
    try:
        asked = InfoRequest.parse(data)
    except ConstructError as bad:
        text = "the option's data does not have the form of INFO and GO"
        raise MalformedError(Reply.ERR_INVALID, text) from bad
    return export_name(asked.name), set(asked.infos)


def meta_query(data: bytes) -> tuple[str, list[str]]:
    """LIST_META_CONTEXT and SET_META_CONTEXT: the export's name and the queries."""
    try:
        if MetaQueryHead.parse(data).count > QUERIES_MAX:
            raise MalformedError(Reply.ERR_TOO_BIG, f"an option may have {QUERIES_MAX} queries")
        asked = MetaQuery.parse(data)
    except ConstructError as bad:
        text = "the option's data does not have the form of a meta context query"
        raise MalformedError(Reply.ERR_INVALID, text) from bad
    queries = [_text(raw, "a meta context query") for raw in asked.queries]
    if any(query.find(":") < 1 for query in queries):
        text = "a meta context query has the form namespace:leaf or namespace:"
        raise MalformedError(Reply.ERR_INVALID, text)
    return export_name(asked.name), queries


def matching(offered: Iterable[str], queries: list[str], *, listing: bool) -> dict[int, str]:
    """The contexts that queries mean, by id. An id belongs to a name, so it is the same whatever
    is asked. listing: no query at all, or a bare "namespace:", means everything (there)."""
    wanted = set(queries)
    found = {}
    for number, name in enumerate((BASE_ALLOCATION, *offered), 1):
        space = name.partition(":")[0] + ":"
        if name in wanted or (listing and (not wanted or space in wanted)):
            found[number] = name
    return found


def _text(raw: bytes, what: str) -> str:
    if len(raw) > STRING_MAX:
        raise MalformedError(Reply.ERR_TOO_BIG, f"{what} may have {STRING_MAX} bytes")
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        raise MalformedError(Reply.ERR_INVALID, f"{what} must be UTF-8") from bad
    if "\0" in text:
        raise MalformedError(Reply.ERR_INVALID, f"{what} contains no NUL")
    return text
