"""A failing run is made smaller, and stays a failing one."""

from __future__ import annotations

from replblk.sim.options import Options, draw
from replblk.sim.run import Outcome
from replblk.sim.shrink import shrink, signature


def _with_faults() -> Options:
    return next(o for o in map(draw, range(1, 200)) if len(o.faults) >= 4)


def test_only_what_the_failure_needs_is_left() -> None:
    options = _with_faults()
    culprit = options.faults[2]

    def run(tried: Options) -> Outcome:
        return Outcome(tried, failure="I1: lost" if culprit in tried.faults else "")

    small = shrink(options, run)
    assert small.outcome.options.faults == (culprit,)
    assert small.outcome.options.workload.clients == 1
    assert small.outcome.failure == "I1: lost"


def test_another_failure_is_not_taken_for_the_same() -> None:
    options = _with_faults()

    def run(tried: Options) -> Outcome:
        whole = tried == options
        return Outcome(tried, failure="I1: lost" if whole else "I5: something else")

    small = shrink(options, run)
    assert small.outcome.options == options
    assert small.steps == ()


def test_the_signature_is_the_invariant_or_the_exception() -> None:
    assert signature("I4: vol 0 differs") == "I4:"
    assert signature("Traceback\n  File\nAssertionError: x overlaps y") == "AssertionError:"
