"""Lets a client write single bytes to a disk that knows only whole blocks, without tearing others.

A client that did not ask for block sizes may send any range. ``AlignedExport`` reads the blocks at
the edges, patches them and writes whole blocks (read-modify-write). Two dangers, one remedy:

* two patches of one block at a time: the later write would undo the earlier one;
* a whole-block write answered between a patch's read and its write: the patch would undo it.

So every write to such a disk holds its range in ``RangeLocks``, shared among aligned writes and
exclusively for a patch, from before the first read until the last ``done``. The locks belong to
the disk, not to the connection. Ranges are bytes, half-open. Reads take no lock: a read that runs
beside a write may see either.
"""

from __future__ import annotations

import errno as host
from collections.abc import Callable
from functools import partial

from nbd.export import (
    Buffer,
    Done,
    Export,
    Extents,
    ExtentsDone,
    FastZeroes,
    Geometry,
    ManyWrites,
    PiecesDone,
    SparseReads,
    Writes,
    ask_extents,
)

_GONE = host.EPIPE

Go = Callable[[int], None]
Edges = Callable[[int, bytes, bytes], None]


def _nobody(errno: int, data: Buffer | None) -> None:
    """Nobody waits for the answer."""


class RangeLocks:
    """Who writes where on one disk. First come, first served: a waiter is never overtaken by one
    that conflicts with it."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[int, int, bool]] = {}
        self._exclusive = 0
        self._waiting: list[tuple[int, int, bool, Go]] = []
        self._last = 0
        self._waking = False
        self._again = False

    def acquire(self, start: int, end: int, exclusive: bool, go: Go) -> None:
        """Call *go* with a token, now or once the range is free; the token is for ``release``."""
        quiet = not exclusive and not self._exclusive and not self._waiting
        if quiet or not self._conflicts(start, end, exclusive, len(self._waiting)):
            go(self._hold(start, end, exclusive))
        else:
            self._waiting.append((start, end, exclusive, go))

    def share(self, writes: Writes) -> Writes:
        """``acquire`` for writes of whole blocks while nobody patches or waits: the same writes,
        each of which gives its range back when it is answered; else none, and nothing was done."""
        if self._exclusive or self._waiting:
            return []
        held, token, finish = self._held, self._last, self.finish
        ready: Writes = []
        for offset, data, fua, done in writes:
            token += 1
            held[token] = (offset, offset + len(data), False)
            ready.append((offset, data, fua, partial(finish, token, done)))
        self._last = token
        return ready

    def release(self, token: int) -> None:
        """Give a range back and let those go who waited for it."""
        self.finish(token, _nobody, 0, None)

    def finish(self, token: int, done: Done, errno: int, data: Buffer | None) -> None:
        """What a write ends with: tell *done*, then ``release``."""
        done(errno, data)
        if self._held.pop(token)[2]:
            self._exclusive -= 1
        if not self._waiting:
            return
        self._again = True
        if self._waking:  # called by a *go* below: the loop there looks again
            return
        self._waking = True
        try:
            while self._again:
                self._again = False
                self._wake()
        finally:
            self._waking = False

    def _wake(self) -> None:
        at = 0
        while at < len(self._waiting):
            start, end, exclusive, go = self._waiting[at]
            if self._conflicts(start, end, exclusive, at):
                at += 1
                continue
            del self._waiting[at]
            go(self._hold(start, end, exclusive))

    def _hold(self, start: int, end: int, exclusive: bool) -> int:
        self._last += 1
        self._held[self._last] = (start, end, exclusive)
        self._exclusive += exclusive
        return self._last

    def _conflicts(self, start: int, end: int, exclusive: bool, ahead: int) -> bool:
        """Is the range held, or wanted by one of the first *ahead* waiters, in a way that excludes
        this use?"""
        for low, high, alone in self._held.values():
            if low < end and start < high and (alone or exclusive):
                return True
        for low, high, alone, _go in self._waiting[:ahead]:
            if low < end and start < high and (alone or exclusive):
                return True
        return False


class AlignedExport:
    """An export that takes any range, over one that takes multiples of its minimum block."""

    def __init__(self, inner: Export, locks: RangeLocks) -> None:
        self._inner = inner
        self._locks = locks
        self._many = inner if isinstance(inner, ManyWrites) else None
        self._block = inner.geometry.minimum_block
        self._mask = self._block - 1
        self._gone = False

    @property
    def geometry(self) -> Geometry:
        """That of the export below."""
        return self._inner.geometry

    def read(self, offset: int, length: int, done: Done) -> None:
        """Read whole blocks, answer with the part that was asked."""
        if not (offset | length) & self._mask:
            self._inner.read(offset, length, done)
            return
        start, end = self._outwards(offset, offset + length)

        def cut(errno: int, data: Buffer | None) -> None:
            if errno or data is None:
                done(errno, None)
            else:
                done(0, memoryview(data)[offset - start : offset - start + length])

        self._inner.read(start, end - start, cut)

    def read_pieces(self, offset: int, length: int, done: PiecesDone) -> None:
        """Whole blocks with their holes; any other range in one piece."""
        inner = self._inner
        if isinstance(inner, SparseReads) and not (offset | length) & self._mask:
            inner.read_pieces(offset, length, done)
            return

        def answered(errno: int, data: Buffer | None) -> None:
            done(errno, None if errno or data is None else [(length, data)])

        self.read(offset, length, answered)

    def zeroes_fast(self, offset: int, length: int, may_unmap: bool) -> bool:
        """Patches at the edges cost what a short write costs."""
        inner = self._inner
        start, end = self._outwards(offset, offset + length)
        return isinstance(inner, FastZeroes) and inner.zeroes_fast(start, end - start, may_unmap)

    def write(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write; blocks covered in part keep what the client did not send."""
        stop = offset + len(data)
        if not (offset | stop) & self._mask:
            for ready in self._locks.share([(offset, data, fua, done)]):
                self._inner.write(*ready)
                return
        start, end = self._outwards(offset, stop)
        whole = start == offset and end == stop

        def go(token: int) -> None:
            finish = partial(self._locks.finish, token, done)
            if whole:
                self._inner.write(offset, data, fua, finish)
            else:
                self._edges(start, offset, stop, end, partial(patch, finish))

        def patch(finish: Done, errno: int, head: bytes, tail: bytes) -> None:
            if errno:
                finish(errno, None)
            else:
                self._inner.write(start, b"".join((head, data, tail)), fua, finish)

        self._locks.acquire(start, end, not whole, partial(self._unless_gone, go))

    def writes(self, writes: Writes) -> None:
        """Write many: together if all of them are whole blocks."""
        odd = 0
        for offset, data, _fua, _done in writes:
            odd |= offset | len(data)
        if self._many is not None and not odd & self._mask:
            ready = self._locks.share(writes)
            if ready:
                self._many.writes(ready)
                return
        for offset, data, fua, done in writes:
            self.write(offset, data, fua, done)

    def zero(self, offset: int, length: int, fua: bool, may_unmap: bool, done: Done) -> None:
        """Zero the whole blocks inside the range and patch zeroes into those at its edges."""
        stop = offset + length
        start, end = self._outwards(offset, stop)
        whole = start == offset and end == stop

        def go(token: int) -> None:
            finish = partial(self._locks.finish, token, done)
            if whole:
                self._inner.zero(offset, length, fua, may_unmap, finish)
            else:
                self._edges(start, offset, stop, end, partial(patch, finish))

        def patch(finish: Done, errno: int, head: bytes, tail: bytes) -> None:
            first = start + self._block if head else start
            last = end - self._block if tail else end
            if errno:
                finish(errno, None)
            elif first > last:  # all in one block, which keeps both its ends
                middle = bytes(end - start - len(head) - len(tail))
                self._inner.write(start, head + middle + tail, fua, finish)
            else:
                all_done = _Gather(bool(head) + bool(tail) + (first < last), finish)
                if head:
                    block = head + bytes(self._block - len(head))
                    self._inner.write(start, block, fua, all_done)
                if first < last:
                    self._inner.zero(first, last - first, fua, may_unmap, all_done)
                if tail:
                    block = bytes(self._block - len(tail)) + tail
                    self._inner.write(last, block, fua, all_done)

        self._locks.acquire(start, end, not whole, partial(self._unless_gone, go))

    def trim(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """Trim the whole blocks inside the range; the rest of it keeps its content."""
        start = (offset + self._mask) & ~self._mask
        end = (offset + length) & ~self._mask
        if start >= end:
            done(0, None)
            return

        def go(token: int) -> None:
            self._inner.trim(start, end - start, fua, partial(self._locks.finish, token, done))

        self._locks.acquire(start, end, False, partial(self._unless_gone, go))

    def flush(self, done: Done) -> None:
        """Flush: a patch that is still unanswered need not be covered."""
        self._inner.flush(done)

    def extents(self, context: str, offset: int, length: int, done: ExtentsDone) -> None:
        """Describe the whole blocks around the range, less what lies before it."""
        start, end = self._outwards(offset, offset + length)

        def cut(errno: int, extents: Extents | None) -> None:
            if errno or extents is None:
                done(errno, None)
                return
            before, found = offset - start, []
            for size, flags in extents:
                if size > before:
                    found.append((size - before, flags))
                before = max(0, before - size)
            done(0, found)

        ask_extents(self._inner, context, start, end - start, cut)

    def closed(self) -> None:
        """The connection is gone: nothing new is begun on its behalf."""
        self._gone = True
        self._inner.closed()

    def _outwards(self, start: int, end: int) -> tuple[int, int]:
        return start & ~self._mask, (end + self._mask) & ~self._mask

    def _unless_gone(self, go: Go, token: int) -> None:
        if self._gone:
            self._locks.release(token)
        else:
            go(token)

    def _edges(self, start: int, offset: int, stop: int, end: int, got: Edges) -> None:
        """Read what a patch of [offset, stop) must keep of [start, end): *got* is called with
        (errno, bytes before offset, bytes from stop on). Reads one block, or two."""
        wanted = [start] if offset > start else []
        if stop < end and end - self._block not in wanted:
            wanted.append(end - self._block)
        blocks: dict[int, bytes] = {}
        failed = 0

        def arrived(at: int, errno: int, data: Buffer | None) -> None:
            nonlocal failed
            failed = failed or errno
            blocks[at] = bytes(data or b"")
            if len(blocks) < len(wanted):
                return
            head = tail = b""
            if not failed:
                head = blocks[start][: offset - start] if offset > start else b""
                tail = blocks[end - self._block][stop - end :] if stop < end else b""
            # A client that has gone gets no write begun; the error only lets the lock go.
            got(failed or (_GONE if self._gone else 0), head, tail)

        for at in wanted:
            self._inner.read(at, self._block, partial(arrived, at))


class _Gather:
    """Calls *done* once, after *count* parts have called this, with the first error among them."""

    def __init__(self, count: int, done: Done) -> None:
        self._left = count
        self._done = done
        self._errno = 0

    def __call__(self, errno: int, data: Buffer | None) -> None:
        self._errno = self._errno or errno
        self._left -= 1
        if not self._left:
            self._done(self._errno, None)
