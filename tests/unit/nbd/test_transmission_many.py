"""Writes that arrive together: given to the export with one call, answered with one reply each."""

from __future__ import annotations

from nbd.export import Done, Export, Refused, Writes
from nbd.memory import MemoryExports
from nbd.protocol import Command
from nbd.transmission import REQUESTS_MAX, Transmission
from tests.support.nbd_bytes import replies, request

SIZE = 1 << 20


class ManyDisk:
    """An export that takes many writes with one call and answers when it is told to."""

    def __init__(self, disk: Export) -> None:
        self.geometry = disk.geometry
        self.calls: list[str] = []
        self.dones: list[Done] = []

    def writes(self, writes: Writes) -> None:
        self.calls.append("writes " + " ".join(str(offset) for offset, *_ in writes))
        self.dones += [done for *_, done in writes]

    def read(self, offset: int, length: int, done: Done) -> None:
        self.calls.append(f"read {offset}")
        self.dones.append(done)

    def flush(self, done: Done) -> None:
        self.calls.append("flush")
        self.dones.append(done)


def many_disk() -> tuple[Transmission, ManyDisk]:
    exports = MemoryExports.single(SIZE, "disk")
    opened = exports.open("disk")
    assert not isinstance(opened, Refused)
    export = ManyDisk(opened)
    made = Transmission(
        export,  # type: ignore[arg-type]
        structured=False,
        promised_alignment=False,
        wake=lambda: None,
    )
    return made, export


def test_writes_that_arrive_together_are_one_call_and_pass_nothing_by() -> None:
    """In particular no flush and no read: what they are about may be what was written before."""
    t, export = many_disk()
    stream = b"".join(
        (
            *(request(Command.WRITE, at, data=b"x", cookie=at) for at in (1, 2, 3)),
            request(Command.FLUSH, cookie=4),
            request(Command.WRITE, 5, data=b"x", cookie=5),
            request(Command.READ, 6, 1, cookie=6),
            *(request(Command.WRITE, at, data=b"x", cookie=at) for at in (7, 8)),
        )
    )
    assert t.receive(memoryview(stream)) == len(stream)
    assert export.calls == ["writes 1 2 3", "flush", "writes 5", "read 6", "writes 7 8"]


def test_answers_keep_their_order_whatever_form_they_have() -> None:
    t, export = many_disk()
    stream = b"".join(
        (
            request(Command.WRITE, 1, data=b"x", cookie=1),
            request(Command.READ, 2, 1, cookie=2),
            request(Command.WRITE, 3, data=b"x", cookie=3),
        )
    )
    t.receive(memoryview(stream))
    for done, data in zip(export.dones, (None, b"y", None), strict=True):
        done(0, data)
    said = replies(b"".join(bytes(piece) for piece in t.take()), {2: 1})
    assert [reply.cookie for reply in said] == [1, 2, 3]


def test_an_export_that_answers_at_once_never_makes_a_connection_wait_for_room() -> None:
    """Nobody would wake it: no answer comes later."""
    exports = MemoryExports.single(SIZE, "disk")
    opened = exports.open("disk")
    assert not isinstance(opened, Refused)
    t = Transmission(opened, structured=False, promised_alignment=False, wake=lambda: None)
    many = [request(Command.WRITE, at, data=b"x", cookie=at) for at in range(3 * REQUESTS_MAX)]
    stream = b"".join(many)
    assert t.receive(memoryview(stream)) == len(stream)
    assert len(replies(b"".join(bytes(piece) for piece in t.take()), {})) == len(many)
