"""A part of ``make mutants`` in every run of the tests: those that few seeds bring down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.planting import Edit, StaleEditError, planted
from tests.mutants.run import MUTANTS, first_killer
from tests.mutants.table import Mutant

ROOT = Path(__file__).parents[2]
QUICK_NAMES = (
    *("ack-before-the-peer", "ack-before-the-local-disk", "alone-and-not-marked"),
    *("no-range-lock-for-writes", "generation-not-begun", "generation-not-durable"),
    *("source-bitmap-ignored", "target-stays-up-to-date", "split-brain-merged"),
    *("promotion-begins-no-generation", "al-not-written", "two-superblock-writes"),
    *("superblock-told-too-early", "superblock-not-flushed", "bitmap-not-flushed"),
)
QUICK = [m for m in MUTANTS if m.name in QUICK_NAMES]
"""Caught within four seeds when the table was made, and at once."""


@pytest.mark.parametrize("mutant", QUICK, ids=[m.name for m in QUICK])
def test_a_seeded_bug_is_found(mutant: Mutant) -> None:
    seed, how = first_killer(mutant, range(1, 4 * mutant.seed + 9))
    assert seed, f"{mutant.name} survives: {mutant.breaks}"
    assert how


@pytest.mark.parametrize("mutant", MUTANTS, ids=[m.name for m in MUTANTS])
def test_every_row_fits_the_program_as_it_is(mutant: Mutant) -> None:
    for edit in mutant.edits:
        assert edit.broken is not edit.function.__code__
    reasons = (mutant.seed, mutant.test, mutant.masked_by, mutant.not_caught)
    assert sum(map(bool, reasons)) == 1, "a seed, a test, a second mechanism, or what was tried"
    if mutant.test:
        file, _, name = mutant.test.partition("::")
        assert f"\ndef {name}(" in (ROOT / file).read_text(), "no such test"


def test_the_table_is_large_enough_and_names_are_unique() -> None:
    names = [m.name for m in MUTANTS]
    assert len(set(names)) == len(names)
    assert sum(m.kind in ("seed", "test") for m in MUTANTS) >= 100
    assert len(QUICK) == len(QUICK_NAMES)
    for mutant in MUTANTS:
        if mutant.masked_by:
            assert mutant.both in names, f"{mutant.name}: which row switches both off?"


def test_a_planted_bug_is_gone_afterwards_and_a_stale_row_is_an_error() -> None:
    mutant = next(m for m in MUTANTS if m.name == "low-bit-compared")
    (edit,) = mutant.edits
    before = edit.function.__code__
    with planted(mutant.edits):
        assert edit.function.__code__ is not before
    assert edit.function.__code__ is before
    with pytest.raises(StaleEditError, match="adapt the table"):
        _ = Edit(edit.owner, edit.name, "no such passage", "").broken


def test_a_bug_whose_killer_is_a_test_is_brought_down_by_it() -> None:
    """In a process of its own: pytest runs within pytest here."""
    names = ["more-cleared-than-copied", "demotion-does-not-wait-kernel"]
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutants.run", *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 mutants: 0 caught by seeds, 2 by tests" in done.stdout
