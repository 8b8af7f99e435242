"""The results of a run as a table for docs/interop.md: scenario, which node is first, time. What
needs the kernel's NBD and no DRBD of the kernel's has no second way round."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

BEGIN = "<!-- table: written by make interop -->"
END = "<!-- end of table -->"
SIDES = ("kernel", "replblk")
ROW = "row of the table"
"""The user property of a report that says where its result belongs."""


def row_of(item: pytest.Item) -> tuple[str, int, str, str]:
    """Topic, line, scenario and side of a test; its docstring's first line is the scenario."""
    function = getattr(item, "function", None)
    told = (inspect.getdoc(function) or item.name).splitlines()[0].rstrip(".")
    topic = item.path.stem.removeprefix("test_kernel_").replace("_", " ")
    call = getattr(item, "callspec", None)
    values = dict(call.params) if call is not None else {}
    side = str(
        values.pop("side", "both" if "pair" in getattr(item, "fixturenames", ()) else "alone")
    )
    rest = ", ".join(str(value) for value in values.values())
    return topic, item.location[1] or 0, f"{told} ({rest})" if rest else told, side


class Table:
    """Filled by the reports of tests, in whichever process they ran; written at the end."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[tuple[str, int, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A test ended."""
        for name, row in report.user_properties:
            if name == ROW:
                topic, line, scenario, side = row
                result = "pass" if report.passed else "**FAIL**"
                cells = self._rows.setdefault((topic, line, scenario), {})
                cells[side] = f"{result}, {report.duration:.1f} s"

    def pytest_sessionfinish(self) -> None:
        """Put the table between the markers of the file."""
        if not self._rows:
            return
        lines = [BEGIN, "", "| | scenario | kernel first | replblk first |", "|---|---|---|---|"]
        for (topic, _, scenario), cells in sorted(self._rows.items(), key=lambda row: row[0][:2]):
            shared = cells.get("both")
            left, right = (shared or cells.get(side, "") for side in SIDES)
            left = left or cells.get("alone", "")
            lines.append(f"| {topic} | {scenario} | {left} | {'same' if shared else right} |")
        before, _, rest = self._path.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        self._path.write_text(before + "\n".join([*lines, "", END]) + after)
