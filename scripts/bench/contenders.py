"""Who is measured: a replblk pair, one qemu-nbd. Each acknowledges a write when it is flushed.

A contender makes its images filled (no holes: a write into a hole costs a journal commit, which
would measure the file system), tells fio where to go, and which processes do the work.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Protocol

REPLBLK = [sys.executable, "-P", "-m", "replblk.cli"]
CONFIG = """
resource r0 {{
  protocol C;
  net {{ connect-int 1; ping-int 10; }}
  disk {{ c-max-rate 4000M; }}
  device /dev/drbd0; meta-disk internal;
  on alpha {{ address 127.0.0.1:{port}; disk {folder}/alpha.img; }}
  on beta {{ address 127.0.0.2:{port}; disk {folder}/beta.img; }}
}}
"""
START_S = 20.0


class Contender(Protocol):
    """Started by its constructor."""

    name: str

    def target(self) -> list[str]:
        """fio's words for where to read and write."""

    def processes(self) -> list[int]:
        """Who does the work."""

    def close(self) -> None:
        """End it."""


class ReplblkPair:
    """Two daemons on loopback with their backing files in *folder*, in sync, alpha Primary."""

    name = "replblk pair"

    def __init__(self, folder: Path, size: int, *, filled: bool = True) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.config = folder / "drbd.conf"
        self.config.write_text(CONFIG.format(port=free_port(), folder=folder))
        for node in ("alpha", "beta"):
            make_file(self.image(node), size, filled=filled)
            self.run(node, "create-md", "--force", "r0")
            self.run(node, "up", "r0")
        self.run("alpha", "wait-connect", "r0")
        self.sync_s = 0.0
        if filled:
            began = time.monotonic()
            self.run("alpha", "primary", "--force", "r0")
            self.run("alpha", "wait-sync", "r0")
            self.sync_s = time.monotonic() - began

    def run(self, node: str, *arguments: str) -> str:
        """One command of replblk as *node*."""
        where = ["-c", str(self.config), "--node", node, "--run-dir", str(self.folder / node)]
        done = subprocess.run(
            [*REPLBLK, *where, *arguments], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"replblk {' '.join(arguments)} on {node}: {done.stderr}")
        return done.stdout

    def image(self, node: str) -> Path:
        """The backing file of a node."""
        return self.folder / f"{node}.img"

    def target(self) -> list[str]:
        """The Primary's export."""
        return nbd_words(self.folder / "alpha" / "r0" / "nbd.sock", "0")

    def processes(self) -> list[int]:
        """Both daemons."""
        return [int((self.folder / node / "r0" / "pid").read_text()) for node in ("alpha", "beta")]

    def memory_mib(self) -> list[float]:
        """Resident memory of each daemon at its highest."""
        return [
            int(line.split()[1]) / 1024
            for process in self.processes()
            for line in Path(f"/proc/{process}/status").read_text().splitlines()
            if line.startswith("VmHWM")
        ]

    def close(self) -> None:
        """Both daemons down."""
        for node in ("alpha", "beta"):
            self.run(node, "down", "r0")


class PlainDisk:
    """The file itself, past the page cache, each write durable before the next: no server."""

    name = "plain disk"

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "disk.img"
        make_file(self.path, size, filled=True)

    def copy_s(self) -> float:
        """Seconds that dd takes to copy it, durably: what a full sync is measured by."""
        copy = self.path.with_name("copy.img")
        began = time.monotonic()
        words = [f"if={self.path}", f"of={copy}", "bs=1M", "conv=fdatasync", "status=none"]
        subprocess.run(["dd", *words], check=True)
        took = time.monotonic() - began
        copy.unlink()
        return took

    def target(self) -> list[str]:
        """The file."""
        return ["--ioengine=libaio", f"--filename={self.path}", "--direct=1", "--sync=dsync"]

    def processes(self) -> list[int]:
        """None: fio does it all."""
        return []

    def close(self) -> None:
        """Nothing runs."""


class QemuNbd:
    """One unreplicated export: past the page cache, every write flushed before its answer."""

    name = "qemu-nbd"

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True)
        self._socket = folder / "nbd.sock"
        make_file(folder / "disk.img", size)
        self._process = subprocess.Popen(
            [
                *("qemu-nbd", "--persistent", "--shared=8", "--format=raw"),
                *("--cache=directsync", "--aio=native", f"--socket={self._socket}"),
                str(folder / "disk.img"),
            ]
        )
        wait_for_socket(self._socket)

    def target(self) -> list[str]:
        """The export."""
        return nbd_words(self._socket, "")

    def processes(self) -> list[int]:
        """The one process."""
        return [self._process.pid]

    def close(self) -> None:
        """Ended."""
        end(self._process)


def nbd_words(where: Path, export: str) -> list[str]:
    """fio's words for an export on a unix socket."""
    return ["--ioengine=nbd", f"--uri=nbd+unix:///{export}?socket={where}"]


def make_file(path: Path, size: int, *, filled: bool = True) -> None:
    """A file of *size* bytes: random bytes, durable; or one hole."""
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        if filled:
            for _ in range(size >> 20):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        file.truncate(size)


def free_port() -> int:
    """A TCP port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for_socket(path: Path) -> None:
    """Until somebody answers on a unix socket."""
    deadline_s = time.monotonic() + START_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(path))
                return
            except OSError:
                if time.monotonic() > deadline_s:
                    raise SystemExit(f"nobody listens on {path}") from None
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not hear."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
