"""Debian's udev for the guest: one more package, unpacked into the cache, run with the guest's own
libraries."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

from tests.interop.kernel.packages import cache_folder, output_of, sandbox, unpack

LIBRARIES = "/share/usr/lib/x86_64-linux-gnu"


def udev_folder() -> Path:
    """Where it is unpacked; fetched the first time. Raises SetupError."""
    folder = cache_folder() / "udev"
    with (cache_folder() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            building = folder.with_name("udev.new")
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir()
            output_of("apt-get", *sandbox(), "download", "udev", cwd=building)
            (archive,) = building.glob("*.deb")
            unpack(archive, building)
            os.unlink(archive)
            building.rename(folder)
    return folder


def udev_command(name: str, *words: str) -> str:
    """A shell command of the guest: *name* is udevadm or systemd-udevd."""
    program = f"/host{udev_folder()}/bin/udevadm"
    loader = f"{LIBRARIES}/ld-linux-x86-64.so.2 --library-path {LIBRARIES} --argv0 {name}"
    return f"{loader} {program} {' '.join(words)}"
