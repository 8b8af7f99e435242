"""``replblk`` on disks with a volatile cache: what was not synced is lost when it is killed.

Runs the command line given to it, with every write to an open device held in memory until fdatasync
or fsync of that device. So SIGKILL of the process is a power cut of its machine. Reads see what was
written, as a cache must. Both ways to the disk are covered: threads, and the ring, whose every
operation is done at once and completed in a later turn of the loop.
Used as: python -m tests.interop.kernel.volatile_cache --config ... run r0
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from replblk.cli.main import main
from replblk.shell import disk_ring, disk_writer
from replblk.shell.backing_device import BackingDevice
from replblk.shell.uring import READ

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
        # The size is kept: whoever asks behind the end only wants to know whether it can be done.
        self.write(fd, bytes(max(0, min(length, os.fstat(fd).st_size - offset))), offset)
        return 0

    def fdatasync(self, fd: int) -> None:
        with self._lock:
            dirty = self._of(fd)
            for sector, data in dirty.items():
                _real_pwrite(fd, data, sector * SECTOR)
            _real_fdatasync(fd)
            dirty.clear()

    def sync_range(self, fd: int, offset: int, length: int) -> None:
        """Only these sectors: what a write with RWF_DSYNC promises."""
        with self._lock:
            dirty = self._of(fd)
            for sector in range(offset // SECTOR, (offset + length) // SECTOR):
                if (data := dirty.pop(sector, None)) is not None:
                    _real_pwrite(fd, data, sector * SECTOR)
            _real_fdatasync(fd)


class VolatileRing:
    """Stands for ``uring.Ring`` before the cache."""

    cache: Cache
    can_wait = False

    def __init__(self, entries: int) -> None:
        self.pending = 0
        self.room = entries
        self._done: list[tuple[int, int]] = []
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def fileno(self) -> int:
        return self._event

    def close(self) -> None:
        os.close(self._event)

    def read(self, number: int, fd: int, offset: int, address: int, length: int) -> None:
        data = self.cache.pread(fd, length, offset)
        ctypes.memmove(address, data, len(data))
        self._complete(number, len(data))

    def write(
        self, number: int, fd: int, offset: int, address: int, length: int, flags: int = 0
    ) -> None:
        self.cache.write(fd, ctypes.string_at(address, length), offset)
        if flags:
            self.cache.sync_range(fd, offset, length)
        self._complete(number, length)

    def transfers(
        self, op: int, fd: int, transfers: list[tuple[int, int, int, int]], flags: int = 0
    ) -> None:
        for number, offset, address, length in transfers:
            if op == READ:
                self.read(number, fd, offset, address, length)
            else:
                self.write(number, fd, offset, address, length, flags)

    def fdatasync(self, number: int, fd: int) -> None:
        self.cache.fdatasync(fd)
        self._complete(number, 0)

    def fallocate(self, number: int, fd: int, mode: int, offset: int, length: int) -> None:
        self._complete(number, self.cache.fallocate(fd, mode, offset, length))

    def _complete(self, number: int, result: int) -> None:
        self._done.append((number, result))
        os.eventfd_write(self._event, 1)

    def submit(self) -> bool:
        return True

    def completions(self) -> list[tuple[int, int]]:
        if self._done:
            os.eventfd_read(self._event)
        done, self._done = self._done, []
        return done


def install() -> None:
    """Put the cache between replblk and the system."""
    cache = Cache()
    os.pwritev, os.pwrite = cache.pwritev, cache.pwrite
    os.preadv, os.pread = cache.preadv, cache.pread
    os.fdatasync = os.fsync = cache.fdatasync  # type: ignore[assignment]
    disk_writer.fallocate = cache.fallocate
    VolatileRing.cache = cache
    disk_ring.Ring = VolatileRing  # type: ignore[assignment, misc]
    BackingDevice.direct_fd = lambda device, lock: device.second_fd()  # type: ignore


if __name__ == "__main__":
    install()
    sys.exit(main())
