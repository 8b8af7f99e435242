"""The client trusts nothing that a server says."""

from __future__ import annotations

import socket

import pytest

from nbd.client import Client, NbdError
from nbd.protocol import (
    CHUNK_HEADER,
    CHUNK_MAGIC,
    SIMPLE_REPLY,
    SIMPLE_REPLY_MAGIC,
    BlockStatus,
    Chunk,
    Command,
    ErrorChunk,
    OffsetHole,
    OptionReply,
    Reply,
)
from nbd.replies import Replies, Request

GREETING = b"NBDMAGICIHAVEOPT\0\3"


def chunk(kind: int, payload: bytes = b"", *, flags: int = 1, cookie: int = 1) -> bytes:
    return CHUNK_HEADER.pack(CHUNK_MAGIC, flags, kind, cookie, len(payload)) + payload


def simple(error: int = 0, cookie: int = 1) -> bytes:
    return SIMPLE_REPLY.pack(SIMPLE_REPLY_MAGIC, error, cookie)


def at(offset: int, data: bytes) -> bytes:
    return offset.to_bytes(8) + data


def reading(offset: int = 100, length: int = 8, *, structured: bool = True) -> Replies:
    replies = Replies(structured)
    replies.pending[1] = Request(Command.READ, offset, length)
    return replies


def test_data_and_holes_in_any_order_make_one_answer() -> None:
    replies = reading()
    hole = OffsetHole.build({"offset": 100, "length": 6})
    raw = chunk(1, at(106, b"yz"), flags=0) + chunk(2, hole, flags=0) + chunk(0)
    for cut in range(len(raw) + 1):
        again = reading()
        used = again.receive(bytearray(raw[:cut]), 0)
        again.receive(bytearray(raw), used)
        assert [a.data for a in again.answers] == [bytes(6) + b"yz"]
    assert replies.receive(bytearray(b"??" + raw), 2) == len(raw)


def status(number: int, *extents: tuple[int, int]) -> bytes:
    body = BlockStatus.build({"context": number, "extents": extents})
    return chunk(Chunk.BLOCK_STATUS, body, flags=0)


def describing() -> Replies:
    replies = Replies(True, {1: "base:allocation", 7: "x-a:b"})
    replies.pending[1] = Request(Command.BLOCK_STATUS, 0, 100)
    return replies


def test_descriptions_in_every_context_make_one_answer() -> None:
    replies = describing()
    raw = status(7, (100, 1)) + status(1, (60, 0), (9999, 3)) + chunk(0)
    replies.receive(bytearray(raw), 0)
    assert replies.answers[0].extents == {
        "base:allocation": [(60, 0), (9999, 3)],
        "x-a:b": [(100, 1)],
    }


@pytest.mark.parametrize(
    "raw",
    [
        chunk(0),  # nothing described
        status(1, (100, 0)) + chunk(0),  # a context is missing
        status(2, (100, 0)),  # a context that was not selected
        status(1, (100, 0)) + status(1, (100, 0)),  # twice
        status(1, (0, 0), (100, 0)),
        status(1),
        status(1, (100, 0), (1, 0)),  # more than was asked for
        chunk(Chunk.BLOCK_STATUS, b"\0\0\0\1" + b"x" * 9, flags=0),
    ],
)
def test_false_descriptions_are_errors(raw: bytes) -> None:
    with pytest.raises(NbdError):
        describing().receive(bytearray(raw), 0)


def test_an_error_chunk_carries_its_sentence() -> None:
    replies = reading()
    body = ErrorChunk.build({"error": 5, "message": b"the disk is gone", "rest": b""})
    replies.receive(bytearray(chunk(Chunk.ERROR, body, flags=0) + chunk(0)), 0)
    with pytest.raises(NbdError, match="the disk is gone") as caught:
        replies.answers[0].checked()
    assert caught.value.code == 5


def test_an_unknown_error_chunk_still_fails_the_request() -> None:
    replies = reading()
    replies.receive(bytearray(chunk(0x8123, bytes(6))), 0)
    assert replies.answers[0].error == 5


@pytest.mark.parametrize(
    "raw",
    [
        b"\0" * 20,  # no reply at all
        simple(cookie=2),  # never asked
        chunk(0, cookie=2),
        simple(),  # a read must be answered by chunks
        chunk(1, at(100, b"x" * 9)),  # longer than asked
        chunk(1, at(99, b"x" * 8)),  # before the range
        chunk(1, at(101, b"x" * 8)),  # beyond it
        chunk(1, at(100, b"x" * 7)),  # not complete
        chunk(1, at(1 << 63, b"x")),
        chunk(2, at(100, b"\xff\xff\xff\xff")),  # huge hole
        chunk(2, b"short"),
        chunk(7, bytes(8)),  # unknown kind
        chunk(0x8001, b"\0\0"),  # malformed error
        CHUNK_HEADER.pack(CHUNK_MAGIC, 1, 1, 1, 0xFFFFFFFF),  # huge announcement
    ],
)
def test_replies_that_do_not_fit_are_errors(raw: bytes) -> None:
    with pytest.raises(NbdError):
        reading().receive(bytearray(raw), 0)


def test_structured_replies_that_were_not_negotiated_are_errors() -> None:
    with pytest.raises(NbdError):
        reading(structured=False).receive(bytearray(chunk(0)), 0)


def reply(kind: int, data: bytes = b"", option: int = 3) -> bytes:
    return OptionReply.build({"option": option, "type": kind, "length": len(data)}) + data


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        (b"", "closed"),
        (b"SSH-2.0-OpenSSH_9.2p1", "not an NBD server"),
        (b"NBDMAGIC\x00\x00\x42\x02\x81\x86\x12\x53" + bytes(136), "oldstyle"),
        (b"NBDMAGIC" + bytes(16), "unknown way"),
        (b"NBDMAGICIHAVEOPT\0\0", "fixed newstyle"),
    ],
)
def test_servers_that_are_none_are_recognised(greeting: bytes, why: str) -> None:
    ours, theirs = socket.socketpair()
    theirs.sendall(greeting)
    theirs.close()
    with pytest.raises(NbdError, match=why):
        Client(ours, timeout_s=1)


def test_a_silent_server_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    with theirs, pytest.raises(NbdError, match=r"did not answer within 0\.01 s"):
        Client(ours, timeout_s=0.01)


@pytest.mark.parametrize(
    "raw",
    [
        reply(Reply.ACK, option=7),  # another option's
        OptionReply.build({"option": 3, "type": 1, "length": 0xFFFFFFFF}),
        b"\0" * 20,
        reply(Reply.SERVER, b"\xff\xff\xff\xff"),
        reply(Reply.SERVER, b"\0"),
    ],
)
def test_option_replies_that_do_not_fit_are_errors(raw: bytes) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(GREETING + raw + reply(Reply.ACK))
        with Client(ours, timeout_s=1) as client, pytest.raises(NbdError):
            client.list()


def test_a_refusal_raises_the_servers_sentence_and_code() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(GREETING + reply(Reply.ERR_POLICY, b"not now"))
        with Client(ours, timeout_s=1) as client, pytest.raises(NbdError, match="not now") as no:
            client.list()
        assert no.value.code == Reply.ERR_POLICY


def test_nobody_there() -> None:
    with pytest.raises(NbdError, match="cannot connect"):
        Client.connect("/nonexistent/nbd.sock")
