"""Who may touch a range: a few cases by hand; the rest is in tests/property."""

from __future__ import annotations

import weakref

import pytest

from replblk.engine.admission import RangeLock, Ranges


def claim(ranges: Ranges, sector: int, size: int, *, exclusive: bool = True) -> list[RangeLock]:
    """Claim; the list fills when it is granted."""
    granted: list[RangeLock] = []
    ranges.lock(sector, size, granted.append, exclusive=exclusive)
    return granted


def test_a_free_range_is_granted_at_once() -> None:
    ranges = Ranges()
    granted = claim(ranges, 0, 4096)
    assert granted[0].granted
    assert len(ranges) == 1
    ranges.release(granted[0])
    assert len(ranges) == 0


def test_readers_share_and_a_writer_waits_for_all_of_them() -> None:
    ranges = Ranges()
    one, two = (claim(ranges, 0, 4096, exclusive=False) for _ in range(2))
    writer = claim(ranges, 0, 512)
    assert one
    assert two
    assert not writer
    ranges.release(one[0])
    assert not writer
    ranges.release(two[0])
    assert writer


def test_a_reader_does_not_pass_a_writer_that_waits() -> None:
    ranges = Ranges()
    reader = claim(ranges, 0, 4096, exclusive=False)
    writer = claim(ranges, 0, 4096)
    late = claim(ranges, 0, 4096, exclusive=False)
    assert not late
    ranges.release(reader[0])
    assert writer
    assert not late
    ranges.release(writer[0])
    assert late


def test_neighbours_do_not_wait() -> None:
    ranges = Ranges()
    first = claim(ranges, 0, 4096)
    second = claim(ranges, 8, 4096)
    assert first
    assert second


@pytest.mark.parametrize("start", [2047, 2048, 4087])
def test_across_the_border_of_two_buckets(start: int) -> None:
    ranges = Ranges()
    wide = claim(ranges, 2040, 1 << 20)
    inside = claim(ranges, start, 512)
    assert wide
    assert not inside
    ranges.release(wide[0])
    assert inside


def test_free_tells_whether_a_writer_would_be_granted_now() -> None:
    ranges = Ranges()
    assert ranges.free(0, 4096)
    reader = claim(ranges, 4, 512, exclusive=False)
    assert not ranges.free(0, 4096)
    assert ranges.free(8, 4096)
    ranges.release(reader[0])
    assert ranges.free(0, 4096)


def test_a_claim_may_be_released_from_inside_its_grant() -> None:
    ranges = Ranges()
    first = claim(ranges, 0, 4096)
    order: list[int] = []

    def brief(number: int) -> None:
        def go(lock: RangeLock) -> None:
            order.append(number)
            ranges.release(lock)

        ranges.lock(0, 4096, go, exclusive=True)

    for number in range(5):
        brief(number)
    assert order == []
    ranges.release(first[0])
    assert order == [0, 1, 2, 3, 4]
    assert len(ranges) == 0


def test_a_granted_claim_does_not_keep_its_request_in_memory() -> None:
    class Request:
        lock: RangeLock

    ranges, request = Ranges(), Request()
    first = claim(ranges, 0, 4096)

    def granted(lock: RangeLock, request: Request = request) -> None:
        request.lock = lock

    ranges.lock(0, 4096, granted, exclusive=True)
    ranges.release(first[0])
    ranges.release(request.lock)
    seen = weakref.ref(request)
    del granted, request
    assert seen() is None, "not without a search for cycles"
