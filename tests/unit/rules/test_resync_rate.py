"""The rate controller, checked against the formula by hand and for its behaviour over time."""

from __future__ import annotations

import pytest

from replblk.model.config import DiskOptions
from replblk.rules.resync_rate import RateController


def _run(controller: RateController, ticks: int, sectors_per_tick: int) -> list[int]:
    """A peer that answers at most that many sectors a tick; the blocks asked for each time."""
    asked, waiting = [], 0
    for _ in range(ticks):
        answered = min(waiting, sectors_per_tick)
        blocks = controller.blocks_this_tick(answered)
        controller.requested(blocks)
        waiting += blocks * 8 - answered
        asked.append(blocks)
        assert controller.in_flight_sectors == waiting
    return asked


def test_first_tick_by_hand() -> None:
    """G = 250/5*20 = 1000, E = 1000, d = 50, x = 50, q = 50, N = 6."""
    controller = RateController(DiskOptions())
    assert controller.blocks_this_tick(0) == 6
    assert controller.want_kib_s == 250


def test_second_tick_by_hand() -> None:
    """In flight 48 - 48; it was not empty, so c-fill-target is the goal; division truncates.

    G = 100, E = 100 - 0 - 950 = -850, d = -42 (not -43), x = 50 - 42 = 8, q = 48 + 8 = 56, N = 7.
    """
    controller = RateController(DiskOptions())
    controller.blocks_this_tick(0)
    controller.requested(6)
    assert controller.blocks_this_tick(48) == 7


def test_delay_target_counts_what_came_in() -> None:
    """G = 48*10 = 480, E = 480 - 0 - 950 = -470, d = -23, x = 27, q = 75, N = 9."""
    controller = RateController(DiskOptions(c_fill_target=0))
    controller.blocks_this_tick(0)
    controller.requested(6)
    assert controller.blocks_this_tick(48) == 9


def test_without_plan_ahead_the_rate_is_fixed() -> None:
    controller = RateController(DiskOptions(c_plan_ahead=0, resync_rate=4000))
    assert [controller.blocks_this_tick(0) for _ in range(3)] == [100, 100, 100]
    assert controller.want_kib_s == 4000


def test_a_peer_that_does_not_answer_is_not_flooded() -> None:
    controller = RateController(DiskOptions(resync_rate=4_000_000, c_max_rate=4_000_000), 2048)
    _run(controller, 100, 0)
    assert controller.in_flight_sectors <= 2048 // 2 * 8


def test_half_of_max_buffers_bounds_what_is_on_the_way() -> None:
    controller = RateController(DiskOptions(c_plan_ahead=0, resync_rate=40_000), max_buffers=256)
    assert controller.blocks_this_tick(0) == 128
    controller.requested(128)
    assert controller.blocks_this_tick(0) == 0
    assert controller.blocks_this_tick(80) == 10


@pytest.mark.parametrize("fill", [0, 100, 1000])
def test_max_rate_is_never_exceeded(fill: int) -> None:
    options = DiskOptions(c_fill_target=fill, c_max_rate=1000, resync_rate=100_000)
    assert max(_run(RateController(options), 200, 10_000)) <= 1000 // 5 // 8


def test_with_a_fill_target_the_peer_sets_the_pace() -> None:
    """A peer that manages 800 sectors a tick is asked for about that much in the long run."""
    asked = _run(RateController(DiskOptions(c_fill_target=2000)), 400, 800)
    assert 90 <= sum(asked[-100:]) / 100 <= 100


def test_more_answers_than_requests_do_not_buy_credit() -> None:
    controller = RateController(DiskOptions())
    controller.blocks_this_tick(1_000_000)
    assert controller.in_flight_sectors == 0
