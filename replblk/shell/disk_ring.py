"""The Disk port over io_uring and O_DIRECT: no threads, group commit from the loop itself.

    gathered writes ─► merged runs ─► submitted together ─► all written ─► one fdatasync ─► answers
    a run alone ─► with RWF_DSYNC ─► answer

Whatever is queued while two batches are under way becomes the next batch, so one flush serves many
writes without any timer, and a slow flush overlaps the writes of the next batch. Data are copied
into aligned buffers when a batch begins. Reads go beside, many at a time, past the page cache: with
O_DIRECT writes beside them, cached pages could be stale.

Offsets and lengths in bytes, multiples of 512. No two overlapping operations are in flight together
(the node's promise). All methods are called on the loop's thread. Errors are errno values; a failed
flush is final for the device, as in ``disk_writer``.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Callable

from replblk.engine.ports import Buffer, DiskAnswer
from replblk.model.latency import Latencies
from replblk.shell.backing_device import BackingDevice
from replblk.shell.buffers import Pool, Slot, address_of, aligned_bytes
from replblk.shell.disk_writer import (
    CANNOT_ZERO,
    FALLOC_FL_KEEP_SIZE,
    FALLOC_FL_PUNCH_HOLE,
    FALLOC_FL_ZERO_RANGE,
    DiskDone,
    WriteOp,
    fail_rest,
    merged_runs,
)
from replblk.shell.gathering_disk import GatheringDisk
from replblk.shell.lone_wait import LINGER_NS, LoneWait
from replblk.shell.ring_operations import Batch, First, Read, Run
from replblk.shell.turns import stop_process
from replblk.shell.uring import READ, RWF_DSYNC, WRITE, Ring, Transfer
from replblk.shell.warm_reads import WarmReads

BATCHES_MAX = 2
"""Batches under way: a slow flush of one overlaps the writes of the other."""
BATCH_OPS_MAX = 128
BATCH_BYTES_MAX = 8 << 20
"""Bounds the aligned copies: two batches' worth."""
RUN_BYTES_MAX = 1 << 20
"""Longest merged write."""
DSYNC_RUNS_MAX = 1
"""Up to so many runs are flushed each by itself: one wait less. Two daemons on one disk take
0.43 ms for 2 runs either way; for 4 runs 0.55 ms so, 0.46 with a common flush; for 8 0.83 and 0.55.
"""
READS_MAX = 128
"""Reads in flight; further ones wait."""
SHARED_READ_BYTES_MAX = 16 << 10
"""Up to this, reads share memory; what one of them keeps alive is SHARED_BYTES at the most."""
SHARED_BYTES = 32 << 10
RING_ENTRIES = 512
_RETRY_S = 0.001
_ZEROES_BYTES = 1 << 20
UNCOPIED_BYTES_MIN = 16 << 10
"""From here on it is worth asking whether a write's data lie where the disk can take them from."""
SLOT_BYTES_MAX = 256 << 10
"""The data of runs shorter than this share pieces of memory of up to so many bytes."""
_NO_MEMORY = memoryview(b"")


