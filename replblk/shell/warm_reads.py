"""Long reads of what the page cache holds already: a copy in memory instead of a disk's work.

A ring reads past the page cache. After a backing file was copied or written by other programs, all
of it may lie there; a resync that reads it again from the disk competes with whoever writes to that
disk. Only regular files of file systems that drop cached pages *after* each direct write, too, can
be trusted: on a block device a page that was read while a write was under way could stay as it was.
Ranges in bytes. Source: cachestat(2), Linux 6.5; where it is missing nothing is ever warm.
"""

from __future__ import annotations

import ctypes
import os
import struct

from replblk.shell.backing_device import BackingDevice

WARM_BYTES_MIN = 64 << 10
"""Shorter reads go to the disk: asking costs as much as they do."""
COLD_SKIPPED_MAX = 32
"""After a cold range so many long reads, at most, are not asked for at all."""
_SYS_CACHESTAT = 451
_EXT4, _XFS, _BTRFS, _TMPFS = 0xEF53, 0x58465342, 0x9123683E, 0x01021994
_TRUSTED = frozenset((_EXT4, _XFS, _BTRFS, _TMPFS))
"""linux/magic.h; their direct writes drop cached pages when they complete (iomap_dio_complete)."""


class WarmReads:
    """The page cache of one backing device. Makes a file description of its own."""

    def __init__(self, device: BackingDevice) -> None:
        self._fd = -1
        self._skip = 0
        self._cold = 0
        if drops_cached_pages(device):
            self._fd = device.second_fd()

    def read(self, offset: int, length: int) -> bytes | None:
        """All of the range if every page of it is cached; None: the disk has to be asked."""
        if self._fd < 0 or length < WARM_BYTES_MIN:
            return None
        if self._skip:
            self._skip -= 1
            return None
        if not self._cached(offset, length):
            self._cold = self._skip = min(2 * self._cold + 1, COLD_SKIPPED_MAX)
            return None
        self._cold = 0
        try:
            data = os.pread(self._fd, length, offset)
        except OSError:
            return None  # the ring meets the error, too, and reports it
        return data if len(data) == length else None

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _cached(self, offset: int, length: int) -> bool:
        found = ctypes.create_string_buffer(40)
        asked = struct.pack("QQ", offset, length)
        if _syscall(_SYS_CACHESTAT, self._fd, asked, found, 0):
            self.close()  # an older kernel, or a filter of system calls: never asked again
            return False
        (pages,) = struct.unpack_from("Q", found.raw)
        first, last = offset // _PAGE_BYTES, (offset + length - 1) // _PAGE_BYTES
        return bool(pages >= last - first + 1)


def drops_cached_pages(device: BackingDevice) -> bool:
    """Whether a direct write leaves no cached page of what was there before."""
    return not device.is_block_device and _file_system(device.fd) in _TRUSTED


def _file_system(fd: int) -> int:
    """The kind of the file system that a file lies on. Source: fstatfs(2): its first word."""
    found = ctypes.create_string_buffer(256)
    if _fstatfs(fd, found):
        return 0
    (kind,) = struct.unpack_from("l", found.raw)
    return int(kind)


_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_libc = ctypes.CDLL(None, use_errno=True)
_fstatfs = _libc.fstatfs
_syscall = _libc.syscall
