"""Disk operations with a continuation each: submit, and *then* is called with errno and data.

A device is closed only when nothing of it is in flight any more: ``Volume.when_drained`` waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.ports import Buffer
from replblk.model.units import SECTOR_BYTES

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume

Then = Callable[[int, "Buffer | None"], None]


class DiskIo:
    """All disk operations of a node in flight, by operation number."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._next = 0
        self._flying: dict[int, tuple[Volume, Then]] = {}

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
        volume, then = self._flying.pop(op)
        volume.in_flight -= 1
        then(errno, data)
        if volume.in_flight == 0 and volume.when_drained is not None:
            action, volume.when_drained = volume.when_drained, None
            action()

    def _launch(self, volume: Volume, then: Then) -> int:
        self._next += 1
        self._flying[self._next] = (volume, then)
        volume.in_flight += 1
        return self._next


def sector_offset(sector: int) -> int:
    """Byte offset of a data sector: with internal metadata the data starts at byte 0."""
    return sector * SECTOR_BYTES
