"""Runs one test with a bug planted: for bugs that a story finds, and that chance seldom meets.

A test counts as a killer when it fails with the bug and is one of those that every run of the tests
runs without: a test that fails anyway is found there.
"""

from __future__ import annotations

import contextlib
import io

import pytest

from tests.mutants.planting import planted
from tests.mutants.table import Mutant

NO_CACHE = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:randomly")
NEVER_RAN = frozenset({pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED})


class _Failures:
    """A plugin of pytest that keeps what tests failed with."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        crash = getattr(report.longrepr, "reprcrash", None)
        if report.failed:
            self.lines.append((crash.message if crash else str(report.longrepr)).splitlines()[0])


def failed_with(mutant: Mutant, test: str) -> str:
    """The first line that the test fails with when the bug is planted; empty if it passes.

    Raises AssertionError if pytest knows no such test.
    """
    failures, output = _Failures(), io.StringIO()
    with planted(mutant.edits), contextlib.redirect_stdout(output):
        code = pytest.main([*NO_CACHE, test], plugins=[failures])
    assert code not in NEVER_RAN, f"{mutant.name}: no such test: {test}\n{output.getvalue()}"
    return failures.lines[0] if failures.lines else ""
