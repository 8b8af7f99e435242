"""Long payloads: received where they belong, whole or not at all, and no memory for nothing."""

from __future__ import annotations

import random
import socket

import pytest

from nbd.export import Refused
from nbd.memory import MemoryExports
from nbd.payload import LENT_BYTES_MIN, WHOLE_BYTES_MAX, Payload
from nbd.protocol import Command, Error
from nbd.transmission import Transmission
from tests.support.nbd_bytes import CLIENT_FLAGS, Said, go, replies, request
from tests.support.nbd_served import LOOPS, served

SIZE = 8 << 20


class Lender:
    """Memory full of rubbish, and what was lent of it."""

    def __init__(self) -> None:
        self.lent: list[memoryview] = []

    def __call__(self, length: int) -> memoryview:
        self.lent.append(memoryview(bytearray(b"\xee" * length)))
        return self.lent[-1]


class Session:
    """A Transmission that lends memory, on a disk that remembers what it was given."""

    def __init__(self, *, read_only: bool = False) -> None:
        exports = MemoryExports.single(SIZE, "disk", read_only=read_only)
        self.disk = exports.disks["disk"]
        self.disk.recording = True
        opened = exports.open("disk")
        assert not isinstance(opened, Refused)
        self.lender = Lender()
        self.t = Transmission(
            opened,
            structured=False,
            promised_alignment=False,
            wake=lambda: None,
            new_memory=self.lender,
        )

    def said(self) -> list[Said]:
        return replies(b"".join(bytes(piece) for piece in self.t.take()), {})


def some(length: int) -> bytes:
    return random.Random(length).randbytes(length)


def test_a_payload_in_pieces_lies_in_lent_memory_and_reaches_the_disk_once_it_is_whole() -> None:
    s, data = Session(), some(100_000)
    head = request(Command.WRITE, 4096, data=data)
    assert s.t.receive(memoryview(head)[:30_028]) == 30_028
    room = s.t.payload.room
    assert room is not None
    assert len(room) == 70_000
    room[:50_000] = data[30_000:80_000]
    s.t.payload_filled(50_000)
    assert s.disk.calls == []
    room = s.t.payload.room
    assert room is not None
    room[:] = data[80_000:]
    s.t.payload_filled(20_000)
    assert s.said() == [Said("simple", 1)]
    assert bytes(s.lender.lent[0]) == data
    assert s.t.payload.room is None
    assert s.disk.content(4096, len(data)) == data


def test_pieces_may_come_either_way() -> None:
    s, data = Session(), some(60_000)
    whole = memoryview(request(Command.WRITE, 0, data=data))
    s.t.receive(whole[:1_028])
    room = s.t.payload.room
    assert room is not None
    room[:9_000] = data[1_000:10_000]
    s.t.payload_filled(9_000)
    behind = request(Command.WRITE, 0, data=b"next", cookie=2)
    assert s.t.receive(memoryview(bytes(whole[10_028:]) + behind)) == 50_000 + len(behind)
    assert s.said() == [Said("simple", 1), Said("simple", 2)]
    assert s.disk.content(0, len(data)) == b"next" + data[4:]


def test_a_payload_that_came_with_its_request_is_lent_memory_too() -> None:
    s, data = Session(), some(LENT_BYTES_MIN)
    sent = request(Command.WRITE, 0, data=data)
    assert s.t.receive(memoryview(sent)) == len(sent)
    assert [bytes(lent) for lent in s.lender.lent] == [data]
    assert s.disk.content(0, len(data)) == data


@pytest.mark.parametrize("length", [LENT_BYTES_MIN - 1, WHOLE_BYTES_MAX + 1])
def test_short_ones_and_very_long_ones_are_lent_none(length: int) -> None:
    s, data = Session(), some(length)
    sent = memoryview(request(Command.WRITE, 0, data=data))
    s.t.receive(sent[:1000])
    assert s.t.payload.room is None
    s.t.receive(sent[1000:])
    assert s.said() == [Said("simple", 1)]
    assert s.lender.lent == []
    assert s.disk.content(0, length) == data


def test_a_refused_payload_is_skipped_and_lent_nothing() -> None:
    s = Session(read_only=True)
    sent = memoryview(request(Command.WRITE, 0, data=bytes(50_000)))
    s.t.receive(sent[:1000])
    assert s.t.payload.room is None
    s.t.receive(sent[1000:])
    assert s.said() == [Said("simple", 1, error=Error.EPERM)]
    assert s.lender.lent == []


def test_nobody_fills_more_than_is_missing() -> None:
    payload = Payload(Lender())
    payload.begin(LENT_BYTES_MIN, skipped=False)
    with pytest.raises(AssertionError, match="more than there was room for"):
        payload.filled(LENT_BYTES_MIN + 1)


@pytest.mark.parametrize("loop", LOOPS)
def test_writes_of_all_sizes_in_pieces_of_all_sizes_arrive_as_they_were_sent(loop: str) -> None:
    chance = random.Random(7)
    exports = MemoryExports.single(SIZE, "disk")
    lender = Lender()
    with served(exports, loop, new_memory=lender) as server, socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(server.path)
        sock.sendall(CLIENT_FLAGS + go("disk"))
        stream, image = b"", bytearray(SIZE)
        for number in range(24):
            length = chance.choice((512, 16_383, 16_384, 70_000, 1 << 20, (1 << 20) + 512))
            offset, data = chance.randrange(SIZE - length), chance.randbytes(length)
            image[offset : offset + length] = data
            stream += request(Command.WRITE, offset, data=data, cookie=number)
            while len(stream) > (0 if number == 23 else 300_000):
                count = chance.choice((1, 28, 5_000, 40_000, 400_000))
                sock.sendall(stream[:count])
                stream = stream[count:]
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(1 << 16):
            pass  # until the last reply is out
    assert lender.lent
    assert exports.disks["disk"].content(0, SIZE) == image
