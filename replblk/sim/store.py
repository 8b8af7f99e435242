"""The contents of a drive with a volatile cache: what reads return, and what a power cut leaves.

``pages`` is what a read returns now; ``_base`` is what is safe. Between them lies a log of
completed writes in completion order, each durable or not. A write becomes durable by itself
(``durable``), or by a flush that began after it completed; the log's durable head is folded into
the base. At a power cut every write of the log that is not durable is kept, dropped or torn at 512
bytes, each by itself; in their order, because a drive that kept a newer sector never brings an
older one back.

Offsets and lengths are bytes, multiples of 512. Pages of zeroes are not kept, so that two stores
hold the same exactly if their dictionaries are equal.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Iterable

PAGE_BYTES = 4096
SECTOR_BYTES = 512
_ZERO_PAGE = bytes(PAGE_BYTES)

Pages = dict[int, bytes]


class _Entry:
    """A completed write (data None: zeroes) that a power cut may undo. doomed: no flush helps."""

    __slots__ = ("data", "doomed", "durable", "length", "number", "offset")

    def __init__(
        self, number: int, offset: int, data: bytes | None, length: int, durable: bool
    ) -> None:
        self.number = number
        self.offset = offset
        self.data = data
        self.length = length
        self.durable = durable
        self.doomed = False


class Store:
    """One drive's contents, sparse."""

    def __init__(self, size_bytes: int) -> None:
        assert size_bytes % SECTOR_BYTES == 0
        self.size_bytes = size_bytes
        self.pages: Pages = {}
        self._base: Pages = {}
        self._log: deque[_Entry] = deque()
        self._written = 0
        self.lost_pages: set[int] = set()
        """Pages that a power cut has changed, for a flush of what they held had failed; until they
        are written anew."""

    def grow(self, size_bytes: int) -> None:
        """The drive has more room from now on; what is new reads as zeroes."""
        assert size_bytes >= self.size_bytes and size_bytes % SECTOR_BYTES == 0
        self.size_bytes = size_bytes

    # -- reading ------------------------------------------------------------------------------

    def read(self, offset: int, length: int) -> bytes:
        """What the drive returns now."""
        return _read(self.pages, offset, length)

    def read_durable(self, offset: int, length: int) -> bytes:
        """What would be left of that range if every undecided write were lost."""
        pages = self._base
        if not self._log:
            return _read(pages, offset, length)
        entries = [
            e
            for e in self._log
            if e.durable and e.offset < offset + length and offset < e.offset + e.length
        ]
        if entries:
            first, last = offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES
            pages = {n: pages[n] for n in range(first, last + 1) if n in pages}
            for entry in entries:
                _apply(pages, entry.offset, entry.data, entry.length)
        return _read(pages, offset, length)

    def durable_pages(self) -> Pages:
        """What would be left of everything if every undecided write were lost."""
        entries = [entry for entry in self._log if entry.durable]
        if not entries:
            return self._base
        pages = dict(self._base)
        for entry in entries:
            _apply(pages, entry.offset, entry.data, entry.length)
        return pages

    def undecided_pages(self, end: int) -> set[int]:
        """Numbers of the pages below *end* of which a power cut may leave one thing or another.

        What was written later, and is durable, stands whatever becomes of what was there before.
        """
        sectors: set[int] = set()
        for entry in self._log:
            if entry.offset < end:
                stop = min(entry.offset + entry.length, end)
                touched = range(entry.offset // SECTOR_BYTES, stop // SECTOR_BYTES)
                if entry.durable:
                    sectors.difference_update(touched)
                else:
                    sectors.update(touched)
        return {sector * SECTOR_BYTES // PAGE_BYTES for sector in sectors}

    def doubtful_pages(self) -> set[int]:
        """Numbers of the pages that nothing on the drive can tell of: a flush of them failed, and a
        power cut will change them, or has done so."""
        return self._doomed_pages() | self.lost_pages

    def _doomed_pages(self) -> set[int]:
        return {
            page
            for entry in self._log
            if entry.doomed
            for page in range(
                entry.offset // PAGE_BYTES, (entry.offset + entry.length - 1) // PAGE_BYTES + 1
            )
        }

    # -- writing ------------------------------------------------------------------------------

    def preset(self, offset: int, data: bytes) -> None:
        """Contents from before the run: there, and durable."""
        assert not self._log
        _apply(self.pages, offset, data, len(data))
        _apply(self._base, offset, data, len(data))

    def write(self, offset: int, data: bytes | None, length: int, *, durable: bool) -> None:
        """A write completed; None writes zeroes."""
        assert offset >= 0
        assert offset + length <= self.size_bytes
        _apply(self.pages, offset, data, length)
        self._written += 1
        if durable and self.lost_pages:
            whole = range(-(-offset // PAGE_BYTES), (offset + length) // PAGE_BYTES)
            self.lost_pages.difference_update(whole)
        if durable and not self._log:  # nothing is undecided: both hold the same
            pages, base = self.pages, self._base
            for number in range(offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES + 1):
                if number in pages:
                    base[number] = pages[number]
                else:
                    base.pop(number, None)
            return
        self._log.append(_Entry(self._written, offset, data, length, durable))

    def write_count(self) -> int:
        """How many writes have completed: what a flush that begins now will cover."""
        return self._written

    def flushed(self, covers: int) -> None:
        """A flush succeeded that began when ``write_count`` was *covers*."""
        for entry in self._log:
            if entry.number <= covers and not entry.doomed:
                entry.durable = True
        while self._log and self._log[0].durable:
            entry = self._log.popleft()
            _apply(self._base, entry.offset, entry.data, entry.length)

    def flush_failed(self, chance: random.Random) -> None:
        """A flush failed: some of what it should have covered will never be durable."""
        for entry in self._log:
            if not entry.durable and chance.random() < 0.5:
                entry.doomed = True

    def undecided(self) -> int:
        """How many completed writes are not durable."""
        return sum(not e.durable for e in self._log)

    def snapshot(self) -> Pages:
        """A copy of all that a read would return now."""
        return dict(self.pages)

    def restore(self, pages: Pages) -> None:
        """The whole drive is as it was at a ``snapshot``, durably; nobody may have it open."""
        self.pages, self._base = dict(pages), dict(pages)
        self._log.clear()

    # -- the end ------------------------------------------------------------------------------

    def kill(
        self, in_flight: Iterable[tuple[int, bytes | None, int]], chance: random.Random
    ) -> None:
        """The process died: what completed stays; what was in flight may be there, or in part.

        A write that waits in a queue of the process dies with it, so "in flight" decides nothing.
        """
        for offset, data, length in in_flight:
            for part in _fate(offset, data, length, chance, 0.4, 0.3):
                self.write(*part, durable=False)

    def power_cut(
        self, in_flight: Iterable[tuple[int, bytes | None, int]], chance: random.Random
    ) -> None:
        """The power failed: see the head of this file."""
        keep, tear = chance.choice(((0.5, 0.2), (0.0, 0.0), (0.0, 0.5), (0.9, 0.05), (0.3, 0.3)))
        pages, doomed, shown = self._base, self._doomed_pages(), self.pages
        for entry in self._log:
            if entry.durable:
                _apply(pages, entry.offset, entry.data, entry.length)
            else:
                whole = (entry.offset, entry.data, entry.length)
                for part in _fate(*whole, chance, keep, tear):
                    _apply(pages, *part)
        for whole in in_flight:
            for part in _fate(*whole, chance, keep, tear):
                _apply(pages, *part)
        self._log.clear()
        self._base = pages
        self.pages = dict(pages)
        self.lost_pages.update(page for page in doomed if shown.get(page) != pages.get(page))


def sectors_of(pages: Pages, end_bytes: int) -> list[int]:
    """Numbers of the sectors below *end_bytes* that may hold something else than zeroes, sorted."""
    per_page = PAGE_BYTES // SECTOR_BYTES
    end = end_bytes // SECTOR_BYTES
    return [
        sector
        for page in sorted(pages)
        for sector in range(page * per_page, (page + 1) * per_page)
        if sector < end
    ]


def differing_pages(a: Pages, b: Pages, end_bytes: int) -> list[int]:
    """Numbers of the 4 KiB pages below *end_bytes* in which two contents differ, sorted."""
    end = -(-end_bytes // PAGE_BYTES)
    there = b.get
    found = [n for n, page in a.items() if there(n, _ZERO_PAGE) != page and n < end]
    found += [n for n in b if n < end and n not in a]
    tail = end_bytes % PAGE_BYTES
    if tail and end - 1 in found:
        last = end - 1
        if a.get(last, _ZERO_PAGE)[:tail] == b.get(last, _ZERO_PAGE)[:tail]:
            found.remove(last)
    return sorted(found)


def differing_after(
    found: list[int],
    a: Pages,
    b: Pages,
    writes: Collection[tuple[int, bytes | None, int]],
    end_bytes: int,
) -> set[int]:
    """What ``differing_pages`` of *a* and *b* is once these writes are done to *b*.

    found: what it is now. Writes are (offset, data or None, length).
    """
    touched: set[int] = set()
    for offset, _, length in writes:
        touched.update(range(offset // PAGE_BYTES, (offset + length - 1) // PAGE_BYTES + 1))
    after = {number: b[number] for number in touched if number in b}
    for offset, data, length in writes:
        _apply(after, offset, data, length)
    there = {number: a[number] for number in touched if number in a}
    return set(found) - touched | set(differing_pages(there, after, end_bytes))


def _fate(
    offset: int, data: bytes | None, length: int, chance: random.Random, keep: float, tear: float
) -> list[tuple[int, bytes | None, int]]:
    """What is left of an undecided write: all, nothing, or some of its sectors."""
    draw = chance.random()
    if draw < keep:
        return [(offset, data, length)]
    if draw >= keep + tear:
        return []
    parts: list[tuple[int, bytes | None, int]] = []
    if length > 64 * SECTOR_BYTES:  # a long one is cut once, at a sector
        cut = chance.randrange(length // SECTOR_BYTES) * SECTOR_BYTES
        return [(offset, None if data is None else data[:cut], cut)] if cut else []
    for at in range(0, length, SECTOR_BYTES):
        if chance.random() < 0.5:
            part = None if data is None else data[at : at + SECTOR_BYTES]
            parts.append((offset + at, part, SECTOR_BYTES))
    return parts


def _read(pages: Pages, offset: int, length: int) -> bytes:
    first, skip = divmod(offset, PAGE_BYTES)
    last = (offset + length - 1) // PAGE_BYTES
    if first == last:
        page = pages.get(first, _ZERO_PAGE)
        return page if length == PAGE_BYTES else page[skip : skip + length]
    whole = b"".join([pages.get(n, _ZERO_PAGE) for n in range(first, last + 1)])
    return whole if skip == 0 and len(whole) == length else whole[skip : skip + length]


def _apply(pages: Pages, offset: int, data: bytes | None, length: int) -> None:
    number, skip = divmod(offset, PAGE_BYTES)
    if data is not None and length == len(data) <= PAGE_BYTES - skip:  # within one page: nearly all
        _lay(pages, number, skip, data)
        return
    at = 0
    while at < length:
        number, skip = divmod(offset + at, PAGE_BYTES)
        size = min(PAGE_BYTES - skip, length - at)
        _lay(pages, number, skip, bytes(size) if data is None else data[at : at + size])
        at += size


def _lay(pages: Pages, number: int, skip: int, part: bytes) -> None:
    """Put bytes into one page, *skip* bytes from its start; pages of zeroes are not kept."""
    size = len(part)
    if size < PAGE_BYTES:
        old = pages.get(number, _ZERO_PAGE)
        part = old[:skip] + part + old[skip + size :]
    if part == _ZERO_PAGE:
        pages.pop(number, None)
    else:
        pages[number] = part
