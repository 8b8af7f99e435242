"""Which 4 MiB extents are hot, that is, may have writes in flight; says what must be durable first.

A write may touch the disk only while its extents are in the log *on disk*: after a crash, all of
them count as out of sync. The log is a cache of ``slots`` extents that changes by transactions:

    get(extent)          True: hot, and held until ``put``. False: it must go through a transaction
    prepare(extents)     -> Change: what to write. One at a time.
                            1. bitmap pages of ``change.evicted``, durable
                            2. ``change.transaction`` to its block of the ring, durable
    commit(change)       now ``change.taken`` are hot; those who waited call ``get`` again

From ``prepare`` on the evicted extents are no longer hot; a held extent is never evicted. Nothing
here writes: should a write of a change fail, the disk is lost, and this object with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from replblk.meta.al_transaction import (
    CONTEXT_SLOTS,
    FREE,
    NUMBER_MODULUS,
    UPDATES_MAX,
    Transaction,
    trimmed,
)

AL_EXTENTS_MAX = 65534
_BLOCKS_CLAMPED = 72
"""Up to so many ring blocks the context bounds the slots, above it AL_EXTENTS_MAX does."""


def clamp_extents(configured: int, al_blocks: int) -> int:
    """The number of slots a node uses for a configured al-extents.

    The ring but one block must hold the context of all slots, or a replay could miss some. The
    least that DRBD allows (67) is the configuration's affair: the simulator takes fewer, so that
    extents are evicted.
    """
    most = (al_blocks - 1) * CONTEXT_SLOTS if al_blocks <= _BLOCKS_CLAMPED else AL_EXTENTS_MAX
    return max(1, min(configured, most, AL_EXTENTS_MAX))


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that is to be written, and what it does to the cache."""

    transaction: Transaction
    evicted: tuple[int, ...]  # their changed bitmap pages must be durable before the transaction
    taken: tuple[int, ...]  # hot once it is durable; those asked for but not here did not fit


