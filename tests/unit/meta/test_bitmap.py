"""The out-of-sync bitmap and its dirty pages."""

from __future__ import annotations

import pytest
from bitarray import bitarray

from replblk.meta.bitmap import PAGE_BITS, Bitmap


def clean(bit_count: int) -> Bitmap:
    """A bitmap as the disk knows it."""
    bitmap = Bitmap(bit_count)
    write_out(bitmap)
    return bitmap


def write_out(bitmap: Bitmap) -> None:
    for page in bitmap.dirty_pages():
        bitmap.page(page)
        bitmap.page_written(page)


def test_set_and_clear_tell_what_changed() -> None:
    bitmap = Bitmap(100)
    assert bitmap.set(10, 20) == 10
    assert bitmap.set(15, 25) == 5
    assert bitmap.clear(0, 12) == 2
    assert bitmap.count == 13
    assert bitmap.set(5, 5) == bitmap.clear(9, 3) == 0


def test_bits_are_counted_from_the_least_significant_of_the_first_byte() -> None:
    bitmap = Bitmap(64)
    bitmap.set(0, 1)
    bitmap.set(9, 10)
    assert bitmap.page(0)[:3] == b"\x01\x02\x00"


def test_next_bits() -> None:
    bitmap = Bitmap(100)
    bitmap.set(10, 12)
    assert [bitmap.next_set(at) for at in (0, 10, 11, 12, 100, 500)] == [10, 10, 11, *[None] * 3]
    assert [bitmap.next_clear(at) for at in (0, 10, 99, 100)] == [0, 12, 99, None]
    assert bitmap.any(0, 11)
    assert not bitmap.any(0, 10)
    assert not bitmap.any(11, 11)
    assert bitmap.count_range(11, 100) == 1


@pytest.mark.parametrize(("first", "end"), [(-1, 5), (99, 101)])
def test_ranges_outside_the_device_are_bugs(first: int, end: int) -> None:
    with pytest.raises(AssertionError):
        Bitmap(100).set(first, end)


def test_only_changed_pages_are_dirty() -> None:
    bitmap = clean(4 * PAGE_BITS)
    bitmap.clear(0, PAGE_BITS)
    assert bitmap.dirty_pages() == []
    bitmap.set(PAGE_BITS - 1, PAGE_BITS + 1)
    assert bitmap.dirty_pages() == [0, 1]
    assert list(bitmap.pages_of(PAGE_BITS - 1, PAGE_BITS + 1)) == [0, 1]
    assert list(bitmap.pages_of(7, 7)) == []


def test_a_new_bitmap_is_unknown_to_the_disk() -> None:
    assert Bitmap(PAGE_BITS + 1, 1).dirty_pages() == [0, 1]


def test_a_page_changed_while_it_is_written_stays_dirty() -> None:
    bitmap = clean(PAGE_BITS)
    bitmap.set(0, 1)
    bitmap.page(0)
    bitmap.set(1, 2)
    bitmap.page_written(0)
    assert bitmap.is_dirty(0)
    write_out(bitmap)
    assert not bitmap.is_dirty(0)


def test_padding_is_neither_counted_nor_written() -> None:
    bitmap = Bitmap(100)
    bitmap.load(b"\xff" * 4096)
    assert bitmap.count == 100
    assert bitmap.page(0) == b"\xff" * 12 + b"\x0f" + bytes(4083)
    assert bitmap.dirty_pages() == []


def test_pages_can_be_loaded_one_by_one() -> None:
    bitmap = Bitmap(2 * PAGE_BITS + 8, 1)
    bitmap.load(bytes(4096), 1)
    assert (bitmap.count, bitmap.dirty_pages()) == (PAGE_BITS + 8, [0, 2])
    bitmap.load(b"\x0f" + bytes(4095), 2)
    assert (bitmap.count, bitmap.dirty_pages()) == (PAGE_BITS + 4, [0])


def test_all_bits_at_once() -> None:
    bitmap = clean(PAGE_BITS + 100)
    bitmap.set(5, 10)
    assert bitmap.set_all() == PAGE_BITS + 95
    assert bitmap.count == PAGE_BITS + 100
    assert bitmap.dirty_pages() == [0, 1]
    write_out(bitmap)
    assert bitmap.clear_all() == PAGE_BITS + 100
    assert (bitmap.count, bitmap.dirty_pages()) == (0, [0, 1])


def test_merge_keeps_the_union() -> None:
    bitmap = clean(3 * PAGE_BITS)
    bitmap.set(0, 10)
    write_out(bitmap)
    other = bitarray(3 * PAGE_BITS, endian="little")
    other[5:15] = 1
    other[2 * PAGE_BITS] = 1
    assert bitmap.merge(other) == 6
    assert (bitmap.count, bitmap.dirty_pages()) == (16, [0, 2])
    assert bitmap.merge(other) == 0


def test_growth_marks_the_new_part_out_of_sync_and_dirty() -> None:
    bitmap = clean(PAGE_BITS - 10)
    bitmap.resize(2 * PAGE_BITS, 1)
    assert (bitmap.count, bitmap.next_set(0)) == (PAGE_BITS + 10, PAGE_BITS - 10)
    assert bitmap.dirty_pages() == [0, 1]


def test_growth_assumed_clean_is_still_to_be_written() -> None:
    bitmap = clean(PAGE_BITS)
    bitmap.resize(3 * PAGE_BITS, 0)
    assert (bitmap.count, bitmap.dirty_pages()) == (0, [1, 2])


def test_shrinking_forgets_what_lies_beyond() -> None:
    bitmap = Bitmap(3 * PAGE_BITS, 1)
    bitmap.resize(PAGE_BITS + 1, 0)
    assert (len(bitmap), bitmap.count, bitmap.dirty_pages()) == (
        PAGE_BITS + 1,
        PAGE_BITS + 1,
        [0, 1],
    )


def test_a_tebibyte_is_lean() -> None:
    """2^28 bits take 32 MiB and nothing per bit besides."""
    bitmap = Bitmap(1 << 28)
    assert bitmap.bits.nbytes == 32 << 20
    assert bitmap.set_all() == 1 << 28
    assert bitmap.page_count == 8192
