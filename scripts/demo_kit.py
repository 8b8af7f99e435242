"""What the demonstration is made of: text for the reader, nodes, data, processes. See demo.py.

Sizes in bytes. DemoError says why it can't go on, CanNotBeginError what is in its way.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nbd.client import Client, NbdError

KIB, MIB = 1 << 10, 1 << 20
ADDRESSES = {"alpha": "127.0.0.1", "beta": "127.0.0.2"}
REPLBLK = Path(sys.executable).with_name("replblk")
CHUNK = 256 * KIB
BLOCK = 4 * KIB
SECTOR = 512
COMMAND_S, WAIT_S = 60.0, 60.0
REDRAW_S = 0.1
STEPS = itertools.count(1)
Report = Callable[[float, str], None]


class DemoError(Exception):
    """The demonstration can't go on; the sentence says why."""


class CanNotBeginError(DemoError):
    """Something on this machine is in the way; nothing was started."""


# --- what the reader sees ---


def say(text: str = "") -> None:
    """A line of text."""
    print(f"   {text}" if text else "", flush=True)


def step(title: str) -> None:
    """The title of what comes next."""
    line = f"{next(STEPS)}. {title}"
    bold = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    print(f"\n\033[1m{line}\033[0m" if bold else f"\n{line}", flush=True)


def mib(count: float) -> str:
    """Bytes as MiB."""
    return f"{count / MIB:.1f} MiB"


@contextlib.contextmanager
def progress(label: str) -> Iterator[Report]:
    """A line that follows a share from 0 to 1: redrawn on a terminal, else a line a quarter."""
    quarters = 0
    redraw_at = 0.0

    def report(share: float, text: str) -> None:
        nonlocal quarters, redraw_at
        share = min(max(share, 0.0), 1.0)
        if sys.stdout.isatty():
            now = time.monotonic()
            if share < 1 and now < redraw_at:
                return
            redraw_at = now + REDRAW_S
            bar = "=" * int(30 * share)
            print(
                f"\r   {label} [{bar:<30}] {100 * share:3.0f} %  {text}\033[K", end="", flush=True
            )
        elif int(4 * share) > quarters:
            quarters = int(4 * share)
            say(f"{label} {100 * share:3.0f} %  {text}")

    try:
        yield report
    finally:
        if sys.stdout.isatty():
            print(flush=True)


# --- a node, used as an administrator uses it ---


class Node:
    """One of the two nodes: its command line, its disk, its daemon's process."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.disk = folder / f"{name}.img"
        self.run_dir = folder / name
        self._environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("REPLBLK_")},
            "REPLBLK_CONFIG": str(folder / "drbd.conf"),
            "REPLBLK_NODE": name,
            "REPLBLK_RUN_DIR": str(self.run_dir),
        }

    def run(self, *words: str, show: bool = True, may_fail: bool = False) -> str:
        """Run ``replblk`` on this node; what it printed."""
        if show:
            say(f"{self.name}$ replblk {' '.join(words)}")
        done = subprocess.run(
            [REPLBLK, *words],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S,
        )
        if show:
            for line in done.stdout.rstrip().splitlines():
                say(f"  {line}")
        if done.returncode and not may_fail:
            said = "" if show else f": {done.stdout.strip()}"
            raise DemoError(
                f"'replblk {' '.join(words)}' on {self.name} ended with status "
                f"{done.returncode}{said}"
            )
        return done.stdout.strip()

    def status(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The device and the peer device of ``replblk status --json``."""
        node = json.loads(self.run("status", "--json", "r0", show=False))["resources"][0]
        return node["devices"][0], node["connections"][0]["peer_devices"][0]

    def healthy(self) -> bool:
        """UpToDate/UpToDate and nothing out of sync, as this node sees it."""
        own, peer = self.status()
        states = (own["disk-state"], peer["peer-disk-state"], peer["replication-state"])
        return states == ("UpToDate", "UpToDate", "Established") and not peer["out-of-sync"]

    def device(self) -> Client:
        """The device, as an NBD client uses it."""
        client = Client.connect(str(self.run_dir / "r0" / "nbd.sock"))
        client.open("0", block_sizes=False)  # data may end anywhere
        return client

    def process(self) -> int:
        """The daemon's process number."""
        return int((self.run_dir / "r0" / "pid").read_text())


def wait_until(what: str, there: Callable[[], bool], pause_s: float = 0.2) -> None:
    """Wait for something that a node does by itself."""
    give_up = time.monotonic() + WAIT_S
    while not there():
        if time.monotonic() > give_up:
            raise DemoError(f"waited {WAIT_S:.0f} s in vain: {what}")
        time.sleep(pause_s)


