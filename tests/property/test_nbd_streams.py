"""Whatever a client sends, however it is cut: no exception, bounded memory, the same replies."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from nbd.client import NbdError
from nbd.handshake import REPLIES_MAX as HANDSHAKE_REPLIES_MAX
from nbd.handshake import Handshake
from nbd.memory import MemoryExport, MemoryExports
from nbd.protocol import (
    BASE_ALLOCATION,
    COMPACT_REQUEST,
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    REQUEST_MAGIC,
    BlockStatusPayload,
    Command,
    CommandFlag,
)
from nbd.replies import Replies, Request
from nbd.transmission import Transmission
from tests.support.nbd_bytes import CLIENT_FLAGS, go, meta, option, request

SIZE = 4096

options = st.one_of(
    st.builds(option, st.integers(0, 20) | st.integers(0, 0xFFFFFFFF), st.binary(max_size=60)),
    st.builds(go, st.sampled_from(["", "disk", "other"]), st.sampled_from([0, 1, 2, 3, 9])),
    st.builds(
        meta,
        st.sampled_from([9, 10]),
        st.sampled_from(["", "disk", "other"]),
        st.sampled_from(["base:", BASE_ALLOCATION, "x:", "rubbish"]),
    ),
    st.binary(max_size=30),
)
handshakes = st.lists(options, max_size=12).map(
    lambda pieces: CLIENT_FLAGS + b"".join(pieces)
) | st.binary(max_size=200)

numbers = st.integers(0, SIZE + 10) | st.sampled_from([1 << 63, (1 << 64) - 1, (1 << 64) - 600])


payloads = st.binary(max_size=700) | st.builds(
    lambda length, numbers: BlockStatusPayload.build({"length": length, "contexts": numbers}),
    st.integers(0, SIZE + 1),
    st.lists(st.integers(0, 2), max_size=3),
)


@st.composite
def extended_requests(draw: st.DrawFn) -> bytes:
    command = draw(st.integers(0, 9))
    length = draw(st.integers(0, 700) | st.sampled_from([(1 << 64) - 1, 65 << 20]))
    flags = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 8, 16, 0x8000]))
    payload = b""
    if length <= 700 and draw(st.booleans()):
        payload = draw(payloads)
        flags, length = flags | CommandFlag.PAYLOAD_LEN, len(payload)
    cookie = draw(st.integers(0, (1 << 64) - 1))
    offset = draw(numbers)
    head = (EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length)
    return EXTENDED_REQUEST.pack(*head) + payload


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    command = draw(st.integers(0, 9) | st.integers(0, 0xFFFF))
    length = draw(st.integers(0, 700) | st.sampled_from([(1 << 32) - 1, 33 << 20]))
    flags = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 8, 16, 32, 0x8000]))
    cookie = draw(st.integers(0, (1 << 64) - 1))
    head = COMPACT_REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, draw(numbers), length)
    if command == Command.WRITE and length <= 700:
        head += draw(st.binary(min_size=length, max_size=length))
    return head


transmissions = st.lists(requests() | st.binary(max_size=3), max_size=12).map(b"".join)
extended_transmissions = st.lists(extended_requests() | st.binary(max_size=3), max_size=12).map(
    b"".join
)


def cut(raw: bytes, cuts: list[int]) -> list[bytes]:
    """*raw* in pieces of the given sizes, over and over."""
    pieces, at, turn = [], 0, 0
    while at < len(raw):
        size = cuts[turn % len(cuts)]
        pieces.append(raw[at : at + size])
        at, turn = at + size, turn + 1
    return pieces


def haggle(pieces: list[bytes]) -> tuple[bytes, str | None, bool]:
    exports = MemoryExports.single(SIZE, "disk")
    handshake = Handshake(exports)
    out, rest = b"".join(handshake.take()), b""
    for piece in pieces:
        rest += piece
        rest = rest[handshake.receive(memoryview(rest)) :]
        fresh = b"".join(handshake.take())
        assert len(fresh) < HANDSHAKE_REPLIES_MAX + 10_000
        out += fresh
        if handshake.opened is None and handshake.ended is None:
            assert len(rest) < 17
    return out, handshake.ended, handshake.opened is not None


@settings(deadline=None)
@given(raw=handshakes, cuts=st.lists(st.integers(1, 40), min_size=1, max_size=5))
def test_a_handshake_ends_the_same_however_its_bytes_arrive(raw: bytes, cuts: list[int]) -> None:
    assert haggle(cut(raw, cuts)) == haggle([raw])


def transmit(
    pieces: list[bytes], structured: bool, extended: bool = False
) -> tuple[bytes, str | None, bytes]:
    disk = MemoryExports.single(SIZE, "disk").disks["disk"]
    transmission = Transmission(
        MemoryExport(disk),
        structured=structured,
        promised_alignment=False,
        wake=lambda: None,
        contexts={1: BASE_ALLOCATION} if structured else None,
        extended=extended,
    )
    out, rest = b"", b""
    for piece in pieces:
        rest += piece
        rest = rest[transmission.receive(memoryview(rest)) :]
        out += b"".join(bytes(reply) for reply in transmission.take())
        if transmission.ended is None:
            assert len(rest) < (32 if extended else 28)
    assert transmission.in_flight == 0
    transmission.close()
    return out, transmission.ended, disk.content(0, SIZE)


@settings(deadline=None)
@given(
    raw=transmissions,
    cuts=st.lists(st.integers(1, 60), min_size=1, max_size=5),
    structured=st.booleans(),
)
def test_requests_end_the_same_however_their_bytes_arrive(
    raw: bytes, cuts: list[int], structured: bool
) -> None:
    assert transmit(cut(raw, cuts), structured) == transmit([raw], structured)


@settings(deadline=None)
@given(raw=extended_transmissions, cuts=st.lists(st.integers(1, 60), min_size=1, max_size=5))
def test_extended_requests_end_the_same_however_their_bytes_arrive(
    raw: bytes, cuts: list[int]
) -> None:
    assert transmit(cut(raw, cuts), True, True) == transmit([raw], True, True)


@settings(deadline=None)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, SIZE - 1), st.binary(min_size=1, max_size=600), st.booleans()),
        max_size=20,
    )
)
def test_the_disk_holds_what_a_plain_model_holds(writes: list[tuple[int, bytes, bool]]) -> None:
    model = bytearray(SIZE)
    raw = b""
    for offset, data, zero in writes:
        fits = offset + len(data) <= SIZE
        if zero:
            raw += request(Command.WRITE_ZEROES, offset, len(data))
        else:
            raw += request(Command.WRITE, offset, data=data)
        if fits:
            model[offset : offset + len(data)] = bytes(len(data)) if zero else data
    assert transmit([raw], True)[2] == model


@settings(deadline=None)
@given(raw=st.binary(max_size=200), structured=st.booleans())
def test_the_client_meets_nonsense_with_its_own_error(raw: bytes, structured: bool) -> None:
    replies = Replies(structured)
    replies.pending = {n: Request(Command.READ, 0, 16) for n in range(4)}
    magic = (0x668E33EF if structured else 0x67446698).to_bytes(4)
    for data in (raw, magic + raw):
        with contextlib.suppress(NbdError):
            assert replies.receive(bytearray(data), 0) <= len(data)
