"""Which parts of a backing file hold no data, and whether giving parts back is quick.

Only regular files can tell: a block device counts as data throughout. Ranges in bytes. A hole reads
as zeroes, whatever becomes of the file system; "data" is always a safe answer, so whatever a file
system can't or won't tell is data. Source: lseek(2), SEEK_DATA; fallocate(2).
"""

from __future__ import annotations

import errno
import os

from replblk.shell.disk_writer import FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, fallocate

Runs = list[tuple[int, bool]]
"""(length, whether it is a hole) of neighbouring ranges."""


def runs_of(fd: int, offset: int, length: int, most: int) -> Runs:
    """Data and holes from *offset* on, at most *most* runs: then it stops before the end."""
    found: Runs = []
    end = offset + length
    while offset < end and len(found) < most:
        try:
            data = min(end, os.lseek(fd, offset, os.SEEK_DATA))
        except OSError as error:
            hole = error.errno == errno.ENXIO  # no data from here to the end of the file
            found.append((end - offset, hole))
            return found
        if data > offset:
            found.append((data - offset, True))
        elif (stop := _end_of_data(fd, offset, end)) > offset:
            found.append((stop - offset, False))
            data = stop
        offset = data
    return found


def _end_of_data(fd: int, offset: int, end: int) -> int:
    try:
        return min(end, os.lseek(fd, offset, os.SEEK_HOLE))
    except OSError:
        return end


def punches_holes(fd: int, size_bytes: int) -> bool:
    """Whether the file system can give parts of the file back: tried behind the file's end, where
    there is nothing to give."""
    mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE
    behind = -(-size_bytes // 4096) * 4096 + 4096
    return fallocate(fd, mode, behind, 4096) == 0
