"""A daemon that writes down every disk operation it asks for, and when each was answered.

    python -m tests.processes.recording LOG <arguments of replblk>

The log is a sequence of pickled tuples on one monotonic clock for all processes of the machine:
("ask", ns, op, kind, offset, length, durable, data or None) and ("done", ns, op, errno). The disk
port's promise is what counts, not what the page cache happens to do: see ``crash_states``.
"""

from __future__ import annotations

import os
import pickle
import sys
import time
from typing import Any

from replblk.cli.main import main
from replblk.engine.ports import OpenFailed
from replblk.shell import daemon
from replblk.shell.disks import FileDisks


def record(log: str) -> None:
    """From now on daemons of this process open disks that are recorded in *log*."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(*entry: object) -> None:
        os.write(fd, pickle.dumps(entry))

    class RecordingDisks(FileDisks):
        def __init__(self, paths: Any, loop: Any, on_done: Any, *more: Any, **options: Any) -> None:
            def done(answers: Any) -> None:
                now = time.monotonic_ns()
                for op, errno, _data in answers:
                    note("done", now, op, errno)
                on_done(answers)

            super().__init__(paths, loop, done, *more, **options)

        def open(self, volume: int) -> Any:
            disk = super().open(volume)
            if isinstance(disk, OpenFailed):
                return disk
            write, zero, flush = disk.write, disk.zero, disk.flush

            def recorded_write(op: int, offset: int, data: Any, *, durable: bool) -> None:
                kept = bytes(data)
                note("ask", time.monotonic_ns(), op, "write", offset, len(kept), durable, kept)
                write(op, offset, data, durable=durable)

            def recorded_writes(operations: list[tuple[int, int, Any, bool]]) -> None:
                for op, offset, data, durable in operations:
                    recorded_write(op, offset, data, durable=durable)

            def recorded_zero(
                op: int, offset: int, length: int, *, unmap: bool, durable: bool
            ) -> None:
                note("ask", time.monotonic_ns(), op, "zero", offset, length, durable, None)
                zero(op, offset, length, unmap=unmap, durable=durable)

            def recorded_flush(op: int) -> None:
                note("ask", time.monotonic_ns(), op, "flush", 0, 0, True, None)
                flush(op)

            opened: Any = disk
            opened.write, opened.writes = recorded_write, recorded_writes
            opened.zero, opened.flush = recorded_zero, recorded_flush
            return disk

    daemon.FileDisks = RecordingDisks  # type: ignore[misc]


if __name__ == "__main__":
    record(sys.argv[1])
    sys.exit(main(sys.argv[2:]))
