"""Which owners hold a range that overlaps this one: the core of admission.

Ranges are half-open, in sectors. An owner (a request, a resync read, ...) holds at most one range;
ranges of different owners may overlap, whether they may *proceed* is decided elsewhere. Invariants:
entries are sorted by start, then by the order they came; no range is longer than ``_longest``.
Adding and removing is a bisection and a shift of a list of some hundred entries; a query looks only
at entries that start within the longest range before its own.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Hashable
from typing import Generic, TypeVar

Owner = TypeVar("Owner", bound=Hashable)


class Intervals(Generic[Owner]):
    """A set of sector ranges with owners."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, int]] = []  # start, serial, end
        self._owners: dict[int, Owner] = {}  # by serial
        self._held: dict[Owner, tuple[int, int, int]] = {}
        self._serial = 0
        self._longest = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, owner: Owner) -> bool:
        return owner in self._held

    def add(self, start: int, end: int, owner: Owner) -> None:
        """*owner* holds sectors start to end-1 from now on; it must not hold a range already."""
        assert 0 <= start < end, f"empty or negative range [{start}, {end})"
        assert owner not in self._held, f"{owner!r} holds a range already"
        self._serial += 1
        entry = (start, self._serial, end)
        insort(self._entries, entry)
        self._owners[self._serial] = owner
        self._held[owner] = entry
        self._longest = max(self._longest, end - start)

    def remove(self, owner: Owner) -> None:
        """*owner* gives its range back; KeyError if it holds none."""
        entry = self._held.pop(owner)
        del self._owners[entry[1]]
        del self._entries[bisect_left(self._entries, entry)]
        if not self._entries:
            self._longest = 0

    def range_of(self, owner: Owner) -> tuple[int, int]:
        """Start and end of the range *owner* holds; KeyError if it holds none."""
        start, _, end = self._held[owner]
        return start, end

    def overlapping(self, start: int, end: int) -> list[Owner]:
        """Owners with a sector in start to end-1, by start, then age; [] for an empty range."""
        if start >= end:
            return []
        found = []
        for index in range(
            bisect_left(self._entries, (start - self._longest,)), len(self._entries)
        ):
            entry_start, serial, entry_end = self._entries[index]
            if entry_start >= end:
                break
            if entry_end > start:
                found.append(self._owners[serial])
        return found

    def any_overlap(self, start: int, end: int) -> bool:
        """Whether anybody holds a sector in start to end-1."""
        return bool(self.overlapping(start, end))
