"""The databases that live on a replicated volume: how each is made, started, asked and checked.

All three are asked in SQL through the standard input of a client process; a marker printed after
each request tells that it has been carried out. SIGKILL ends server and client at any moment, as a
power cut would: the files are the file system's to keep.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO, ClassVar, Protocol

from tests.processes.pair import PATIENCE_S, ROOT
from tests.support.site import until

MARK = "that-was-all"
POSTGRES_BIN = "/usr/lib/postgresql"


class GoneError(Exception):
    """The database ended in the middle of a request: whether it was carried out is in doubt."""


class Database(Protocol):
    """One database. folder: for sockets and logs, not on the volume; home: its folder on it."""

    name: ClassVar[str]
    size_bytes: ClassVar[int]

    def missing(self) -> str:
        """Which program it needs is not here; "" if all are."""
        ...

    def create(self, folder: Path, home: Path) -> None:
        """Make an empty database in *home*."""
        ...

    def start(self) -> None:
        """Start it, recovering whatever there is to recover."""
        ...

    def ask(self, *statements: str) -> list[str]:
        """What the statements answered, lines of values separated by tabs. Raises GoneError."""
        ...

    def check(self) -> None:
        """The database's own check of its files; AssertionError if they are not sound."""
        ...

    def kill(self) -> None:
        """SIGKILL for all of its processes."""
        ...


class Shell:
    """A client process that takes SQL. mark: what it is told to print the marker."""

    def __init__(self, command: list[str], log: Path, mark: str) -> None:
        self._mark = mark
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )

    def ask(self, statements: tuple[str, ...]) -> list[str]:
        """Lines until the marker; GoneError if it never comes."""
        into, out = self._process.stdin, self._process.stdout
        assert into is not None
        assert out is not None
        try:
            into.write("\n".join((*statements, self._mark)) + "\n")
            into.flush()
        except BrokenPipeError as error:
            raise GoneError from error
        return self._answer(out)

    @staticmethod
    def _answer(out: IO[str]) -> list[str]:
        lines: list[str] = []
        while True:
            line = out.readline()
            if not line.endswith("\n"):
                raise GoneError
            if line.strip() == MARK:
                return lines
            lines.append(line.rstrip("\n"))

    def kill(self) -> None:
        """Nothing of it is left."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except BrokenPipeError:
                continue  # what was not taken any more


class Sqlite:
    """SQLite with a write-ahead log, or with a rollback journal in every second life."""

    name: ClassVar[str] = "sqlite"
    size_bytes: ClassVar[int] = 32 << 20

    def __init__(self) -> None:
        self._file = self._log = Path()
        self._shell: Shell | None = None
        self._starts = 0

    def missing(self) -> str:
        """SQLite is Python's own."""
        return ""

    def create(self, folder: Path, home: Path) -> None:
        """The file appears when it is first written."""
        self._file, self._log = home / "ledger.db", folder / "sqlite.log"

    def start(self) -> None:
        """Opening it recovers it."""
        self._starts += 1
        mode = ("wal", "delete")[self._starts % 2]
        command = [sys.executable, "-m", "tests.processes.sqlite_client"]
        self._shell = Shell([*command, str(self._file), mode], self._log, f".echo {MARK}")

    def ask(self, *statements: str) -> list[str]:
        """One statement a line."""
        assert self._shell is not None
        return self._shell.ask(statements)

    def check(self) -> None:
        """SQLite reads every page and every index."""
        answer = self.ask("PRAGMA integrity_check")
        assert answer == ["ok"], answer

    def kill(self) -> None:
        """There is only the one process."""
        if self._shell is not None:
            self._shell.kill()
            self._shell = None


class Server:
    """A database that is a server with a client. user: whom it runs as, as it refuses to as root"""

    size_bytes: ClassVar[int] = 192 << 20
    user: ClassVar[str]

    def __init__(self) -> None:
        self._folder = self._data = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._shell: Shell | None = None

    def _in(self, folder: Path, home: Path) -> None:
        who = pwd.getpwnam(self.user)
        self._folder = folder / self.user
        self._folder.mkdir()
        self._data = home / "data"
        for path in (self._folder, home):
            os.chown(path, who.pw_uid, who.pw_gid)

    def _run(self, *command: str) -> None:
        """A tool of the database's; it must work."""
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            cwd=self._folder,
            user=self.user,
            group=pwd.getpwnam(self.user).pw_gid,
        )
        assert done.returncode == 0, f"{command[0]}: {done.stdout[-2000:]}{done.stderr[-2000:]}"

    def _serve(self, command: list[str], answers: list[str]) -> None:
        """Start the server and wait until *answers* ends with 0."""
        with (self._folder / "log").open("ab") as log:
            self._process = server = subprocess.Popen(
                command,
                cwd=self._folder,
                user=self.user,
                group=pwd.getpwnam(self.user).pw_gid,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

        def serves() -> bool:
            assert server.poll() is None, self._said()
            return subprocess.run(answers, capture_output=True, check=False).returncode == 0

        until(serves, self._said, PATIENCE_S)

    def _said(self) -> str:
        return (self._folder / "log").read_text(errors="replace")[-3000:]

    def ask(self, *statements: str) -> list[str]:
        """One statement a line."""
        assert self._shell is not None
        return self._shell.ask(tuple(f"{statement};" for statement in statements))

    def kill(self) -> None:
        """The server with its children, which are sessions of their own, and the client."""
        if self._process is not None:
            family = [self._process.pid, *_children(self._process.pid)]
            for pid in family:
                _kill(pid)
            self._process.wait()
            self._process = None
            until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in family))
        if self._shell is not None:
            self._shell.kill()
            self._shell = None


