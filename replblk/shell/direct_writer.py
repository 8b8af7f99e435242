"""Group commit past the page cache by a thread: for systems that have O_DIRECT but no io_uring.

    queued writes ─► merged runs ─► copied, submitted together ─► all written ─► one fdatasync

Over the page cache the flush carries the write-back of all of the batch's pages; here they are
written side by side before it. What the answers mean is as in ``disk_writer``.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from replblk.shell.buffers import Pool, Slot
from replblk.shell.disk_writer import (
    DiskWriter,
    Report,
    WriteOp,
    WriteQueue,
    fail_rest,
    run_length,
)
from replblk.shell.kernel_aio import Aio

GROUP_RUNS_MAX = 128
GROUP_BYTES_MAX = 8 << 20
"""Written together: bounds the copies."""


class DirectWriter(DiskWriter):
    """One commit thread. fd: past the page cache, its own; aio: for GROUP_RUNS_MAX, its own."""

    run_bytes_max = 1 << 20

    def __init__(self, fd: int, aio: Aio, queue: WriteQueue, report: Report, name: str) -> None:
        self._aio = aio
        self._pool = Pool()
        super().__init__(fd, queue, report, name)

    def join(self) -> None:
        """Wait for the thread's end, give everything back; the queue must be closed."""
        super().join()
        self._aio.close()

    def _write_runs(self, runs: list[list[WriteOp]]) -> None:
        for group in _groups(runs):
            copies = [_copied(run, self._pool.take(run_length(run))) for run in group]
            if len(group) == 1:
                results = [0]  # by itself it is one call less
            else:
                writes = [
                    (run[0].offset, slot.address, run_length(run))
                    for run, slot in zip(group, copies, strict=True)
                ]
                results = self._aio.write_all(self._fd, writes)
            for run, slot, result in zip(group, copies, results, strict=True):
                self._finish(run, slot, result)
                self._pool.give(slot)

    def _finish(self, run: list[WriteOp], slot: Slot, result: int) -> None:
        """The rest of a run, after a first try that wrote *result* bytes or failed by -errno. An
        error is never tried again: what was not written failed."""
        length, written = run_length(run), max(result, 0)
        failed = -result if result < 0 else 0
        while not failed and written < length:
            try:
                more = os.pwrite(self._fd, slot.view[written:length], run[0].offset + written)
            except OSError as error:
                failed = error.errno or errno.EIO
                break
            written += more
            failed = 0 if more else errno.EIO
        if failed:
            fail_rest(run, written, failed)


def _copied(run: list[WriteOp], slot: Slot) -> Slot:
    at = 0
    for op in run:
        assert op.data is not None
        slot.view[at : at + op.length] = op.data
        at += op.length
    return slot


def _groups(runs: list[list[WriteOp]]) -> Iterator[list[list[WriteOp]]]:
    """Runs as they are written together."""
    group: list[list[WriteOp]] = []
    size = 0
    for run in runs:
        length = run_length(run)
        if group and (len(group) == GROUP_RUNS_MAX or size + length > GROUP_BYTES_MAX):
            yield group
            group, size = [], 0
        group.append(run)
        size += length
    if group:
        yield group
