"""A little of the long runs with real processes: ``make soak-kill``, ``crash-states`` and so on."""

from __future__ import annotations

from pathlib import Path

from tests.processes.crash_states import enumerate_states, record
from tests.processes.kill_points import Points
from tests.processes.kill_rounds import Rounds

PORTS = 17390, 17391, 17392


def test_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, PORTS[0], seed=1)
    try:
        for _ in range(2):
            rounds.round()
    finally:
        rounds.pair.end()
    assert rounds.writer.acked
    assert rounds.verified


def test_a_power_cut_of_both_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    story = record(tmp_path, PORTS[1], seed=1, writes=40)
    outcomes = enumerate_states(story, 20, seed=1)
    assert outcomes["blocks were marked"] + outcomes["nothing was marked"] == 20


def test_a_kill_at_a_system_call_of_the_secondary_is_survived(tmp_path: Path) -> None:
    points = Points(tmp_path, PORTS[2], "beta")
    try:
        assert points.kill_at(5)
    finally:
        points.pair.end()