def watch_resync(label: str, source: Node, target: Node) -> None:
    """Follow a resync until both nodes say that it is done."""
    began = time.monotonic()
    with progress(label) as report:

        def done() -> bool:
            peer = source.status()[1]
            if peer["replication-state"] == "SyncSource":
                total, left = peer["rs-total"] * SECTOR, peer["rs-left"] * SECTOR
                report(1 - left / total, f"{mib(total - left)} of {mib(total)}")
            return source.healthy() and target.healthy()

        wait_until(f"{target.name} becomes UpToDate", done)
        report(1.0, f"done in {time.monotonic() - began:.1f} s")


# --- data ---


def pack(source: Path, packed: Path, most: int) -> str:
    """Put *source* into the file *packed*: a directory as a tar archive, a file as it is.

    most: how much of a directory is taken, in bytes.
    """
    if source.is_file():
        shutil.copyfile(source, packed)
        return f"the file {source}"
    if not source.is_dir():
        raise CanNotBeginError(f"there is no file or directory {source}")
    count = taken = 0
    with tarfile.open(packed, "w") as archive:
        for path in sorted(source.rglob("*")):
            if path.is_symlink() or not path.is_file() or not os.access(path, os.R_OK):
                continue
            size = path.stat().st_size
            if taken + size > most or "site-packages" in path.parts:
                continue
            archive.add(path, path.relative_to(source))
            count, taken = count + 1, taken + size
    if not count:
        raise CanNotBeginError(f"there are no readable files in {source}")
    return f"{count:,} files of {source}, packed by tarfile"


def pieces(path: Path) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of a file, piece by piece."""
    with path.open("rb") as file:
        offset = 0
        while data := file.read(CHUNK):
            yield offset, data
            offset += len(data)


def same_data(client: Client, path: Path, report: Report) -> bool:
    """Whether the device begins with the file's data, bit for bit."""
    size = path.stat().st_size
    same = True
    for offset, data in pieces(path):
        same = same and client.read(offset, len(data)) == data
        report((offset + len(data)) / size, mib(offset + len(data)))
    return same


class Writer(threading.Thread):
    """Writes numbered blocks until the connection breaks, and remembers what was acknowledged."""

    DEPTH = 16

    def __init__(self, client: Client, start: int, size: int) -> None:
        super().__init__(daemon=True)
        self._client = client
        self._start = start
        self._blocks = size // BLOCK
        self.acked: dict[int, int] = {}
        self.in_flight: dict[int, int] = {}
        self.count = 0
        self.why = ""

    def run(self) -> None:
        """Until the server is gone."""
        cookies: dict[int, int] = {}
        number = 0
        try:
            while True:
                while len(cookies) < self.DEPTH:
                    number += 1
                    block = number % self._blocks
                    self.in_flight[block] = number
                    data = number.to_bytes(8) * (BLOCK // 8)
                    at = self._start + block * BLOCK
                    cookies[self._client.submit_write(at, data)] = number
                for answer in self._client.collect(1):
                    answer.checked()
                    done = cookies.pop(answer.cookie)
                    self.acked[done % self._blocks] = done
                    del self.in_flight[done % self._blocks]
                    self.count += 1
        except NbdError as error:
            self.why = str(error)

    def lost(self, client: Client) -> int:
        """How many blocks do not hold their last acknowledged write, nor one that was in flight."""
        lost = 0
        for block, number in self.acked.items():
            found = client.read(self._start + block * BLOCK, BLOCK)
            allowed = {number, self.in_flight.get(block, number)}
            lost += found not in {each.to_bytes(8) * (BLOCK // 8) for each in allowed}
        return lost


# --- processes and places ---


def check_port(port: int) -> None:
    """Say in time that an address is taken, and what to do."""
    for address in ADDRESSES.values():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
                probe.listen()
            except OSError as error:
                raise CanNotBeginError(
                    f"can't listen on {address}:{port} ({error.strerror}). If a DRBD or another "
                    f"replblk uses it, choose another port: make demo DEMO_PORT={port + 10000}"
                ) from error


def daemons(folder: Path) -> list[int]:
    """The daemons that were started here: their command line names our folder as run directory."""
    found = []
    marks = [os.fsencode(f"--run-dir\0{folder / name}\0run\0") for name in ADDRESSES]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                command = (entry / "cmdline").read_bytes()
                if any(mark in command for mark in marks):
                    found.append(int(entry.name))
    return found


def clean_up(folder: Path) -> None:
    """End what was started and remove what was made."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop this
    quiet = 0
    while quiet < 2:  # twice: an "up" that was interrupted may have had one on the way
        left = daemons(folder)
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        quiet = 0 if left else quiet + 1
        time.sleep(0.05)
    shutil.rmtree(folder, ignore_errors=True)