class RingDisk(GatheringDisk):
    """One open backing device (``engine.ports.Disk``). Raises OSError where the system refuses."""

    def __init__(
        self,
        device: BackingDevice,
        loop: asyncio.AbstractEventLoop,
        on_done: DiskDone,
        latencies: Latencies,
    ) -> None:
        super().__init__(device, on_done)
        self.failed = False
        """A flush has failed: nothing more is promised."""
        self._loop = loop
        self._latencies = latencies
        self._waits_since_ns = 0
        """Since when gathered operations wait for a batch to end; 0: none does."""
        self._numbers = 0
        self._flying: dict[int, First | Run | Read | Callable[[int], None]] = {}
        """Who hears of an operation's result."""
        self._answers: list[DiskAnswer] = []
        """Given out together when all completions of a turn have been looked at."""
        self._batches = 0
        self._reading = 0
        self._shared, self._shared_address, self._shared_used = _NO_MEMORY, 0, 0
        """Memory for small reads to come, and how much of it is given away."""
        self._lone = LoneWait()
        self._pool = Pool()
        self._zeroes: Slot | None = None
        self._retrying = False
        self._fd = device.direct_fd(lock=True)
        self._warm = WarmReads(device)
        try:
            self._ring = Ring(RING_ENTRIES)
        except BaseException:
            self._warm.close()
            os.close(self._fd)
            raise
        loop.add_reader(self._ring.fileno(), self._on_completions)

    def _stop(self) -> None:
        self._loop.remove_reader(self._ring.fileno())
        self._ring.close()
        self._warm.close()
        os.close(self._fd)

    def end_step(self) -> None:
        """Hand over what was gathered."""
        self.due = False
        flying = self._flying
        others = len(flying)
        if self._reads:
            self._begin_reads()
            if self._answers:
                self._give_answers()
        if self._gathered:
            self._begin_batches()
        if not self._ring.pending:
            return
        if others or len(flying) != 1:
            self._lone.not_alone()
        elif self._lone.pays() and self._ring.can_wait:
            self._linger()
            return
        if not self._ring.submit():
            self._submit_later()

    def _linger(self) -> None:
        """Stay until the only operation in flight has ended, if that is soon."""
        if not self._ring.submit_and_wait(LINGER_NS):
            self._submit()  # which sees to it that it is tried again
        self._lone.ended()
        if not self._reap():
            self._lone.in_vain()
        if self._ring.pending:
            self._submit()

    # -- the ring -----------------------------------------------------------------------------

    def _launch(self, then: Run | Read | Callable[[int], None]) -> int:
        """A number for an operation about to be prepared, after making room for it."""
        self._make_room(1)
        self._numbers += 1
        self._flying[self._numbers] = then
        return self._numbers

    def _make_room(self, operations: int) -> None:
        if self._ring.room < operations:
            self._submit()

    def _submit(self) -> None:
        if not self._ring.submit():
            self._submit_later()

    def _submit_later(self) -> None:
        if not self._retrying:
            self._retrying = True
            self._loop.call_later(_RETRY_S, self._retry)

    def _retry(self) -> None:
        self._retrying = False
        if not self.closed:
            self._submit()

    def _on_completions(self) -> None:
        try:
            self._reap()
            if self._gathered or self._reads:
                self.end_step()
            elif self._ring.pending:
                self._submit()
        except Exception:
            stop_process("the disk's ring")

    def _reap(self) -> bool:
        """See what has completed, and answer what is done; False: nothing has."""
        flying = self._flying
        completions = self._ring.completions()
        for number, result in completions:
            then = flying[number]
            del flying[number]
            if then.__class__ is tuple:
                batch, _ops, _address, length, _flags = then
                if result == length:
                    batch.left -= 1
                    if not batch.left:
                        self._batch_written(batch)
                else:
                    self._written(Run(then), result)
            elif isinstance(then, Read):
                if result == then.length:
                    self._reading -= 1
                    self._answers.append((then.op, 0, then.view))
                else:
                    self._read_ended(then, result)
            elif isinstance(then, Run):
                self._written(then, result)
            else:
                assert not isinstance(then, tuple)
                then(result)
        if self._answers:
            self._give_answers()
        return bool(completions)

    def _give_answers(self) -> None:
        answers, self._answers = self._answers, []
        self._ended(len(answers))
        self._on_done(answers)

    # -- reads --------------------------------------------------------------------------------

    def _begin_reads(self) -> None:
        """Small reads share a piece of memory with the next ones: to get it costs as much as to
        ask for the read."""
        waiting, flying, number = self._reads, self._flying, self._numbers
        count = min(len(waiting), READS_MAX - self._reading)
        reads: list[Transfer] = []
        for _ in range(count):
            op, offset, length = waiting.popleft()
            if length > SHARED_READ_BYTES_MAX:
                cached = self._warm.read(offset, length)
                if cached is not None:
                    self._answers.append((op, 0, memoryview(cached)))
                    continue
                view, address = aligned_bytes(length)
            else:
                at = self._shared_used
                if at + length > len(self._shared):
                    at = 0
                    self._shared, self._shared_address = aligned_bytes(SHARED_BYTES)
                self._shared_used = end = at + length
                view, address = self._shared[at:end], self._shared_address + at
            number += 1
            flying[number] = Read(op, offset, view, address)
            reads.append((number, offset, address, length))
        self._numbers = number
        self._reading += len(reads)
        if self._ring.pending:
            self._make_room(len(reads))
        self._ring.transfers(READ, self._fd, reads)

    def _read_ended(self, read: Read, result: int) -> None:
        """Not with its whole length at the first try."""
        read.had += max(result, 0)
        if result > 0 and read.had < read.length:
            number, had = self._launch(read), read.had
            left = read.length - had
            self._ring.read(number, self._fd, read.offset + had, read.address + had, left)
            return
        self._reading -= 1
        if result <= 0:  # 0: the device ends early
            self._answers.append((read.op, -result or errno.EIO, None))
        else:
            self._answers.append((read.op, 0, read.view))

    # -- batches ------------------------------------------------------------------------------

    def _begin_batches(self) -> None:
        now_ns = time.monotonic_ns()
        gathered = self._gathered
        if len(gathered) == 1 and self._batches < BATCHES_MAX and not self.failed:
            op = gathered[0]
            if op.data is not None and op.durable and not self._waits_since_ns:
                gathered.clear()
                self._latencies.disk_queue.at_once += 1
                self._begin_lone(op, op.data, now_ns)
                return
        since_ns = self._waits_since_ns or now_ns
        while self._gathered and self._batches < BATCHES_MAX:
            self._latencies.disk_queue.record(now_ns - since_ns)
            self._begin_batch(now_ns)
        self._waits_since_ns = since_ns if self._gathered else 0

    def _begin_lone(self, op: WriteOp, data: Buffer, now_ns: int) -> None:
        """``_begin_batch`` for a write alone that is to be durable, the straight way."""
        length = op.length
        batch = Batch([op], False, now_ns)
        batch.left = 1
        self._batches += 1
        address = address_of(data) if length >= UNCOPIED_BYTES_MIN else 0
        if not address:
            slot = self._pool.take(length)
            batch.slots.append(slot)
            slot.view[:length] = data
            address = slot.address
        if self._ring.pending:
            self._make_room(1)
        self._numbers = number = self._numbers + 1
        self._flying[number] = (batch, batch.ops, address, length, RWF_DSYNC)
        write = (number, op.offset, address, length)
        self._ring.transfers(WRITE, self._fd, [write], RWF_DSYNC)

    def _begin_batch(self, now_ns: int) -> None:
        ops, size = self._take_batch()
        durable = sum([op.durable for op in ops])
        writes = [op for op in ops if op.data is not None]
        zeroes = (
            [op for op in ops if op.data is None and op.length] if len(writes) < len(ops) else []
        )
        self._batches += 1
        if self.failed:
            for op in ops:
                op.errno = errno.EIO
            self._loop.call_soon(self._refuse, Batch(ops, False, now_ns))
            return
        runs = [writes] if len(writes) == 1 else merged_runs(writes, RUN_BYTES_MAX)
        alone = len(runs) <= DSYNC_RUNS_MAX and len(writes) == durable == len(ops)
        batch = Batch(ops, durable > 0 and not alone, now_ns)
        batch.left = len(runs) + len(zeroes)
        if runs:
            self._write_runs(batch, runs, size, RWF_DSYNC if alone else 0)
        for op in zeroes:
            self._zero(batch, op)
        if not batch.left:
            self._flush(batch)  # nothing but flushes

    def _take_batch(self) -> tuple[list[WriteOp], int]:
        """The operations of the next batch, and how many bytes of data they have."""
        gathered = self._gathered
        if len(gathered) <= BATCH_OPS_MAX:
            ops = list(gathered)
            size = sum([op.length for op in ops if op.data is not None])
            if size <= BATCH_BYTES_MAX:
                gathered.clear()
                return ops, size
        ops, size = [], 0
        while gathered and len(ops) < BATCH_OPS_MAX and size < BATCH_BYTES_MAX:
            op = gathered.popleft()
            ops.append(op)
            if op.data is not None:
                size += op.length
        return ops, size

    def _write_runs(self, batch: Batch, runs: list[list[WriteOp]], left: int, flags: int) -> None:
        """Copy the data, *left* bytes, one behind the other into few pieces of aligned memory, and
        write them. Long ones that lie in such memory already are written from there."""
        flying, number = self._flying, self._numbers
        writes: list[Transfer] = []
        address = at = room = 0
        view = _NO_MEMORY
        for ops in runs:
            length = ops[0].length if len(ops) == 1 else sum([op.length for op in ops])
            alone = length >= UNCOPIED_BYTES_MIN and len(ops) == 1
            lies_at = address_of(ops[0].data) if alone else 0
            if not lies_at:
                if at + length > room:
                    slot = self._pool.take(max(length, min(left, SLOT_BYTES_MAX)))
                    batch.slots.append(slot)
                    view, address, room, at = slot.view, slot.address, slot.size, 0
                lies_at = address + at
                for op in ops:
                    end = at + op.length
                    view[at:end] = op.data  # type: ignore[assignment]
                    at = end
            left -= length
            number += 1
            flying[number] = (batch, ops, lies_at, length, flags)
            writes.append((number, ops[0].offset, lies_at, length))
        self._numbers = number
        if self._ring.pending:
            self._make_room(len(writes))
        self._ring.transfers(WRITE, self._fd, writes, flags)

    def _write(self, run: Run) -> None:
        at, left = run.done, run.length - run.done
        number = self._launch(run)
        self._ring.write(number, self._fd, run.offset + at, run.address + at, left, run.flags)

    def _written(self, run: Run, result: int) -> None:
        """Part of a run, or an error: it is never tried again, what was not written failed.

        With RWF_DSYNC an error may be the write's or the flush's; only the latter is final. The
        same write without a flush tells which, and changes no answer.
        """
        if result > 0 and run.done + result < run.length:
            run.done += result
            self._write(run)
            return
        if run.judging:
            if result > 0:
                self.failed = True
        elif result <= 0:
            failed = -result or errno.EIO
            fail_rest(run.ops, 0 if run.flags else run.done, failed)
            if run.flags:
                run.judging, run.flags, run.done = failed, 0, 0
                self._write(run)
                return
        self._part_done(run.batch)

    def _zero(self, batch: Batch, op: WriteOp) -> None:
        def done(result: int) -> None:
            if -result in CANNOT_ZERO:
                self._write_zeroes(batch, op, 0)
                return
            op.errno = -result
            self._part_done(batch)

        mode = FALLOC_FL_KEEP_SIZE | (FALLOC_FL_PUNCH_HOLE if op.unmap else FALLOC_FL_ZERO_RANGE)
        self._ring.fallocate(self._launch(done), self._fd, mode, op.offset, op.length)

    def _write_zeroes(self, batch: Batch, op: WriteOp, had: int) -> None:
        """Where the file system can't zero a range itself: a piece after the other."""
        if self._zeroes is None:
            self._zeroes = self._pool.take(_ZEROES_BYTES)
            self._zeroes.view[:] = bytes(_ZEROES_BYTES)

        def done(result: int) -> None:
            if result <= 0:
                op.errno = -result or errno.EIO
            elif had + result < op.length:
                self._write_zeroes(batch, op, had + result)
                return
            self._part_done(batch)

        size = min(op.length - had, _ZEROES_BYTES)
        number = self._launch(done)
        self._ring.write(number, self._fd, op.offset + had, self._zeroes.address, size)

    def _part_done(self, batch: Batch) -> None:
        batch.left -= 1
        if not batch.left:
            self._batch_written(batch)

    def _batch_written(self, batch: Batch) -> None:
        now_ns = time.monotonic_ns()
        self._latencies.disk_write.record(now_ns - batch.began_ns)
        batch.began_ns = now_ns
        for slot in batch.slots:
            self._pool.give(slot)
        if batch.flush:
            self._flush(batch)
        else:
            self._end_batch(batch)

    def _flush(self, batch: Batch) -> None:
        def done(result: int) -> None:
            if result < 0:
                self.failed = True
                for op in batch.ops:
                    if op.durable and not op.errno:
                        op.errno = -result
            self._latencies.disk_flush.record(time.monotonic_ns() - batch.began_ns)
            self._end_batch(batch)

        self._ring.fdatasync(self._launch(done), self._fd)

    def _end_batch(self, batch: Batch) -> None:
        self._batches -= 1
        if self.failed:
            for op in batch.ops:
                if op.durable and not op.errno:
                    op.errno = errno.EIO  # another batch's flush failed: nothing is sure any more
        for op in batch.ops:
            self._answers.append((op.op, op.errno, None))

    def _refuse(self, batch: Batch) -> None:
        """Nothing was tried: the device has failed before."""
        self._end_batch(batch)
        self._give_answers()
