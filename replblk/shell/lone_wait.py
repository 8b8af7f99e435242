"""Whether it is worth staying in the kernel until the only operation on a disk has ended.

With one request at a time, going round the loop costs as much as the disk does. Whether requests
come one at a time shows by what came before; so does whether the disk is quick enough for it.
"""

from __future__ import annotations

import time

LINGER_NS = 400_000
"""A lone operation is waited for up to this long before the loop goes on. The loop's other work
comes later by no more than that, and only where there was none before."""
LONE_MIN = 8
"""So many operations in a row had the disk for themselves: the next one is waited for."""
NOT_LONE = -64
"""Where the count begins again when waiting was in vain."""
ARRIVED_MEANWHILE_NS = 30_000
"""An operation that comes this soon after a wait has probably waited for its end."""


class LoneWait:
    """What came before, on one disk."""

    def __init__(self) -> None:
        self._lone = 0
        """Operations in a row that were alone on the disk; below 0: not worth looking."""
        self._ended_ns = 0
        """When the last wait ended."""

    def not_alone(self) -> None:
        """Operations are in flight together."""
        if self._lone > 0:
            self._lone = 0

    def pays(self) -> bool:
        """One is about to be submitted, and no other is in flight: is it to be waited for?"""
        self._lone += 1
        if self._lone < LONE_MIN:
            return False
        if time.monotonic_ns() - self._ended_ns < ARRIVED_MEANWHILE_NS:
            self._lone = 0
            return False
        return True

    def ended(self) -> None:
        """A wait is over."""
        self._ended_ns = time.monotonic_ns()

    def in_vain(self) -> None:
        """And nothing had ended by then."""
        self._lone = NOT_LONE
