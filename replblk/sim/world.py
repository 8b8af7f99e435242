"""Virtual time and chance: a heap of events, and everything random of a run from one seed.

Times are integer nanoseconds from the start of the run. Events of the same moment happen in the
order in which they were asked for. Every part of a run draws from a stream of its own (``chance``),
so that one part drawing more does not change what the others see.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop as _pop
from heapq import heappush as _push

from replblk.sim.transcript import Transcript

SECOND_NS = 1_000_000_000
MILLI_NS = 1_000_000
MICRO_NS = 1_000

Action = Callable[..., None]


class SimulationError(Exception):
    """The run is over: an invariant was violated, a contract broken, or nothing ever ended."""


class World:
    """The one place where time passes."""

    def __init__(self, seed: int | str, events_max: int = 3_000_000) -> None:
        self.seed = seed
        self.now_ns = 0
        self.events = 0
        self.events_max = events_max
        self.transcript = Transcript()
        self.marks: Counter[str] = Counter()
        """Named things that happened in this run: see ``mark``."""
        self._heap: list[tuple[int, int, Action, tuple[object, ...]]] = []
        self._sequence = 0
        self._note = self.transcript.entries.append

    def chance(self, name: str) -> random.Random:
        """The stream of random numbers of that name: the same for the same seed."""
        return random.Random(f"{self.seed}/{name}")

    def note(self, who: str, text: str, *args: object) -> None:
        """Write a line of the transcript. *args* fill its ``{}`` when somebody reads it."""
        self._note((self.now_ns, who, text, args))

    def mark(self, name: str) -> None:
        """Count something that should happen in some runs: proof that faults reach far enough."""
        self.marks[name] += 1

    def at(self, when_ns: int, action: Action, *args: object) -> None:
        """Do something at that moment, or now if the moment is past."""
        self._sequence = sequence = self._sequence + 1
        when = when_ns if when_ns > self.now_ns else self.now_ns
        _push(self._heap, (when, sequence, action, args))

    def after(self, delay_ns: int, action: Action, *args: object) -> None:
        """Do something that much later, or now if that is not later."""
        self._sequence = sequence = self._sequence + 1
        when = self.now_ns + delay_ns if delay_ns > 0 else self.now_ns
        _push(self._heap, (when, sequence, action, args))

    def run_until(self, predicate: Callable[[], bool], limit_ns: int) -> bool:
        """Let time pass until *predicate* holds; False if it doesn't within *limit_ns* from now."""
        end = self.now_ns + limit_ns
        heap = self._heap
        while not predicate():
            if not heap or heap[0][0] > end:
                self.now_ns = end
                return predicate()
            self.now_ns, _, action, args = _pop(heap)
            self.events += 1
            if self.events > self.events_max:
                raise SimulationError(f"no end in sight after {self.events_max} events")
            action(*args)
        return True

    def run_for(self, duration_ns: int) -> None:
        """Let that much time pass."""
        self.run_until(lambda: False, duration_ns)