class ActivityLog:
    """The cache of hot extents of one volume.

    slots: how many extents may be hot (al-extents, see ``clamp_extents``).
    first_number: number of the first transaction; 0 on a ring that was just initialised.
    Every extent in the cache is in ``_slot_of``; it is either held (``_references``) or idle
    (``_idle``, least recently used first). ``_extent_in`` is the cache as the disk will know it.
    """

    def __init__(self, slots: int, first_number: int = 0) -> None:
        assert 0 < slots <= AL_EXTENTS_MAX
        self.slots = slots
        self.writes = 0
        self.next_number = 0
        self._cursor = 0
        self._extent_in: list[int] = []
        self._never_used = slots
        self._slot_of: dict[int, int] = {}
        self._references: dict[int, int] = {}
        self._idle: dict[int, None] = {}
        self._pending: Change | None = None
        self.clear()
        self.next_number = first_number

    def clear(self) -> None:
        """Forget every extent, since the ring on disk was initialised: numbers begin at 0 again.

        A torn very first transaction is then in the first block, where ``replay`` can tell it.
        """
        self.next_number = 0
        self._cursor = 0
        self._extent_in = [FREE] * self.slots
        self._never_used = self.slots  # slots below this one are free
        self._slot_of.clear()
        self._references.clear()
        self._idle.clear()
        self._pending = None

    def is_hot(self, extent: int) -> bool:
        """Whether writes into the extent may go to disk now."""
        return extent in self._slot_of

    def get(self, extent: int) -> bool:
        """Hold the extent if it is hot; each True is to be matched by one ``put``."""
        if extent not in self._slot_of:
            return False
        self._idle.pop(extent, None)
        self._references[extent] = self._references.get(extent, 0) + 1
        return True

    def put(self, extent: int) -> None:
        """Let go of the extent: a write in it is finished on both nodes, or marked out of sync."""
        left = self._references[extent] - 1
        assert left >= 0
        if left:
            self._references[extent] = left
        else:
            del self._references[extent]
            self._idle[extent] = None

    def put_all(self, extents: Iterable[int]) -> None:
        """``put`` for each."""
        references, idle = self._references, self._idle
        for extent in extents:
            left = references[extent] - 1
            assert left >= 0
            if left:
                references[extent] = left
            else:
                del references[extent]
                idle[extent] = None

    def prepare(self, extents: Iterable[int]) -> Change | None:
        """Gather cold extents into one transaction; None if all are hot or none fits now.

        extents: all that waiting requests need, hot ones too, most urgent first. Extents that
        nobody asked for are evicted first. If only asked-for ones are left, and nothing is held
        (so that waiting would never end), the least urgent of them makes room.
        """
        assert self._pending is None, "the previous change is not committed yet"
        wanted = dict.fromkeys(extents)
        cold = [extent for extent in wanted if extent not in self._slot_of][:UPDATES_MAX]
        if not cold:
            return None
        unused = list(range(self._never_used - 1, -1, -1)[: len(cold)])
        unasked = (extent for extent in self._idle if extent not in wanted)
        evicted = list(islice(unasked, len(cold) - len(unused)))
        if not unused and not evicted and not self._references:
            evicted = [extent for extent in wanted if extent in self._idle][-1:]
        slots = unused + [self._slot_of[extent] for extent in evicted]
        if not slots:
            return None

        updates = tuple(zip(slots, cold, strict=False))  # what doesn't fit waits
        change = Change(
            Transaction(self.next_number, updates, self.slots, self._cursor, self._context()),
            evicted=tuple(evicted),
            taken=tuple(extent for _, extent in updates),
        )
        self._never_used -= len(unused)
        for extent in evicted:
            del self._slot_of[extent], self._idle[extent]
        self._pending = change
        return change

    def commit(self, change: Change) -> None:
        """The change is durable: its extents are hot."""
        assert change is self._pending, "only the prepared change can be committed"
        self._pending = None
        for slot, extent in change.transaction.updates:
            self._extent_in[slot] = extent
            self._slot_of[extent] = slot
            self._idle[extent] = None
        self._advance()
        self.writes += 1

    def initial_blocks(self, al_blocks: int) -> list[bytes]:
        """Fill a new ring: entry t belongs at ``Layout.al_block_offset(t)``, all must be durable.

        Every block is a transaction without updates that tells (its part of) the present cache, so
        that a crash after this finds what is hot. From number 0 on, the next transaction has number
        *al_blocks*.
        """
        assert self._pending is None, "a change is being written to the old ring"
        if self.next_number + al_blocks > NUMBER_MODULUS:
            self.next_number = 0  # still the newest; across the wrap, two could claim one block
        blocks = [b""] * al_blocks
        for _ in range(al_blocks):
            at = self.next_number % al_blocks
            number, context = self.next_number, self._context()
            blocks[at] = Transaction(number, (), self.slots, self._cursor, context).encode()
            self._advance()
        return blocks

    @property
    def place(self) -> tuple[int, int]:
        """Where the next transaction goes and what it tells: for ``return_to``."""
        return self.next_number, self._cursor

    def return_to(self, place: tuple[int, int]) -> None:
        """Blocks were made and never written where they count: the ring is as it was."""
        self.next_number, self._cursor = place

    def hot_extents(self) -> list[int]:
        """All hot extents, ascending."""
        return sorted(self._slot_of)

    @property
    def held(self) -> int:
        """How many extents are held by requests."""
        return len(self._references)

    def _context(self) -> tuple[int, ...]:
        """What the slots from the cursor on hold now."""
        return trimmed(self._extent_in[self._cursor : self._cursor + CONTEXT_SLOTS])

    def _advance(self) -> None:
        """A transaction was written: the next number, the next part of the context."""
        self.next_number = (self.next_number + 1) % NUMBER_MODULUS
        self._cursor += CONTEXT_SLOTS
        if self._cursor >= self.slots:
            self._cursor = 0
