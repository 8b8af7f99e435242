"""Proof that an acknowledgement means flushed: flushes are counted while writes come one by one.

With one write in flight a flush serves that write alone. So for every acknowledged write, each
image has to be flushed at least once. Two witnesses, both outside of the programs:

* strace counts the flushing system calls of each process: fdatasync, fsync, sync_file_range and
  writes with RWF_DSYNC. What goes through io_uring it does not see.
* the kernel's tracepoint ext4_sync_file_enter names the file of every flush, whoever asked for it
  and how. It needs root and images on ext4.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_CALLS = "fdatasync,fsync,pwritev2,sync_file_range,io_uring_enter"
_FLUSH = re.compile(r"\b(?:fdatasync|fsync|sync_file_range)\(|pwritev2\(.*RWF_DSYNC")
_SUBMITS = re.compile(r"io_uring_enter\(\d+, [1-9]")
_INODE = re.compile(r"ext4_sync_file_enter: .*\bino (\d+)")


@dataclass(frozen=True, slots=True)
class Proof:
    """writes: acknowledged. The rest: counts of each process, or of each image (None: unknown)."""

    writes: int
    flush_calls: tuple[int, ...]
    ring_calls: tuple[int, ...]
    file_flushes: tuple[int, ...] | None

    @property
    def holds(self) -> bool:
        """Every image was flushed for every write, as far as anybody can see from outside."""
        counts = self.file_flushes
        if counts is None:
            pairs = zip(self.flush_calls, self.ring_calls, strict=True)
            counts = tuple(calls + ring for calls, ring in pairs)
        return bool(counts) and all(count >= self.writes for count in counts)


def flushes_of(
    target: Sequence[str], processes: Sequence[int], images: Sequence[Path] | None, writes: int
) -> Proof:
    """Send *writes* scattered writes one by one while *processes* and *images* are watched.

    images: None where the kernel can't tell, as in memory.
    """
    with tempfile.TemporaryDirectory() as folder, _flushed_inodes() as flushed:
        logs = [Path(folder) / str(process) for process in processes]
        tracers = [
            subprocess.Popen(
                ["strace", "-f", "-e", f"trace={_CALLS}", "-o", str(log), "-p", str(process)],
                stderr=subprocess.DEVNULL,
            )
            for log, process in zip(logs, processes, strict=True)
        ]
        time.sleep(1)  # strace tells nowhere that it has attached to all threads
        subprocess.run(
            [
                *("fio", "--name=proof", *target, "--rw=randwrite", "--bs=4k", "--iodepth=1"),
                *("--size=16m", f"--number_ios={writes}"),
            ],
            capture_output=True,
            check=True,
        )
        for tracer in tracers:
            tracer.terminate()
            tracer.wait()
        texts = [log.read_text() for log in logs]
        files = None
        if flushed is not None and images is not None:
            found = Counter(_INODE.findall((flushed / "trace").read_text()))
            files = tuple(found[str(image.stat().st_ino)] for image in images)
    return Proof(
        writes,
        tuple(len(_FLUSH.findall(text)) for text in texts),
        tuple(len(_SUBMITS.findall(text)) for text in texts),
        files,
    )


@contextlib.contextmanager
def _flushed_inodes() -> Iterator[Path | None]:
    """A folder of the kernel's tracing whose file "trace" tells of flushes; None without one."""
    with tempfile.TemporaryDirectory() as folder:
        mounted = subprocess.run(
            ["mount", "-t", "tracefs", "tracefs", folder], capture_output=True, check=False
        )
        instance = Path(folder, "instances", "replblk-bench")
        event = instance / "events" / "ext4" / "ext4_sync_file_enter" / "enable"
        if mounted.returncode:
            yield None
            return
        try:
            instance.mkdir()
            try:
                if not event.exists():
                    yield None
                    return
                event.write_text("1")
                yield instance
                event.write_text("0")
            finally:
                instance.rmdir()
        finally:
            subprocess.run(["umount", folder], check=True)