class PostgreSql(Server):
    """PostgreSQL with data checksums."""

    name: ClassVar[str] = "postgresql"
    user: ClassVar[str] = "postgres"

    def missing(self) -> str:
        """It comes in one package, but for the client's."""
        return _absent("initdb", "postgres", "pg_amcheck", "pg_checksums", "psql", "pg_isready")

    def create(self, folder: Path, home: Path) -> None:
        """A cluster with small log files, so that many come and go."""
        self._in(folder, home)
        options = ("--data-checksums", "--wal-segsize=1", "--auth=trust", "--no-locale")
        self._run(_program("initdb"), "-D", str(self._data), "-E", "UTF8", *options)

    def start(self) -> None:
        """The server recovers from its log before it answers."""
        own = ("listen_addresses=", f"unix_socket_directories={self._folder}", "max_wal_size=16MB")
        settings = [word for setting in own for word in ("-c", setting)]
        at = ["-h", str(self._folder), "-U", self.user]
        self._serve(
            [_program("postgres"), "-D", str(self._data), *settings],
            [_program("pg_isready"), "-q", *at],
        )
        plain = ["--no-psqlrc", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
        self._shell = Shell(
            [_program("psql"), *at, *plain, "postgres"], self._folder / "log", f"\\echo {MARK}"
        )

    def check(self) -> None:
        """Tables and indices by pg_amcheck; then, stopped, every page's checksum."""
        at = ("-h", str(self._folder), "-U", self.user)
        self._run(_program("pg_amcheck"), *at, "--install-missing", "--heapallindexed", "postgres")
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)  # a fast shutdown
        assert self._process.wait(PATIENCE_S) == 0, self._said()
        self.kill()
        self._run(_program("pg_checksums"), "--check", "-D", str(self._data))
        self.start()


class MariaDb(Server):
    """MariaDB with InnoDB."""

    name: ClassVar[str] = "mariadb"
    user: ClassVar[str] = "mysql"

    def missing(self) -> str:
        """Debian's package is mariadb-server."""
        return _absent("mariadbd", "mariadb-install-db", "mariadb", "mariadb-admin")

    def create(self, folder: Path, home: Path) -> None:
        """The system tables."""
        self._in(folder, home)
        self._run(
            *(_program("mariadb-install-db"), "--no-defaults", f"--datadir={self._data}"),
            *("--skip-test-db", "--auth-root-authentication-method=normal"),
        )

    def start(self) -> None:
        """InnoDB recovers from its log before the server answers."""
        socket = f"--socket={self._folder}/sock"
        self._serve(
            [
                *(_program("mariadbd"), "--no-defaults", f"--datadir={self._data}", socket),
                *(f"--pid-file={self._folder}/pid", "--skip-networking", "--skip-grant-tables"),
                *("--innodb-flush-log-at-trx-commit=1", "--innodb-log-file-size=8M"),
                *("--innodb-buffer-pool-size=16M", f"--tmpdir={self._folder}"),
            ],
            [_program("mariadb-admin"), "--no-defaults", socket, "--silent", "ping"],
        )
        client = [_program("mariadb"), "--no-defaults", socket, "--batch", "-N", "--unbuffered"]
        self._shell = Shell(client, self._folder / "log", f"SELECT '{MARK}';")
        self.ask("CREATE DATABASE IF NOT EXISTS pair", "USE pair")

    def check(self) -> None:
        """InnoDB's own check of both tables."""
        for line in self.ask("CHECK TABLE ledger EXTENDED", "CHECK TABLE tally EXTENDED"):
            assert line.split("\t")[2:] == ["status", "OK"], line


KINDS: dict[str, type[Database]] = {kind.name: kind for kind in (Sqlite, PostgreSql, MariaDb)}


def _program(name: str) -> str:
    folders = sorted(map(str, Path(POSTGRES_BIN).glob("*/bin")), reverse=True)
    path = ":".join([*folders, os.environ["PATH"], "/usr/sbin", "/sbin"])
    return shutil.which(name, path=path) or ""


def _absent(*names: str) -> str:
    absent = [name for name in names if not _program(name)]
    return f"needs {', '.join(absent)} (Debian: see .ci/run for the packages)" if absent else ""


def _children(parent: int) -> list[int]:
    """Processes whose parent is that one."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has just ended
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # gone by itself
