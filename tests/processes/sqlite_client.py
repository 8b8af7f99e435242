"""SQLite in a process of its own: a disk that is gone under its mapped files kills the process.

    python -m tests.processes.sqlite_client FILE JOURNAL_MODE

Each line of standard input is one statement; its rows are printed, values separated by tabs. A line
``.echo TEXT`` prints TEXT. Ends with the first error.
"""

from __future__ import annotations

import sqlite3
import sys


def main(path: str, journal_mode: str) -> None:
    """Carry out what comes in until there is no more."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute(f"PRAGMA journal_mode = {journal_mode}")
    # FULL would leave the removal of a rollback journal, which is the commit, to the page cache.
    database.execute("PRAGMA synchronous = EXTRA")
    for line in sys.stdin:
        if line.startswith(".echo "):
            print(line.removeprefix(".echo ").strip(), flush=True)
            continue
        for row in database.execute(line):
            print(*row, sep="\t")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
