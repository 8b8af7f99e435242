"""``replblk`` on disks with a volatile cache: what was not synced is lost when it is killed.

Runs the command line given to it, with every write to an open device held in memory until fdatasync
or fsync of that device. So SIGKILL of the process is a power cut of its machine. Reads see what was
written, as a cache must. Used as: python -m tests.interop.kernel.volatile_cache --config ... run r0
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from replblk.cli.main import main
from replblk.shell import disk_writer

SECTOR = 512
_real_pwritev, _real_preadv, _real_pread = os.pwritev, os.preadv, os.pread
_real_fdatasync, _real_pwrite = os.fdatasync, os.pwrite


class Cache:
    """Sectors of each device (by inode) that were written and not synced."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._dirty: dict[tuple[int, int], dict[int, bytes]] = {}

    def _of(self, fd: int) -> dict[int, bytes]:
        status = os.fstat(fd)
        return self._dirty.setdefault((status.st_dev, status.st_ino), {})

    def write(self, fd: int, data: bytes, offset: int) -> int:
        with self._lock:
            dirty = self._of(fd)
            for at in range(0, len(data), SECTOR):
                dirty[(offset + at) // SECTOR] = data[at : at + SECTOR]
        return len(data)

    def pwritev(self, fd: int, buffers: Sequence[Any], offset: int, *_: int) -> int:
        return self.write(fd, b"".join(bytes(buffer) for buffer in buffers), offset)

    def pwrite(self, fd: int, data: Any, offset: int) -> int:
        return self.write(fd, bytes(data), offset)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        with self._lock:
            data = bytearray(_real_pread(fd, length, offset))
            dirty = self._of(fd)
            for at in range(0, len(data) - SECTOR + 1, SECTOR):
                fresh = dirty.get((offset + at) // SECTOR)
                if fresh is not None:
                    data[at : at + SECTOR] = fresh
            return bytes(data)

    def preadv(self, fd: int, buffers: Sequence[Any], offset: int, *_: int) -> int:
        (buffer,) = buffers
        data = self.pread(fd, len(buffer), offset)
        buffer[: len(data)] = data
        return len(data)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> int:
        self.write(fd, bytes(length), offset)
        return 0

    def fdatasync(self, fd: int) -> None:
        with self._lock:
            dirty = self._of(fd)
            for sector, data in dirty.items():
                _real_pwrite(fd, data, sector * SECTOR)
            _real_fdatasync(fd)
            dirty.clear()


def install() -> None:
    """Put the cache between replblk and the system."""
    cache = Cache()
    os.pwritev, os.pwrite = cache.pwritev, cache.pwrite
    os.preadv, os.pread = cache.preadv, cache.pread
    os.fdatasync = os.fsync = cache.fdatasync  # type: ignore[assignment]
    disk_writer.fallocate = cache.fallocate


if __name__ == "__main__":
    install()
    sys.exit(main())
