"""Group commit over a ring whose completions the test decides: when, in which order, with what."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvloop

from replblk.engine.ports import OpenFailed
from replblk.model.latency import Latencies
from replblk.shell import disk_ring
from replblk.shell.backing_device import open_backing_device
from replblk.shell.buffers import ALIGN_BYTES, aligned_bytes, aligned_payload
from replblk.shell.disk import FileDisk
from replblk.shell.disk_ring import (
    BATCH_OPS_MAX,
    BATCHES_MAX,
    DSYNC_RUNS_MAX,
    READS_MAX,
    UNCOPIED_BYTES_MIN,
    RingDisk,
)
from replblk.shell.disks import FileDisks
from replblk.shell.uring import READ, RWF_DSYNC, WRITE, Transfer
from tests.support.recorder import Recorder

SIZE = 4 << 20
MANY = DSYNC_RUNS_MAX + 1


class ScriptedRing:
    """Stands for ``uring.Ring``: what was submitted waits in ``out`` for the test."""

    def __init__(self, entries: int) -> None:
        self.entries = entries
        self.pending = 0
        self.out: dict[int, tuple[str, int, int, int]] = {}  # kind, offset, length, flags
        self.made: list[str] = []
        self.addresses: list[int] = []
        self.refuse = False
        self._done: list[tuple[int, int]] = []
        self._reader, self._writer = os.pipe()

    def fileno(self) -> int:
        return self._reader

    @property
    def room(self) -> int:
        return self.entries - self.pending

    def read(self, number: int, fd: int, offset: int, address: int, length: int) -> None:
        self._take(number, "read", offset, length, 0)

    def write(
        self, number: int, fd: int, offset: int, address: int, length: int, flags: int = 0
    ) -> None:
        self._take(number, "write", offset, length, flags)

    def transfers(self, op: int, fd: int, transfers: list[Transfer], flags: int = 0) -> None:
        kind = {READ: "read", WRITE: "write"}[op]
        for number, offset, address, length in transfers:
            self.addresses.append(address)
            self._take(number, kind, offset, length, flags)

    def fdatasync(self, number: int, fd: int) -> None:
        self._take(number, "flush", 0, 0, 0)

    def fallocate(self, number: int, fd: int, mode: int, offset: int, length: int) -> None:
        self._take(number, "zero", offset, length, mode)

    def _take(self, number: int, kind: str, offset: int, length: int, flags: int) -> None:
        self.out[number] = (kind, offset, length, flags)
        self.made.append(kind)
        self.pending += 1

    def submit(self) -> bool:
        if not self.refuse:
            self.pending = 0
        return not self.refuse

    def completions(self) -> list[tuple[int, int]]:
        done, self._done = self._done, []
        return done

    def complete(self, kind: str, result: int | None = None) -> None:
        """The oldest operation of that kind is done; well, unless told otherwise."""
        number = next(number for number, made in self.out.items() if made[0] == kind)
        _, _, length, _ = self.out.pop(number)
        well = length if kind in ("read", "write") else 0
        self._done.append((number, well if result is None else result))

    def close(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


class Rig:
    """A RingDisk on such a ring."""

    def __init__(self, path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(SIZE)
        self.loop = uvloop.new_event_loop()
        self.recorder = Recorder()
        self.latencies = Latencies()
        device = open_backing_device(str(path))
        assert not isinstance(device, OpenFailed)
        self.disk = RingDisk(device, self.loop, self.recorder.on_disk_answers, self.latencies)
        self.ring = self.disk._ring
        assert isinstance(self.ring, ScriptedRing)

    def write(self, op: int, block: int, *, durable: bool = True) -> None:
        self.disk.write(op, block * 4096, bytes([op % 256]) * 4096, durable=durable)

    def scattered(self, first: int, count: int) -> None:
        for op in range(first, first + count):
            self.write(op, 2 * op)
        self.disk.end_step()

    def complete(self, kind: str, count: int = 1, result: int | None = None) -> None:
        for _ in range(count):
            self.ring.complete(kind, result)
        self.disk._on_completions()

    def outcomes(self) -> dict[int, int]:
        return {op: failed for op, (failed, _) in self.recorder.disk.items()}

    def on_ring(self, kind: str) -> int:
        return sum(made[0] == kind for made in self.ring.out.values())

    def turn(self) -> None:
        async def nothing() -> None:
            """A turn of the loop."""

        self.loop.run_until_complete(nothing())


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr(disk_ring, "Ring", ScriptedRing)
    monkeypatch.setattr(
        "replblk.shell.backing_device.BackingDevice.direct_fd",
        lambda device, lock: device.second_fd(),
    )
    made = Rig(tmp_path / "disk")
    yield made
    made.disk.close()
    made.loop.close()


def test_a_lone_durable_write_carries_its_flush_and_is_answered_after_it(rig: Rig) -> None:
    rig.scattered(1, 1)
    assert [(kind, flags) for kind, _, _, flags in rig.ring.out.values()] == [("write", RWF_DSYNC)]
    assert rig.outcomes() == {}
    rig.complete("write")
    assert rig.outcomes() == {1: 0}
    assert rig.ring.made == ["write"]


def test_no_write_of_a_batch_is_answered_before_the_flush_that_follows_all_of_them(
    rig: Rig,
) -> None:
    rig.scattered(1, MANY)
    assert {flags for _, _, _, flags in rig.ring.out.values()} == {0}
    rig.complete("write", MANY - 1)
    assert rig.on_ring("flush") == 0, "a flush covers only what was written before it"
    rig.complete("write")
    assert rig.outcomes() == {}
    assert rig.on_ring("flush") == 1
    rig.complete("flush")
    assert rig.outcomes() == dict.fromkeys(range(1, MANY + 1), 0)


@pytest.mark.parametrize("alone", [True, False])
def test_long_data_are_written_from_where_they_lie_if_the_disk_can_take_them_from_there(
    rig: Rig, alone: bool
) -> None:
    data, address = aligned_bytes(UNCOPIED_BYTES_MIN)
    odd = aligned_payload(UNCOPIED_BYTES_MIN)  # only what is behind its first 24 bytes is aligned
    for op, piece in enumerate((data,) if alone else (data, odd, data.toreadonly(), bytes(data))):
        rig.disk.write(op, op << 20, piece, durable=True)
    rig.disk.end_step()
    assert rig.ring.addresses[0] == address
    assert address not in rig.ring.addresses[1:]
    assert all(there % ALIGN_BYTES == 0 for there in rig.ring.addresses)
    rig.complete("write", len(rig.ring.addresses))
    rig.complete("flush", rig.on_ring("flush"))
    assert set(rig.outcomes().values()) == {0}


def test_neighbours_become_one_write(rig: Rig) -> None:
    for op in range(1, 33):
        rig.write(op, 40 - op)
    rig.disk.end_step()
    assert list(rig.ring.out.values()) == [("write", 8 * 4096, 32 * 4096, RWF_DSYNC)]
    rig.complete("write")
    assert len(rig.outcomes()) == 32


def test_what_comes_while_two_batches_are_under_way_is_one_next_batch(rig: Rig) -> None:
    for first in range(BATCHES_MAX):
        rig.scattered(1 + first * MANY, MANY)
    rig.complete("write", MANY)
    before = len(rig.ring.made)
    for op in range(100, 140):
        rig.scattered(op, 1)
    assert len(rig.ring.made) == before
    rig.complete("flush")
    assert rig.ring.made[before:] == ["write"] * 40
    rig.complete("write", MANY + 40)
    rig.complete("flush", 2)
    assert len(rig.outcomes()) == BATCHES_MAX * MANY + 40


def test_a_write_that_need_not_last_waits_for_no_flush(rig: Rig) -> None:
    rig.write(1, 0, durable=False)
    rig.disk.end_step()
    rig.complete("write")
    assert rig.outcomes() == {1: 0}
    rig.disk.flush(2)
    rig.disk.end_step()
    assert rig.on_ring("flush") == 1
    rig.complete("flush")
    assert rig.outcomes() == {1: 0, 2: 0}


def test_a_failed_flush_fails_what_it_was_for_and_everything_after(rig: Rig) -> None:
    rig.write(1, 0, durable=False)
    for op in range(2, 2 + MANY):
        rig.write(op, 2 * op)
    rig.disk.end_step()
    rig.scattered(50, MANY)
    rig.complete("write", 1 + 2 * MANY)
    rig.complete("flush", result=-errno.EIO)
    expected = {1: 0} | dict.fromkeys(range(2, 2 + MANY), errno.EIO)
    assert rig.outcomes() == expected
    rig.complete("flush")
    assert rig.outcomes() == expected | dict.fromkeys(range(50, 50 + MANY), errno.EIO), (
        "a flush that overlapped the failed one proves nothing"
    )
    made = len(rig.ring.made)
    rig.scattered(90, 1)
    rig.disk.flush(91)
    rig.disk.end_step()
    rig.turn()
    assert rig.outcomes()[90] == rig.outcomes()[91] == errno.EIO
    assert len(rig.ring.made) == made, "the device is not touched any more"


def test_an_error_of_a_write_with_its_flush_is_final_if_the_write_was_not_to_blame(
    rig: Rig,
) -> None:
    rig.scattered(1, 1)
    rig.complete("write", result=-errno.EIO)
    assert rig.outcomes() == {}
    assert list(rig.ring.out.values()) == [("write", 2 * 4096, 4096, 0)]
    rig.complete("write")
    assert rig.outcomes() == {1: errno.EIO}
    assert rig.disk.failed


def test_a_bad_sector_does_not_end_the_device(rig: Rig) -> None:
    rig.scattered(1, 1)
    rig.complete("write", result=-errno.EIO)
    rig.complete("write", result=-errno.EIO)
    assert rig.outcomes() == {1: errno.EIO}
    assert not rig.disk.failed
    rig.scattered(2, 1)
    rig.complete("write")
    assert rig.outcomes()[2] == 0


def test_a_short_write_is_completed_and_what_was_written_before_an_error_counts(rig: Rig) -> None:
    for op in (1, 2, 3):
        rig.write(op, op, durable=False)
    rig.disk.end_step()
    rig.complete("write", result=4096 + 512)
    assert list(rig.ring.out.values()) == [("write", 8192 + 512, 3 * 4096 - 4608, 0)]
    rig.complete("write", result=-errno.ENOSPC)
    assert rig.outcomes() == {1: 0, 2: errno.ENOSPC, 3: errno.ENOSPC}


def test_zeroes_are_written_where_the_file_system_can_not_zero(rig: Rig) -> None:
    rig.disk.zero(1, 512, 2 << 20, unmap=False, durable=True)
    rig.disk.end_step()
    rig.complete("zero", result=-errno.EOPNOTSUPP)
    rig.complete("write")
    rig.complete("write", result=512)
    rig.complete("write")
    assert rig.outcomes() == {}
    rig.complete("flush")
    assert rig.outcomes() == {1: 0}
    rig.disk.zero(2, 0, 512, unmap=True, durable=True)
    rig.disk.end_step()
    rig.complete("zero", result=-errno.ENOSPC)
    rig.complete("flush")
    assert rig.outcomes()[2] == errno.ENOSPC


def test_a_device_that_ends_early_is_an_error_and_never_a_short_answer(rig: Rig) -> None:
    rig.disk.read(1, 0, 8192)
    rig.disk.end_step()
    rig.complete("read", result=4096)
    assert rig.outcomes() == {}
    rig.complete("read", result=0)
    assert rig.recorder.disk == {1: (errno.EIO, None)}
    rig.disk.read(2, 0, 512)
    rig.disk.end_step()
    rig.complete("read", result=-errno.ENODATA)
    assert rig.recorder.disk[2] == (errno.ENODATA, None)


def test_reads_do_not_wait_behind_writes_and_are_not_without_limit(rig: Rig) -> None:
    for first in range(BATCHES_MAX):
        rig.scattered(1 + first * MANY, MANY)
    for op in range(1000, 1000 + READS_MAX + 5):
        rig.disk.read(op, 0, 512)
    rig.disk.end_step()
    assert rig.on_ring("read") == READS_MAX
    rig.complete("read", 5)
    assert rig.on_ring("read") == READS_MAX
    rig.complete("read", READS_MAX)
    rig.complete("write", BATCHES_MAX * MANY)
    rig.complete("flush", BATCHES_MAX)
    assert set(rig.outcomes().values()) == {0}


def test_a_batch_is_bounded(rig: Rig) -> None:
    rig.scattered(1, BATCH_OPS_MAX + 1)
    assert rig.on_ring("write") == BATCH_OPS_MAX + 1, "a second batch takes the rest"
    rig.complete("write", BATCH_OPS_MAX + 1)
    rig.complete("flush")
    assert set(rig.outcomes().values()) == {0}
    assert len(rig.outcomes()) == BATCH_OPS_MAX + 1


def test_what_the_kernel_can_not_take_just_now_is_offered_again(rig: Rig) -> None:
    rig.ring.refuse = True
    rig.scattered(1, 1)
    assert rig.ring.pending == 1
    rig.ring.refuse = False

    async def wait() -> None:
        while rig.ring.pending:
            await asyncio.sleep(0.001)

    rig.loop.run_until_complete(asyncio.wait_for(wait(), 10))
    rig.complete("write")
    assert rig.outcomes() == {1: 0}


@pytest.mark.parametrize("aio", [True, False])
def test_where_the_ring_is_refused_threads_do_it_and_the_log_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aio: bool
) -> None:
    def refused(entries: int) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(disk_ring, "Ring", refused)
    if not aio:
        monkeypatch.setattr("replblk.shell.disk.Aio", refused)
    path = tmp_path / "disk"
    path.write_bytes(bytes(1 << 20))
    loop, recorder, told = uvloop.new_event_loop(), Recorder(), []
    disks = FileDisks({0: str(path)}, loop, recorder.on_disk_answers, told.append)
    disk = disks.open(0)
    assert isinstance(disk, FileDisk)
    assert "without io_uring (Operation not permitted)" in told[0]
    assert ["not past the page cache" in line for line in told[1:]] == [True] * (not aio)
    disk.close()
    loop.close()


def test_a_long_read_of_cached_data_does_not_go_through_the_ring(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytes(range(256)) * 4096
    monkeypatch.setattr(rig.disk._warm, "read", lambda at, length: data if at else None)
    rig.disk.read(1, 0, len(data))
    rig.disk.read(2, 4096, len(data))
    rig.disk.end_step()
    assert rig.on_ring("read") == 1
    assert rig.outcomes() == {2: 0}
    answer = rig.recorder.disk[2][1]
    assert answer is not None
    assert bytes(answer) == data
    rig.complete("read")
    assert rig.outcomes() == {1: 0, 2: 0}
