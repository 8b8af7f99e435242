"""A configured pair of nodes on loopback addresses in one folder, driven by the command line."""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from replblk.cli.main import main

CONFIG = """
resource r0 {{
  protocol C;
  net {{ connect-int 1; }}
  device /dev/drbd0;
  meta-disk internal;
  on alpha {{ address 127.0.0.1:{port}; disk {folder}/alpha.img; }}
  on beta {{ address 127.0.0.2:{port}; disk {folder}/beta.img; }}
}}
"""
LIMIT_S = 30.0


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    returncode: int
    stdout: str
    stderr: str


class Site:
    """The folder with ``drbd.conf`` and backing files; ``replblk`` runs a command as a node."""

    def __init__(self, folder: Path, port: int, size_bytes: int = 4 << 20) -> None:
        self.folder = folder
        self.config = folder / "drbd.conf"
        self.config.write_text(CONFIG.format(port=port, folder=folder))
        for node in ("alpha", "beta"):
            with (folder / f"{node}.img").open("wb") as file:
                file.truncate(size_bytes)

    def in_sync(self) -> None:
        """Both nodes up on fresh metadata, alpha Primary, both UpToDate."""
        for node in ("alpha", "beta"):
            self.run(node, "create-md", "r0")
            self.run(node, "up", "r0")
        self.run("alpha", "primary", "--force", "r0")
        until(lambda: self.run("alpha", "dstate", "r0").strip() == "UpToDate/UpToDate")

    def command(self, node: str, *arguments: str) -> list[str]:
        """The command line of ``replblk`` as *node*, with the settings ``NODE.toml`` if any."""
        own = self.folder / f"{node}.toml"
        return [
            *(sys.executable, "-P", "-m", "replblk.cli", "--config", str(self.config)),
            *(("--settings", str(own)) if own.exists() else ()),
            *("--node", node, "--run-dir", str(self.folder / node), *arguments),
        ]

    def replblk(self, node: str, *arguments: str) -> Done:
        """Run one command to its end: in this process, but for a daemon in the foreground."""
        command = self.command(node, *arguments)
        if arguments[0] == "run":
            ran = subprocess.run(
                command, capture_output=True, text=True, timeout=LIMIT_S, check=False
            )
            return Done(ran.returncode, ran.stdout, ran.stderr)
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            returncode = main(command[4:])
        return Done(returncode, out.getvalue(), err.getvalue())

    def run(self, node: str, *arguments: str) -> str:
        """The same where success is expected; its output."""
        done = self.replblk(node, *arguments)
        assert done.returncode == 0, f"{arguments}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def run_file(self, node: str, name: str) -> Path:
        """A file of the daemon: control.sock, nbd.sock, pid, log, lock."""
        return self.folder / node / "r0" / name

    def pid(self, node: str) -> int:
        """The daemon's process."""
        return int(self.run_file(node, "pid").read_text())

    def down(self) -> None:
        """End what still runs, whatever it takes."""
        for node in ("alpha", "beta"):
            if self.run_file(node, "pid").exists():
                pid = self.pid(node)
                self.replblk(node, "down", "--force", "r0")
                if _alive(pid):
                    os.kill(pid, 9)


def free_port() -> int:
    """A port that nobody listens on, at none of the addresses that tests use. By chance, so that
    two runs of the tests on one machine do not meet; below those that the kernel gives out."""
    while True:
        port = random.SystemRandom().randrange(20000, 32000)
        with contextlib.ExitStack() as stack:
            try:
                for last in range(1, 5):
                    sock = stack.enter_context(socket.socket())
                    sock.bind((f"127.0.0.{last}", port))
            except OSError:
                continue
            return port


def until(
    happened: Callable[[], bool], story: Callable[[], str] = str, limit_s: float = LIMIT_S
) -> None:
    """Wait for something outside this process; *story* tells what went on if it never happens."""
    deadline_s = time.monotonic() + limit_s
    while not happened():
        assert time.monotonic() < deadline_s, f"it did not happen in time {story()}"
        time.sleep(0.02)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
