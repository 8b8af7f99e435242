"""EXTENDED_HEADERS: the option, requests and replies with 64-bit lengths, row by row."""

from __future__ import annotations

import pytest

from nbd.client import NbdError
from nbd.export import Refused
from nbd.handshake import Handshake
from nbd.memory import Call, MemoryExports
from nbd.protocol import (
    BASE_ALLOCATION,
    EXTENDED_CHUNK,
    EXTENDED_CHUNK_MAGIC,
    BlockStatusPayload,
    Chunk,
    Command,
    CommandFlag,
    Error,
    InfoExport,
    Option,
    Reply,
    TransmissionFlag,
)
from nbd.replies import Replies, Request
from nbd.transmission import DRAIN_MAX, Transmission
from tests.support.nbd_bytes import (
    CLIENT_FLAGS,
    Said,
    extended,
    fed,
    go,
    meta,
    option,
    option_replies,
    replies,
    request,
)
from tests.support.nbd_served import served

SIZE = 1 << 20
EXTENDED, STRUCTURED = Option.EXTENDED_HEADERS, Option.STRUCTURED_REPLY
FUA, LEN, ONE = CommandFlag.FUA, CommandFlag.PAYLOAD_LEN, CommandFlag.REQ_ONE


@pytest.fixture
def handshake() -> Handshake:
    return Handshake(MemoryExports.single(SIZE, "disk"))


# --- 1.3 the option ---


def test_extended_headers_are_acknowledged_and_reach_the_transmission(
    handshake: Handshake,
) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(EXTENDED), go("disk"))
    assert option_replies(out)[0] == (EXTENDED, Reply.ACK, b"")
    assert handshake.opened is not None
    assert handshake.opened.extended


def test_extended_headers_take_precedence_over_structured_replies(handshake: Handshake) -> None:
    fed(handshake, CLIENT_FLAGS, option(STRUCTURED), option(EXTENDED), go("disk"))
    assert handshake.opened is not None
    assert handshake.opened.extended


def test_structured_replies_after_extended_headers_are_ext_header_reqd(
    handshake: Handshake,
) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(EXTENDED), option(STRUCTURED))
    assert option_replies(out)[1][:2] == (STRUCTURED, Reply.ERR_EXT_HEADER_REQD)


def test_export_name_after_extended_headers_closes(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(EXTENDED), option(Option.EXPORT_NAME, b"disk"))
    assert option_replies(out) == [(EXTENDED, Reply.ACK, b"")]
    assert handshake.ended
    assert handshake.opened is None


def flags_told(handshake: Handshake, *options: bytes) -> int:
    out = option_replies(fed(handshake, CLIENT_FLAGS, *options, go("disk")))
    told = [data for _, kind, data in out if kind == Reply.INFO and data[:2] == b"\0\0"]
    flags: int = InfoExport.parse(told[0]).flags
    return flags


@pytest.mark.parametrize(
    ("options", "payload"),
    [
        ([option(EXTENDED)], False),
        ([option(EXTENDED), meta(Option.SET_META_CONTEXT, "disk", BASE_ALLOCATION)], True),
        ([option(EXTENDED), meta(Option.SET_META_CONTEXT, "disk", "x:y")], False),
        ([option(EXTENDED), meta(Option.SET_META_CONTEXT, "", BASE_ALLOCATION)], False),
        ([option(STRUCTURED), meta(Option.SET_META_CONTEXT, "disk", BASE_ALLOCATION)], False),
    ],
)
def test_block_status_payload_is_offered_with_extended_headers_and_a_context_only(
    handshake: Handshake, options: list[bytes], payload: bool
) -> None:
    flags = flags_told(handshake, *options)
    assert bool(flags & TransmissionFlag.BLOCK_STATUS_PAYLOAD) == payload
    assert flags & TransmissionFlag.SEND_DF


# --- 2.1, 2.3 requests and replies ---


class Session:
    """An extended Transmission on a memory disk with base:allocation selected."""

    def __init__(self, *, size: int = SIZE, contexts: bool = True, **geometry: object) -> None:
        exports = MemoryExports.single(size, "disk", **geometry)
        self.disk = exports.disks["disk"]
        self.disk.recording = True
        export = exports.open("disk")
        assert not isinstance(export, Refused)
        self.t = Transmission(
            export,
            structured=False,
            promised_alignment=False,
            wake=lambda: None,
            contexts={1: BASE_ALLOCATION} if contexts else {},
            extended=True,
        )

    def said(self, *pieces: bytes) -> list[Said]:
        raw = b"".join(pieces)
        self.t.receive(memoryview(raw))
        return replies(b"".join(bytes(piece) for piece in self.t.take()))

    def one(self, *pieces: bytes) -> Said:
        (only,) = self.said(*pieces)
        assert only.form == "extended", "nothing is simple with extended headers"
        return only


