"""Range locks against a naive model: never two conflicting grants, first come first served."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from replblk.engine.admission import RangeLock, Ranges


@dataclass
class Claim:
    """One claim of the model: in the list from its request to its release."""

    number: int
    start: int
    end: int
    exclusive: bool
    lock: RangeLock | None = None

    def conflicts(self, other: Claim) -> bool:
        overlap = self.start < other.end and other.start < self.end
        return overlap and (self.exclusive or other.exclusive)


def should_be_granted(claims: list[Claim], number: int) -> bool:
    """Granted exactly if no earlier claim that is still there conflicts."""
    claim = claims[number]
    return not any(claim.conflicts(earlier) for earlier in claims[:number])


requests = st.tuples(
    st.just("lock"),
    st.one_of(st.integers(0, 40), st.integers(2040, 2056), st.integers(4090, 4100)),
    st.one_of(st.integers(1, 16), st.sampled_from([1024, 2047, 2048])),
    st.booleans(),
)
releases = st.tuples(st.just("release"), st.integers(0, 50), st.just(0), st.just(False))


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.one_of(requests, requests, releases), max_size=40))
def test_grants_are_those_of_the_naive_model(steps: list[tuple[str, int, int, bool]]) -> None:
    ranges = Ranges()
    claims: list[Claim] = []
    count = 0

    def check() -> None:
        for number, claim in enumerate(claims):
            assert (claim.lock is not None) == should_be_granted(claims, number), claim
        held = [claim for claim in claims if claim.lock is not None]
        for number, one in enumerate(held):
            assert not any(one.conflicts(other) for other in held[number + 1 :])
        assert len(ranges) == len(claims)

    for kind, value, sectors, exclusive in steps:
        if kind == "lock":
            claim = Claim(count, value, value + sectors, exclusive)
            count += 1
            claims.append(claim)
            ranges.lock(
                value,
                sectors * 512,
                lambda lock, claim=claim: setattr(claim, "lock", lock),  # type: ignore[misc]
                exclusive=exclusive,
            )
        else:
            held = [claim for claim in claims if claim.lock is not None]
            if held:
                claim = held[value % len(held)]
                claims.remove(claim)
                assert claim.lock is not None
                ranges.release(claim.lock)
        check()
    while claims:  # nobody starves: releasing what is held, oldest first, lets everybody go
        claim = claims[0]
        assert claim.lock is not None, "the oldest claim must be granted"
        claims.remove(claim)
        ranges.release(claim.lock)
        check()
    assert len(ranges) == 0
    assert ranges.free(0, 1 << 20)
