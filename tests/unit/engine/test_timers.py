"""Deadlines by name on one wake-up wish."""

from __future__ import annotations

from replblk.engine.timers import Timers


class FakeClock:
    """Time stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 0
        self.wishes: list[int | None] = []

    def now_ns(self) -> int:
        return self.now

    def wake_at(self, when_ns: int | None) -> None:
        self.wishes.append(when_ns)

    def random_bits(self, count: int) -> int:
        return 0


def timers() -> tuple[Timers, FakeClock, list[str]]:
    clock = FakeClock()
    return Timers(clock), clock, []


def test_a_deadline_runs_once_when_it_is_due_and_not_before() -> None:
    it, clock, ran = timers()
    it.set("a", 10, lambda: ran.append("a"))
    clock.now = 9
    assert not it.run_due()
    clock.now = 10
    assert it.run_due()
    assert not it.run_due()
    assert ran == ["a"]
    assert not it.pending("a")


def test_the_earliest_runs_first_and_equals_in_the_order_they_were_set() -> None:
    it, clock, ran = timers()
    for name, delay in (("late", 30), ("one", 20), ("two", 20), ("first", 10)):
        it.set(name, delay, lambda name=name: ran.append(name))  # type: ignore[misc]
    clock.now = 100
    it.run_due()
    assert ran == ["first", "one", "two", "late"]


def test_setting_a_name_again_replaces_it_and_cancelling_forgets_it() -> None:
    it, clock, ran = timers()
    it.set("a", 10, lambda: ran.append("old"))
    it.set("a", 50, lambda: ran.append("new"))
    it.set("b", 10, lambda: ran.append("b"))
    it.cancel("b")
    it.cancel("never set")
    clock.now = 20
    assert not it.run_due()
    clock.now = 50
    it.run_due()
    assert ran == ["new"]


def test_an_action_may_cancel_and_replace_what_is_due_with_it() -> None:
    it, clock, ran = timers()

    def first() -> None:
        ran.append("first")
        it.cancel("second")
        it.set("third", 5, lambda: ran.append("third anew"))

    it.set("first", 1, first)
    it.set("second", 2, lambda: ran.append("second"))
    it.set("third", 3, lambda: ran.append("third"))
    clock.now = 10
    it.run_due()
    assert ran == ["first"]
    clock.now = 15
    it.run_due()
    assert ran == ["first", "third anew"]


def test_the_wish_is_the_earliest_deadline_and_told_only_when_it_changes() -> None:
    it, clock, _ = timers()
    it.set("a", 50, lambda: None)
    it.arm()
    it.set("b", 80, lambda: None)
    it.arm()
    it.set("c", 20, lambda: None)
    it.arm()
    it.cancel("c")
    it.arm()
    it.cancel("a")
    it.cancel("b")
    it.arm()
    assert clock.wishes == [50, 20, 50, None]


def test_a_wish_that_was_fulfilled_is_told_again_if_it_still_stands() -> None:
    it, clock, _ = timers()
    it.set("a", 50, lambda: None)
    it.arm()
    it.woken()  # too early, by a coarse clock
    it.arm()
    assert clock.wishes == [50, 50]
