"""The bitmap against a list of booleans, and its dirty pages against a model of the disk."""

from __future__ import annotations

import hypothesis.strategies as st
from bitarray import bitarray
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from replblk.meta.bitmap import PAGE_BITS, Bitmap

BITS = st.integers(0, 3 * PAGE_BITS)
SIZES = st.integers(1, 3 * PAGE_BITS)


class BitmapAgainstNaive(RuleBasedStateMachine):
    """Every operation on both; the disk holds the pages that were written."""

    @initialize(size=SIZES, fill=st.booleans())
    def start(self, size: int, fill: bool) -> None:
        self.bitmap = Bitmap(size, int(fill))
        self.naive = bytearray([fill]) * size
        self.disk: dict[int, bytes] = {}
        self.writing: dict[int, bytes] = {}

    def _range(self, one: int, other: int) -> tuple[int, int]:
        size = len(self.naive)
        first, end = sorted((one % (size + 1), other % (size + 1)))
        return first, end

    @rule(one=BITS, other=BITS, value=st.booleans())
    def fill(self, one: int, other: int, value: bool) -> None:
        first, end = self._range(one, other)
        changed = self.naive.count(int(not value), first, end)
        act = self.bitmap.set if value else self.bitmap.clear
        assert act(first, end) == changed
        self.naive[first:end] = bytes([value]) * (end - first)

    @rule(bits=st.lists(BITS, max_size=10))
    def merge(self, bits: list[int]) -> None:
        other = bitarray(len(self.naive), endian="little")
        wanted = {bit % len(self.naive) for bit in bits}
        for bit in wanted:
            other[bit] = 1
        assert self.bitmap.merge(other) == sum(not self.naive[bit] for bit in wanted)
        for bit in wanted:
            self.naive[bit] = 1

    @rule(size=SIZES, fill=st.booleans())
    def resize(self, size: int, fill: bool) -> None:
        grown = max(0, size - len(self.naive))
        self.naive = self.naive[:size] + bytearray([fill]) * grown
        self.writing.clear()  # the node writes the whole bitmap anew
        self.bitmap.resize(size, int(fill))
        for page in range(self.bitmap.page_count):
            self.disk[page] = self.bitmap.page(page)
            self.bitmap.page_written(page)

    @rule(start=BITS)
    def look(self, start: int) -> None:
        one, zero = self.naive.find(1, start), self.naive.find(0, start)
        assert self.bitmap.next_set(start) == (one if one >= 0 else None)
        assert self.bitmap.next_clear(start) == (zero if zero >= 0 else None)
        first, end = self._range(start, 7 * start)
        assert self.bitmap.count_range(first, end) == self.naive.count(1, first, end)
        assert self.bitmap.any(first, end) == (1 in self.naive[first:end])

    @rule(which=st.integers(0, 3))
    def begin_write(self, which: int) -> None:
        dirty = [page for page in self.bitmap.dirty_pages() if page not in self.writing]
        if dirty:
            page = dirty[which % len(dirty)]
            self.writing[page] = self.bitmap.page(page)

    @rule()
    def end_writes(self) -> None:
        for page, data in self.writing.items():
            self.disk[page] = data
            self.bitmap.page_written(page)
        self.writing.clear()

    @invariant()
    def count_is_right(self) -> None:
        assert len(self.bitmap) == len(self.naive)
        assert self.bitmap.count == self.naive.count(1)

    @invariant()
    def disk_knows_what_is_not_dirty(self) -> None:
        written = bitarray(endian="little")
        written.pack(bytes(self.naive))
        for page in set(range(self.bitmap.page_count)) - set(self.bitmap.dirty_pages()):
            bits = written[page * PAGE_BITS : (page + 1) * PAGE_BITS]
            assert self.disk[page] == bits.tobytes().ljust(4096, b"\0")

    @invariant()
    def reload_gives_the_same(self) -> None:
        again = Bitmap(len(self.naive))
        raw = self.bitmap.bits.tobytes()
        again.load(raw.ljust(again.page_count * 4096, b"\xff"))
        assert again.bits == self.bitmap.bits
        assert again.count == self.bitmap.count


TestBitmapAgainstNaive = BitmapAgainstNaive.TestCase
TestBitmapAgainstNaive.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
