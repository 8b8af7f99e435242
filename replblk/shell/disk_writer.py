"""Group commit: a thread takes all writes that are queued and makes them durable with one flush.

One batch: neighbouring writes are merged into single ``pwritev`` calls, then one ``fdatasync``
serves every durable write and flush of the batch, then all answers go out together. So a flush
costs the same for one write as for a hundred, without any timer: what arrives while a batch is
being flushed becomes the next batch.

Offsets and lengths in bytes, multiples of 512. No two overlapping operations are in flight together
(the node's promise), so the order inside and across batches is free. Errors are errno values.

A failed fdatasync is final: the kernel may have dropped the dirty pages and would answer the next
fdatasync with success although they never reached the disk. So every durable operation of the batch
fails, and every later write or flush of the device is answered EIO without touching it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter

from replblk.engine.ports import Buffer, DiskAnswer
from replblk.model.latency import Latencies
from replblk.shell.turns import stop_process

IOV_MAX = 1024
"""Pieces of one pwritev (Linux UIO_MAXIOV)."""
RUN_BYTES_MAX = 8 << 20
"""Longest merged write."""
ZERO_PIECE = memoryview(mmap.mmap(-1, 1 << 20))
"""Written again and again where the file system can't zero a range itself; aligned for O_DIRECT."""

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02
FALLOC_FL_ZERO_RANGE = 0x10
"""linux/falloc.h"""

CANNOT_ZERO = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV, errno.EPERM)
"""What fallocate(2) says where the file system or device can't do it."""

DiskDone = Callable[[list[DiskAnswer]], None]
"""Told of all that ended together, as ``Node.on_disk_answers``."""


@dataclass(slots=True)
class WriteOp:
    """A queued write, zero or flush. data None with a length: zero the range; length 0: flush."""

    op: int
    offset: int
    length: int
    data: Buffer | None
    durable: bool
    unmap: bool = False
    errno: int = 0


_OFFSET = attrgetter("offset")
Report = Callable[[Sequence[WriteOp]], None]


class WriteQueue:
    """What the commit threads of one device share: the queue, and whether the device has failed."""

    def __init__(self, latencies: Latencies | None = None) -> None:
        self.failed = False
        self._latencies = latencies or Latencies()
        self._ready = threading.Condition()
        self._queued: list[WriteOp] = []
        self._since_ns = 0
        """When the first of those that are queued came."""
        self._closing = False

    def put(self, ops: list[WriteOp]) -> None:
        """Queue a batch; one idle thread takes it."""
        with self._ready:
            assert not self._closing, "an operation on a closed disk"
            if not self._queued:
                self._since_ns = time.monotonic_ns()
            self._queued += ops
            self._ready.notify()

    def take(self) -> list[WriteOp]:
        """All that is queued, waiting for the first; empty once closed."""
        with self._ready:
            while not self._queued and not self._closing:
                self._ready.wait()
            batch, self._queued = self._queued, []
            if batch:
                self._latencies.disk_queue.record(time.monotonic_ns() - self._since_ns)
            return batch

    def note(self, write_ns: int, flush_ns: int | None) -> None:
        """How long a batch was written and, if at all, flushed."""
        with self._ready:
            self._latencies.disk_write.record(write_ns)
            if flush_ns is not None:
                self._latencies.disk_flush.record(flush_ns)

    def close(self) -> None:
        """Let the threads end once the queue is empty."""
        with self._ready:
            self._closing = True
            self._ready.notify_all()


