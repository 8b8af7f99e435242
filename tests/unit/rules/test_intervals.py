"""Ranges with owners: overlap, age, and what is a mistake of the caller."""

from __future__ import annotations

import pytest

from replblk.rules.intervals import Intervals


def test_half_open_ranges_touch_without_overlapping() -> None:
    held: Intervals[str] = Intervals()
    held.add(8, 16, "write")
    assert held.overlapping(0, 8) == []
    assert held.overlapping(16, 24) == []
    assert held.overlapping(15, 16) == ["write"]
    assert held.overlapping(0, 100) == ["write"]
    assert held.any_overlap(7, 9)
    assert not held.any_overlap(16, 17)


def test_an_empty_range_overlaps_nothing() -> None:
    held: Intervals[int] = Intervals()
    held.add(0, 100, 1)
    assert held.overlapping(50, 50) == []


def test_a_long_range_far_before_is_found() -> None:
    held: Intervals[str] = Intervals()
    held.add(0, 262144, "trim")
    for number in range(100):
        held.add(300 + number * 8, 308 + number * 8, f"write {number}")
    assert held.overlapping(200_000, 200_008) == ["trim"]
    assert held.overlapping(300, 309) == ["trim", "write 0", "write 1"]


def test_equal_ranges_come_out_oldest_first() -> None:
    held: Intervals[str] = Intervals()
    for owner in ("c", "a", "b"):
        held.add(8, 16, owner)
    assert held.overlapping(8, 9) == ["c", "a", "b"]


def test_removing_gives_exactly_ones_own_range_back() -> None:
    held: Intervals[str] = Intervals()
    held.add(8, 16, "a")
    held.add(8, 16, "b")
    assert held.range_of("b") == (8, 16)
    held.remove("a")
    assert held.overlapping(0, 100) == ["b"]
    assert ("a" in held, "b" in held, len(held)) == (False, True, 1)
    held.remove("b")
    held.add(0, 8, "a")
    assert held.overlapping(0, 100) == ["a"]


@pytest.mark.parametrize(("start", "end"), [(8, 8), (9, 8), (-1, 8)])
def test_an_empty_or_negative_range_is_our_mistake(start: int, end: int) -> None:
    with pytest.raises(AssertionError):
        Intervals[str]().add(start, end, "a")


def test_an_owner_holds_one_range() -> None:
    held: Intervals[str] = Intervals()
    held.add(0, 8, "a")
    with pytest.raises(AssertionError, match="holds a range already"):
        held.add(100, 108, "a")
    with pytest.raises(KeyError):
        held.remove("nobody")
