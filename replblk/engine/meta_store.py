"""Every metadata write of a volume, in the right order: superblock, activity log, bitmap pages.

Superblock writes are serialised; each carries the volume as it is when the write begins, and
whoever asked before that moment is told when it is durable. Bitmap writes are serialised too, so
that no page is in flight twice. Any metadata error gives the disk up, whatever on-io-error says.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from replblk.meta.superblock import MdFlag, Superblock, flags_of
from replblk.model.vocabulary import DiskState

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.ports import Buffer
    from replblk.engine.volume import Volume
    from replblk.meta.al_transaction import Transaction
    from replblk.meta.bitmap import Bitmap

Told = Callable[[bool], None]
"""Called once: True when what was asked is durable, False when the disk failed meanwhile."""

PAGE_BYTES = 4096
RUN_BYTES_MAX = 1 << 20

PAGES_AT_ONCE = 2048
"""Bitmap pages copied and written together: 8 MiB. The 512 MiB of a device of 16 TiB at once would
hold the loop beyond ping-timeout, and double the memory."""


class MetaStore:
    """Metadata of one attached disk. All methods answer later, through *told*."""

    def __init__(
        self, ctx: Context, volume: Volume, superblock: Superblock, failed: Callable[[str], None]
    ) -> None:
        self._ctx = ctx
        self._volume = volume
        self._base = superblock
        self._failed = failed
        self._durable: bytes = b""
        self._durable_primary = False
        self._writing = False
        self._wishes: list[Told] = []
        self._bitmap_queue: deque[tuple[set[int] | None, Told]] = deque()
        self._bitmap_writing = False
        self._settled = volume.marks_withdrawn
        """How many of the marks withdrawn so far are of blocks whose data are durable."""
        self.full_sync = False
        """The on-disk bitmap is not to be believed: all of it counts as set (MdFlag.FULL_SYNC)."""
        self.growing_to = 0
        """The size that is being made durable, before clients see it; 0: none."""
        self.dead = False
        self._held = False
        self._holder: Told | None = None

    @property
    def marked_primary(self) -> bool:
        """Whether a crash now, and after what is being written now, would apply the activity log:
        the durable superblock says so, and the state does not ask to take it back."""
        return (
            self._durable_primary
            and MdFlag.PRIMARY_IND in self._base.flags
            and MdFlag.PRIMARY_IND in self.superblock().flags
        )

    # -- superblock ---------------------------------------------------------------------------

    def superblock(self) -> Superblock:
        """The superblock as it should be on disk now."""
        volume = self._volume
        old = MdFlag(self._base.flags)
        if volume.state.disk >= DiskState.INCONSISTENT:
            flags = flags_of(volume.state, volume.crashed_primary, old)
        else:
            flags = old & ~MdFlag.AL_CLEAN
        flags = flags | MdFlag.FULL_SYNC if self.full_sync else flags & ~MdFlag.FULL_SYNC
        return replace(
            self._base,
            la_size_sect=self.growing_to or volume.capacity_sectors,
            uuids=volume.uuids,
            flags=flags,
            la_peer_max_bio_size=volume.peer_max_bio_bytes or self._base.la_peer_max_bio_size,
        )

    def sync(self, told: Told | None = None) -> None:
        """Write the superblock unless the disk already holds just that; then tell."""
        if self.dead:
            if told is not None:
                self._ctx.defer(lambda: told(False))
            return
        if told is not None:
            self._wishes.append(told)
        self._go_on()

    def _go_on(self) -> None:
        """Write the superblock if somebody waits for it, unless the store is (being) held."""
        if not self._writing and not self._held and self._holder is None:
            self._write_superblock()

    def _write_superblock(self) -> None:
        """Write it as it is now, after the bitmap if it takes a warning back."""
        wanted = self.superblock()
        if wanted.encode() == self._durable:
            wishes, self._wishes = self._wishes, []
            for told in wishes:
                self._ctx.defer(lambda told=told: told(True))  # type: ignore[misc]
            return
        self._writing = True
        self._settle_for(wanted, frozenset())

    def _settle_for(self, wanted: Superblock, settled: frozenset[str]) -> None:
        """Write it once data and bitmap are durable for each warning that it takes back."""
        back = self._warnings_taken_back(wanted)
        if back <= settled:
            self._put_superblock()
            return

        def bitmap_written(ok: bool) -> None:
            if ok:  # it may have changed meanwhile: a demotion, while a resync ends
                self._settle_for(self.superblock(), back)
                return
            self._writing = False
            self._refuse_waiting()
            self._maybe_hold()

        def data_settled(ok: bool) -> None:
            if ok:
                self.write_bitmap(bitmap_written)
            else:
                bitmap_written(False)

        self.settle_data(data_settled)

    def _warnings_taken_back(self, wanted: Superblock) -> frozenset[str]:
        """Why a crash after this write would no longer look for blocks out of sync, if so.

        It would not apply the activity log any more, or not resync the peer or ourselves: then the
        bitmap on disk has to be as it is in memory.
        """
        base = self._base
        reasons = {
            "not Primary": MdFlag(base.flags) & ~wanted.flags & MdFlag.PRIMARY_IND,
            "not crashed": MdFlag(base.flags) & ~wanted.flags & MdFlag.CRASHED_PRIMARY,
            "consistent": wanted.flags & ~base.flags & MdFlag.CONSISTENT,
            "nothing for the peer": base.uuids.bitmap and not wanted.uuids.bitmap,
        }
        return frozenset(reason for reason, given in reasons.items() if given)

    def settle_data(self, told: Told) -> None:
        """Before metadata stop to warn of blocks: what was written to them has to be durable.

        With durability "disk" it is; with "kernel" the peer may have flushed it and we have not.
        """
        covers = self._volume.marks_withdrawn
        if self._ctx.persist or self.dead:
            told(not self.dead)
            return

        def flushed(errno: int, _: Buffer | None) -> None:
            if errno:
                self._die(f"flushing the data before the metadata failed (errno {errno})")
            self._settled = max(self._settled, covers)
            told(not self.dead)

        self._ctx.io.flush(self._volume, flushed)

    def _put_superblock(self) -> None:
        wanted = self.superblock()
        block = wanted.encode()
        wishes, self._wishes = self._wishes, []
        self._base = wanted
        layout = self._volume.layout
        assert layout is not None

        def done(errno: int, _: Buffer | None) -> None:
            self._writing = False
            if errno:
                self._die(f"writing the superblock failed (errno {errno})")
            else:
                self._durable = block
                self._durable_primary = MdFlag.PRIMARY_IND in wanted.flags
            for told in wishes:
                told(not self.dead)
            if self.dead:
                self._refuse_waiting()
            elif self._writing:
                pass  # whoever was told asked for another write at once
            elif self._wishes or self.superblock().encode() != self._durable:
                self._go_on()
            self._maybe_hold()

        self._ctx.io.write(self._volume, layout.md_offset_bytes, block, done)

    # -- moving -------------------------------------------------------------------------------

    def hold(self, told: Told) -> None:
        """Write nothing more until ``release``; tell when nothing is being written."""
        assert self._holder is None and not self._held, "the metadata are held already"
        self._holder = told
        self._maybe_hold()

    def _maybe_hold(self) -> None:
        if self._holder is None or self._writing or self._bitmap_writing or self._bitmap_queue:
            return
        told, self._holder = self._holder, None
        self._held = True
        self._ctx.defer(lambda: told(not self.dead))

    def release(self, written: Superblock | None) -> None:
        """Go on. written: the superblock that is on the disk now, at the layout's place."""
        self._held = False
        if written is not None:
            self._base, self._durable = written, written.encode()
        if self.dead:
            self._refuse_waiting()
        elif self._wishes or (self._durable and self.superblock().encode() != self._durable):
            self._go_on()
        self._write_pages()

    def failed(self, why: str) -> None:
        """Whoever holds the store could not write what has to be on the disk."""
        self._die(why)

    # -- activity log -------------------------------------------------------------------------

    def write_al(self, transaction: Transaction, told: Told) -> None:
        """Write one activity-log block to its place in the ring."""
        layout = self._volume.layout
        assert layout is not None

        def done(errno: int, _: Buffer | None) -> None:
            if errno:
                self._die(f"writing the activity log failed (errno {errno})")
            told(not self.dead)

        if self.dead:
            self._ctx.defer(lambda: told(False))
            return
        offset = layout.al_block_offset(transaction.number)
        self._ctx.io.write(self._volume, offset, transaction.encode(), done)

    # -- bitmap -------------------------------------------------------------------------------

    def write_bitmap(self, told: Told | None = None, only: Iterable[int] | None = None) -> None:
        """Make the changed bitmap pages durable, or those of *only* that changed; then tell."""
        self._bitmap_queue.append(
            (None if only is None else set(only), told if told is not None else _nobody)
        )
        if not self._bitmap_writing:
            self._write_pages()

    def _write_pages(self) -> None:
        while self._bitmap_queue and not self._bitmap_writing and not self._held:
            only, told = self._bitmap_queue.popleft()
            bitmap, layout = self._volume.bitmap, self._volume.layout
            if self.dead or bitmap is None or layout is None:
                self._ctx.defer(lambda told=told: told(False))  # type: ignore[misc]
                continue
            pages = bitmap.dirty_pages()
            if only is not None:
                pages = [page for page in pages if page in only]
            if not pages:
                self._ctx.defer(lambda told=told: told(not self.dead))  # type: ignore[misc]
                continue
            self._bitmap_writing = True
            left = 0
            rest = set(pages[PAGES_AT_ONCE:])
            runs = list(_runs(pages[:PAGES_AT_ONCE]))

            def done(
                first: int,
                count: int,
                errno: int,
                told: Told = told,
                bitmap: Bitmap = bitmap,
                rest: set[int] = rest,
            ) -> None:
                nonlocal left
                left -= 1
                if errno:
                    self._die(f"writing the bitmap failed (errno {errno})")
                else:
                    for page in range(first, first + count):
                        bitmap.page_written(page)
                if left:
                    return
                self._bitmap_writing = False
                if rest and not self.dead:
                    self._bitmap_queue.appendleft((rest, told))
                else:
                    told(not self.dead)
                self._write_pages()
                self._maybe_hold()

            left = len(runs)
            # As they are now: what is marked from here on makes the page dirty once more.
            taken = [(first, count, _joined(bitmap, first, count)) for first, count in runs]

            def settled(
                ok: bool,
                told: Told = told,
                taken: list[tuple[int, int, bytes]] = taken,
                start: int = layout.bm_offset_bytes,
            ) -> None:
                if not ok:
                    self._bitmap_writing = False
                    told(False)
                    self._write_pages()
                    return
                for first, count, data in taken:
                    self._volume.bm_writes += count
                    self._ctx.io.write(
                        self._volume,
                        start + first * PAGE_BYTES,
                        data,
                        lambda errno, _, first=first, count=count: done(first, count, errno),  # type: ignore[misc]
                    )

            if self._volume.marks_withdrawn > self._settled:
                self.settle_data(settled)
            else:
                settled(True)

    def set_all(self, told: Told) -> None:
        """All blocks are out of sync: durably, by way of the full-sync flag; tell when it is so.

        The flag goes first, so that a crash half-way still means "everything".
        """
        bitmap = self._volume.bitmap
        assert bitmap is not None
        self.full_sync = True
        bitmap.set_all()

        def flagged(ok: bool) -> None:
            if ok:
                self.write_bitmap(written)
            else:
                told(False)

        def written(ok: bool) -> None:
            if ok:
                self.full_sync = False
                self.sync(told)
            else:
                told(False)

        self.sync(flagged)

    # -- failure ------------------------------------------------------------------------------

    def _die(self, why: str) -> None:
        if not self.dead:
            self.dead = True
            self._failed(why)

    def stop(self) -> None:
        """Nothing more is written: the disk is being given up."""
        self.dead = True
        if not self._writing:
            self._refuse_waiting()
        self._maybe_hold()

    def _refuse_waiting(self) -> None:
        wishes, self._wishes = self._wishes, []
        for told in wishes:
            told(False)


def _nobody(ok: bool) -> None:
    """Nobody asked to be told; a failure gives the disk up by itself."""


def _joined(bitmap: Bitmap, first: int, count: int) -> bytes:
    return b"".join(bitmap.page(page) for page in range(first, first + count))


def _runs(pages: list[int]) -> Iterable[tuple[int, int]]:
    """Sorted page numbers as (first, count) runs of at most RUN_BYTES_MAX."""
    first, count = pages[0], 1
    for page in pages[1:]:
        if page == first + count and count < RUN_BYTES_MAX // PAGE_BYTES:
            count += 1
        else:
            yield first, count
            first, count = page, 1
    yield first, count
