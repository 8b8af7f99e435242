"""What ``make bench`` says of its figures, and when its proof of durability holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.bench.phases import PHASES, phase_lines
from scripts.bench.proof import Proof
from scripts.bench.report import Row, goals_table, replace_between


@pytest.mark.parametrize(
    ("ours", "lower", "verdict"),
    [(160, False, "aim"), (140, False, "must"), (100, False, "missed"), (50, True, "aim")],
)
def test_a_row_says_which_goal_its_median_ratio_reaches(
    ours: float, lower: bool, verdict: str
) -> None:
    must, aim = (0.9, 0.5) if lower else (1.35, 1.6)
    row = Row("work", "other", must, aim, lower=lower, ours=[ours, 1e9, 0], theirs=[100] * 3)
    assert row.ratio == ours / 100
    assert row.verdict == verdict
    assert verdict in goals_table([row])[-1]


def test_the_proof_fails_when_one_image_was_not_flushed_for_one_write() -> None:
    assert Proof(500, (0, 0), (506, 500), (504, 500)).holds
    assert not Proof(500, (500, 500), (0, 0), (500, 499)).holds
    assert Proof(500, (500,), (0,), None).holds
    assert not Proof(500, (499,), (0,), None).holds


def test_the_page_keeps_what_is_not_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<b>\nold\n<e>\nafter\n")
    replace_between(page, "<b>", "<e>", ["new"])
    assert page.read_text() == "before\n<b>\n\nnew\n\n<e>\nafter\n"


def test_a_phase_is_told_by_what_was_counted_meanwhile() -> None:
    before = {(node, phase): (10, 1000.0) for node in ("alpha", "beta") for phase in PHASES}
    after = before | {("alpha", "write"): (30, 7000.0), ("alpha", "turn"): (70, 4000.0)}
    primary, secondary = phase_lines("work", before, after)
    assert primary.split(" | ")[2] == "300"
    assert primary.split(" | ")[-2:] == ["50", "3.00 |"]
    assert secondary.split(" | ")[2:-1] == ["–"] * len(PHASES)