class DiskWriter:
    """One commit thread with an open file description of its own (see ``second_fd`` for why)."""

    run_bytes_max = RUN_BYTES_MAX

    def __init__(self, fd: int, queue: WriteQueue, report: Report, name: str) -> None:
        self._fd = fd
        self._queue = queue
        self._report = report
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the thread's end and close its descriptor; the queue must be closed."""
        self._thread.join()
        os.close(self._fd)

    def _run(self) -> None:
        try:
            while batch := self._queue.take():
                self._commit(batch)
                self._report(batch)
        except Exception:
            stop_process("a commit thread")

    def _commit(self, batch: list[WriteOp]) -> None:
        if self._queue.failed:
            for op in batch:
                op.errno = errno.EIO
            return
        began_ns = time.monotonic_ns()
        writes = [op for op in batch if op.data is not None]
        self._write_runs(merged_runs(writes, self.run_bytes_max))
        for op in batch:
            if op.data is None and op.length:
                op.errno = self._zero(op)
        written_ns = time.monotonic_ns()
        durable = [op for op in batch if op.durable and not op.errno]
        if durable:
            self._flush(durable)
        flush_ns = time.monotonic_ns() - written_ns if durable else None
        self._queue.note(written_ns - began_ns, flush_ns)

    def _flush(self, durable: list[WriteOp]) -> None:
        try:
            os.fdatasync(self._fd)
        except OSError as error:
            self._queue.failed = True
            for op in durable:
                op.errno = error.errno or errno.EIO
            return
        if self._queue.failed:
            # Another thread met a failed flush meanwhile: the device is not to be trusted.
            for op in durable:
                op.errno = errno.EIO

    def _write_runs(self, runs: list[list[WriteOp]]) -> None:
        for run in runs:
            self._write_run(run)

    def _write_run(self, run: list[WriteOp]) -> None:
        """Write neighbours together. An error is never tried again: what was not written failed."""
        written = 0
        total = run_length(run)
        try:
            while written < total:
                more = os.pwritev(self._fd, _rest(run, written), run[0].offset + written)
                if not more:
                    raise OSError(errno.EIO, "nothing was written")
                written += more
        except OSError as error:
            fail_rest(run, written, error.errno or errno.EIO)

    def _zero(self, op: WriteOp) -> int:
        mode = FALLOC_FL_PUNCH_HOLE if op.unmap else FALLOC_FL_ZERO_RANGE
        failed = fallocate(self._fd, mode | FALLOC_FL_KEEP_SIZE, op.offset, op.length)
        if failed not in CANNOT_ZERO:
            return failed
        done = 0
        try:
            while done < op.length:
                piece = ZERO_PIECE[: op.length - done]
                more = os.pwrite(self._fd, piece, op.offset + done)
                if not more:
                    return errno.EIO
                done += more
        except OSError as error:
            return error.errno or errno.EIO
        return 0


def merged_runs(writes: list[WriteOp], bytes_max: int = RUN_BYTES_MAX) -> list[list[WriteOp]]:
    """Writes sorted by offset, cut wherever one does not begin where the one before ends, and where
    a run of several would exceed IOV_MAX pieces or *bytes_max*."""
    if not writes:
        return []
    writes.sort(key=_OFFSET)
    run = [writes[0]]
    runs = [run]
    for before, op in pairwise(writes):
        end = before.offset + before.length
        assert end <= op.offset, "overlapping writes in flight"
        if end == op.offset and len(run) < IOV_MAX and end + op.length - run[0].offset <= bytes_max:
            run.append(op)
        else:
            run = [op]
            runs.append(run)
    return runs


def run_length(run: list[WriteOp]) -> int:
    """Bytes of a run."""
    return run[0].length if len(run) == 1 else sum(op.length for op in run)


def fail_rest(run: list[WriteOp], written: int, failed: int) -> None:
    """Of a run only the first *written* bytes were written: what ends behind them failed."""
    end = 0
    for op in run:
        end += op.length
        if end > written:
            op.errno = failed


def _rest(run: list[WriteOp], written: int) -> list[Buffer]:
    """The buffers of a run without its first *written* bytes."""
    buffers: list[Buffer] = []
    for op in run:
        assert op.data is not None
        if written >= op.length:
            written -= op.length
        elif written:
            buffers.append(memoryview(op.data)[written:])
            written = 0
        else:
            buffers.append(op.data)
    return buffers


def _load_fallocate() -> Callable[[int, int, int, int], int]:
    function = ctypes.CDLL(None, use_errno=True).fallocate
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
    function.restype = ctypes.c_int

    def call(fd: int, mode: int, offset: int, length: int) -> int:
        """fallocate(2); 0 or the errno. Repeated when a signal interrupts it."""
        while function(fd, mode, offset, length):
            if (failed := ctypes.get_errno()) != errno.EINTR:
                return failed
        return 0

    return call


fallocate = _load_fallocate()
