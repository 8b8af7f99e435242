"""A little of ``make fuzz`` in every run of the tests, and Hypothesis on the same decoders."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.run import UndeclaredError, fuzz
from tests.fuzz.targets import TARGETS, Target

NAMES = [target.name for target in TARGETS]


@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_a_decoder_raises_what_it_declares_and_nothing_else(target: Target) -> None:
    accepted, refused = fuzz(target, 300, seed=1)
    assert accepted + refused == 300
    assert accepted or refused


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
@pytest.mark.parametrize("target", TARGETS, ids=NAMES)
def test_any_bytes_at_all(target: Target, data: st.DataObject) -> None:
    noise = data.draw(st.binary(max_size=200) | st.sampled_from(target.examples))
    try:
        target.feed(noise)
    except target.declared:
        return


def test_an_undeclared_error_ends_the_run_with_its_input() -> None:
    def stumble(data: bytes) -> None:
        raise IndexError("beyond the end")

    with pytest.raises(UndeclaredError, match="IndexError"):
        fuzz(Target("stumbling", stumble, (ValueError,), (b"valid",)), 1, seed=1)
