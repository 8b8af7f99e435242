"""docs/protocol.md says something of every packet there is."""

from __future__ import annotations

import re
from pathlib import Path

from replblk.wire.commands import Cmd

PAGE = Path(__file__).resolve().parents[2] / "docs/protocol.md"
VERDICTS = {"supported", "answered", "accepted and ignored", "refused"}


def test_every_packet_has_its_row() -> None:
    """Each packet stands in exactly one row, with one of the four verdicts."""
    rows: dict[str, str] = {}
    for line in PAGE.read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 5 or not cells[1].startswith("P_"):
            continue
        for name in re.split(r", ", cells[1]):
            assert name not in rows, f"{name} has two rows"
            rows[name] = cells[3]
    assert set(rows) == {cmd.name for cmd in Cmd}
    assert set(rows.values()) <= VERDICTS
