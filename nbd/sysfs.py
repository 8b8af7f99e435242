"""What the kernel tells of block devices without being asked by netlink, and links to them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from pathlib import Path

SECTOR_BYTES = 512
PASSING_S, POLL_S = 2.0, 0.1


class LinkExistsError(Exception):
    """Something that is no link of ours is where one should be."""


def indexes_of(identifier: str) -> list[int]:
    """N of each /dev/nbdN that bears a backend identifier. A device that has been ended bears it,
    too, while somebody still has it open."""
    backends = Path("/sys/block").glob("nbd*/backend")
    found = [path.parent.name for path in backends if _read(path) == identifier]
    return sorted(int(name.removeprefix("nbd")) for name in found)


def size_of(name: str) -> int:
    """Bytes of the block device *name* (nbd0)."""
    return int((Path("/sys/block") / name / "size").read_text()) * SECTOR_BYTES


def queue_value(name: str, attribute: str) -> int:
    """A number that the kernel tells of the device's queue, such as logical_block_size."""
    return int((Path("/sys/block") / name / "queue" / attribute).read_text())


def used_by(name: str, patience_s: float = PASSING_S) -> str:
    """Who uses the block device *name* (nbd0, loop3); "" if nobody does.

    patience_s: a process that only has it open may be about to close it: udev looks at a device
    whenever somebody who could write has closed it.
    """
    deadline_s = time.monotonic() + patience_s
    while True:
        if users := _claimed_by(name):
            return users
        if not (users := _opened_by(name)) or time.monotonic() > deadline_s:
            return users
        time.sleep(POLL_S)


def _claimed_by(name: str) -> str:
    block = Path("/sys/block") / name
    folders = [block / "holders", *block.glob(f"{name}p*/holders")]
    holders = [holder.name for folder in folders if folder.is_dir() for holder in folder.iterdir()]
    if holders:
        return "held by " + ", ".join(sorted(holders))
    try:
        os.close(os.open(f"/dev/{name}", os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return "mounted, or claimed otherwise"
    nodes = [str(node) for node in _nodes(name)]
    loops = Path("/sys/block").glob("loop*/loop/backing_file")
    above = [path.parts[3] for path in loops if _read(path) in nodes]
    return "held by " + ", ".join(sorted(above)) if above else ""


def _nodes(name: str) -> list[Path]:
    block = Path("/sys/block") / name
    return [Path("/dev") / part.name for part in (block, *block.glob(f"{name}p*"))]


def _opened_by(name: str) -> str:
    """Which process has it open, or a part of it; the first that is found."""
    numbers = {node.stat().st_rdev for node in _nodes(name) if node.exists()}
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):  # of a process or a descriptor that is gone by now
            found = descriptor.stat()
            if stat.S_ISBLK(found.st_mode) and found.st_rdev in numbers:
                process = descriptor.parts[2]
                return f"open in process {process} ({_read(Path('/proc') / process / 'comm')})"
    return ""


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text().strip()
    return ""


def make_link(link: Path, target: str) -> None:
    """Point *link* at *target*; anything but a symbolic link in its place stays."""
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink():
        link.unlink()
    elif link.exists():
        raise LinkExistsError(f"{link} is there already and no link")
    link.symlink_to(target)


def remove_link(link: Path, target: str) -> None:
    """Remove *link* if it points at *target*."""
    with contextlib.suppress(OSError):
        if os.readlink(link) == target:
            link.unlink()
