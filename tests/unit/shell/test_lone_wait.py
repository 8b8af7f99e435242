"""When a disk's only operation is waited for."""

from __future__ import annotations

import pytest

from replblk.shell import lone_wait
from replblk.shell.lone_wait import ARRIVED_MEANWHILE_NS, LONE_MIN, NOT_LONE, LoneWait


class Clock:
    """Nanoseconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(lone_wait, "time", made)
    return made


def asked(lone: LoneWait, times: int) -> list[bool]:
    return [lone.pays() for _ in range(times)]


def test_it_is_waited_for_once_some_have_been_alone(clock: Clock) -> None:
    lone = LoneWait()
    assert asked(lone, LONE_MIN + 1) == [False] * (LONE_MIN - 1) + [True] * 2
    lone.not_alone()
    assert asked(lone, LONE_MIN) == [False] * (LONE_MIN - 1) + [True]


def test_a_slow_disk_is_not_waited_for_again_for_long(clock: Clock) -> None:
    lone = LoneWait()
    asked(lone, LONE_MIN)
    lone.ended()
    lone.in_vain()
    clock.now_ns += 10**9
    lone.not_alone()
    assert asked(lone, LONE_MIN - NOT_LONE) == [False] * (LONE_MIN - NOT_LONE - 1) + [True]


def test_what_came_during_a_wait_shows_that_it_was_not_alone(clock: Clock) -> None:
    lone = LoneWait()
    asked(lone, LONE_MIN)
    lone.ended()
    clock.now_ns += ARRIVED_MEANWHILE_NS - 1
    assert not lone.pays()
    assert asked(lone, LONE_MIN - 1) == [False] * (LONE_MIN - 1)
    clock.now_ns += 1
    assert lone.pays()
