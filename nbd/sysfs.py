"""What the kernel tells of block devices without being asked by netlink, and links to them."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path


class LinkExistsError(Exception):
    """Something that is no link of ours is where one should be."""


def index_of(identifier: str) -> int | None:
    """N of the /dev/nbdN that bears a backend identifier, if there is one."""
    for backend in Path("/sys/block").glob("nbd*/backend"):
        with contextlib.suppress(OSError):
            if backend.read_text().strip() == identifier:
                return int(backend.parent.name.removeprefix("nbd"))
    return None


def used_by(name: str) -> str:
    """Who uses the block device *name* (nbd0, loop3); "" if nobody does."""
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
