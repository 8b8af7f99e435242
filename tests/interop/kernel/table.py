"""The results of a run as a table for docs/interop.md: scenario, which node is first, time."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

BEGIN = "<!-- table: written by make interop -->"
END = "<!-- end of table -->"
SIDES = ("kernel", "replblk")


class Table:
    """Filled test by test."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, str], dict[str, str]] = {}

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, item: pytest.Item, report: pytest.TestReport) -> None:
        """One finished test; its docstring's first line is the scenario."""
        function = getattr(item, "function", None)
        told = (inspect.getdoc(function) or item.name).splitlines()[0].rstrip(".")
        topic = item.path.stem.removeprefix("test_kernel_").replace("_", " ")
        call = getattr(item, "callspec", None)
        values = dict(call.params) if call is not None else {}
        side = str(values.pop("side", "both"))
        rest = ", ".join(str(value) for value in values.values())
        scenario = f"{told} ({rest})" if rest else told
        result = "pass" if report.passed else "**FAIL**"
        cell = f"{result}, {report.duration:.1f} s"
        self._rows.setdefault((topic, scenario), {})[side] = cell

    def write(self, path: Path) -> None:
        """Put it between the markers of *path*."""
        lines = [BEGIN, "", "| | scenario | kernel first | replblk first |", "|---|---|---|---|"]
        for (topic, scenario), cells in self._rows.items():
            shared = cells.get("both")
            left, right = (shared or cells.get(side, "") for side in SIDES)
            lines.append(f"| {topic} | {scenario} | {left} | {'same' if shared else right} |")
        before, _, rest = path.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        path.write_text(before + "\n".join([*lines, "", END]) + after)
