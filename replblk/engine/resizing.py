"""Gives an attached volume another size, its metadata another place, or both: durably, in order.

    larger:   metadata moved ─► bits of the new part durable ─► the size, durable ─► clients see it
    smaller:  clients see it ─► metadata moved, or the size durable ─► the bits behind it dropped

At every power cut the size on disk is the old or the new one, and the bitmap covers just that. One
change of a volume at a time; the next waits. Source: metadata, resize and moving.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.metadata_move import MetadataMove
from replblk.meta.moving import area
from replblk.model.notices import Level, SizeChanged
from replblk.model.units import SECTOR_BYTES, bits_of_capacity

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.meta.layout import Layout

Told = Callable[[str], None]
"""Called once: "" when all is durable, else why not."""

NO_DISK = "the disk was given up"


def set_capacity(ctx: Context, volume: Volume, sectors: int) -> None:
    """From now on clients see that size; observers are told."""
    old, volume.capacity_sectors = volume.capacity_sectors, sectors
    if old != sectors:
        ctx.ports.observer.notice(SizeChanged(volume.number, old, sectors))


class Resizing:
    """Changes of size and place, of all volumes."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._busy: set[int] = set()
        self._waiting: dict[int, deque[Callable[[], None]]] = {}

    def busy(self, volume: Volume) -> bool:
        """Whether a change of the volume is under way."""
        return volume.number in self._busy

    def when_idle(self, volume: Volume, action: Callable[[], None]) -> None:
        """Do something when no change is under way: what was decided before one is worth nothing
        after it, so whoever wants a change decides then."""
        if self.busy(volume):
            self._waiting.setdefault(volume.number, deque()).append(action)
        else:
            action()

    def _next(self, volume: Volume) -> None:
        waiting = self._waiting.get(volume.number)
        while waiting and not self.busy(volume):
            waiting.popleft()()

    def change(
        self, volume: Volume, layout: Layout, sectors: int, *, fill: int, told: Told
    ) -> None:
        """Make it so. layout: where the metadata belong; fill: the bits of a new part."""
        assert not self.busy(volume), "a change was decided while another one is under way"
        self._busy.add(volume.number)

        def ended(why: str) -> None:
            self._busy.discard(volume.number)
            told(why)
            self._ctx.defer(lambda: self._next(volume))

        if volume.bitmap is None or volume.meta is None or volume.al_gate is None:
            ended(NO_DISK)
        elif sectors < volume.capacity_sectors:
            self._shrink(volume, layout, sectors, ended)
        elif layout == volume.layout:
            self._grow(volume, sectors, fill, ended)
        else:
            MetadataMove(
                self._ctx,
                volume,
                layout,
                lambda why: ended(why) if why else self._grow(volume, sectors, fill, ended),
            ).begin()

    # -- larger -------------------------------------------------------------------------------

    def _grow(self, volume: Volume, sectors: int, fill: int, ended: Told) -> None:
        bitmap, meta = volume.bitmap, volume.meta
        if bitmap is None or meta is None:
            ended(NO_DISK)
            return
        if sectors == volume.capacity_sectors:
            ended("")
            return
        first = bits_of_capacity(volume.capacity_sectors)
        bitmap.resize(bits_of_capacity(sectors), fill)
        if fill and volume.capacity_sectors % 8:
            # The last block of the old size was a part of one: the rest of it is new.
            bitmap.set(first - 1, first)

        def marked(ok: bool) -> None:
            if not ok:
                ended(NO_DISK)
                return
            meta.growing_to = sectors
            meta.sync(durable)

        def durable(ok: bool) -> None:
            meta.growing_to = 0
            if ok:
                self._tell(volume, sectors)
                set_capacity(self._ctx, volume, sectors)
            ended("" if ok else NO_DISK)

        meta.write_bitmap(marked)

    # -- smaller ------------------------------------------------------------------------------

    def _shrink(self, volume: Volume, layout: Layout, sectors: int, ended: Told) -> None:
        """No request begins behind the new end any more; those under way there may end."""
        self._tell(volume, sectors)
        set_capacity(self._ctx, volume, sectors)
        meta = volume.meta
        assert meta is not None
        if layout == volume.layout:
            meta.sync(lambda ok: self._drop_bits(volume, sectors, ok, ended))
            return
        place = area(layout)

        def granted(claim: RangeLock) -> None:
            def moved(why: str) -> None:
                volume.ranges.release(claim)
                self._drop_bits(volume, sectors, not why, ended, why)

            if volume.bitmap is None or volume.meta is None or volume.al_gate is None:
                moved(NO_DISK)
                return
            volume.bitmap.resize(bits_of_capacity(sectors), 0)
            MetadataMove(self._ctx, volume, layout, moved).begin()

        # What is being written where the metadata are to go has to end first.
        volume.ranges.lock(
            place.start // SECTOR_BYTES,
            len(place),
            lambda claim: self._ctx.defer(lambda: granted(claim)),
            exclusive=True,
        )

    def _drop_bits(
        self, volume: Volume, sectors: int, ok: bool, ended: Told, why: str = NO_DISK
    ) -> None:
        bitmap, meta = volume.bitmap, volume.meta
        if not ok or bitmap is None or meta is None:
            ended(why)
            return
        if len(bitmap) > bits_of_capacity(sectors):
            bitmap.resize(bits_of_capacity(sectors), 0)
        meta.write_bitmap(lambda ok: ended("" if ok else NO_DISK))

    def _tell(self, volume: Volume, sectors: int) -> None:
        self._ctx.tell(Level.INFO, f"size = {sectors >> 11} MB ({sectors >> 1} KB)", volume.number)