def test_every_reply_is_an_extended_chunk_with_the_offset_of_its_request() -> None:
    s = Session()
    assert s.one(extended(Command.WRITE, 5, data=b"hello", cookie=7)) == Said(
        "extended", 7, offset=5
    )
    assert s.one(extended(Command.READ, 5, 5)) == Said("extended", 1, data=b"hello", offset=5)
    for command in (Command.TRIM, Command.WRITE_ZEROES, Command.CACHE):
        assert s.one(extended(command, 512, 512)) == Said("extended", 1, offset=512)
    assert s.one(extended(Command.FLUSH)) == Said("extended", 1)
    assert s.one(extended(Command.READ, 9, 0)) == Said("extended", 1, offset=9)
    bad = s.one(extended(Command.READ, SIZE, 1))
    assert (bad.error, bad.offset, bool(bad.text)) == (Error.EINVAL, SIZE, True)


def test_a_write_whose_data_come_later_is_applied_whole() -> None:
    s = Session()
    raw = extended(Command.WRITE, 0, data=b"x" * 4096, flags=FUA)
    assert s.said(raw[:1000]) == []
    assert s.one(raw[1000:]).error == 0
    assert s.disk.calls == [Call("write", 0, 4096, True)]


@pytest.mark.parametrize("command", [Command.TRIM, Command.WRITE_ZEROES, Command.CACHE])
def test_commands_without_payload_may_be_longer_than_4_gib(command: int) -> None:
    s = Session(size=6 << 30)
    assert s.one(extended(command, 0, 6 << 30)).error == 0


def test_block_status_tells_extents_longer_than_4_gib() -> None:
    s = Session(size=6 << 30)
    assert s.one(extended(Command.BLOCK_STATUS, 0, 6 << 30)).extents == {1: [(6 << 30, 3)]}


def test_disc_ends_the_session() -> None:
    s = Session()
    assert s.said(extended(Command.DISC)) == []
    assert s.t.ended == ""


# --- 2.3, 2.7: PAYLOAD_LEN ---


def test_a_compact_request_after_negotiation_ends_the_connection() -> None:
    s = Session()
    s.said(request(Command.READ, 0, 512) + bytes(4))
    assert s.t.ended


def test_an_extended_request_without_negotiation_ends_the_connection() -> None:
    export = MemoryExports.single(SIZE).open("")
    assert not isinstance(export, Refused)
    t = Transmission(export, structured=True, promised_alignment=False, wake=lambda: None)
    t.receive(memoryview(extended(Command.READ, 0, 512)))
    assert t.ended


def test_write_without_payload_len_has_no_payload_and_is_einval() -> None:
    s = Session()
    bad, good = s.said(extended(Command.WRITE, 0, 512), extended(Command.FLUSH, cookie=2))
    assert (bad.error, good.error) == (Error.EINVAL, 0)
    assert s.disk.calls == [Call("flush")]


@pytest.mark.parametrize("command", [0, 3, 4, 5, 6, 8, 9])
def test_a_payload_where_none_belongs_is_consumed_and_einval(command: int) -> None:
    s = Session()
    bad, good = s.said(
        extended(command, 0, data=b"y" * 1000), extended(Command.READ, 0, 1, cookie=2)
    )
    assert (bad.error, good.error, good.data) == (Error.EINVAL, 0, b"\0")
    assert [call.kind for call in s.disk.calls] == ["read"]


def test_an_empty_payload_is_einval_but_for_write() -> None:
    s = Session()
    assert s.one(extended(Command.READ, 0, 0, flags=LEN)).error == Error.EINVAL
    assert s.one(extended(Command.BLOCK_STATUS, 0, 0, flags=LEN)).error == Error.EINVAL
    assert s.one(extended(Command.WRITE, 0, 0, flags=LEN)).error == 0


@pytest.mark.parametrize("command", [Command.WRITE, Command.READ, Command.BLOCK_STATUS, 99])
@pytest.mark.parametrize("length", [DRAIN_MAX + 1, (1 << 64) - 1])
def test_an_absurd_payload_ends_the_connection(command: int, length: int) -> None:
    s = Session()
    s.said(extended(command, 0, length, flags=LEN))
    assert s.t.ended


