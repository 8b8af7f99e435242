"""Group commit over a real file, with the system calls counted or made to fail."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from replblk.model.latency import Latencies
from replblk.shell import disk_writer
from replblk.shell.disk_writer import IOV_MAX, DiskWriter, WriteOp, WriteQueue, merged_runs

FILE_BYTES = 4 << 20


class Commits:
    """A writer on a file; ``put`` queues a batch and waits for the answer to all of it."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(FILE_BYTES))
        self.path = path
        self.latencies = Latencies()
        self.queue = WriteQueue(self.latencies)
        self.reported: list[list[int]] = []
        self.on_report: Callable[[], None] = lambda: None
        self._answered = threading.Semaphore(0)
        self._writer = DiskWriter(os.open(path, os.O_RDWR), self.queue, self._report, "test")

    def _report(self, batch: Sequence[WriteOp]) -> None:
        self.on_report()
        self.reported.append([op.op for op in batch])
        for _ in batch:
            self._answered.release()

    def put(self, *ops: WriteOp) -> list[int]:
        self.queue.put(list(ops))
        for _ in ops:
            assert self._answered.acquire(timeout=10)
        return [op.errno for op in ops]

    def close(self) -> None:
        self.queue.close()
        self._writer.join()


@pytest.fixture
def commits(tmp_path: Path) -> Iterator[Commits]:
    made = Commits(tmp_path / "disk")
    yield made
    made.close()


def write(op: int, offset: int, data: bytes, durable: bool = True) -> WriteOp:
    return WriteOp(op, offset, len(data), data, durable)


class Calls:
    """Stands before an os function: counts, and may fail or shorten the call."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        self.made: list[tuple[object, ...]] = []
        self.fail: Callable[[int], int] = lambda number: 0
        real = getattr(os, name)

        def call(*args: object) -> object:
            self.made.append(args)
            if failed := self.fail(len(self.made)):
                raise OSError(failed, os.strerror(failed))
            return real(*args)

        monkeypatch.setattr(os, name, call)


def test_waiting_writing_and_flushing_are_timed_for_each_batch(commits: Commits) -> None:
    commits.put(write(1, 0, b"a" * 512))
    commits.put(write(2, 512, b"b" * 512, durable=False))
    found = commits.latencies
    assert [found.disk_queue.count, found.disk_write.count, found.disk_flush.count] == [2, 2, 1]


def test_a_durable_write_is_flushed_before_it_is_answered(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = Calls(monkeypatch, "fdatasync")
    at_report: list[int] = []
    commits.on_report = lambda: at_report.append(len(flushes.made))
    commits.put(write(1, 0, b"a" * 512))
    assert at_report == [1]


def test_one_flush_serves_a_whole_batch(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    flushes = Calls(monkeypatch, "fdatasync")
    commits.put(*(write(number, number * 8192, b"b" * 4096) for number in range(100)))
    assert len(flushes.made) == 1
    assert commits.reported == [list(range(100))]


def test_writes_that_need_not_last_are_not_flushed(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = Calls(monkeypatch, "fdatasync")
    commits.put(write(1, 0, b"c" * 512, durable=False))
    assert flushes.made == []
    commits.put(WriteOp(2, 0, 0, None, durable=True))
    assert len(flushes.made) == 1


def test_what_arrives_during_a_commit_becomes_one_next_batch(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushing, go_on = threading.Event(), threading.Event()
    real = os.fdatasync

    def slow(fd: int) -> None:
        flushing.set()
        assert go_on.wait(10)
        real(fd)

    monkeypatch.setattr(os, "fdatasync", slow)
    first = write(1, 0, b"d" * 512)
    commits.queue.put([first])
    assert flushing.wait(10)
    later = [write(number, number * 4096, b"d" * 512) for number in range(2, 10)]
    for op in later[:-1]:
        commits.queue.put([op])
    go_on.set()
    commits.put(later[-1])
    for _ in later:
        commits._answered.acquire(timeout=10)
    assert commits.reported[0] == [1]
    assert commits.reported[1] == list(range(2, 10))


def test_neighbours_go_out_in_one_call(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = Calls(monkeypatch, "pwritev")
    batch = [write(number, number * 4096, bytes([number]) * 4096) for number in range(32)]
    commits.put(*reversed(batch))
    assert len(calls.made) == 1
    expected = b"".join(bytes([number]) * 4096 for number in range(32))
    assert commits.path.read_bytes()[: len(expected)] == expected


def test_a_short_write_is_completed(commits: Commits, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwritev

    def short(fd: int, buffers: list[bytes], offset: int) -> int:
        whole = b"".join(buffers)
        return real(fd, [whole[:700]], offset)

    monkeypatch.setattr(os, "pwritev", short)
    assert commits.put(write(1, 512, b"x" * 1024), write(2, 1536, b"y" * 2048)) == [0, 0]
    assert commits.path.read_bytes()[512:3584] == b"x" * 1024 + b"y" * 2048


def test_a_disk_that_takes_nothing_has_failed(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was asked again and again, until disk-timeout gave it up, and the thread for ever."""
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwritev", lambda fd, buffers, offset: 0)
        assert commits.put(write(1, 0, b"x" * 512)) == [errno.EIO]
    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", lambda fd, data, offset: 0)
        patched.setattr(disk_writer, "fallocate", lambda *arguments: errno.EOPNOTSUPP)
        assert commits.put(WriteOp(2, 0, 512, None, durable=False)) == [errno.EIO]
    assert commits.put(write(3, 0, b"x" * 512)) == [0]


