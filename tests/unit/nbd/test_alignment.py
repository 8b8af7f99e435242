"""Unaligned clients on a disk of whole blocks."""

from __future__ import annotations

import errno

import pytest

from nbd.alignment import AlignedExport, RangeLocks
from nbd.export import Buffer, Geometry
from nbd.memory import MemoryDisk, MemoryExport

BLOCK = 512


class Pair:
    """Two connections to one disk of 8 blocks, filled with 'a'."""

    def __init__(self) -> None:
        self.disk = MemoryDisk(Geometry(8 * BLOCK, minimum_block=BLOCK))
        self.disk.put(0, b"a" * 8 * BLOCK)
        self.disk.recording = True
        locks = RangeLocks()
        self.one = AlignedExport(MemoryExport(self.disk), locks)
        self.two = AlignedExport(MemoryExport(self.disk), locks)
        self.answers: list[tuple[str, int]] = []

    def done(self, name: str):  # type: ignore[no-untyped-def]
        def answered(number: int, data: Buffer | None) -> None:
            self.answers.append((name, number))

        return answered

    def kinds(self) -> list[str]:
        return [call.kind for call in self.disk.calls]


@pytest.mark.parametrize("length", [1, 100, 511, 512, 513, 1023, 1024, 1500])
@pytest.mark.parametrize("offset", [0, 1, 500, 511, 512, 700])
def test_any_range_can_be_written_zeroed_and_read(offset: int, length: int) -> None:
    pair = Pair()
    model = bytearray(b"a" * 8 * BLOCK)
    pair.one.write(offset, b"w" * length, False, pair.done("write"))
    model[offset : offset + length] = b"w" * length
    assert pair.disk.content(0, 8 * BLOCK) == model
    pair.one.zero(offset + 1, length, True, True, pair.done("zero"))
    model[offset + 1 : offset + 1 + length] = bytes(length)
    assert pair.disk.content(0, 8 * BLOCK) == model
    got: list[bytes] = []
    pair.one.read(offset, length + 2, lambda _errno, data: got.append(bytes(data or b"")))
    assert got == [model[offset : offset + length + 2]]
    assert pair.answers == [("write", 0), ("zero", 0)]
    assert all(c.offset % BLOCK == 0 and c.length % BLOCK == 0 for c in pair.disk.calls)
    assert all(c.fua for c in pair.disk.calls[-2:] if c.kind in ("write", "zero"))


def test_trim_is_rounded_inwards() -> None:
    pair = Pair()
    pair.one.trim(1, 3 * BLOCK, False, pair.done("trim"))
    pair.one.trim(1, BLOCK, False, pair.done("nothing"))
    assert [(c.kind, c.offset, c.length) for c in pair.disk.calls] == [("trim", 512, 1024)]
    assert pair.answers == [("trim", 0), ("nothing", 0)]


def test_two_single_bytes_in_one_block_both_survive() -> None:
    pair = Pair()
    pair.disk.hold()
    pair.one.write(10, b"1", False, pair.done("1"))
    pair.two.write(20, b"2", False, pair.done("2"))
    assert pair.kinds() == ["read"], "the second patch waits for the first"
    pair.disk.release()
    assert pair.disk.content(10, 11) == b"1" + b"a" * 9 + b"2"
    assert pair.answers == [("1", 0), ("2", 0)]


def test_a_whole_block_write_beside_a_patch_is_not_undone() -> None:
    pair = Pair()
    pair.disk.hold()
    pair.one.write(10, b"1", False, pair.done("patch"))
    pair.two.write(0, b"W" * BLOCK, False, pair.done("whole"))
    pair.disk.release(1)  # the patch has read the old block, which it must not write later
    pair.disk.release()
    assert pair.answers == [("patch", 0), ("whole", 0)]
    assert pair.disk.content(0, BLOCK) == b"W" * BLOCK


def test_a_patch_waits_for_whole_block_writes_in_flight() -> None:
    pair = Pair()
    pair.disk.hold()
    pair.two.write(0, b"W" * BLOCK, False, pair.done("whole"))
    pair.one.write(10, b"1", False, pair.done("patch"))
    assert pair.kinds() == ["write"]
    pair.disk.release()
    assert pair.disk.content(9, 3) == b"W1W"


@pytest.mark.parametrize("kind", ["zero", "trim"])
def test_zero_and_trim_beside_a_patch_wait_as_well(kind: str) -> None:
    pair = Pair()
    pair.disk.hold()
    pair.one.write(10, b"1", False, pair.done("patch"))
    if kind == "zero":
        pair.two.zero(0, BLOCK, False, True, pair.done("other"))
    else:
        pair.two.trim(0, BLOCK, False, pair.done("other"))
    assert pair.kinds() == ["read"]
    pair.disk.release()
    assert pair.disk.content(0, BLOCK) == bytes(BLOCK)


def test_whole_block_writes_do_not_wait_for_each_other_nor_for_patches_elsewhere() -> None:
    pair = Pair()
    pair.disk.hold()
    pair.one.write(3 * BLOCK + 1, b"1", False, pair.done("patch"))
    pair.one.write(0, b"W" * BLOCK, False, pair.done("1"))
    pair.two.write(0, b"V" * BLOCK, False, pair.done("2"))
    assert pair.kinds() == ["read", "write", "write"]


def test_nobody_overtakes_a_waiting_patch() -> None:
    """Else a stream of whole-block writes would starve it."""
    pair = Pair()
    pair.disk.hold()
    pair.one.write(0, b"W" * BLOCK, False, pair.done("first"))
    pair.two.write(1, b"p", False, pair.done("patch"))
    pair.one.write(0, b"V" * BLOCK, False, pair.done("last"))
    pair.disk.release(1)
    assert pair.kinds() == ["write", "read"]
    pair.disk.release()
    assert [name for name, _ in pair.answers] == ["first", "patch", "last"]


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("verb", ["write", "zero"])
def test_a_failing_patch_says_so_and_gives_the_range_back(kind: str, verb: str) -> None:
    pair = Pair()
    pair.disk.fail(kind, errno.EIO)
    if verb == "write":
        pair.one.write(1, b"x" * 2000, False, pair.done("bad"))
    else:
        pair.one.zero(1, 2000, False, True, pair.done("bad"))
    pair.disk.fail(kind, 0)
    pair.two.write(1, b"x", False, pair.done("good"))
    assert pair.answers == [("bad", errno.EIO), ("good", 0)]


def test_a_failing_unaligned_read_says_so() -> None:
    pair = Pair()
    pair.disk.fail("read", errno.EIO)
    pair.one.read(1, 1, pair.done("read"))
    assert pair.answers == [("read", errno.EIO)]


def test_a_patch_of_a_client_that_has_gone_writes_nothing_and_holds_nobody() -> None:
    pair = Pair()
    pair.disk.hold()
    pair.one.write(1, b"x", False, pair.done("gone"))
    pair.one.write(2, b"y", False, pair.done("gone too"))
    pair.two.write(3, b"z", False, pair.done("alive"))
    pair.one.closed()
    pair.disk.release()
    assert pair.disk.content(0, 5) == b"aaaza"
    assert ("alive", 0) in pair.answers


def test_locks_wake_waiters_without_deep_recursion() -> None:
    """Ten thousand waiters for one block, each answered from inside its predecessor's release."""
    pair = Pair()
    pair.disk.hold()
    for _ in range(10_000):
        pair.one.write(1, b"x", False, pair.done("patch"))
    pair.disk.release()
    assert len(pair.answers) == 10_000
