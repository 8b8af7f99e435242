"""A little of the long runs with real processes: ``make soak-kill``, ``crash-states`` and so on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.crash_states import enumerate_states, record
from tests.processes.kill_points import Points
from tests.processes.kill_rounds import Rounds
from tests.support.site import free_port


def test_nothing_acknowledged_is_lost_by_sigkill(tmp_path: Path) -> None:
    rounds = Rounds(tmp_path, free_port(), seed=1)
    try:
        rounds.start()
        for _ in range(2):
            rounds.round()
    finally:
        rounds.pair.end()
    assert rounds.writer.acked
    assert rounds.verified


def test_a_power_cut_of_both_at_any_moment_loses_nothing(tmp_path: Path) -> None:
    story = record(tmp_path, free_port(), seed=1, writes=40)
    outcomes = enumerate_states(story, 20, seed=1)
    assert outcomes["blocks were marked"] + outcomes["nothing was marked"] == 20


@pytest.mark.parametrize(("victim", "number"), [("beta", 5), ("alpha", 30)])
def test_a_kill_at_a_system_call_is_survived(tmp_path: Path, victim: str, number: int) -> None:
    points = Points(tmp_path, free_port(), victim)
    try:
        points.start()
        assert points.hit_at(number)
    finally:
        points.pair.end()


@pytest.mark.parametrize(("victim", "fault"), [("beta", "enospc"), ("alpha", "eio")])
def test_an_error_of_a_system_call_is_survived(tmp_path: Path, victim: str, fault: str) -> None:
    points = Points(tmp_path, free_port(), victim, fault)
    try:
        points.start()
        assert points.hit_at(4)
    finally:
        points.pair.end()