def test_a_write_above_the_maximum_is_drained_and_refused() -> None:
    s = Session(size=128 << 20)
    assert s.said(extended(Command.WRITE, 0, (32 << 20) + 1, flags=LEN)) == []
    piece = bytes(1 << 20)
    for _ in range(32):
        assert s.said(piece) == []
    assert s.one(b"x").error == Error.EINVAL


# --- 2.3: BLOCK_STATUS with a payload ---


def status(length: int, *numbers: int, flags: int = 0, offset: int = 0) -> bytes:
    data = BlockStatusPayload.build({"length": length, "contexts": list(numbers)})
    return extended(Command.BLOCK_STATUS, offset, data=data, flags=flags)


def test_a_payload_chooses_among_the_selected_contexts() -> None:
    s = Session()
    s.disk.put(0, b"x")
    assert s.one(status(8192, 1)).extents == {1: [(4096, 0), (4096, 3)]}
    assert s.one(status(8192, 1, flags=ONE, offset=100)).extents == {1: [(3996, 0)]}
    assert s.one(status(0, 1)).error == 0


@pytest.mark.parametrize(
    "raw",
    [
        status(512, 2),  # not selected
        status(512, 1, 1),  # twice
        status(512),  # none
        status(SIZE + 1, 1),  # beyond the end
        status(512, 1, flags=FUA),
        extended(Command.BLOCK_STATUS, 0, data=b"x" * 7),
        extended(Command.BLOCK_STATUS, 0, data=b"x" * 11),
        extended(Command.BLOCK_STATUS, 0, data=b"x" * 5000),
    ],
)
def test_a_bad_payload_is_consumed_and_einval(raw: bytes) -> None:
    s = Session()
    bad, good = s.said(raw, extended(Command.FLUSH, cookie=2))
    assert (bad.error, good.cookie, good.error) == (Error.EINVAL, 2, 0)


def test_without_a_selected_context_a_payload_is_refused() -> None:
    s = Session(contexts=False)
    assert s.one(status(512, 1)).error == Error.EINVAL


def test_while_stopping_a_payload_is_consumed_and_answered_eshutdown() -> None:
    s = Session()
    s.t.stopping = True
    bad, late = s.said(status(512, 1), extended(Command.FLUSH, cookie=2))
    assert (bad.error, late.error) == (Error.ESHUTDOWN, Error.ESHUTDOWN)


# --- our own client ---


def test_client_and_server_talk_in_extended_headers() -> None:
    exports = MemoryExports.single(6 << 30, "disk")
    with served(exports) as server, server.connect() as client:
        info = client.open("disk", extended=True, contexts=[BASE_ALLOCATION])
        assert info.flags & TransmissionFlag.BLOCK_STATUS_PAYLOAD
        client.write(5 << 30, b"far", fua=True)
        assert client.read((5 << 30) - 1, 5) == b"\0far\0"
        assert client.read_many([(i << 20, 65536) for i in range(64)]) == [bytes(65536)] * 64
        rest = (1 << 30) - 4096
        told = {BASE_ALLOCATION: [(5 << 30, 3), (4096, 0), (rest, 3)]}
        assert client.block_status(0, 6 << 30) == told
        assert client.block_status(0, 6 << 30, contexts=[BASE_ALLOCATION]) == told
        client.zero(0, 6 << 30)
        assert client.block_status(0, 6 << 30) == {BASE_ALLOCATION: [(6 << 30, 3)]}
        with pytest.raises(NbdError, match="beyond"):
            client.trim(1 << 30, 6 << 30)
        client.flush()
        client.disc()


def test_the_client_refuses_replies_that_are_not_extended_or_tell_another_offset() -> None:
    def chunk(offset: int) -> bytes:
        return EXTENDED_CHUNK.pack(EXTENDED_CHUNK_MAGIC, 1, Chunk.NONE, 1, offset, 0)

    for raw in (chunk(8), b"\x67\x44\x66\x98" + bytes(28), b"\x66\x8e\x33\xef" + bytes(28)):
        told = Replies(True, extended=True)
        told.pending[1] = Request(Command.TRIM, 512, 512)
        with pytest.raises(NbdError):
            told.receive(bytearray(raw), 0)
    told = Replies(True, extended=True)
    told.pending[1] = Request(Command.TRIM, 512, 512)
    told.receive(bytearray(chunk(512)), 0)
    assert [answer.error for answer in told.answers] == [0]
