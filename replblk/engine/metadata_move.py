"""Moves the metadata of an attached disk to where they belong on a device of another size.

    activity log held ─► superblock and bitmap held ─► the steps of ``meta.moving.plan``, each
    durable before the next ─► the new layout is in force ─► both go on

Reads and writes of data go on meanwhile; only what would change metadata waits: writes into cold
extents, changes of the generation, and with them their acknowledgements. What is written is the
metadata as they were when everything stood still. A failure before the new metadata count leaves
the old ones in force; a later one gives the disk up. Source: metadata, resize and moving.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from replblk.meta.moving import Step, plan
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.notices import Level

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.ports import Buffer
    from replblk.engine.volume import Volume
    from replblk.meta.layout import Layout

Told = Callable[[str], None]
"""Called once: "" when the metadata are at their new place, else why they are not."""

PAGE_BYTES = 4096
CHUNK_PAGES = 256
ERASE_BYTES_MAX = 16 << 20
DISK_GONE = "the disk was given up meanwhile"


class MetadataMove:
    """One move of one volume's metadata. Holds the activity log and the metadata while it lasts."""

    def __init__(self, ctx: Context, volume: Volume, layout: Layout, told: Told) -> None:
        """layout: the place to move to, on the device as it is now."""
        assert volume.layout is not None and volume.meta is not None
        assert volume.al_gate is not None and volume.bitmap is not None
        self._ctx = ctx
        self._volume = volume
        self._old, self._new = volume.layout, layout
        self._told = told
        self._meta, self._gate, self._bitmap = volume.meta, volume.al_gate, volume.bitmap
        self._plan = plan(self._old, layout)
        self._left = list(self._plan.steps)
        self._counts = False
        self._log_place: tuple[int, int] | None = None
        self._image: Superblock
        self._do: dict[Step, Callable[[], None]] = {
            Step.WARN: self._warn,
            Step.BITMAP: lambda: self._put_bitmap(0),
            Step.ACTIVITY_LOG: self._put_log,
            Step.SUPERBLOCK: lambda: self._put_superblock(self._image),
            Step.REMEMBER: self._remember,
            Step.ERASE: self._erase,
        }

    def begin(self) -> None:
        """Wait until nothing changes the metadata, then move them."""
        self._gate.hold(self._log_held)

    def _log_held(self) -> None:
        if self._meta.dead:
            self._end(DISK_GONE)
        else:
            self._meta.hold(self._all_held)

    def _all_held(self, ok: bool) -> None:
        if not ok:
            self._end(DISK_GONE)
            return
        new = self._new
        self._image = replace(
            self._meta.superblock(),
            md_size_sect=new.md_size_sect,
            al_offset=new.al_offset_sect,
            bm_offset=new.bm_offset_sect,
            al_stripes=new.al_stripes,
            al_stripe_size_4k=new.al_stripe_size_4k,
        )
        self._ctx.tell(
            Level.INFO,
            f"Writing the whole bitmap, md moved (from byte {self._old.md_offset_bytes} to "
            f"{new.md_offset_bytes})",
            self._volume.number,
        )
        self._meta.settle_data(self._settled)

    def _settled(self, ok: bool) -> None:
        if ok:
            self._next()
        else:
            self._end(DISK_GONE)

    # -- steps --------------------------------------------------------------------------------

    def _next(self) -> None:
        if self._meta.dead:
            self._end(DISK_GONE)
        elif self._left:
            # A failed write may be there all the same: from its begin on there is no way back.
            self._counts = self._counts or self._left[0] is self._plan.counts_after
            self._do[self._left[0]]()
        else:
            self._end("")

    def _step_done(self) -> None:
        self._left.pop(0)
        self._next()

    def _write(self, offset: int, data: bytes, then: Callable[[], None]) -> None:
        def done(errno: int, _: Buffer | None) -> None:
            if errno:
                self._failed(errno)
            else:
                then()

        self._ctx.io.write(self._volume, offset, data, done)

    def _failed(self, errno: int) -> None:
        why = f"writing the {self._left[0].value} failed (errno {errno})"
        if self._counts:
            self._meta.failed(why)
        self._end(why)

    def _warn(self) -> None:
        flags = self._image.flags | MdFlag.FULL_SYNC | MdFlag.AL_DISABLED
        self._put_superblock(replace(self._image, flags=flags))

    def _put_superblock(self, superblock: Superblock) -> None:
        self._write(self._new.md_offset_bytes, superblock.encode(), self._step_done)

    def _put_log(self) -> None:
        """The ring, naming every extent that is hot now."""
        new, log = self._new, self._gate.log
        self._log_place = log.place
        ring = log.initial_blocks(new.al_blocks)
        placed = bytearray(len(ring) * PAGE_BYTES)
        for number, block in enumerate(ring):
            at = new.al_block_offset(number) - new.al_offset_bytes
            placed[at : at + PAGE_BYTES] = block
        self._write(new.al_offset_bytes, bytes(placed), self._step_done)

    def _put_bitmap(self, first: int) -> None:
        bitmap = self._bitmap
        pages = range(first, min(first + CHUNK_PAGES, bitmap.page_count))
        if not pages:
            self._step_done()
            return
        data = b"".join(bitmap.page(page) for page in pages)

        def written() -> None:
            for page in pages:
                bitmap.page_written(page)
            self._put_bitmap(pages.stop)

        self._volume.bm_writes += len(pages)
        self._write(self._new.bm_offset_bytes + first * PAGE_BYTES, data, written)

    def _remember(self) -> None:
        backing = self._volume.backing
        assert backing is not None
        backing.remember(self._new.device_bytes, self._image.device_uuid)
        self._step_done()

    def _erase(self) -> None:
        pieces = [
            (at, min(ERASE_BYTES_MAX, offset + length - at))
            for offset, length in self._plan.erase
            for at in range(offset, offset + length, ERASE_BYTES_MAX)
        ]

        def again(errno: int = 0, _: Buffer | None = None) -> None:
            if errno:
                self._failed(errno)
            elif pieces and not self._meta.dead:
                at, size = pieces.pop(0)
                self._ctx.io.zero(self._volume, at, size, again, unmap=False, durable=True)
            else:
                self._step_done()

        again()

    # -- the end ------------------------------------------------------------------------------

    def _end(self, why: str) -> None:
        if not why:
            self._volume.layout = self._new
            self._volume.own_max_sectors = self._new.usable_sectors
        elif not self._counts:
            # What was written to the new place is not what the old one holds.
            self._bitmap.all_dirty()
            if self._log_place is not None:
                self._gate.log.return_to(self._log_place)
        self._meta.release(None if why else self._image)
        self._gate.release()
        self._told(why)
