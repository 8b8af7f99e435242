"""Where the daemon of a resource keeps its socket, lock, pid and log: ``<run-dir>/<resource>/``.

The lock decides who is the daemon: it is held for the process's life, so whatever else is found in
the folder without the lock belongs to a dead one and may be replaced. A kill -9 needs no clean-up.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

from replblk.model.errors import AdminError

ROOT_RUN_DIR = "/run/replblk"
DRBD_STATE_DIR = "/var/lib/drbd"
UNIX_PATH_MAX = 107
"""Bytes of a unix socket's path (sun_path without its NUL)."""
ENDING_S, ENDING_POLL_S = 10.0, 0.02
"""How long a killed process may take to let go of its files."""
LOG_BYTES_MAX = 8 << 20
"""A longer log is moved to ``log.old`` when a daemon starts."""


@dataclass(frozen=True, slots=True)
class RunFiles:
    """The paths of one resource."""

    folder: Path

    @classmethod
    def of(cls, run_dir: str | Path, resource: str) -> RunFiles:
        """The paths below *run_dir*; AdminError if they can't be a socket's."""
        if not resource or "/" in resource or resource in (".", ".."):
            raise AdminError(f"'{resource}' can't be the name of a resource", exit_code=10)
        files = cls(Path(os.path.abspath(run_dir)) / resource)
        longest = len(os.fsencode(files.control))
        if longest > UNIX_PATH_MAX:
            raise AdminError(
                f"the path {files.control} has {longest} bytes, a socket's may have "
                f"{UNIX_PATH_MAX}; choose a shorter --run-dir",
                exit_code=20,
            )
        return files

    @property
    def control(self) -> Path:
        """The control socket."""
        return self.folder / "control.sock"

    @property
    def nbd(self) -> Path:
        """The NBD socket."""
        return self.folder / "nbd.sock"

    @property
    def lock(self) -> Path:
        """Held by the living daemon."""
        return self.folder / "lock"

    @property
    def pid(self) -> Path:
        """The daemon's process number, for people and supervisors."""
        return self.folder / "pid"

    @property
    def roles(self) -> Path:
        """Which volumes are Primary, kept over the process's end."""
        return self.folder / "roles"

    @property
    def log(self) -> Path:
        """What a daemon in the background says."""
        return self.folder / "log"

    def state_folder(self, chosen: str) -> Path:
        """Where to keep what outlives a reboot. chosen: the setting, "" for the usual place.

        The place of DRBD's own tools, unless this is an instance with a run directory of its own.
        """
        if chosen:
            return Path(chosen)
        return Path(DRBD_STATE_DIR) if self.folder.parent == Path(ROOT_RUN_DIR) else self.folder

    def make(self) -> None:
        """Create the folder, for its owner alone; AdminError if others may change what is in it."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            status = os.lstat(self.folder)
        except OSError as error:
            raise AdminError(
                f"can't create the run directory {self.folder}: {error.strerror}; "
                "choose another with --run-dir",
                exit_code=20,
            ) from error
        # Whoever may put files there decides which socket is asked and which file is written.
        wrong = ""
        if not stat.S_ISDIR(status.st_mode):
            wrong = "is a symbolic link"
        elif status.st_uid != os.geteuid():
            wrong = f"belongs to user {status.st_uid}, not to {os.geteuid()}"
        elif status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            wrong = "can be changed by other users"
        if wrong:
            raise AdminError(
                f"the run directory {self.folder} {wrong}; remove it, or choose another with "
                "--run-dir",
                exit_code=20,
            )

    def open_log(self) -> int:
        """A descriptor to append to the log; a long old one is put aside."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES_MAX:
            self.log.replace(self.log.with_name("log.old"))
        return _open_own(self.log, os.O_WRONLY | os.O_APPEND)

    def log_tail(self, lines: int = 3) -> str:
        """The last lines of the log, for an error message."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return ""


class DaemonLock:
    """The right to be the daemon of a resource. It is waited for only while its holder is a process
    that was killed and has not quite ended: its disk operations may still be under way."""

    def __init__(self, files: RunFiles) -> None:
        self._files = files
        self._fd = _open_own(files.lock, os.O_RDWR)
        deadline_s = time.monotonic() + ENDING_S
        while not self._locked():
            pid = read_pid(files)
            if has_ended(pid) and time.monotonic() < deadline_s:
                time.sleep(ENDING_POLL_S)
                continue
            os.close(self._fd)
            raise AdminError(
                f"{files.folder.name}: its daemon runs already (process {pid}); "
                f"end it first with 'replblk down {files.folder.name}'",
                exit_code=20,
            )
        try:
            pid_fd = _open_own(files.pid, os.O_WRONLY | os.O_TRUNC)
        except AdminError:
            os.close(self._fd)
            raise
        with os.fdopen(pid_fd, "w") as pid_file:
            pid_file.write(f"{os.getpid()}\n")

    def _locked(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        """Give it back; the folder's files are removed while it is still held."""
        if self._fd >= 0:
            self._files.pid.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def _open_own(path: Path, flags: int) -> int:
    """Open a file of ours, made if need be, for its owner alone; links are not followed."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        why = "it is a symbolic link" if error.errno == errno.ELOOP else error.strerror
        raise AdminError(f"can't open {path}: {why}; remove it", exit_code=20) from error


def has_ended(pid: str) -> bool:
    """Whether a process is gone, or a zombie of which some threads may still be at work."""
    try:
        state = Path(f"/proc/{int(pid)}/stat").read_text().rpartition(")")[2].split()[0]
    except (ValueError, FileNotFoundError, ProcessLookupError):
        return True
    return state in ("Z", "X")


def read_pid(files: RunFiles) -> str:
    """The process number in the pid file, or a question mark."""
    try:
        return files.pid.read_text().strip() or "?"
    except OSError:
        return "?"
