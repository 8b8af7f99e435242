"""The Disk port over threads: reads in some, writes with group commit in others.

All methods are called on the loop's thread and only gather; ``end_step`` hands the gathered batch
over. Answers come back once for each batch, on the loop's thread. Offsets and lengths in bytes.

A read never waits behind a flush: reads have threads of their own, and one that the page cache can
answer at once (RWF_NOWAIT) does not even leave the loop's thread. A *direct* disk writes past the
page cache, and reads past it, too, where cached pages could be stale then.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import queue
import threading
from collections.abc import Sequence

from replblk.engine.ports import DiskAnswer
from replblk.model.latency import Latencies
from replblk.shell.backing_device import BackingDevice
from replblk.shell.buffers import aligned_bytes
from replblk.shell.direct_writer import GROUP_RUNS_MAX, DirectWriter
from replblk.shell.disk_writer import DiskDone, DiskWriter, WriteOp, WriteQueue
from replblk.shell.gathering_disk import GatheringDisk, Read
from replblk.shell.kernel_aio import Aio
from replblk.shell.turns import stop_process
from replblk.shell.warm_reads import drops_cached_pages

COMMITTERS = 2
"""Commit threads of a device: a slow flush of one overlaps the writes of the other."""
READERS = 4
"""Reads that wait for the device at the same time."""
NOWAIT_BYTES_MAX = 64 << 10
"""Longest read tried on the loop's thread: copying it takes some microseconds."""


class FileDisk(GatheringDisk):
    """One open backing device (``engine.ports.Disk``). direct: raises OSError where the system has
    no O_DIRECT or no AIO for it."""

    def __init__(
        self,
        device: BackingDevice,
        loop: asyncio.AbstractEventLoop,
        on_done: DiskDone,
        committers: int = COMMITTERS,
        latencies: Latencies | None = None,
        *,
        direct: bool = False,
    ) -> None:
        super().__init__(device, on_done)
        self._loop = loop
        self._direct = _DirectWays(device, committers) if direct else None
        self._read_fd = -1 if self._direct is None else self._direct.read_fd
        """To read past the page cache; -1: over it."""
        self._nowait = hasattr(os, "RWF_NOWAIT") and self._read_fd < 0
        self._answers: list[DiskAnswer] = []
        self._answers_lock = threading.Lock()
        self._read_queue: queue.SimpleQueue[Read | None] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=self._run_reads, name=f"disk-reader-{number}", daemon=True)
            for number in range(READERS)
        ]
        for reader in self._readers:
            reader.start()
        self._write_queue = WriteQueue(latencies)
        self._writers = [self._new_writer(number) for number in range(committers)]

    def _new_writer(self, number: int) -> DiskWriter:
        queue, report, name = self._write_queue, self._report_writes, f"disk-writer-{number}"
        if self._direct is None:
            return DiskWriter(self._device.second_fd(), queue, report, name)
        fd, aio = self._direct.write[number]
        return DirectWriter(fd, aio, queue, report, name)

    def _stop(self) -> None:
        for _ in self._readers:
            self._read_queue.put(None)
        self._write_queue.close()
        for reader in self._readers:
            reader.join()
        for writer in self._writers:
            writer.join()
        if self._read_fd >= 0:
            os.close(self._read_fd)

    def end_step(self) -> None:
        """Hand over what was gathered."""
        self.due = False
        if self._gathered:
            self._write_queue.put(list(self._gathered))
            self._gathered.clear()
        if self._reads:
            reads = list(self._reads)
            self._reads.clear()
            if self._nowait:
                reads = self._answer_from_cache(reads)
            for read in reads:
                self._read_queue.put(read)

    def _answer_from_cache(self, reads: list[Read]) -> list[Read]:
        """Answer what the page cache holds; returns the rest."""
        left: list[Read] = []
        hits: list[DiskAnswer] = []
        for read in reads:
            op, offset, length = read
            if length > NOWAIT_BYTES_MAX:
                left.append(read)
                continue
            buffer = bytearray(length)
            try:
                got = os.preadv(self._device.fd, [buffer], offset, os.RWF_NOWAIT)
            except OSError as error:
                # Not in the cache (EAGAIN), or an error, which the thread will meet and report.
                self._nowait = error.errno not in (errno.EOPNOTSUPP, errno.ENOSYS)
                got = 0
            if got == length:
                hits.append((op, 0, memoryview(buffer)))
            else:
                left.append(read)
        if hits:
            self._report(hits)
        return left

    def _run_reads(self) -> None:
        fd, direct_fd = self._device.fd, self._read_fd
        try:
            while (read := self._read_queue.get()) is not None:
                op, offset, length = read
                failed: int
                data: bytes | memoryview | None
                if direct_fd < 0:
                    failed, data = read_fully(fd, offset, length)
                else:
                    failed, data = read_directly(direct_fd, offset, length)
                self._report([(op, failed, data)])
        except Exception:
            stop_process("a read thread")

    def _report_writes(self, batch: Sequence[WriteOp]) -> None:
        self._report([(op.op, op.errno, None) for op in batch])

    def _report(self, answers: list[DiskAnswer]) -> None:
        """Called on any thread; the loop is woken once for all that gathers until it runs."""
        with self._answers_lock:
            first = not self._answers
            self._answers += answers
        if first:
            self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._answers_lock:
            answers, self._answers = self._answers, []
        self._ended(len(answers))
        self._on_done(answers)


class _DirectWays:
    """What a direct disk opens: all of it, or OSError and nothing."""

    def __init__(self, device: BackingDevice, committers: int) -> None:
        with contextlib.ExitStack() as undo:
            self.read_fd = -1
            if not drops_cached_pages(device):
                self.read_fd = device.direct_fd(lock=False)
                undo.callback(os.close, self.read_fd)
            self.write: list[tuple[int, Aio]] = []
            """A descriptor and a context for each committer."""
            for _ in range(committers):
                fd = device.direct_fd(lock=False)
                undo.callback(os.close, fd)
                aio = Aio(GROUP_RUNS_MAX)
                undo.callback(aio.close)
                self.write.append((fd, aio))
            undo.pop_all()


def read_directly(fd: int, offset: int, length: int) -> tuple[int, memoryview | None]:
    """``read_fully`` past the page cache."""
    view, _ = aligned_bytes(length)
    had = 0
    try:
        while had < length:
            more = os.preadv(fd, [view[had:]], offset + had)
            if not more:
                return errno.EIO, None
            had += more
    except OSError as error:
        return error.errno or errno.EIO, None
    return 0, view


def read_fully(fd: int, offset: int, length: int) -> tuple[int, bytes | None]:
    """(errno, data); a device that ends early is an EIO, never a short answer."""
    pieces = []
    try:
        while length:
            piece = os.pread(fd, length, offset)
            if not piece:
                return errno.EIO, None
            pieces.append(piece)
            offset += len(piece)
            length -= len(piece)
    except OSError as error:
        return error.errno or errno.EIO, None
    return 0, pieces[0] if len(pieces) == 1 else b"".join(pieces)
