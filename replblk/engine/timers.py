"""Named deadlines of a node on one wake-up port: set, cancel, run what is due."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from replblk.engine.ports import Clock


class Timers:
    """Deadlines by name; setting a name again replaces its deadline. Nanoseconds throughout."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._due: dict[Hashable, tuple[int, Callable[[], None]]] = {}
        self.now_ns = 0
        """The moment ``run_due`` looked at last: that of the running step."""
        self._armed: int | None = None
        self._earliest: int | None = None
        """No deadline is before this one."""
        self._gone = False
        """The earliest one was cancelled or moved: look at all of them before the step ends."""
        self.moved = False
        """Whether ``arm`` may have something to tell the clock."""

    def set(self, name: Hashable, delay_ns: int, action: Callable[[], None]) -> None:
        """Run *action* once, *delay_ns* from now."""
        when = self._clock.now_ns() + delay_ns
        before = self._due.get(name)
        if before is not None and before[0] == self._earliest:
            self._gone = self.moved = True
        self._due[name] = (when, action)
        if self._earliest is None or when < self._earliest:
            self._earliest = when
            self.moved = True

    def cancel(self, name: Hashable) -> None:
        """Forget a deadline; harmless if there is none."""
        entry = self._due.pop(name, None)
        if entry is not None and entry[0] == self._earliest:
            self._gone = self.moved = True

    def pending(self, name: Hashable) -> bool:
        """Whether that deadline is set."""
        return name in self._due

    def run_due(self) -> bool:
        """Run everything whose time has come, earliest first; True if anything ran."""
        now = self.now_ns = self._clock.now_ns()
        if self._earliest is None or now < self._earliest:
            return False
        ripe = sorted(
            (
                (when, at, name)
                for at, (name, (when, _)) in enumerate(self._due.items())
                if when <= now
            ),
            key=lambda item: item[:2],
        )
        for when, _, name in ripe:
            entry = self._due.get(name)
            if entry is not None and entry[0] == when:
                del self._due[name]
                entry[1]()
        self._gone = self.moved = True
        return bool(ripe)

    def arm(self) -> None:
        """Tell the clock the earliest deadline; called when a step ends that ``moved`` one."""
        self.moved = False
        if self._gone:
            self._gone = False
            self._earliest = min((when for when, _ in self._due.values()), default=None)
        if self._earliest != self._armed:
            self._armed = self._earliest
            self._clock.wake_at(self._earliest)

    def woken(self) -> None:
        """The clock's wish was fulfilled: the next ``arm`` must wish again."""
        self._armed = None
        self.moved = True
