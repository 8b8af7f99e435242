"""Where the time of requests goes: one histogram for each phase of a journey, cheap enough to keep.

A bucket holds durations of less than its bound, each bound twice the one before: 8 microseconds to
17 seconds, and one for what is longer. Durations in nanoseconds. Times are taken once for each step
of the node and each batch of a disk, so what happens within one step counts as nothing; the work
itself is in the phases of a turn, each counted once for all requests of that turn. A duration is
only noted at first: it is sorted into its bucket with many others, or when somebody looks.
"""

from __future__ import annotations

from collections import Counter

_SHIFT = 13
BOUNDS_NS = tuple(1 << _SHIFT + number for number in range(22))
"""Upper bounds of all buckets but the last."""

PHASES = {
    "admission": "waits for overlapping requests and resync of the same range",
    "activity_log": "waits until the log that names its extent is durable",
    "disk_queue": "waits for the batch that is being written",
    "disk_write": "is written, and with few others flushed by the write itself",
    "disk_flush": "is flushed together with its batch",
    "disk": "from submission until durable on the local disk",
    "peer": "sent, durable on the peer, acknowledged",
    "write": "a write: from its arrival until its answer",
    "read": "a read: from its arrival until its answer",
    "parse": "received bytes of a client become requests",
    "step": "of a turn: packets, requests and answers are judged, what follows is decided",
    "send": "of a turn: packets are handed to the peer's sockets",
    "submit": "of a turn: reads and writes are handed to the disks; a lone one is waited for",
    "reply": "of a turn: answers are handed to the clients' sockets",
    "turn": "one turn of the daemon: step, send, submit, reply",
}
"""What each phase is. A write is: parse, admission, activity_log, then disk (queue, write, flush)
and peer (send, the peer's own disk, acknowledgement) side by side, reply."""


class Histogram:
    """Durations of one phase.

    gathered: durations that were noted and not counted yet. Who is in a hurry appends to it, and it
    stays the same list; somebody has to call ``count_gathered`` now and then. at_once: so many took
    no time, and are not counted yet.
    """

    __slots__ = ("_counts", "_sum_ns", "at_once", "gathered", "record")

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS_NS) + 1)
        self._sum_ns = 0
        self.gathered: list[int] = []
        self.at_once = 0
        self.record = self.gathered.append
        """One more."""

    def count_gathered(self) -> None:
        """Put what was gathered into the buckets. Other threads may go on gathering."""
        counts = self._counts
        counts[0] += self.at_once
        self.at_once = 0
        taken = self.gathered.copy()
        del self.gathered[: len(taken)]
        for duration_ns, count in Counter(taken).items():  # many of one step are alike
            number = (duration_ns >> _SHIFT).bit_length()
            counts[number if number < 22 else 22] += count
        self._sum_ns += sum(taken)

    @property
    def counts(self) -> list[int]:
        """How many there were, by bucket."""
        self.count_gathered()
        return self._counts

    @property
    def sum_ns(self) -> int:
        """How long all of them took together."""
        self.count_gathered()
        return self._sum_ns

    @property
    def count(self) -> int:
        """How many there were."""
        return sum(self.counts)

    def quantile_ns(self, share: float) -> int:
        """A bound that *share* (0 to 1) of all durations stay below; 0 without any, and twice the
        last bound for what is beyond all of them."""
        left = share * self.count
        if not left:
            return 0
        for number, count in enumerate(self.counts):
            left -= count
            if left <= 0:
                return BOUNDS_NS[0] << number
        return BOUNDS_NS[0] << len(BOUNDS_NS)


class Latencies:
    """A histogram for each of some phases, as attributes of these names."""

    admission: Histogram
    activity_log: Histogram
    disk_queue: Histogram
    disk_write: Histogram
    disk_flush: Histogram
    disk: Histogram
    peer: Histogram
    write: Histogram
    read: Histogram
    parse: Histogram
    step: Histogram
    send: Histogram
    submit: Histogram
    reply: Histogram
    turn: Histogram

    def __init__(self) -> None:
        self.phases = {name: Histogram() for name in PHASES}
        for name, histogram in self.phases.items():
            setattr(self, name, histogram)

    def count_gathered(self) -> None:
        """Put what was gathered into the buckets, so that it takes no memory."""
        for histogram in self.phases.values():
            if histogram.gathered or histogram.at_once:
                histogram.count_gathered()


def latency_text(latencies: Latencies) -> str:
    """A table for people: microseconds; quantiles are the bounds of buckets."""
    lines = [
        f"{'phase':13}{'count':>10}{'mean us':>10}{'p50 <':>9}{'p99 <':>9}{'p99.9 <':>9}  what"
    ]
    for name, found in latencies.phases.items():
        count = found.count
        mean_us = found.sum_ns / count / 1000 if count else 0.0
        quantiles = "".join(f"{found.quantile_ns(q) // 1000:9}" for q in (0.5, 0.99, 0.999))
        lines.append(f"{name:13}{count:10}{mean_us:10.0f}{quantiles}  {PHASES[name]}")
    return "\n".join(lines)
