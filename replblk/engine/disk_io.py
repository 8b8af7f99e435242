"""Disk operations with a continuation each: submit, and *then* is called with errno and data.

A device is closed only when nothing of it is in flight any more: ``Volume.when_drained`` waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from replblk.engine.context import TENTH_NS
from replblk.engine.ports import Buffer, DiskAnswer
from replblk.model.units import SECTOR_BYTES

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume

Then = Callable[[int, "Buffer | None"], None]
Stored = Callable[[list[Any], int], None]
"""Told of writes of a ``writes`` that ended with the same errno: what stands for them, and that."""


class DiskIo:
    """All disk operations of a node in flight, by operation number."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._next = 0
        self._flying: dict[int, tuple[Volume, Callable[..., None], Any]] = {}
        """Volume, who is told, and, with ``writes``, of what."""
        self._since_ns: dict[int, int] = {}
        """When operations of volumes with a disk-timeout began, oldest first."""
        self.too_slow: Callable[[Volume], None]
        """Told when an operation takes longer than the volume's disk-timeout."""

    def read(self, volume: Volume, offset: int, length: int, then: Then) -> None:
        """Read bytes of the backing device."""
        assert volume.backing is not None
        volume.backing.read(self._launch(volume, then), offset, length)

    def write(
        self, volume: Volume, offset: int, data: Buffer, then: Then, *, durable: bool = True
    ) -> None:
        """Write bytes of the backing device."""
        assert volume.backing is not None
        volume.backing.write(self._launch(volume, then), offset, data, durable=durable)

    def writes(
        self, volume: Volume, writes: list[tuple[int, Buffer, bool, Any]], stored: Stored
    ) -> None:
        """``write`` for many: offset, data, durable, and what stands for the write in *stored*."""
        assert volume.backing is not None
        if volume.config.options.disk_timeout:
            for offset, data, durable, what in writes:
                then = partial(_tell_one, stored, what)
                self.write(volume, offset, data, then, durable=durable)
            return
        flying, number = self._flying, self._next
        operations: list[tuple[int, int, Buffer, bool]] = []
        for offset, data, durable, what in writes:
            number += 1
            flying[number] = (volume, stored, what)
            operations.append((number, offset, data, durable))
        self._next = number
        volume.in_flight += len(operations)
        volume.backing.writes(operations)

    def zero(
        self, volume: Volume, offset: int, length: int, then: Then, *, unmap: bool, durable: bool
    ) -> None:
        """Zero a range of the backing device."""
        assert volume.backing is not None
        op = self._launch(volume, then)
        volume.backing.zero(op, offset, length, unmap=unmap, durable=durable)

    def flush(self, volume: Volume, then: Then) -> None:
        """Make everything answered so far durable."""
        assert volume.backing is not None
        volume.backing.flush(self._launch(volume, then))

    def done(self, op: int, errno: int, data: Buffer | None) -> None:
        """An operation ended: hand the answer to whoever asked, then see whether a detach waits."""
        volume, then, what = self._flying.pop(op)
        if self._since_ns:
            self._since_ns.pop(op, None)
        volume.in_flight -= 1
        if what is None:
            then(errno, data)
        else:
            then([what], errno)
        if not volume.in_flight:
            self._drained(volume)

    def all_done(self, answers: list[DiskAnswer]) -> None:
        """Operations ended, in this order: as if ``done`` were told of each. Writes of ``writes``
        that went well are told of together."""
        ctx, deferred, flying = self._ctx, self._ctx.deferred, self._flying
        count, at = len(answers), 0
        while at < count:
            op, errno, data = answers[at]
            volume, stored, what = flying[op]
            if what is None or errno:
                self.done(op, errno, data)
                at += 1
            else:
                good: list[Any] = []
                while True:
                    del flying[op]
                    good.append(what)
                    at += 1
                    if at == count:
                        break
                    op, errno, _ = answers[at]
                    of, then, what = flying[op]
                    if what is None or errno or of is not volume or then is not stored:
                        break
                self._told(volume, stored, good)
            if deferred:
                ctx.run_deferred()

    def _told(self, volume: Volume, stored: Stored, good: list[Any]) -> None:
        volume.in_flight -= len(good)
        stored(good, 0)
        if not volume.in_flight:
            self._drained(volume)

    @staticmethod
    def _drained(volume: Volume) -> None:
        """Nothing of it is in flight: whoever waits for that goes on."""
        if volume.when_drained is not None:
            action, volume.when_drained = volume.when_drained, None
            action()

    def _launch(self, volume: Volume, then: Then) -> int:
        self._next += 1
        self._flying[self._next] = (volume, then, None)
        volume.in_flight += 1
        if volume.config.options.disk_timeout:
            self._since_ns[self._next] = self._ctx.now_ns()
            if not self._ctx.timers.pending(("disk-timeout", volume.number)):
                self._watch(volume)
        return self._next

    def abort(self, volume: Volume, errno: int) -> None:
        """Whoever waits for this disk is told that it failed; what it still does comes to nothing.

        The operations themselves can't be taken back: the device is closed when they have ended.
        """
        for op, (of, then, what) in list(self._flying.items()):
            if of is volume and then is not _nobody:
                self._flying[op] = (volume, _nobody, None)
                self._since_ns.pop(op, None)
                if what is None:
                    then(errno, None)
                else:
                    then([what], errno)

    def _watch(self, volume: Volume) -> None:
        """Look again when the oldest operation of the volume has had its time."""
        oldest = next((at for op, at in self._since_ns.items() if self._of(op) is volume), None)
        if oldest is None:
            return
        limit_ns = volume.config.options.disk_timeout * TENTH_NS
        left_ns = oldest + limit_ns - self._ctx.now_ns()
        if left_ns > 0:
            name = ("disk-timeout", volume.number)
            self._ctx.timers.set(name, left_ns, lambda: self._watch(volume))
        else:
            self.too_slow(volume)

    def _of(self, op: int) -> Volume:
        return self._flying[op][0]


def _nobody(errno: int, data: Buffer | None) -> None:
    """Whoever asked has been told already."""


def _tell_one(stored: Stored, what: object, errno: int, data: Buffer | None) -> None:
    stored([what], errno)


def sector_offset(sector: int) -> int:
    """Byte offset of a data sector: with internal metadata the data starts at byte 0."""
    return sector * SECTOR_BYTES
