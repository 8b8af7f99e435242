"""A virtual machine that runs the Linux kernel's DRBD, and a shell into it.

    with Guest(folder, disk_bytes=32 << 20) as guest:      # boots in about three seconds
        guest.put("/etc/drbd.conf", text)
        guest.check("drbdadm up r0")
        guest.power_cut(); guest.boot()                    # the same disk again

Two network cards, both with a network that ends in this host: DRBD's (guest 10.0.2.15:7788 is
127.0.0.1:drbd_port here, and 10.0.2.2:N there is 127.0.0.1:N here), and one for commands only, so
that cutting the first leaves the second. The disk is /dev/vda, ``folder/disk``. The machine ends
with the process that started it, however that ends. GuestError: the machine, not DRBD, misbehaves.
"""

from __future__ import annotations

import ctypes
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.interop.kernel.initramfs import DRBD_PORT, PROC_PORT, SHELL_PORT, prepared

BOOT_S = 90.0
LIMIT_S = 60.0
PR_SET_PDEATHSIG = 1
"""linux/prctl.h: the signal a process gets when its parent's thread ends."""
_ENDING = re.compile(rb"\n:exit:(\d+):\n")
NOISE = ("DRBD module version", "userland version", "mixing different major")
"""What drbdadm says with every command, for it is newer than the module."""


class GuestError(RuntimeError):
    """The machine did not do what a machine does."""


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_prctl = ctypes.CDLL(None).prctl


