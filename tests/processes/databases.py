"""Databases on ext4 on a replicated volume, whose Primary is killed: no commit may be missing.

    make databases ROUNDS=20

Each round: a client commits one transaction after the other and keeps a ledger of those that the
database confirmed; then the daemon of the Primary, of both nodes or of the Secondary gets SIGKILL.
After the first two the database is killed with all it has in memory, and the service moves to the
other node: promotion, a device, the journal of the file system, a check of it, the recovery of the
database. Every confirmed transaction must be there, whole, and the database's own check content.
"""

from __future__ import annotations

import argparse
import hashlib
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.processes.database_kinds import KINDS, Database, GoneError
from tests.processes.mounted import Mounted, missing
from tests.processes.pair import NODES, PATIENCE_S, RealPair, end_in_order_on_sigterm
from tests.support.site import until

KILLS = ("primary", "both", "secondary")
ROWS_KEPT = 2000
"""Transactions also delete what is older than so many: the volume does not fill up."""


class Ledger:
    """What the client knows: the transactions that were confirmed, and the one in doubt."""

    def __init__(self, seed: str, database: Database) -> None:
        self._seed = seed
        self._database = database
        self._number = 0
        self.confirmed: list[int] = []
        self.doubtful: int | None = None

    def make(self) -> None:
        """The tables."""
        self._database.ask(
            "CREATE TABLE ledger (n INTEGER PRIMARY KEY, body TEXT)",
            "CREATE TABLE tally (id INTEGER PRIMARY KEY, times INTEGER, total BIGINT)",
            "INSERT INTO tally VALUES (1, 0, 0)",
        )

    def commit(self) -> None:
        """One transaction; GoneError leaves it in doubt."""
        self._number += 1
        number = self.doubtful = self._number
        self._database.ask(
            "BEGIN",
            f"INSERT INTO ledger VALUES ({number}, '{self._body(number)}')",
            f"DELETE FROM ledger WHERE n <= {number - ROWS_KEPT}",
            f"UPDATE tally SET times = times + 1, total = total + {number}",
            "COMMIT",
        )
        self.doubtful = None
        self.confirmed.append(number)

    def judge(self) -> None:
        """Compare with what the database has; settles what was in doubt."""
        rows = dict(line.split("\t") for line in self._database.ask("SELECT n, body FROM ledger"))
        have = {int(number) for number in rows}
        if self.doubtful in have:
            self.confirmed.append(self.doubtful)
        self.doubtful = None
        last = self.confirmed[-1] if self.confirmed else 0
        expected = {number for number in self.confirmed if number > last - ROWS_KEPT}
        assert not expected - have, f"confirmed, but missing: {sorted(expected - have)[:10]}"
        assert not have - expected, f"there, but never asked for: {sorted(have - expected)[:10]}"
        spoilt = [number for number in have if rows[str(number)] != self._body(number)]
        assert not spoilt, f"rows with other contents: {spoilt[:10]}"
        tally = self._database.ask("SELECT times, total FROM tally")
        assert tally == [f"{len(self.confirmed)}\t{sum(self.confirmed)}"], (
            f"transactions in part: {tally}, {len(self.confirmed)} confirmed"
        )

    def _body(self, number: int) -> str:
        word = hashlib.sha256(f"{self._seed}/{number}".encode()).hexdigest()
        return word * (1 + number % 20)


