"""A volume as a block device of this machine: the kernel's /dev/nbdX, or a file of FUSE in a loop.

Both are made of the daemon's own NBD socket by a helper that lives on beside it: ``python -m
nbd.attach``, or nbdfuse behind ``python -m nbd.relay``. Both helpers connect again when the daemon
was restarted; the relay also to the other node, where the settings say how to reach it. What was
made is noted in the run directory. Links: the ``device`` of the configuration, and
/dev/drbd/by-res/RES/VOL. Raises AdminError. Needs root.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from nbd.address import parse_listen
from nbd.sysfs import LinkExistsError, indexes_of, make_link, remove_link, used_by
from replblk.model.config import Resource, Settings
from replblk.model.errors import AdminError
from replblk.shell.run_files import RunFiles, has_ended

EXIT_IN_USE, EXIT_FAILED = 11, 20
READY_S = 90.0
"""How long a helper may take: its server may be about to become Primary."""
ENDED_S = 30.0
POLL_S = 0.05


class BlockDevice:
    """One volume of one resource on this machine."""

    def __init__(
        self, resource: Resource, number: int, files: RunFiles, settings: Settings
    ) -> None:
        self._settings = settings
        self._name = f"{resource.name}/{number}"
        self._node = resource.local.names[0]
        self._identifier = f"replblk:{self._name}"
        self._uri = f"nbd+unix:///{number}?socket={quote(str(files.nbd))}"
        self._links = [
            Path(resource.volume(number).device),
            Path("/dev/drbd/by-res") / resource.name / str(number),
        ]
        self._nbd_pid = files.folder / f"nbd-{number}.pid"
        self._fuse_pid = files.folder / f"fuse-{number}.pid"
        self._elsewhere = [_uri_of(address, number) for address in settings.nbd_peer]
        self._relay_pid = files.folder / f"relay-{number}.pid"
        self._relay_socket = files.folder / f"relay-{number}.sock"
        self._relay_log = files.folder / f"relay-{number}.log"
        self._follows = files.folder / f"relay-{number}.follows"
        self._log = files.folder / f"device-{number}.log"
        self._mount = files.folder / f"fuse-{number}"
        self._loop = files.folder / f"fuse-{number}.loop"

    def is_minded(self) -> bool:
        """Whether there is one, with the helper that it needs."""
        return not _ended(self._nbd_pid) or not _ended(self._fuse_pid)

    # -- the kernel's NBD ---------------------------------------------------------------------

    def attach_nbd(self) -> str:
        """Make the device; its path."""
        self._check_none()
        self._load_module()
        wish = self._settings
        command = [
            *(sys.executable, "-P", "-m", "nbd.attach", self._uri),
            *("--identifier", self._identifier),
            *("--connections", str(wish.nbd_device_connections)),
            *("--block-size", str(wish.nbd_device_block_size)),
            *("--timeout", str(wish.nbd_device_timeout)),
            *("--dead-connection-timeout", str(wish.nbd_device_dead_timeout)),
            *(word for link in self._links for word in ("--link", str(link))),
        ]
        self._spawn(self._nbd_pid, command)
        deadline_s = time.monotonic() + READY_S
        while time.monotonic() < deadline_s:
            if path := self._told_path():
                return path
            if _ended(self._nbd_pid):
                self._nbd_pid.unlink(missing_ok=True)
                said = self._log.read_text(errors="replace")
                raise AdminError(f"{self._name}: {self._advised(said)}", EXIT_FAILED)
            time.sleep(POLL_S)
        self._end(self._nbd_pid, signal.SIGKILL)
        raise AdminError(f"{self._name}: no device after {READY_S:g} s, see {self._log}", 20)

    def detach_nbd(self) -> bool:
        """End the device; False if there is none."""
        if _ended(self._nbd_pid):
            self._nbd_pid.unlink(missing_ok=True)
            return self._end_unminded()
        if path := self._told_path():
            self._check_unused(Path(path).name)
        self._end(self._nbd_pid, signal.SIGTERM)
        return True

    def _told_path(self) -> str:
        """The device, once its helper has said that it is there."""
        lines = self._log.read_text(errors="replace").splitlines(keepends=True)
        found = [line.strip() for line in lines if line.startswith("/dev/") and line[-1] == "\n"]
        return found[0] if found else ""

    def _end_unminded(self) -> bool:
        """End devices whose helper was killed."""
        found = indexes_of(self._identifier)
        if not found:
            return False
        from nbd import netlink  # which takes a while to load, and most need it not

        try:
            there = [index for index in found if netlink.alive(index, self._identifier)]
            for index in there:
                self._check_unused(f"nbd{index}")
                netlink.disconnect(index)
                for link in self._links:
                    remove_link(link, f"/dev/nbd{index}")
        except netlink.KernelError as error:
            raise AdminError(f"{self._name}: {error}", EXIT_FAILED) from error
        return bool(there)

    def ask_size(self) -> None:
        """The volume has another size: let the kernel's device follow, if there is one. The signal
        is one that nobody else minds. Raises PermissionError."""
        if not _ended(self._nbd_pid):
            os.kill(int(self._nbd_pid.read_text()), signal.SIGWINCH)

    def _load_module(self) -> None:
        """As drbdadm loads its own; if that is of no use, the helper says what is missing."""
        if not Path("/sys/module/nbd").exists() and (modprobe := shutil.which("modprobe")):
            subprocess.run([modprobe, "nbd"], capture_output=True, check=False)

    # -- FUSE and a loop device ---------------------------------------------------------------

    def attach_fuse(self) -> str:
        """Make the device; its path. nbdfuse shows a file, and a loop device makes it a disk."""
        self._check_none()
        for program, package in (("nbdfuse", "libnbd-bin"), ("losetup", "mount")):
            if shutil.which(program) is None:
                raise AdminError(f"{self._name}: needs {program} (Debian: {package})", EXIT_FAILED)
        self._mount.mkdir(exist_ok=True)
        try:
            self._start_relay()
            uri = f"nbd+unix:///?socket={quote(str(self._relay_socket))}"
            self._spawn(self._fuse_pid, ["nbdfuse", str(self._mount / "nbd"), uri])
            self._await_file()
            path = self._run("losetup", "--find", "--show", str(self._mount / "nbd")).strip()
            self._loop.write_text(path)
            for link in self._links:
                make_link(link, path)
        except (AdminError, LinkExistsError) as error:
            self._tear_down_fuse()
            raise AdminError(f"{self._name}: {error}", EXIT_FAILED) from error
        return path

    def detach_fuse(self, *, force: bool = False) -> bool:
        """End the device; False if there is none. force: whoever uses it waits for no daemon any
        more and gets I/O errors; in use by a mount, it is ended by the next call."""
        if not _is_there(self._mount):
            return False
        if force:
            self._end(self._relay_pid, signal.SIGTERM)
        if self._loop.exists():
            self._check_unused(Path(self._loop.read_text()).name)
        self._tear_down_fuse()
        return True

    def _tear_down_fuse(self) -> None:
        """Whatever there is of it, in the reverse order."""
        if self._loop.exists():
            path = self._loop.read_text()
            for link in self._links:
                remove_link(link, path)
            self._run("losetup", "--detach", path)
            self._loop.unlink()
        # All that the loop device was given is answered. Should nobody serve now, nothing waits.
        self._end(self._relay_pid, signal.SIGTERM)
        if _is_mounted(self._mount):
            self._run("umount", str(self._mount))
        self._end(self._fuse_pid, signal.SIGTERM)
        self._follows.unlink(missing_ok=True)
        self._mount.rmdir()

    def _start_relay(self) -> None:
        """What nbdfuse can't: connect again, and ask again what was not answered."""
        own = (sys.executable, "-P", "-m", "nbd.relay", "--unix", str(self._relay_socket))
        self._spawn(self._relay_pid, [*own, self._uri, *self._elsewhere], self._relay_log)
        deadline_s = time.monotonic() + READY_S
        while not self._relay_socket.exists():
            if _ended(self._relay_pid) or time.monotonic() > deadline_s:
                said = self._relay_log.read_text(errors="replace").strip().splitlines()
                text = said[-1] if said else f"no relay after {READY_S:g} s"
                raise AdminError(text.removeprefix("python -m nbd.relay: "), EXIT_FAILED)
            time.sleep(POLL_S)
        if self._elsewhere:
            self._follows.touch()

    def _await_file(self) -> None:
        deadline_s = time.monotonic() + READY_S
        while not os.path.ismount(self._mount):
            if _ended(self._fuse_pid) or time.monotonic() > deadline_s:
                raise AdminError(self._log.read_text(errors="replace").strip(), EXIT_FAILED)
            time.sleep(POLL_S)

    # -- both ---------------------------------------------------------------------------------

    def keeps_here(self) -> str:
        """Why the volume can't be served by the other node while the device is there; "" if it
        can, or if there is none."""
        if _ended(self._nbd_pid) and (_ended(self._fuse_pid) or self._follows.exists()):
            return ""
        return (
            f"{self._name} is a block device of {self._node}: end it there first (detach-nbd, "
            "detach-fuse), or name the other node's NBD server (nbd_peer) before attach-fuse"
        )

    def _check_none(self) -> None:
        if self.is_minded():
            path = os.path.realpath(self._links[0])
            raise AdminError(f"{self._name}: is a block device already, {path}", EXIT_FAILED)
        if _is_there(self._mount):
            self._tear_down_fuse()  # its nbdfuse was killed

    def _check_unused(self, name: str) -> None:
        users = used_by(name)
        if users:
            raise AdminError(f"{self._name}: /dev/{name} is in use: {users}", EXIT_IN_USE)

    def _spawn(self, pid_file: Path, command: Sequence[str], log_file: Path | None = None) -> None:
        with (log_file or self._log).open("wb") as log:
            helper = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        pid_file.write_text(f"{helper.pid}\n")
        helper.returncode = 0  # it lives on without us

    def _end(self, pid_file: Path, number: signal.Signals) -> None:
        if not pid_file.exists():
            return
        deadline_s = time.monotonic() + ENDED_S
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid_file.read_text()), number)
        while not _ended(pid_file):
            if time.monotonic() > deadline_s:
                said = self._log.read_text(errors="replace").strip().splitlines()
                raise AdminError(f"{self._name}: its helper does not end: {said[-1:]}", EXIT_FAILED)
            time.sleep(POLL_S)
        pid_file.unlink()

    def _run(self, *command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise AdminError(f"{command[0]}: {done.stderr.strip()}", EXIT_FAILED)
        return done.stdout

    def _advised(self, said: str) -> str:
        text = said.strip().removeprefix("python -m nbd.attach: ") or f"see {self._log}"
        if "no NBD devices" in text:
            text += f"; or 'replblk attach-fuse {self._name}'"
        return text


def _uri_of(address: str, number: int) -> str:
    """Volume *number* at another daemon's listener."""
    found = parse_listen(address)
    if found.path:
        return f"nbd+unix:///{number}?socket={quote(found.path)}"
    return f"nbd://{found}/{number}"


def _ended(pid_file: Path) -> bool:
    """Whether the helper of that file is gone; there may never have been one."""
    return not pid_file.exists() or has_ended(pid_file.read_text().strip())


def _is_there(mount: Path) -> bool:
    """Whether the folder exists; also one whose nbdfuse has ended, which nobody can look into."""
    try:
        os.lstat(mount)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno != errno.ENOTCONN:
            raise
    return True


def _is_mounted(mount: Path) -> bool:
    """Whether something is mounted there, be it dead."""
    return _is_there(mount) and (not os.path.exists(mount) or os.path.ismount(mount))