def test_what_was_written_before_an_error_counts_and_the_rest_is_never_tried_again(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.pwritev
    tried: list[int] = []

    def no_space_behind_8k(fd: int, buffers: list[bytes], offset: int) -> int:
        tried.append(offset)
        if offset >= 8192:
            raise OSError(errno.ENOSPC, "full")
        return real(fd, [b"".join(buffers)[: 8192 - offset]], offset)

    monkeypatch.setattr(os, "pwritev", no_space_behind_8k)
    batch = [write(number, number * 4096, b"n" * 4096) for number in range(3)]
    assert commits.put(*batch) == [0, 0, errno.ENOSPC]
    assert tried == [0, 8192]
    assert commits.put(write(9, 0, b"o" * 512)) == [0], "a failed write does not end the device"


def test_a_failed_flush_fails_every_durable_write_and_is_never_tried_again(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushes = Calls(monkeypatch, "fdatasync")
    flushes.fail = lambda number: errno.EIO if number == 1 else 0
    batch = [
        write(1, 0, b"p" * 512),
        write(2, 4096, b"p" * 512, durable=False),
        write(3, 8192, b"p" * 512),
    ]
    assert commits.put(*batch) == [errno.EIO, 0, errno.EIO]
    assert commits.put(WriteOp(4, 0, 0, None, durable=True)) == [errno.EIO]
    assert commits.put(write(5, 0, b"q" * 512, durable=False)) == [errno.EIO]
    assert commits.put(WriteOp(6, 0, 4096, None, durable=True)) == [errno.EIO]
    assert len(flushes.made) == 1, "the kernel forgets the error: a second try would succeed"
    assert commits.path.read_bytes()[:512] == b"p" * 512


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_zeroes_are_written_where_the_file_system_can_not_zero(
    commits: Commits, monkeypatch: pytest.MonkeyPatch, refusal: int
) -> None:
    monkeypatch.setattr(disk_writer, "fallocate", lambda *args: refusal)
    commits.put(write(1, 0, b"r" * (3 << 20)))
    assert commits.put(WriteOp(2, 512, 2 << 20, None, True)) == [0]
    content = commits.path.read_bytes()[: 3 << 20]
    assert content == b"r" * 512 + bytes(2 << 20) + b"r" * ((1 << 20) - 512)


def test_a_failing_zero_fails_with_its_own_error(
    commits: Commits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_writer, "fallocate", lambda *args: errno.ENOSPC)
    assert commits.put(WriteOp(1, 0, 4096, None, True)) == [errno.ENOSPC]


def test_a_range_is_zeroed_and_unmapped(commits: Commits) -> None:
    commits.put(write(1, 0, b"s" * (1 << 20)))
    before = os.stat(commits.path).st_blocks
    assert commits.put(WriteOp(2, 0, 1 << 20, None, True, unmap=True)) == [0]
    assert commits.path.read_bytes()[: 1 << 20] == bytes(1 << 20)
    assert os.stat(commits.path).st_blocks < before


def test_a_run_is_never_longer_than_the_kernel_takes() -> None:
    writes = [write(number, number * 512, bytes(512)) for number in range(IOV_MAX + 5)]
    assert [len(run) for run in merged_runs(writes)] == [IOV_MAX, 5]


def test_overlapping_writes_in_flight_are_a_bug() -> None:
    with pytest.raises(AssertionError):
        merged_runs([write(1, 0, bytes(1024)), write(2, 512, bytes(512))])
