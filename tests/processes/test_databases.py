"""A little of ``make databases``: SQLite loses no commit when its node is killed."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from tests.processes.database_kinds import Sqlite
from tests.processes.databases import DatabaseRounds
from tests.processes.mounted import PROGRAMS, no_devices
from tests.support.site import free_port
from tests.support.tools import need


def test_no_commit_is_lost_when_the_primary_is_killed_and_the_other_node_takes_over() -> None:
    if why := no_devices():
        pytest.skip(why)
    need(*PROGRAMS)
    with tempfile.TemporaryDirectory(prefix="replblk-databases-") as folder:
        rounds = DatabaseRounds(Path(folder), free_port(), 1, Sqlite())
        try:
            rounds.start()
            rounds.round("primary")
            rounds.round("both")
        finally:
            rounds.end()
    assert len(rounds.ledger.confirmed) > 2
