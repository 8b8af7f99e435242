"""Which 4 KiB blocks the peer lacks, one bit each, and which pages of it the disk lacks.

Bit n covers data sectors 8n..8n+7; it is bit n % 8, counted from the least significant, of byte
n // 8. Ranges are half-open: *first* <= bit < *end*. The memory copy is authoritative. A *page* is
4 KiB of the bitmap on disk, 32768 bits (128 MiB of data). Bits past the device are kept 0.

A page is dirty from a change until ``page_written``, which counts only if nothing in it changed
since ``page`` took its bytes. At most one write of a page may be under way at a time.
"""

from __future__ import annotations

from collections.abc import Iterable

from bitarray import bitarray

from replblk.meta.layout import BLOCK_BYTES, bm_bytes

PAGE_BYTES = BLOCK_BYTES
PAGE_BITS = PAGE_BYTES * 8


class Bitmap:
    """The out-of-sync bitmap of one volume. All pages of a new one are dirty."""

    def __init__(self, bit_count: int, fill: int = 0) -> None:
        self.bits = bitarray(bit_count, endian="little")
        self.bits.setall(fill)
        self._count = bit_count if fill else 0
        self._dirty: set[int] = set(range(self.page_count))
        self._taken: set[int] = set()

    def __len__(self) -> int:
        return len(self.bits)

    @property
    def count(self) -> int:
        """Bits set, kept up to date by every change."""
        return self._count

    @property
    def page_count(self) -> int:
        """Pages on disk."""
        return bm_bytes(len(self.bits)) // PAGE_BYTES

    def set(self, first: int, end: int) -> int:
        """Set a range; how many of its bits were clear before."""
        return self._fill(first, end, 1)

    def clear(self, first: int, end: int) -> int:
        """Clear a range; how many of its bits were set before."""
        return self._fill(first, end, 0)

    def set_all(self) -> int:
        """Set every bit; how many were clear before. Every page becomes dirty."""
        changed = self._fill(0, len(self.bits), 1)
        self._touch(range(self.page_count))
        return changed

    def clear_all(self) -> int:
        """Clear every bit; how many were set before. Every page becomes dirty."""
        changed = self._fill(0, len(self.bits), 0)
        self._touch(range(self.page_count))
        return changed

    def merge(self, other: bitarray) -> int:
        """Set the bits that are set in *other* (of the same length); how many were clear before."""
        assert len(other) == len(self.bits), "the bitmaps of two different sizes can't be merged"
        gained = 0
        for page in range(self.page_count):
            first = page * PAGE_BITS
            end = min(first + PAGE_BITS, len(self.bits))
            if other.find(1, first, end) < 0:
                continue
            before = self.bits.count(1, first, end)
            self.bits[first:end] |= other[first:end]
            if change := self.bits.count(1, first, end) - before:
                gained += change
                self._touch((page,))
        self._count += gained
        return gained

    def next_set(self, start: int) -> int | None:
        """The first set bit at or after *start*."""
        return self._find(1, start)

    def next_clear(self, start: int) -> int | None:
        """The first clear bit at or after *start*."""
        return self._find(0, start)

    def any(self, first: int, end: int) -> bool:
        """Whether a bit in the range is set."""
        return first < end and self.bits.find(1, first, end) >= 0

    def count_range(self, first: int, end: int) -> int:
        """Bits set in the range."""
        return self.bits.count(1, first, end) if first < end else 0

    def resize(self, bit_count: int, fill: int) -> None:
        """Grow (new bits are *fill*) or shrink; pages that are new or partly new become dirty."""
        old = len(self.bits)
        if bit_count < old:
            self._count -= self.bits.count(1, bit_count, old)
            del self.bits[bit_count:]
            pages = self.page_count
            self._dirty = {page for page in self._dirty if page < pages}
            self._taken = {page for page in self._taken if page < pages}
            self._touch(range(bit_count // PAGE_BITS, pages))
            return
        if old:
            self.bits.extend(bitarray(bit_count - old, endian="little"))
        else:  # a fresh disk's first size: to extend would take the memory twice
            self.bits = bitarray(bit_count, endian="little")
        self.bits[old:] = 1 if fill else 0
        self._count += bit_count - old if fill else 0
        self._touch(range(old // PAGE_BITS, self.page_count))

    def load(self, data: bytes, first_page: int = 0) -> None:
        """Take the bits of whole pages as read from disk, which from now on knows them.

        data: pages from *first_page* on; what lies past the last bit is ignored.
        """
        assert len(data) % PAGE_BYTES == 0
        first = first_page * PAGE_BITS
        end = min(first + len(data) * 8, len(self.bits))
        loaded = bitarray(endian="little")
        loaded.frombytes(data)
        self._count -= self.count_range(first, end)
        self.bits[first:end] = loaded[: end - first] if end - first < len(loaded) else loaded
        self._count += self.count_range(first, end)
        pages = range(first_page, first_page + len(data) // PAGE_BYTES)
        self._dirty.difference_update(pages)
        self._taken.difference_update(pages)

    def pages_of(self, first: int, end: int) -> range:
        """Pages that hold the bits of a range."""
        return range(first // PAGE_BITS, (end - 1) // PAGE_BITS + 1) if first < end else range(0)

    def dirty_pages(self) -> list[int]:
        """Pages that the disk does not hold as they are, ascending."""
        return sorted(self._dirty)

    def all_dirty(self) -> None:
        """What the disk holds is not known any more: every page is to be written again."""
        self._touch(range(self.page_count))

    def is_dirty(self, page: int) -> bool:
        """Whether the disk does not hold the page as it is."""
        return page in self._dirty

    def page(self, page: int) -> bytes:
        """The 4096 bytes of a page, to be written now."""
        self._taken.add(page)
        return self.look_at(page)

    def look_at(self, page: int) -> bytes:
        """The 4096 bytes of a page, to be told: it stays as dirty as it is."""
        assert 0 <= page < self.page_count
        data = self.bits[page * PAGE_BITS : (page + 1) * PAGE_BITS].tobytes()
        return data.ljust(PAGE_BYTES, b"\0")

    def page_written(self, page: int) -> None:
        """The bytes that ``page`` gave last are durable."""
        if page in self._taken:
            self._taken.remove(page)
            self._dirty.discard(page)

    def _fill(self, first: int, end: int, value: int) -> int:
        if first >= end:
            return 0
        assert 0 <= first < end <= len(self.bits), f"bits {first}..{end} of {len(self.bits)}"
        changed = self.bits.count(1 - value, first, end)
        if changed:
            self.bits[first:end] = value
            self._count += changed if value else -changed
            self._touch(self.pages_of(first, end))
        return changed

    def _touch(self, pages: Iterable[int]) -> None:
        self._dirty.update(pages)
        if self._taken:
            self._taken.difference_update(pages)

    def _find(self, value: int, start: int) -> int | None:
        if start >= len(self.bits):
            return None
        found = self.bits.find(value, start)
        return found if found >= 0 else None
