"""Loads and what they measure: fio over NBD or on a file, CPU time of processes, the raw disk."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import select
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replblk.shell.uring import Ring

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Figures:
    """One run. rate: operations a second; latencies and CPU time in microseconds, the latter of
    all processes that serve, for each operation."""

    rate: float
    p50_us: float = 0.0
    p99_us: float = 0.0
    cpu_us: float = 0.0


def fio(
    target: Sequence[str],
    processes: Sequence[int],
    *,
    pattern: str,
    block: str,
    depth: int,
    seconds: float,
    size: int,
    ramp_s: float = 0,
) -> Figures:
    """One fio job. pattern: fio's word; size: of the part of the device that is used, in bytes.
    ramp_s: so long it works before anything is counted."""
    return fio_many(
        [target],
        processes,
        pattern=pattern,
        block=block,
        depth=depth,
        seconds=seconds,
        size=size,
        ramp_s=ramp_s,
    )


def fio_many(
    targets: Sequence[Sequence[str]],
    processes: Sequence[int],
    *,
    pattern: str,
    block: str,
    depth: int,
    seconds: float,
    size: int,
    ramp_s: float = 0,
) -> Figures:
    """A fio job for each target, all at once: rates in sum; depth and size are those of each."""
    words = ["fio", "--output-format=json", "--group_reporting"]
    for number, target in enumerate(targets):
        words += [f"--name=bench{number}", *target, f"--rw={pattern}", f"--bs={block}"]
        words += [f"--iodepth={depth}", f"--size={size}", "--time_based", f"--runtime={seconds}"]
    if ramp_s:
        words.append(f"--ramp_time={ramp_s}")
    before = cpu_s(processes)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    used = (cpu_s(processes) - before) * seconds / (seconds + ramp_s)
    if done.returncode:
        raise SystemExit(f"fio failed: {done.stderr or done.stdout}")
    jobs = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
    found = [job["read" if "read" in pattern else "write"] for job in jobs]
    spread = found[0]["clat_ns"]["percentile"]
    return Figures(
        rate=sum(float(one["iops"]) for one in found),
        p50_us=spread["50.000000"] / 1000,
        p99_us=spread["99.000000"] / 1000,
        cpu_us=used / max(sum(one["total_ios"] for one in found), 1) * 1e6,
    )


def cpu_s(processes: Sequence[int]) -> float:
    """Seconds of CPU that processes have used, in user and kernel mode."""
    total = 0
    for process in processes:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


def raw_group_commit(path: Path, depth: int, seconds: float) -> Figures:
    """What the disk can do at best: *depth* scattered 4 KiB writes submitted together, one flush
    after all of them, again and again; nothing else."""
    block, blocks = 4096, path.stat().st_size // 4096
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    memory = mmap.mmap(-1, block * depth)
    memory[:] = os.urandom(block * depth)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    ring = Ring(max(depth, 8))
    written, began = 0, time.monotonic()
    try:
        while time.monotonic() - began < seconds:
            for number, at in enumerate(random.sample(range(blocks), depth)):
                ring.write(number, fd, at * block, address + number * block, block)
            _finish(ring, depth)
            ring.fdatasync(0, fd)
            _finish(ring, 1)
            written += depth
    finally:
        ring.close()
        os.close(fd)
    return Figures(rate=written / (time.monotonic() - began))


def _finish(ring: Ring, count: int) -> None:
    ring.submit()
    while count:
        select.select([ring.fileno()], [], [])
        for _, result in ring.completions():
            if result < 0:
                raise SystemExit(f"the raw disk: {os.strerror(-result)}")
            count -= 1
