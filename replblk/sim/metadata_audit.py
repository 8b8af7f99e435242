"""Judges the metadata on a drive whenever a piece of them is written: would a crash now be covered?

Asked when the write is given to the drive, as if it were durable at once, and when it is done, from
what is durable then: between the two, a crash leaves the one or the other. What stands there must
decode, and must cover every block in which the nodes could differ after

* a power cut of this node: with the other's bitmap and unconfirmed writes, as it lives on;
* a power cut of both: with what is durable there.

A block could differ if the contents differ now, or those that are durable, or if a write to it is
in flight or in a volatile cache on a side that loses power. A node marks a block in its bitmap, or
by an extent in its activity log if its superblock says that it is Primary.

What a failed flush left is not judged: it reads as if it were there, and a power cut takes it. Such
a disk is failed for good; if it is used again all the same, nothing on it can tell.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from replblk.meta.al_transaction import Transaction, replay
from replblk.meta.bitmap import Bitmap
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.errors import MetadataError
from replblk.model.generation import JUST_CREATED
from replblk.model.units import AL_EXTENT_BITS
from replblk.sim.image import AL_BLOCKS
from replblk.sim.store import PAGE_BYTES, SECTOR_BYTES, differing_after, differing_pages
from replblk.sim.world import SimulationError

if TYPE_CHECKING:
    from replblk.sim.client import Workload
    from replblk.sim.disk import Drive
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.store import Store

Writes = list[tuple[int, bytes | None, int]]
Overlay = tuple[int, bytes] | None
"""Offset and bytes of a metadata write that is taken for done."""
SECTORS_PER_PAGE = PAGE_BYTES // SECTOR_BYTES


class Marks:
    """What one node says may differ. everything: all of it, by a flag or as fresh metadata."""

    def __init__(self) -> None:
        self.everything = False
        self.bitmap: Bitmap | None = None
        self.ring: tuple[bytes, ...] = ()
        """The activity log of a Primary, to be read when somebody asks for it."""
        self.unconfirmed: list[range] = []

    def uncovered(self, pages: Collection[int]) -> Collection[int]:
        """Those of the blocks that are not among them."""
        if self.everything or not pages:
            return ()
        bits = self.bitmap.bits if self.bitmap is not None else None
        if bits is not None and bits.any():
            count = len(bits)
            pages = [page for page in pages if page >= count or not bits[page]]
        if pages and self.ring:
            hot = _hot(self.ring)
            pages = [page for page in pages if page // AL_EXTENT_BITS not in hot]
        for of in self.unconfirmed if pages else ():
            told = range(of.start // SECTORS_PER_PAGE, -(-of.stop // SECTORS_PER_PAGE))
            pages = [page for page in pages if page not in told]
        return pages


class MetadataAudit:
    """Judges single writes; whether there is anything to judge, ``checkers`` knows."""

    def __init__(self, network: Network, workload: Workload) -> None:
        self._network = network
        self._workload = workload

    def judge(self, drive: Drive, overlay: Overlay) -> None:
        """A piece of metadata goes to *drive* (overlay), or has been written there (None)."""
        own = durable_marks(drive, overlay)
        other = self._network.other(drive.machine)
        theirs = other.drives[drive.volume]
        end = self._workload.sizes_sectors[drive.volume] * SECTOR_BYTES
        when = "being written" if overlay else "written"
        open_, theirs_open = _in_flight(drive, end), _in_flight(theirs, end)
        store, there = drive.store, theirs.store
        unsure = _changing(store, open_) | store.undecided_pages(end)
        doubtful = store.doubtful_pages()
        contents = [store.pages, store.durable_pages()] if store.undecided() else [store.pages]
        differing = [(here, differing_pages(here, there.pages, end)) for here in contents]
        if (alive := live_marks(other, drive.volume)) is not None:
            pages = set(unsure)
            for here, found in differing:
                if theirs_open:  # whoever lives finishes what it has begun
                    pages.update(differing_after(found, here, there.pages, theirs_open, end))
                else:
                    pages.update(found)
            pages -= doubtful | there.lost_pages
            self._demand(pages, own, alive, drive, f"a power cut of {drive.machine} ({when})")
        pages = unsure.union(*[found for _, found in differing])
        if there.undecided():
            durable = there.durable_pages()
            pages.update(*[differing_pages(here, durable, end) for here in contents])
        pages |= _changing(there, theirs_open) | there.undecided_pages(end)
        pages -= doubtful | there.doubtful_pages()
        if pages:
            both = f"a power cut of both ({when} on {drive.machine})"
            self._demand(pages, own, durable_marks(theirs, None), drive, both)

    def _demand(self, pages: set[int], own: Marks, peers: Marks, drive: Drive, when: str) -> None:
        if left := peers.uncovered(own.uncovered(pages)):
            raise SimulationError(
                f"I4: vol {drive.volume} block {min(left)} could differ after {when}, and would be "
                "marked nowhere"
            )


def _in_flight(drive: Drive, end: int) -> Writes:
    """Writes to the data that have not been answered."""
    if drive.holder is None:
        return []
    return [write for write in drive.holder.in_flight_writes() if write[0] < end]


def _changing(store: Store, writes: Writes) -> set[int]:
    """Pages that writes in flight may leave different: not those that hold just that, durably."""
    pages: set[int] = set()
    for offset, data, length in writes:
        whole = bytes(length) if data is None else data
        for page in range(offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES + 1):
            start = max(offset, page * PAGE_BYTES)
            end = min(offset + length, (page + 1) * PAGE_BYTES)
            part = whole[start - offset : end - offset]
            there = store.read(start, end - start), store.read_durable(start, end - start)
            if there != (part, part):
                pages.add(page)
    return pages


def live_marks(machine: Machine, volume: int) -> Marks | None:
    """What a running node marks; None if it does not run, or has no disk."""
    node = machine.node
    if node is None or node.volumes[volume].bitmap is None:
        return None
    marks = Marks()
    marks.bitmap = node.volumes[volume].bitmap
    marks.unconfirmed = [sectors for of, sectors in node.unconfirmed if of == volume]
    return marks


def durable_marks(drive: Drive, overlay: Overlay) -> Marks:
    """What the metadata on a drive would mark after a power cut; they must decode."""
    store, marks = drive.store, Marks()
    layout, superblock = _found(drive, overlay)
    flags = superblock.flags
    if MdFlag.FULL_SYNC in flags or superblock.uuids.current == JUST_CREATED:
        marks.everything = True
        return marks
    length = layout.al_offset_bytes - layout.bm_offset_bytes
    blocks = -(-layout.usable_sectors // SECTORS_PER_PAGE)
    marks.bitmap = _bitmap(_durable(store, layout.bm_offset_bytes, length, overlay), blocks)
    if MdFlag.PRIMARY_IND in flags:
        ring, end = layout.al_offset_bytes, layout.al_offset_bytes + AL_BLOCKS * PAGE_BYTES
        marks.ring = tuple(
            [_durable(store, at, PAGE_BYTES, overlay) for at in range(ring, end, PAGE_BYTES)]
        )
        if overlay is not None and drive.zone(overlay[0]) == "al":
            _hot(marks.ring)  # whether it can be read at all
    return marks


# What was read once need not be read again: most of the metadata are as they were at the last look.
# The store gives the same objects then, whose hashes are known.
_internal = lru_cache(maxsize=64)(Layout.internal)
_transaction = lru_cache(maxsize=64)(Transaction.decode)


@lru_cache(maxsize=16)
def _bitmap(data: bytes, count: int) -> Bitmap:
    bitmap = Bitmap(count)
    bitmap.load(data)
    return bitmap


@lru_cache(maxsize=64)
def _hot(ring: tuple[bytes, ...]) -> frozenset[int]:
    found = replay(ring, _transaction)
    if not found.usable:
        raise SimulationError("I10: no usable activity log on a disk that was a Primary's")
    return frozenset(found.extents)


@lru_cache(maxsize=64)
def _superblock(block: bytes, size_bytes: int) -> Superblock | str:
    """What it says, or why it is none of a device of that size."""
    try:
        return Superblock.decode(block, partial(Layout.internal, size_bytes))
    except MetadataError as error:
        return str(error)


def durable_superblock(drive: Drive) -> Superblock:
    """What the superblock of a drive would say after a power cut now."""
    return _found(drive, None)[1]


def _found(drive: Drive, overlay: Overlay) -> tuple[Layout, Superblock]:
    """What an attach would find: metadata at the end, else where they were last known to be."""
    trouble = ""
    for size in dict.fromkeys((drive.store.size_bytes, drive.known[0])):
        layout = _internal(size)
        block = _durable(drive.store, layout.md_offset_bytes, PAGE_BYTES, overlay)
        found = _superblock(block, size)
        if not isinstance(found, str):
            return layout, found
        trouble = found
    raise SimulationError(f"I10: the superblock of {drive.machine} is bad: {trouble}")


def _durable(store: Store, offset: int, length: int, overlay: Overlay) -> bytes:
    durable = store.read_durable(offset, length)
    if overlay is None:
        return durable
    at, data = overlay
    start, end = max(at, offset), min(at + len(data), offset + length)
    if start >= end:
        return durable
    return durable[: start - offset] + data[start - at : end - at] + durable[end - offset :]
