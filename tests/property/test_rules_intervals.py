"""Intervals and the rate controller against naive models."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from replblk.model.config import DiskOptions
from replblk.rules.intervals import Intervals
from replblk.rules.resync_rate import RateController

starts = st.integers(0, 300)
lengths = st.one_of(st.integers(1, 8), st.integers(1, 300))


class AgainstAList(RuleBasedStateMachine):
    """The same ranges in an Intervals and in a plain list."""

    def __init__(self) -> None:
        super().__init__()
        self.held: Intervals[int] = Intervals()
        self.model: list[tuple[int, int, int]] = []
        self.owner = 0

    @rule(start=starts, length=lengths)
    def add(self, start: int, length: int) -> None:
        self.owner += 1
        self.held.add(start, start + length, self.owner)
        self.model.append((start, self.owner, start + length))

    @rule(pick=st.integers(0, 1000))
    def remove(self, pick: int) -> None:
        if self.model:
            _, owner, _ = self.model.pop(pick % len(self.model))
            self.held.remove(owner)

    @rule(start=starts, length=st.integers(0, 50))
    def query(self, start: int, length: int) -> None:
        end = start + length
        expected = [o for s, o, e in sorted(self.model) if length and s < end and e > start]
        assert self.held.overlapping(start, end) == expected
        assert self.held.any_overlap(start, end) is bool(expected)

    @invariant()
    def same_size(self) -> None:
        assert len(self.held) == len(self.model)


TestAgainstAList = AgainstAList.TestCase
TestAgainstAList.settings = settings(deadline=None, max_examples=60)


@settings(deadline=None)
@given(
    plan=st.integers(0, 30),
    fill=st.integers(0, 4000),
    delay=st.integers(1, 100),
    rate=st.integers(1, 4_000_000),
    maximum=st.integers(0, 4_000_000),
    buffers=st.integers(32, 8192),
    answers=st.lists(st.integers(0, 20_000), max_size=60),
)
def test_the_controller_stays_within_its_bounds(
    plan: int, fill: int, delay: int, rate: int, maximum: int, buffers: int, answers: list[int]
) -> None:
    options = DiskOptions(
        c_plan_ahead=plan,
        c_fill_target=fill,
        c_delay_target=delay,
        resync_rate=rate,
        c_max_rate=maximum,
    )
    controller = RateController(options, buffers)
    waiting = 0
    for answer in answers:
        answered = min(answer, waiting)
        blocks = controller.blocks_this_tick(answered)
        waiting -= answered
        assert blocks >= 0
        assert waiting // 8 + blocks <= max(buffers // 2, waiting // 8)
        if plan:
            assert blocks <= maximum // 5 // 8
        controller.requested(blocks)
        waiting += blocks * 8
        assert controller.in_flight_sectors == waiting
