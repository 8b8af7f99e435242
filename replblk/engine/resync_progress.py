"""How far a resync is: totals, failures and the speed marks /proc/drbd shows."""

from __future__ import annotations

from collections import deque

from replblk.model.status import ResyncStatus

MARK_NS = 3_000_000_000
MARKS = 8
STALLED_NS = 180_000_000_000
_SECOND_NS = 1_000_000_000


class ResyncProgress:
    """One resync of one volume. Counts are 4 KiB blocks, times nanoseconds."""

    def __init__(self, total_bits: int, now_ns: int) -> None:
        self.total_bits = total_bits
        self.failed_bits = 0
        self.started_ns = now_ns
        self.equal_bits = 0
        self._marks: deque[tuple[int, int]] = deque([(now_ns, total_bits)], maxlen=MARKS)
        self._moved_ns = now_ns
        self._last_left = total_bits

    def advance(self, left_bits: int, now_ns: int) -> None:
        """Take note of how many blocks are left."""
        if left_bits != self._last_left:
            self._last_left, self._moved_ns = left_bits, now_ns
        if now_ns - self._marks[-1][0] >= MARK_NS:
            self._marks.append((now_ns, left_bits))

    def summary(self, now_ns: int, what: str = "Resync done") -> str:
        """DRBD's closing words: total time and mean speed."""
        seconds = max((now_ns - self.started_ns) / _SECOND_NS, 0.001)
        rate = int(self.total_bits * 4 / seconds)
        return f"{what} (total {int(seconds)} sec; paused 0 sec; {rate} K/sec)"

    def status(self, left_bits: int, now_ns: int, want_kib_s: int) -> ResyncStatus:
        """What status and metrics show."""
        done = max(self.total_bits - left_bits, 0)
        since, left_then = self._marks[0]
        recent = _rate(left_then - left_bits, now_ns - since)
        average = _rate(done, now_ns - self.started_ns)
        return ResyncStatus(
            total_kib=self.total_bits * 4,
            left_kib=left_bits * 4,
            percent_done=100.0 * done / self.total_bits if self.total_bits else 100.0,
            rate_kib_s=recent,
            rate_average_kib_s=average,
            want_kib_s=want_kib_s,
            seconds_left=left_bits * 4 // recent if recent > 0 else None,
            stalled=now_ns - self._moved_ns > STALLED_NS,
        )


def _rate(bits: int, elapsed_ns: int) -> int:
    return max(int(bits * 4 * _SECOND_NS / elapsed_ns), 0) if elapsed_ns > 0 else 0
