"""How many 4 KiB blocks to request in this tenth of a second: DRBD's feedback controller.

It aims at a fixed amount of data on the way (c-fill-target) or a fixed age of the answers
(c-delay-target), spreading every correction over c-plan-ahead ticks. Integer arithmetic throughout,
divisions truncate toward zero; sectors, unless named otherwise. Local behaviour: a peer only sees
when requests come. Used by the sync target and by whoever starts a verify.
"""

from __future__ import annotations

from collections import deque

from replblk.model.config import DiskOptions
from replblk.model.units import BIT_SECTORS

TICK_NS = 100_000_000
_SECTORS_PER_TICK = 5
"""KiB/s divided by this are sectors per tick: 2 sectors a KiB, 10 ticks a second."""
_BLOCKS_PER_TICK = 40
"""KiB/s divided by this are 4 KiB blocks per tick."""


class RateController:
    """The plan of one resync or verify run; a new run (or new options) takes a new controller.

    max_buffers: net option, in pages of 4 KiB; half of them may be on the way.
    """

    def __init__(self, options: DiskOptions, max_buffers: int = 2048) -> None:
        self._options = options
        self._blocks_in_flight_max = max_buffers // 2
        self._plan: deque[int] = deque([0] * options.c_plan_ahead)
        self._plan_total = 0
        self._in_flight = 0
        self._want_kib_s = options.resync_rate

    @property
    def in_flight_sectors(self) -> int:
        """Sectors requested and not answered."""
        return self._in_flight

    @property
    def want_kib_s(self) -> int:
        """What the controller aims at now, for status text."""
        return self._want_kib_s

    def blocks_this_tick(self, sectors_in: int) -> int:
        """Blocks to request now; sectors_in: answered since the last call.

        What is then really requested is told by ``requested``.
        """
        started_empty = self._in_flight == 0
        self._in_flight = max(0, self._in_flight - sectors_in)
        if self._plan:
            sectors = self._planned(sectors_in, started_empty=started_empty)
            self._want_kib_s = sectors * _SECTORS_PER_TICK
            blocks = sectors // BIT_SECTORS
        else:
            self._want_kib_s = self._options.resync_rate
            blocks = self._options.resync_rate // _BLOCKS_PER_TICK
        room = self._blocks_in_flight_max - self._in_flight // BIT_SECTORS
        return max(0, min(blocks, room))

    def requested(self, blocks: int) -> None:
        """So many blocks were requested; their answers come back as sectors_in."""
        self._in_flight += blocks * BIT_SECTORS

    def _planned(self, sectors_in: int, *, started_empty: bool) -> int:
        options, plan = self._options, self._plan
        ahead = len(plan)
        if started_empty:
            goal = options.resync_rate // _SECTORS_PER_TICK * ahead
        elif options.c_fill_target:
            goal = options.c_fill_target
        else:
            goal = sectors_in * options.c_delay_target
        step = _truncated(goal - self._in_flight - self._plan_total, ahead)
        for slot in range(ahead):
            plan[slot] += step
        due = plan.popleft()
        plan.append(0)
        self._plan_total += step * ahead - due
        return min(max(sectors_in + due, 0), options.c_max_rate // _SECTORS_PER_TICK)


def _truncated(dividend: int, divisor: int) -> int:
    """Integer division toward zero, as C has it; divisor > 0."""
    return -(-dividend // divisor) if dividend < 0 else dividend // divisor
