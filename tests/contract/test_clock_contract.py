"""What a node may rely on of a Clock, in whichever world."""

from __future__ import annotations

from tests.contract.rigs import ClockRig

MS_NS = 1_000_000


def test_it_rings_once_and_not_before_its_time(clock_rig: ClockRig) -> None:
    due_ns = clock_rig.clock.now_ns() + 7 * MS_NS + 300_000
    clock_rig.clock.wake_at(due_ns)
    clock_rig.run_until(lambda: clock_rig.recorder.wakes == 1)
    assert clock_rig.clock.now_ns() >= due_ns
    later_ns = due_ns + 20 * MS_NS
    clock_rig.run_until(lambda: clock_rig.clock.now_ns() > later_ns)
    assert clock_rig.recorder.wakes == 1


def test_an_earlier_wish_replaces_a_later_one(clock_rig: ClockRig) -> None:
    now_ns = clock_rig.clock.now_ns()
    clock_rig.clock.wake_at(now_ns + 3_600_000 * MS_NS)
    clock_rig.clock.wake_at(now_ns + 5 * MS_NS)
    clock_rig.run_until(lambda: clock_rig.recorder.wakes == 1)


def test_a_later_wish_replaces_an_earlier_one(clock_rig: ClockRig) -> None:
    due_ns = clock_rig.clock.now_ns() + 40 * MS_NS
    clock_rig.clock.wake_at(due_ns - 35 * MS_NS)
    clock_rig.clock.wake_at(due_ns)
    clock_rig.run_until(lambda: clock_rig.recorder.wakes == 1)
    assert clock_rig.clock.now_ns() >= due_ns


def test_a_withdrawn_wish_never_rings(clock_rig: ClockRig) -> None:
    due_ns = clock_rig.clock.now_ns() + 5 * MS_NS
    clock_rig.clock.wake_at(due_ns)
    clock_rig.clock.wake_at(None)
    clock_rig.run_until(lambda: clock_rig.clock.now_ns() > due_ns + 20 * MS_NS)
    assert clock_rig.recorder.wakes == 0


def test_a_moment_in_the_past_rings_soon(clock_rig: ClockRig) -> None:
    clock_rig.clock.wake_at(clock_rig.clock.now_ns() - 1)
    clock_rig.run_until(lambda: clock_rig.recorder.wakes == 1)


def test_random_bits_fit_their_count_and_differ(clock_rig: ClockRig) -> None:
    drawn = [clock_rig.clock.random_bits(64) for _ in range(20)]
    assert all(0 <= number < 1 << 64 for number in drawn)
    assert len(set(drawn)) == 20
