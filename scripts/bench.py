"""``make bench``: a replicating pair beside the plain disk, in one run, with the same durability.

Every acknowledged write is flushed: on both nodes by replblk, once by the plain disk (both replicas
and the plain file share that disk, so half its rate is the most two copies could reach). Rows are
interleaved and the ratio is the median of the rounds' ratios, because such machines are noisy.
Needs fio (Debian: fio). Figures are of this machine and this hour; only the ratios travel.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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
ROWS = (
    # name, fio pattern, block, depth
    ("4 KiB random write, QD 1", "randwrite", "4k", 1),
    ("4 KiB random write, QD 32", "randwrite", "4k", 32),
    ("1 MiB sequential write, QD 4", "write", "1M", 4),
    ("4 KiB random read, QD 1", "randread", "4k", 1),
    ("4 KiB random read, QD 32", "randread", "4k", 32),
)


class Pair:
    """Two daemons on loopback with their backing files in *folder*."""

    def __init__(self, folder: Path, size_bytes: int, *, filled: bool) -> None:
        self.folder = folder
        self.config = folder / "drbd.conf"
        self.config.write_text(CONFIG.format(port=_free_port(), folder=folder))
        for node in ("alpha", "beta"):
            _make_file(folder / f"{node}.img", size_bytes, filled=filled)
            self.run(node, "create-md", "--force", "r0")
            self.run(node, "up", "r0")
        self.run("alpha", "wait-connect", "r0")

    def run(self, node: str, *arguments: str) -> str:
        """One command of replblk as *node*."""
        done = subprocess.run(
            [
                *REPLBLK,
                "-c",
                str(self.config),
                "--node",
                node,
                "--run-dir",
                str(self.folder / node),
                *arguments,
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"replblk {' '.join(arguments)} on {node}: {done.stderr}")
        return done.stdout

    def first_sync(self) -> float:
        """Seconds from ``primary --force`` until both are UpToDate."""
        began = time.monotonic()
        self.run("alpha", "primary", "--force", "r0")
        self.run("alpha", "wait-sync", "r0")
        return time.monotonic() - began

    def memory_mib(self) -> dict[str, float]:
        """Resident memory of each daemon: now, and at its highest."""
        found = {}
        for node in ("alpha", "beta"):
            pid = (self.folder / node / "r0" / "pid").read_text().strip()
            for line in Path(f"/proc/{pid}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    found[node] = int(line.split()[1]) / 1024
        return found

    def target(self) -> list[str]:
        """fio's words for the Primary's export."""
        where = self.folder / "alpha" / "r0" / "nbd.sock"
        return ["--ioengine=nbd", f"--uri=nbd+unix:///0?socket={where}"]

    def close(self) -> None:
        """Both daemons down."""
        for node in ("alpha", "beta"):
            self.run(node, "down", "r0")


def main() -> int:
    """Run everything and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seconds", type=float, default=4, help="for each row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the device")
    parser.add_argument("--dir", type=Path, help="where the files go (default: a temporary folder)")
    args = parser.parse_args()
    if shutil.which("fio") is None:
        print("bench needs fio on PATH (Debian: apt-get install fio)", file=sys.stderr)
        return 1
    print(
        f"machine: {platform.platform()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}"
    )
    with tempfile.TemporaryDirectory(prefix="replblk-bench-", dir=args.dir) as name:
        folder = Path(name)
        _speed(folder, args.size << 20, args.seconds, args.rounds)
        _memory(folder)
    return 0


def _speed(folder: Path, size: int, seconds: float, rounds: int) -> None:
    plain = folder / "plain.img"
    _make_file(plain, size, filled=True)
    (folder / "pair").mkdir()
    pair = Pair(folder / "pair", size, filled=True)
    try:
        took = pair.first_sync()
        copied = _timed(lambda: _copy(plain, folder / "copy.img"))
        mib = size / (1 << 20)
        print(f"device: {mib:.0f} MiB, {rounds} rounds of {seconds:g} s")
        print(f"{'':32} {'replblk pair':>14} {'plain disk':>14} {'ratio':>8}")
        print(
            f"{'full sync':32} {mib / took:9.0f} MiB/s {mib / copied:9.0f} MiB/s "
            f"{copied / took:8.2f}"
        )
        for row, pattern, block, depth in ROWS:
            ours, theirs = [], []
            for _ in range(rounds):
                ours.append(_fio(pair.target(), pattern, block, depth, seconds, size // 2))
                theirs.append(_fio(_plain(plain), pattern, block, depth, seconds, size // 2))
            ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
            print(
                f"{row:32} {statistics.median(ours):10.0f} /s {statistics.median(theirs):11.0f} /s "
                f"{ratio:8.2f}",
                flush=True,
            )
        for node, highest in pair.memory_mib().items():
            print(f"memory of {node} under this load: {highest:.0f} MiB at most")
    finally:
        pair.close()


def _memory(folder: Path) -> None:
    """Two nodes with a sparse 1 TiB device each, connected, in the middle of a full sync."""
    (folder / "tib").mkdir()
    pair = Pair(folder / "tib", 1 << 40, filled=False)
    try:
        pair.run("alpha", "primary", "--force", "r0")
        time.sleep(3)
        for node, highest in pair.memory_mib().items():
            print(f"memory of {node} with a 1 TiB device: {highest:.0f} MiB at most (bar: 200)")
        pair.run("alpha", "disconnect", "--force", "r0")
    finally:
        pair.close()


def _plain(path: Path) -> list[str]:
    """fio's words for the plain file: past the page cache, each write durable."""
    return ["--ioengine=libaio", f"--filename={path}", "--direct=1", "--sync=dsync"]


def _fio(
    target: list[str], pattern: str, block: str, depth: int, seconds: float, size: int
) -> float:
    """Operations a second."""
    done = subprocess.run(
        [
            "fio",
            "--name=bench",
            "--output-format=json",
            *target,
            f"--rw={pattern}",
            f"--bs={block}",
            f"--iodepth={depth}",
            f"--size={size}",
            "--time_based",
            f"--runtime={seconds}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"fio failed: {done.stderr or done.stdout}")
    job = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    return float(job["read" if "read" in pattern else "write"]["iops"])


def _copy(source: Path, target: Path) -> None:
    subprocess.run(
        ["dd", f"if={source}", f"of={target}", "bs=1M", "conv=fdatasync", "status=none"], check=True
    )


def _timed(action: Callable[[], None]) -> float:
    began = time.monotonic()
    action()
    return time.monotonic() - began


def _make_file(path: Path, size: int, *, filled: bool) -> None:
    piece = os.urandom(1 << 20)
    with path.open("wb") as file:
        if filled:
            for _ in range(size >> 20):
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        file.truncate(size)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