class DatabaseRounds:
    """One database on one pair that is killed again and again."""

    def __init__(self, folder: Path, port: int, seed: int, database: Database) -> None:
        self._database = database
        self._chance = random.Random(f"{database.name}/{seed}")
        self.ledger = Ledger(f"{database.name}/{seed}", database)
        self.pair = RealPair(folder, port, database.size_bytes)
        self.counts = dict.fromkeys(KILLS, 0)
        self._primary = "alpha"
        self._stopping = False
        self._volume = Mounted(self.pair, folder / "mnt")

    def start(self) -> None:
        """The pair, the file system and an empty database."""
        for node in NODES:
            self.pair.start(node)
        self.pair.connected()
        self.pair.replblk("alpha", "primary")
        self._volume.make("alpha")
        home = self._volume.mount / "home"
        home.mkdir()
        self._database.create(self.pair.folder, home)
        self._database.start()
        self.ledger.make()

    def round(self, kind: str | None = None) -> None:
        """One round; raises if anything is wrong."""
        kind = kind or self._chance.choice(KILLS)
        self.counts[kind] += 1
        self._stopping = False
        writing = threading.Thread(target=self._write)
        writing.start()
        try:
            time.sleep(0.3 + self._chance.random())
            if kind == "secondary":
                self._without_the_secondary()
            else:
                self._fail_over(kind, writing)
        finally:
            self._stopping = True
            if kind != "secondary" or not writing.is_alive():
                writing.join()
        writing.join()
        assert self.ledger.doubtful is None or kind != "secondary", "the database noticed it"
        self.pair.connected()
        self.ledger.judge()
        self._database.check()
        with self._volume.frozen():
            until(lambda: self.pair.data("alpha") == self.pair.data("beta"), limit_s=PATIENCE_S)

    def _without_the_secondary(self) -> None:
        other = NODES[self._primary == NODES[0]]
        self.pair.kill(other)
        time.sleep(self._chance.random())
        self._again(other)
        self.pair.connected()

    def _fail_over(self, kind: str, writing: threading.Thread) -> None:
        old, new = self._primary, NODES[self._primary == NODES[0]]
        victims = [old] if kind == "primary" else self._chance.sample(NODES, 2)
        for node in victims:
            self.pair.kill(node)
        time.sleep(self._chance.random() * 0.2)
        self._volume.give_up()
        self._database.kill()
        writing.join()
        self._volume.leave()
        if kind == "both":
            for node in self._chance.sample(NODES, 2):
                self._again(node)
            # Which of the two knows that it has all, the pair has to find out.
            self.pair.connected()
        self.pair.replblk(new, "primary")
        self._primary = new
        self._volume.take_over(new)
        self._database.start()
        self.ledger.judge()
        for _ in range(self._chance.randrange(1, 20)):
            self.ledger.commit()
        if kind == "primary":
            self._again(old)

    def _write(self) -> None:
        try:
            while not self._stopping:
                self.ledger.commit()
        except GoneError:
            return

    def _again(self, node: str) -> None:
        self.pair.start(node)
        self.pair.answers(node)

    def end(self) -> None:
        """Nothing is left, whatever happened."""
        self._stopping = True
        self._volume.give_up()
        try:
            self._database.kill()
        finally:
            try:
                self._volume.end()
            finally:
                self.pair.end()


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds of each database; 0 if no commit was ever lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.databases")
    parser.add_argument("--rounds", type=int, default=20, help="of each database")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=17340)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    args = parser.parse_args(arguments)
    end_in_order_on_sigterm()
    for name in args.kinds:
        database = KINDS[name]()
        why = missing() or database.missing()
        if why:
            print(f"{name}: {why}", file=sys.stderr)
            return 1
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="replblk-databases-") as folder:
            Path(folder).chmod(0o755)  # the servers' users have to get in
            rounds = _rounds(Path(folder), args.port, args.seed, database, args.rounds)
        counts = ", ".join(f"{count} {kind}" for kind, count in rounds.counts.items())
        print(
            f"{name}: {args.rounds} rounds (killed: {counts}), "
            f"{len(rounds.ledger.confirmed)} confirmed transactions, none lost, "
            f"{time.monotonic() - began:.0f} s",
            flush=True,
        )
    return 0


def _rounds(folder: Path, port: int, seed: int, database: Database, count: int) -> DatabaseRounds:
    rounds = DatabaseRounds(folder, port, seed, database)
    try:
        rounds.start()
        for number in range(1, count + 1):
            rounds.round()
            if number % 10 == 0:
                told = f"... {number} rounds, {len(rounds.ledger.confirmed)} confirmed"
                print(told, flush=True)
    finally:
        rounds.end()
    return rounds


if __name__ == "__main__":
    sys.exit(main())
