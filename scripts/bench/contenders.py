"""Who is measured: a replblk pair, one qemu-nbd. Each acknowledges a write when it is flushed.

A contender makes its images filled (no holes: a write into a hole costs a journal commit, which
would measure the file system), tells fio where to go, and which processes do the work.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from replblk.admin.messages import Reply, Request
from replblk.shell.control_client import call
from replblk.shell.run_files import RunFiles

REPLBLK = [sys.executable, "-P", "-m", "replblk.cli"]
CONFIG = """
resource {name} {{
  protocol C;
  net {{ connect-int 1; ping-int 10; }}
  disk {{ c-max-rate 4000M; {disk} }}
  on alpha {{ address 127.0.0.1:{port}; {alpha} }}
  on beta {{ address 127.0.0.2:{port}; {beta} }}
}}
"""
START_S = 20.0
COMMAND_S = 300.0
NATIVE = ", aio=native"
"""Behind the name of a contender that does its I/O so: no goal is set beside it."""


class Contender(Protocol):
    """Started by its constructor."""

    name: str

    def target(self) -> list[str]:
        """fio's words for where to read and write."""

    def images(self) -> list[Path]:
        """Where a write has to be durable before it is answered."""

    def processes(self) -> list[int]:
        """Who does the work."""

    def close(self) -> None:
        """End it."""


class ReplblkPair:
    """Two daemons on loopback with their backing files in *folder*, in sync, alpha Primary."""

    name = "replblk pair"

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        filled: bool = True,
        synced: bool = True,
        volumes: int = 1,
        disk: str = "",
        settings: str = "",
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """size: of each volume. synced: by a full sync; else both files count as equal from the
        beginning. disk: more options of drbd.conf; settings: lines of replblk.toml."""
        folder.mkdir(parents=True)
        self.folder = folder
        self.volumes = volumes
        self._environment = {**os.environ, **(environment or {})}
        self._started: list[str] = []
        self.config = folder / "drbd.conf"
        nodes = {
            node: " ".join(
                f"volume {number} {{ device /dev/drbd{number}; meta-disk internal; "
                f"disk {self.image(node, number)}; }}"
                for number in range(volumes)
            )
            for node in ("alpha", "beta")
        }
        self.config.write_text(CONFIG.format(name="r0", port=free_port(), disk=disk, **nodes))
        (folder / "replblk.toml").write_text(settings)
        for node in ("alpha", "beta"):
            for number in range(volumes):
                make_file(self.image(node, number), size, filled=filled)
            self.run(node, "create-md", "--force", "r0")
            self.run(node, "up", "r0")
            self._started.append(node)
        self.run("alpha", "wait-connect", "r0")
        self.sync_s = 0.0
        if synced:
            began = time.monotonic()
            self.ask("alpha", "primary", force=True)
            self.ask("alpha", "wait-sync")
            self.sync_s = time.monotonic() - began
        else:
            self.run("alpha", "new-current-uuid", "--clear-bitmap", "r0")
            self.run("alpha", "primary", "r0")

    def run(self, node: str, *arguments: str) -> str:
        """One command of replblk as *node*."""
        where = ["-c", str(self.config), "--node", node, "--run-dir", str(self.folder / node)]
        done = subprocess.run(
            [*REPLBLK, *where, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
        )
        if done.returncode:
            raise SystemExit(f"replblk {' '.join(arguments)} on {node}: {done.stderr}")
        return done.stdout

    def ask(self, node: str, verb: str, **options: bool) -> Reply:
        """The same without another process, whose start would be measured with it."""
        files = RunFiles.of(str(self.folder / node), "r0")
        reply = call(files, Request(verb, None, dict(options)), COMMAND_S)
        if reply.exit_code:
            raise SystemExit(f"replblk {verb} on {node}: {reply.text}")
        return reply

    def image(self, node: str, volume: int = 0) -> Path:
        """The backing file of a node."""
        return self.folder / (f"{node}-{volume}.img" if volume else f"{node}.img")

    def images(self) -> list[Path]:
        """Both nodes' files of the first volume."""
        return [self.image("alpha"), self.image("beta")]

    def target(self, volume: int = 0) -> list[str]:
        """The Primary's export."""
        return nbd_words(self.folder / "alpha" / "r0" / "nbd.sock", str(volume))

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
        """Both daemons down, and their files gone."""
        for node in self._started:
            self.run(node, "down", "r0")
        shutil.rmtree(self.folder)


class PlainDisk:
    """The file itself, past the page cache, each write durable before the next: no server."""

    name = "plain disk"

    def __init__(self, folder: Path, size: int) -> None:
        folder.mkdir(parents=True)
        self.path = folder / "disk.img"
        make_file(self.path, size, filled=True)

    def target(self) -> list[str]:
        """The file."""
        return ["--ioengine=libaio", f"--filename={self.path}", "--direct=1", "--sync=dsync"]

    def images(self) -> list[Path]:
        """The file."""
        return [self.path]

    def processes(self) -> list[int]:
        """None: fio does it all."""
        return []

    def close(self) -> None:
        """Nothing runs."""


class QemuNbd:
    """One unreplicated export: past the page cache, every write flushed before its answer."""

    name = "qemu-nbd"

    def __init__(self, folder: Path, size: int, *, port: int = 0, native: bool = False) -> None:
        """port: of TCP on 127.0.0.1; 0: a unix socket. native: by the kernel's AIO instead of
        QEMU's default, threads that make system calls."""
        if native:
            self.name += NATIVE
        folder.mkdir(parents=True)
        self.path = folder / "disk.img"
        at = folder / "nbd.sock"
        self.uri = f"nbd://127.0.0.1:{port}" if port else f"nbd+unix:///?socket={at}"
        make_file(self.path, size)
        self._process = subprocess.Popen(
            [
                *("qemu-nbd", "--persistent", "--shared=8", "--format=raw"),
                *("--cache=directsync", f"--aio={'native' if native else 'threads'}"),
                *(["--bind=127.0.0.1", f"--port={port}"] if port else [f"--socket={at}"]),
                str(self.path),
            ]
        )
        if port:
            wait_for_port(port)
        else:
            wait_for_socket(at)

    def target(self) -> list[str]:
        """The export."""
        return ["--ioengine=nbd", f"--uri={self.uri}"]

    def images(self) -> list[Path]:
        """The one file."""
        return [self.path]

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


def wait_for_port(port: int) -> None:
    """Until somebody answers on a TCP port of 127.0.0.1."""
    deadline_s = time.monotonic() + START_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            if time.monotonic() > deadline_s:
                raise SystemExit(f"nobody listens on port {port}") from None
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL for one that does not hear."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
