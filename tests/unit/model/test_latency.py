"""Histograms of durations: buckets, quantiles, the table."""

from __future__ import annotations

import pytest

from replblk.model.latency import BOUNDS_NS, PHASES, Histogram, Latencies, latency_text


@pytest.mark.parametrize("bound_ns", BOUNDS_NS)
def test_a_bucket_holds_what_is_below_its_bound(bound_ns: int) -> None:
    found = Histogram()
    found.record(bound_ns - 1)
    found.record(bound_ns)
    number = BOUNDS_NS.index(bound_ns)
    assert found.counts[number : number + 2] == [1, 1]
    assert found.count == 2
    assert found.sum_ns == 2 * bound_ns - 1


def test_what_is_longer_than_every_bound_is_counted_too() -> None:
    found = Histogram()
    found.record(10**15)
    assert found.counts[-1] == 1
    assert found.quantile_ns(0.5) == 2 * BOUNDS_NS[-1]


def test_a_quantile_is_a_bound_that_so_many_stay_below() -> None:
    found = Histogram()
    assert found.quantile_ns(0.99) == 0
    for _ in range(99):
        found.record(10_000)
    found.record(1_000_000)
    assert found.quantile_ns(0.5) == found.quantile_ns(0.99) == 16_384
    assert found.quantile_ns(1.0) == 1 << 20


def test_the_table_has_a_line_for_each_phase_with_what_it_is() -> None:
    latencies = Latencies()
    latencies.peer.record(150_000)
    lines = latency_text(latencies).splitlines()
    assert len(lines) == 1 + len(PHASES)
    (peer,) = (line for line in lines if line.startswith("peer "))
    assert peer.split()[:6] == ["peer", "1", "150", "262", "262", "262"]
    assert PHASES["peer"] in peer
