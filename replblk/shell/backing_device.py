"""Opens, measures and locks the block device or regular file under a volume.

Sizes in bytes. The lock lives as long as the descriptor: O_EXCL on a block device (which mounted
file systems, md and dm hold, too), flock on a file. What a ring was given may still be under way
when its process has been killed and these are gone; so the ring's own file description has a range
lock, which lives until its last write is done, and nobody opens the device before. Every refusal is
an ``OpenFailed`` with DRBD's error number and a sentence that names the path and what to do.
Numbers: drbd.h, enum drbd_ret_code.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import stat
import struct
import time
from dataclasses import dataclass

from replblk.engine.ports import OpenFailed
from replblk.shell.last_known import LastKnownSize

BLKGETSIZE64 = 0x80081272
BLKPBSZGET = 0x127B
"""linux/fs.h: size in bytes, physical block size."""

SIZE_BYTES_MIN = 68 << 10
"""Smallest device that can hold metadata: drbdmeta refuses less."""

ERR_OPEN_DISK = 104
ERR_DISK_CONFIGURED = 106
ERR_DISK_NOT_BDEV = 107
ERR_DISK_TOO_SMALL = 111
ERR_BDCLAIM_DISK = 114

_FILE_BLOCK_BYTES_MAX = 4096
_FLOCK = struct.Struct("@hhqqi4x")
"""struct flock: type, whence, start, length, process."""
PATIENCE_S = 3.0
"""How long what a killed process left under way is waited for."""
_LOOK_S = 0.02


@dataclass(slots=True)
class BackingDevice:
    """An open, locked device. block_bytes: the smallest unit it writes without reading first."""

    path: str
    fd: int
    size_bytes: int
    block_bytes: int
    is_block_device: bool
    known: LastKnownSize | None = None
    """What is noted of its size for a later attach, if anything is."""

    def measure(self) -> int:
        """The size as it is now; as it was if the device does not say."""
        with contextlib.suppress(OSError):
            self.size_bytes, _ = _measure(self.fd, self.is_block_device, os.fstat(self.fd))
        return self.size_bytes

    def second_fd(self) -> int:
        """Another open file description of the same device, without a lock of its own.

        The kernel reports a write-back error once for each open file description, so each thread
        that flushes needs its own: with a shared one, the first to flush would take the error that
        belongs to the other's writes.
        """
        return os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_CLOEXEC)

    def direct_fd(self, *, lock: bool) -> int:
        """An open file description that goes past the page cache. Raises OSError where that can't
        be had, or not in whole sectors of 512 bytes: tried out, because no flag tells it surely.

        lock: with the range lock, for what outlives a killed process; only one can have it.
        """
        fd = os.open(f"/proc/self/fd/{self.fd}", os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
        try:
            with mmap.mmap(-1, mmap.PAGESIZE) as page, memoryview(page)[512:1024] as sector:
                if os.preadv(fd, [sector], 512) != 512:
                    raise OSError(errno.EIO, "a sector could not be read past the page cache")
            if lock:
                whole = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
                fcntl.fcntl(fd, fcntl.F_OFD_SETLK, whole)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def close(self) -> None:
        """Give descriptor and lock back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def open_backing_device(path: str) -> BackingDevice | OpenFailed:
    """Open for reading and writing and lock; the lock is not waited for."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return _not_opened(path, error)
    if not (stat.S_ISBLK(mode) or stat.S_ISREG(mode)):
        what = "a directory" if stat.S_ISDIR(mode) else "neither a block device nor a regular file"
        return OpenFailed(
            ERR_DISK_NOT_BDEV,
            f"{path} is {what}; 'disk' must name a block device or a file",
        )
    exclusive = os.O_EXCL if stat.S_ISBLK(mode) else 0
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | exclusive)
    except OSError as error:
        return _not_opened(path, error)
    opened = _lock_and_measure(path, fd)
    if isinstance(opened, OpenFailed):
        os.close(fd)
    return opened


def _lock_and_measure(path: str, fd: int) -> BackingDevice | OpenFailed:
    # Judged again on what was really opened: the path may have changed since it was looked at.
    status = os.fstat(fd)
    is_block = stat.S_ISBLK(status.st_mode)
    try:
        if not is_block:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            return _not_opened(path, error)
        return OpenFailed(
            ERR_DISK_CONFIGURED,
            f"{path} is in use by another process, probably the daemon of another resource or "
            "node; give each its own backing file, or end that one first",
        )
    try:
        if not _others_are_done(fd):
            return OpenFailed(
                ERR_DISK_CONFIGURED,
                f"{path} is still being written to by a daemon that was killed: its disk does not "
                "finish; try again when it has, and see the system log",
            )
        size_bytes, block_bytes = _measure(fd, is_block, status)
    except OSError as error:
        return _not_opened(path, error)
    if size_bytes < SIZE_BYTES_MIN:
        return OpenFailed(
            ERR_DISK_TOO_SMALL,
            f"{path} has only {size_bytes} bytes; at least {SIZE_BYTES_MIN} are needed for the "
            "metadata alone: use a larger device, or enlarge the file with 'truncate -s'",
        )
    return BackingDevice(path, fd, size_bytes, block_bytes, is_block)


def _others_are_done(fd: int) -> bool:
    """Whether no ring of another process has anything under way, after some patience."""
    give_up = time.monotonic() + PATIENCE_S
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
    while _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))[0] != fcntl.F_UNLCK:
        if time.monotonic() > give_up:
            return False
        time.sleep(_LOOK_S)
    return True


def _measure(fd: int, is_block: bool, status: os.stat_result) -> tuple[int, int]:
    """(size, block size) in bytes; the size rounded down to whole sectors."""
    if is_block:
        (size_bytes,) = struct.unpack("Q", fcntl.ioctl(fd, BLKGETSIZE64, bytes(8)))
        (block_bytes,) = struct.unpack("I", fcntl.ioctl(fd, BLKPBSZGET, bytes(4)))
    else:
        size_bytes = status.st_size
        block_bytes = min(status.st_blksize, _FILE_BLOCK_BYTES_MAX)
    return size_bytes // 512 * 512, max(block_bytes, 512)


def _not_opened(path: str, error: OSError) -> OpenFailed:
    if error.errno == errno.EBUSY:
        return OpenFailed(
            ERR_BDCLAIM_DISK,
            f"{path} is claimed by someone else: unmount it, or stop the volume group, RAID or "
            "daemon that uses it",
        )
    advice = {
        errno.ENOENT: "create it, or correct 'disk' in the configuration",
        errno.EROFS: "it is on a read-only file system or is itself read-only",
        errno.EACCES: "it is read-only, or this user may not write to it; change its owner or mode",
        errno.EPERM: "this user may not write to it; change its owner or mode",
        errno.ENXIO: "the device node has no device behind it",
    }.get(error.errno or 0, "see the system log")
    why = os.strerror(error.errno or 0)
    return OpenFailed(ERR_OPEN_DISK, f"{path} can't be opened for writing: {why}; {advice}")
