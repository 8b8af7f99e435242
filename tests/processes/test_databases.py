"""A little of ``make databases``: SQLite loses no commit when its node is killed."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from tests.processes.database_kinds import Sqlite
from tests.processes.databases import DatabaseRounds
from tests.processes.mounted import missing
from tests.support.site import free_port


def test_no_commit_is_lost_when_the_primary_is_killed_and_the_other_node_takes_over() -> None:
    why = missing()
    if why and not os.environ.get("CI"):
        pytest.skip(why)
    assert not why
    with tempfile.TemporaryDirectory(prefix="replblk-databases-") as folder:
        rounds = DatabaseRounds(Path(folder), free_port(), 1, Sqlite())
        try:
            rounds.start()
            rounds.round("primary")
            rounds.round("both")
        finally:
            rounds.end()
    assert len(rounds.ledger.confirmed) > 2
