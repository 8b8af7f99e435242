"""Who may touch a range of a volume now: writers alone, readers together, in order of arrival.

A lock is granted when it overlaps no earlier conflicting lock, granted or waiting. So overlapping
writes reach disk and peer in one order on both nodes, a resync read never sees a half-done write,
and nobody starves. Ranges are in sectors, half-open.
"""

from __future__ import annotations

from collections.abc import Callable

_BUCKET_SHIFT = 11  # 1 MiB: a request of the largest size touches at most two buckets


Go = Callable[["RangeLock"], None]


class RangeLock:
    """One request's claim on a range; ``granted`` says whether it may go on."""

    __slots__ = ("blocked_by", "blocks", "end", "exclusive", "go", "granted", "start")

    def __init__(self, start: int, end: int, exclusive: bool, go: Go) -> None:
        self.start = start
        self.end = end
        self.exclusive = exclusive
        self.go = go
        self.granted = False
        self.blocked_by = 0
        self.blocks: list[RangeLock] | None = None

    def grant(self) -> None:
        """The range is had. Whoever waited is forgotten: a request that knows its claim, and is
        known to it, would stay in memory with its data until the interpreter looks for cycles."""
        go, self.go = self.go, _told
        self.granted = True
        go(self)


def _told(claim: RangeLock) -> None:
    raise AssertionError("a range was granted twice")


class Ranges:
    """The claims on one volume."""

    def __init__(self) -> None:
        self._buckets: dict[int, list[RangeLock]] = {}

    def claim(self, sector: int, size_bytes: int, *, exclusive: bool) -> RangeLock | None:
        """``lock`` for one that nobody is in the way of: its claim, granted.

        None: ``lock`` has to look, for somebody is, or the range crosses from one MiB to another.
        """
        end = sector + (size_bytes >> 9)
        buckets = self._buckets
        first = sector >> _BUCKET_SHIFT
        if first != (end - 1) >> _BUCKET_SHIFT:
            return None
        bucket = buckets.get(first)
        claim = RangeLock(sector, end, exclusive, _told)
        if bucket is None:
            buckets[first] = [claim]
        else:
            for other in bucket:
                if other.start < end and sector < other.end and (exclusive or other.exclusive):
                    return None
            bucket.append(claim)
        claim.granted = True
        return claim

    def lock(self, sector: int, size_bytes: int, go: Go, *, exclusive: bool) -> None:
        """Claim a range; *go* gets the claim once it is granted: maybe before this returns."""
        claim = RangeLock(sector, sector + (size_bytes >> 9), exclusive, go)
        buckets = self._buckets
        first, last = claim.start >> _BUCKET_SHIFT, (claim.end - 1) >> _BUCKET_SHIFT
        if first == last and first not in buckets:
            buckets[first] = [claim]
            claim.grant()
            return
        seen: list[RangeLock] = []
        for key in range(first, last + 1):
            bucket = buckets.get(key)
            if bucket is None:
                buckets[key] = [claim]
                continue
            for other in bucket:
                if (
                    other.start < claim.end
                    and claim.start < other.end
                    and (exclusive or other.exclusive)
                    and other not in seen
                ):
                    seen.append(other)
                    if other.blocks is None:
                        other.blocks = []
                    other.blocks.append(claim)
                    claim.blocked_by += 1
            bucket.append(claim)
        if not claim.blocked_by:
            claim.grant()

    def free(self, sector: int, size_bytes: int) -> bool:
        """Whether an exclusive claim on the range would be granted at once."""
        end = sector + (size_bytes >> 9)
        for key in range(sector >> _BUCKET_SHIFT, ((end - 1) >> _BUCKET_SHIFT) + 1):
            for other in self._buckets.get(key, ()):
                if other.start < end and sector < other.end:
                    return False
        return True

    def release(self, claim: RangeLock) -> None:
        """Give a granted claim back, and let go on whoever waited for it alone."""
        assert claim.granted
        buckets = self._buckets
        first, last = claim.start >> _BUCKET_SHIFT, (claim.end - 1) >> _BUCKET_SHIFT
        for key in range(first, last + 1):
            bucket = buckets[key]
            if len(bucket) == 1:
                assert bucket[0] is claim
                del buckets[key]
            else:
                bucket.remove(claim)
        if claim.blocks is None:
            return
        blocked, claim.blocks = claim.blocks, None
        for waiter in blocked:
            waiter.blocked_by -= 1
            if not waiter.blocked_by:
                waiter.grant()

    def __len__(self) -> int:
        return len({id(claim) for bucket in self._buckets.values() for claim in bucket})
