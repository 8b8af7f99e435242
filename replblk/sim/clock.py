"""The Clock port: virtual time with an origin of its own on each machine, and seeded chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replblk.sim.machine import Life


class SimClock:
    """Monotonic time of one life; the origin differs from machine to machine."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._world = life.machine.world
        self._chance = self._world.chance(f"clock/{life.machine.name}/{life.number}")
        self._origin_ns = self._world.chance(f"origin/{life.machine.name}").randrange(1 << 50)
        self._wish = 0

    def now_ns(self) -> int:
        """Nanoseconds since an arbitrary moment."""
        return self._world.now_ns + self._origin_ns + self._life.machine.clock_shift_ns

    def wake_at(self, when_ns: int | None) -> None:
        """Wake the node then; None: never mind."""
        if self._life.dead:
            return
        self._wish += 1
        if when_ns is not None:
            shift = self._origin_ns + self._life.machine.clock_shift_ns
            self._world.at(when_ns - shift, self._wake, self._wish)

    def random_bits(self, count: int) -> int:
        """That many random bits."""
        return self._chance.getrandbits(count)

    def _wake(self, wish: int) -> None:
        if wish == self._wish and not self._life.dead:
            self._life.machine.deliver(self._life, "on_wake")
