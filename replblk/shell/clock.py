"""The Clock port: the machine's monotonic clock and its source of randomness.

``wake_at`` is called after nearly every step with a slightly later moment. A timer that would ring
too early is left alone and set again when it rings, so that a busy node costs no timer at all.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable

_MS = 1_000_000


class MonotonicClock:
    """``engine.ports.Clock``; on_wake is called on the loop's thread, never before its time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_wake: Callable[[], None]) -> None:
        self._loop = loop
        self._on_wake = on_wake
        self._when_ns: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = 0

    now_ns = staticmethod(time.monotonic_ns)
    """Nanoseconds since the machine started (CLOCK_MONOTONIC)."""

    def wake_at(self, when_ns: int | None) -> None:
        """Ring then; replaces the earlier wish, None withdraws it."""
        self._when_ns = when_ns
        if when_ns is None or (self._timer is not None and self._timer_ns <= when_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._set(when_ns, time.monotonic_ns())

    def random_bits(self, count: int) -> int:
        """*count* unpredictable bits."""
        return secrets.randbits(count)

    def close(self) -> None:
        """No more ringing."""
        self._when_ns = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set(self, when_ns: int, now_ns: int) -> None:
        # The loop counts whole milliseconds: less than one would ring at once, again and again.
        delay_ms = (when_ns - now_ns + _MS - 1) // _MS if when_ns > now_ns else 0
        self._timer_ns = when_ns
        self._timer = self._loop.call_later(delay_ms / 1000, self._ring)

    def _ring(self) -> None:
        self._timer = None
        when_ns = self._when_ns
        if when_ns is None:
            return
        now_ns = time.monotonic_ns()
        if now_ns < when_ns:
            # The wish moved, or the loop's timer rang early.
            self._set(when_ns, now_ns)
            return
        self._when_ns = None
        self._on_wake()