def _die_with_parent() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Guest:
    """One machine. drbd_port: where DRBD is reached from here, the same for every boot."""

    def __init__(self, folder: Path, disk_bytes: int) -> None:
        self.folder = folder
        self.disk = folder / "disk"
        self.drbd_port = free_port()
        self._shell_port = self._proc_port = 0
        self._qemu: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.resize_disk(disk_bytes)

    def resize_disk(self, disk_bytes: int) -> None:
        """Another size, and all zeroes; the machine must be off or not use it."""
        with self.disk.open("wb") as file:
            file.truncate(disk_bytes)

    def __enter__(self) -> Guest:
        self.boot()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.power_cut()

    # -- power --------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether the machine is on."""
        return self._qemu is not None and self._qemu.poll() is None

    def boot(self) -> None:
        """Switch on and wait until commands are answered."""
        assert not self.running, "the machine is on already"
        cache = prepared()
        self._shell_port, self._proc_port = free_port(), free_port()
        console = self.folder / "console"
        console.unlink(missing_ok=True)
        with (self.folder / "qemu.log").open("ab") as log:
            self._qemu = subprocess.Popen(
                self._command(cache),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent,
            )
        give_up = time.monotonic() + BOOT_S
        while not self._answers():
            if not self.running or time.monotonic() > give_up:
                self.power_cut()
                said = (self.folder / "qemu.log").read_text()[-800:]
                raise GuestError(f"the machine does not boot: {said}\n{self.console()[-1500:]}")
            time.sleep(0.05)

    def _answers(self) -> bool:
        if "guest-is-ready" not in self.console():
            return False
        try:
            return self.sh("true", 10)[0] == 0
        except (GuestError, OSError):
            return False  # it does not listen quite yet

    def _command(self, cache: Path) -> list[str]:
        def card(name: str, net: str, ports: dict[int, int], extra: str = "") -> list[str]:
            forward = "".join(
                f",hostfwd=tcp:127.0.0.1:{own}-{net}.15:{port}" for own, port in ports.items()
            )
            return [
                *("-netdev", f"user,id={name},net={net}.0/24,ipv6=off{extra}{forward}"),
                *("-device", f"virtio-net-pci,netdev={name},id=card-{name},romfile="),
            ]

        commands = {self._shell_port: SHELL_PORT, self._proc_port: PROC_PORT}
        return [
            *("qemu-system-x86_64", "-accel", "tcg", "-smp", "1", "-m", "256"),
            *("-cpu", "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"),
            *("-nodefaults", "-display", "none", "-no-reboot"),
            *("-kernel", str(cache / "vmlinux"), "-initrd", str(cache / "initramfs"), "-append"),
            "console=ttyS0 quiet panic=-1 mitigations=off random.trust_bootloader=on tsc=reliable",
            *("-serial", f"file:{self.folder / 'console'}"),
            *("-qmp", f"unix:{self.folder / 'qmp'},server=on,wait=off"),
            # A power cut here is the end of QEMU: what the guest gave its disk stays in the host's
            # page cache, so host flushes would only cost time.
            *("-drive", f"file={self.disk},format=raw,if=virtio,discard=unmap,cache=unsafe"),
            *card("drbd", "10.0.2", {self.drbd_port: DRBD_PORT}),
            *card("shell", "10.0.3", commands, ",restrict=on"),
            *("-device", "virtio-rng-pci", "-virtfs"),
            f"local,path={cache / 'root'},mount_tag=share,security_model=none,readonly=on,"
            "multidevs=remap",
        ]

    def power_cut(self) -> None:
        """Off, at once. What was given to the disk is on it."""
        if self._qemu is not None:
            self._qemu.kill()
            self._qemu.wait()
            self._qemu = None

    # -- commands -----------------------------------------------------------------------------

    def sh(
        self,
        script: str,
        limit_s: float = LIMIT_S,
        on_output: Callable[[bytes], None] | None = None,
    ) -> tuple[int, str]:
        """Run a bash script: (exit status, all output). on_output: told each piece as it comes."""
        got = bytearray()
        deadline = time.monotonic() + limit_s + 15
        with socket.create_connection(("127.0.0.1", self._shell_port), 10) as shell:
            shell.sendall(f"{limit_s:g}\n{script}".encode())
            shell.shutdown(socket.SHUT_WR)
            while (ending := _ENDING.search(got)) is None:
                shell.settimeout(max(0.1, deadline - time.monotonic()))
                try:
                    piece = shell.recv(1 << 16)
                except OSError as error:
                    raise GuestError(f"no answer to {script[:200]!r}: {error}") from error
                if not piece:
                    raise GuestError(f"{script[:200]!r} was cut short: {bytes(got[-500:])!r}")
                if on_output is not None:
                    on_output(piece)
                got += piece
        text = got[: ending.start()].decode(errors="replace")
        lines = [line for line in text.splitlines() if not any(noise in line for noise in NOISE)]
        return int(ending[1]), "\n".join(lines)

    def check(self, script: str, limit_s: float = LIMIT_S) -> str:
        """Run a script that must succeed; its output."""
        status, text = self.sh(script, limit_s)
        assert status == 0, f"in the guest: {script[:200]!r} ended with {status}:\n{text}"
        return text

    def proc_drbd(self, limit_s: float = 20) -> str:
        """/proc/drbd, without a program being started for it: tests look at it all the time."""
        got = bytearray()
        with socket.create_connection(("127.0.0.1", self._proc_port), limit_s) as stream:
            while piece := stream.recv(1 << 16):
                got += piece
        return got.decode()

    def put(self, path: str, text: str, then: str = "true") -> None:
        """Write a small text file, and run a command."""
        self.check(f"cat > {path} <<'END-OF-FILE' && {then}\n{text}\nEND-OF-FILE")

    # -- what a person at the machine would see or do -------------------------------------------

    def console(self) -> str:
        """What the kernel printed since it was switched on, also after its end."""
        path = self.folder / "console"
        return path.read_text(errors="replace") if path.exists() else ""

    def dmesg(self) -> str:
        """The same, DRBD's lines only."""
        return "\n".join(line for line in self.console().splitlines() if "drbd" in line)

    def cable(self, plugged: bool) -> None:
        """Plug or pull the cable of DRBD's card."""
        self._qmp("set_link", name="card-drbd", up=plugged)

    def freeze(self, frozen: bool) -> None:
        """Stop the whole machine, or let it go on."""
        self._qmp("stop" if frozen else "cont")

    def grow_disk(self, disk_bytes: int) -> None:
        """The running machine's disk becomes larger, as a logical volume might."""
        self._qmp("block_resize", device="virtio0", size=disk_bytes)
        sectors = disk_bytes // 512
        give_up = time.monotonic() + 20
        while int(self.check("cat /sys/block/vda/size")) != sectors:
            if time.monotonic() > give_up:
                raise GuestError(f"the guest does not see that its disk has {disk_bytes} bytes now")
            time.sleep(0.1)

    def _qmp(self, command: str, **arguments: Any) -> None:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(20)
            control.connect(str(self.folder / "qmp"))
            with control.makefile("rw") as stream:
                stream.readline()
                for name, given in (("qmp_capabilities", {}), (command, arguments)):
                    stream.write(json.dumps({"execute": name, "arguments": given}) + "\n")
                    stream.flush()
                    while "event" in (reply := json.loads(stream.readline())):
                        pass
                    if "error" in reply:
                        raise GuestError(f"{command}: {reply['error']}")
