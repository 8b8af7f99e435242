"""A volume as a mounted ext4: NBD, nbdfuse, a loop device; and the way out when its server is dead.

Everything is made and ended by the program's own commands (``attach-fuse``, ``detach-fuse``), as an
administrator would. Needs root, FUSE and loop devices.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.processes.pair import PATIENCE_S, RealPair
from tests.support.site import until

DEVICE = "/dev/drbd_replblk_databases minor 0"
"""A name that no other program uses."""
PROGRAMS = ("nbdfuse", "losetup", "mkfs.ext4", "e2fsck", "fsfreeze")
SBIN = ":/usr/sbin:/sbin"


def no_devices() -> str:
    """Why this machine lets nobody mount a volume; "" if it does."""
    if os.geteuid() != 0:
        return "needs root: it mounts file systems"
    absent = [node for node in ("/dev/fuse", "/dev/loop-control") if not Path(node).exists()]
    return f"needs {', '.join(absent)}" if absent else ""


def missing() -> str:
    """Why no volume can be mounted here; "" if it can."""
    absent = [p for p in PROGRAMS if shutil.which(p, path=os.environ["PATH"] + SBIN) is None]
    return no_devices() or (f"needs {', '.join(absent)} on PATH" if absent else "")


class Mounted:
    """The one file system of a pair, wherever it is mounted just now."""

    def __init__(self, pair: RealPair, mount: Path) -> None:
        self._pair = pair
        self._node = ""
        self._path = ""
        self.mount = mount
        mount.mkdir()
        text = pair.site.config.read_text()
        pair.site.config.write_text(text.replace("/dev/drbd0", DEVICE))

    def make(self, node: str) -> None:
        """A new file system on the volume of a Primary, mounted."""
        self._attach(node)
        _run("mkfs.ext4", "-q", "-F", self._path)
        _run("mount", self._path, str(self.mount))

    def take_over(self, node: str) -> None:
        """Mount it on a node that is Primary now: journal replayed, then all must be well."""
        self._attach(node)
        _run("e2fsck", "-p", "-E", "journal_only", self._path)
        _run("e2fsck", "-fn", self._path)
        _run("mount", self._path, str(self.mount))

    def give_up(self) -> None:
        """Its server is dead and will not be waited for: users get errors from now on."""
        if self._node:
            self._pair.site.replblk(self._node, "detach-fuse", "--force", "r0")

    def leave(self) -> None:
        """Unmount and end the device, whether its server lives or not. Twice does no harm."""
        if os.path.ismount(self.mount):
            until(self._unmounted, limit_s=PATIENCE_S)
        if self._node:
            self._pair.site.run(self._node, "detach-fuse", "r0")
            self._node = ""

    def end(self) -> None:
        """The same after a failure, when anything may be in the way."""
        self.give_up()
        try:
            if os.path.ismount(self.mount):
                subprocess.run(["umount", "--lazy", str(self.mount)], check=False)
        finally:
            self.leave()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Nothing is written by the file system in the meantime."""
        _run("fsfreeze", "--freeze", str(self.mount))
        try:
            yield
        finally:
            _run("fsfreeze", "--unfreeze", str(self.mount))

    def _attach(self, node: str) -> None:
        told = self._pair.site.run(node, "attach-fuse", "r0")
        self._node, self._path = node, told.split()[-1]

    def _unmounted(self) -> bool:
        done = subprocess.run(["umount", str(self.mount)], capture_output=True, check=False)
        return done.returncode == 0


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout
