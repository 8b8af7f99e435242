"""A node of a test, as its administrator and user see it: a kernel in a guest, or replblk here.

Both classes have the same commands, so that a scenario is written once and runs with either node in
either part. Offsets and lengths in bytes. What fails a wait or a command is an AssertionError with
what both the node and its log say.
"""

from __future__ import annotations

import base64
import contextlib
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from nbd.client import Client
from replblk.admin.messages import OptionValue, Request
from replblk.admin.proc_text import proc_text
from replblk.model.errors import AdminError
from replblk.shell.control_client import call
from replblk.shell.run_files import RunFiles
from tests.interop.kernel.config import Options, drbd_conf, guest_side, host_side
from tests.interop.kernel.guest import Guest, free_port

ROOT = Path(__file__).resolve().parents[3]
WAIT_S = 40.0
COMMAND_S = 60.0
BLOCK = 4096
CONNECTED = r"cs:Connected "
IN_SYNC = r"cs:Connected .*ds:UpToDate/UpToDate"


def pattern(tag: int, length: int) -> bytes:
    """Bytes that are the same for the same tag, differ for others, and compress well."""
    word = random.Random(tag).randbytes(16)
    return (word * (length // 16 + 1))[:length]


class Node(Protocol):
    """What both kinds of node offer."""

    name: str
    disk: Path

    def adm(self, *words: str) -> tuple[int, str]: ...
    def up(self) -> None: ...
    def proc(self) -> str: ...
    def log(self) -> str: ...
    def power_cut(self) -> None: ...
    def start(self) -> None: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def read(self, offset: int, length: int) -> bytes: ...
    def zero(self, offset: int, length: int) -> None: ...
    def discard(self, offset: int, length: int) -> None: ...
    def size(self) -> int: ...
    def fio(self, *options: str) -> None: ...


def check(node: Node, *words: str) -> str:
    """A command that must succeed."""
    status, text = node.adm(*words)
    assert status == 0, f"{node.name}: {' '.join(words)} ended with {status}: {text}\n{node.proc()}"
    return text


def wait(node: Node, wanted: str, limit_s: float = WAIT_S) -> str:
    """Until /proc/drbd matches *wanted*; its text."""
    give_up = time.monotonic() + limit_s
    while re.search(wanted, text := node.proc()) is None:
        assert time.monotonic() < give_up, (
            f"{node.name} never showed {wanted!r} in {limit_s:g} s:\n{text}\n{node.log()[-3000:]}"
        )
        time.sleep(0.1)
    return text


def wait_both(one: Node, other: Node, wanted: str, limit_s: float = WAIT_S) -> None:
    """Until both show it."""
    wait(one, wanted, limit_s)
    wait(other, wanted, limit_s)


def number(node: Node, name: str) -> int:
    """A counter of /proc/drbd, as ``oos``."""
    found = re.search(rf"\b{name}:(\d+)", text := node.proc())
    assert found, f"{node.name} shows no {name}: {text}"
    return int(found[1])


def state(node: Node) -> str:
    """The line of /proc/drbd with cs:, ro: and ds:, without its blanks."""
    found = re.search(r"cs:.*", node.proc())
    return found[0] if found else node.proc().strip()


def same_disks(one: Node, other: Node, size: int) -> None:
    """Bit for bit, over the size of the device."""
    with one.disk.open("rb") as first, other.disk.open("rb") as second:
        at = 0
        while at < size:
            length = min(1 << 20, size - at)
            left, right = first.read(length), second.read(length)
            if left != right:
                where = next(i for i in range(length) if left[i] != right[i])
                raise AssertionError(f"{one.name} and {other.name} differ at byte {at + where}")
            at += length


class KernelNode:
    """drbd.ko in a guest, by drbdadm."""

    def __init__(self, guest: Guest, name: str = "kernel") -> None:
        self.guest = guest
        self.name = name
        self.disk = guest.disk
        self._console_from = 0
        self._conf = ""

    def begin(self, disk_bytes: int) -> None:
        """As a new machine: an empty disk and no DRBD, whatever ran before."""
        if not self.guest.running:
            self.guest.resize_disk(disk_bytes)
            self.guest.boot()
        else:
            self._leave()
            if self.disk.stat().st_size != disk_bytes:
                self.guest.power_cut()
                self.guest.resize_disk(disk_bytes)
                self.guest.boot()
            else:
                with self.disk.open("r+b") as file:
                    file.truncate(0)
                    file.truncate(disk_bytes)
        self._console_from = len(self.guest.console())

    def _leave(self) -> None:
        """DRBD is down, and nothing of the disk is cached. One script: each costs a fifth of a
        second."""
        text = self.guest.sh(
            "umount /mnt; drbdadm down r0 || drbdsetup down r0; rm -f /run/told*; "
            "blockdev --flushbufs /dev/vda; echo configured:; drbdsetup show",
            20,
        )[1]
        if "r0" in text.partition("configured:")[2] or "cs:" in self.proc():
            self.guest.power_cut()
            self.guest.boot()

    def configure(self, peer: str, peer_port: int, options: Options) -> None:
        """Write drbd.conf."""
        self._conf = drbd_conf(guest_side(self.name, peer, peer_port), options)
        self._put_conf()

    def _put_conf(self) -> None:
        self.guest.put("/etc/drbd.conf", self._conf, f"hostname {self.name}")

    def adm(self, *words: str) -> tuple[int, str]:
        """drbdadm, on r0."""
        return self.guest.sh(f"drbdadm {' '.join(words)} r0", COMMAND_S)

    def up(self) -> None:
        """Attach and connect."""
        check(self, "up")

    def proc(self) -> str:
        """/proc/drbd; empty while the machine is off."""
        return self.guest.proc_drbd() if self.guest.running else ""

    def log(self) -> str:
        """The kernel's messages since ``begin``."""
        console = self.guest.console()[self._console_from :]
        return "\n".join(line for line in console.splitlines() if "drbd" in line)

    def power_cut(self) -> None:
        """The machine is off at once."""
        self.guest.power_cut()

    def start(self) -> None:
        """The machine is switched on, and DRBD brought up from its configuration."""
        self.guest.boot()
        self._console_from = 0
        self._put_conf()
        self.up()

    def write(self, offset: int, data: bytes) -> None:
        """A direct write of the device; data is sent as text, so keep it small."""
        assert not (offset | len(data)) % 512
        block = BLOCK if not (offset | len(data)) % BLOCK else 512
        encoded = base64.encodebytes(data).decode()
        self.guest.check(
            f"base64 -d > /run/data <<'END'\n{encoded}END\n"
            f"dd if=/run/data of=/dev/drbd0 bs={block} seek={offset // block} "
            "oflag=direct conv=nocreat,notrunc 2>&1"
        )

    def read(self, offset: int, length: int) -> bytes:
        """A direct read of the device."""
        assert not (offset | length) % 512
        text = self.guest.check(
            f"set -o pipefail; dd if=/dev/drbd0 bs=512 skip={offset // 512} "
            f"count={length // 512} iflag=direct "
            "2> /dev/null | base64"
        )
        return base64.b64decode(text)

    def zero(self, offset: int, length: int) -> None:
        """Write zeroes."""
        self.guest.check(f"blkdiscard -z -o {offset} -l {length} /dev/drbd0")

    def discard(self, offset: int, length: int) -> None:
        """Discard."""
        self.guest.check(f"blkdiscard -o {offset} -l {length} /dev/drbd0")

    def size(self) -> int:
        """Of the device."""
        return 512 * int(self.guest.check("cat /sys/block/drbd0/size"))

    def fio(self, *options: str) -> None:
        """fio on the device."""
        words = " ".join(options)
        self.guest.check(
            f"cd /run; fio --name=job --filename=/dev/drbd0 --ioengine=libaio --direct=1 {words}",
            200,
        )

    def told(self) -> list[str]:
        """The handlers that the kernel called."""
        return self.guest.sh("cat /run/told")[1].splitlines()


class ReplblkNode:
    """The daemon on this host, by its command line, its control socket and its NBD socket."""

    def __init__(self, folder: Path, disk_bytes: int, name: str = "replblk") -> None:
        self.folder = folder
        self.name = name
        folder.mkdir(parents=True, exist_ok=True)
        self.disk = folder / "disk"
        with self.disk.open("wb") as file:
            file.truncate(disk_bytes)
        self.port = free_port()
        self.volatile = False
        """Whether the disk has a cache that a kill empties."""
        self.versions: tuple[int, int] | None = None
        """Offer these protocol versions only, least and most."""
        self._files = RunFiles.of(folder, "r0")
        self._daemon: subprocess.Popen[bytes] | None = None

    def configure(self, peer: str, peer_port: int, options: Options) -> None:
        """Write drbd.conf."""
        hosts = host_side(self.name, str(self.disk), self.port, peer, peer_port)
        (self.folder / "drbd.conf").write_text(drbd_conf(hosts, options))
        (self.folder / "replblk.toml").write_text('log_level = "debug"\n')

    def _words(self) -> list[str]:
        return [
            *("--config", str(self.folder / "drbd.conf")),
            *("--node", self.name, "--run-dir", str(self.folder)),
        ]

    def adm(self, *words: str) -> tuple[int, str]:
        """replblk, on r0."""
        done = subprocess.run(
            [sys.executable, "-m", "replblk.cli", *self._words(), *words, "r0"],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=COMMAND_S + 65,
        )
        return done.returncode, done.stdout.strip()

    def ask(self, verb: str, **options: OptionValue) -> tuple[int, str]:
        """A command straight to the daemon."""
        reply = call(self._files, Request(verb, None, options), COMMAND_S)
        return reply.exit_code, reply.text

    def up(self) -> None:
        """Start the daemon in the foreground of a process that we can kill."""
        assert self._daemon is None or self._daemon.poll() is not None, "it runs already"
        program = ["replblk.cli"]
        if self.volatile:
            program = ["tests.interop.kernel.volatile_cache"]
        elif self.versions is not None:
            program = ["tests.interop.kernel.older", *map(str, self.versions)]
        self._files.make()
        with self._files.log.open("ab") as log:
            self._daemon = subprocess.Popen(
                [sys.executable, "-m", *program, *self._words(), "run", "r0"],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        give_up = time.monotonic() + WAIT_S
        while not self.proc():
            assert self._daemon.poll() is None, f"replblk ended at once:\n{self.log()[-2000:]}"
            assert time.monotonic() < give_up, f"replblk is not up:\n{self.log()[-2000:]}"
            time.sleep(0.05)

    start = up

    def ended(self) -> None:
        """Wait for the daemon's end, after ``down``."""
        assert self._daemon is not None
        self._daemon.wait(20)

    def proc(self) -> str:
        """As ``replblk proc`` shows it; empty while no daemon runs."""
        try:
            reply = call(self._files, Request("status", None, {}), COMMAND_S)
        except AdminError:
            return ""
        return proc_text([reply.status]) if reply.status is not None else ""

    def log(self) -> str:
        """What the daemon said."""
        return self._files.log.read_text(errors="replace") if self._files.log.exists() else ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        """A signal to the daemon; waits for its end unless it only stops or goes on."""
        assert self._daemon is not None
        self._daemon.send_signal(number)
        if number == signal.SIGKILL:
            self._daemon.wait(20)

    def power_cut(self) -> None:
        """SIGKILL; with a volatile cache, what was not synced is lost."""
        if self._daemon is not None and self._daemon.poll() is None:
            self._daemon.kill()
            self._daemon.wait(20)

    @contextlib.contextmanager
    def device(self) -> Iterator[Client]:
        """The device over NBD."""
        with Client.connect(str(self._files.nbd), timeout_s=60) as client:
            client.open("0")
            yield client

    @property
    def uri(self) -> str:
        """The device for foreign NBD clients."""
        return f"nbd+unix:///0?socket={self._files.nbd}"

    def write(self, offset: int, data: bytes) -> None:
        """A write."""
        with self.device() as client:
            client.write(offset, data)

    def read(self, offset: int, length: int) -> bytes:
        """A read."""
        with self.device() as client:
            return client.read(offset, length)

    def zero(self, offset: int, length: int) -> None:
        """Write zeroes."""
        with self.device() as client:
            client.zero(offset, length)

    def discard(self, offset: int, length: int) -> None:
        """Trim."""
        with self.device() as client:
            client.trim(offset, length)

    def size(self) -> int:
        """Of the device, from the node's status."""
        reply = call(self._files, Request("status", None, {}), COMMAND_S)
        assert reply.status is not None
        return 512 * reply.status.volumes[0].size_sectors

    def fio(self, *options: str) -> None:
        """fio on the device."""
        done = subprocess.run(
            ["fio", "--name=job", "--ioengine=nbd", f"--uri={self.uri}", *options],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout

    def close(self) -> None:
        """The end of the test."""
        self.power_cut()


def eventually(what: str, there: Callable[[], bool], limit_s: float = WAIT_S) -> None:
    """Wait for something that a node does by itself."""
    give_up = time.monotonic() + limit_s
    while not there():
        assert time.monotonic() < give_up, f"waited {limit_s:g} s in vain: {what}"
        time.sleep(0.05)


# What a node goes through that keeps looking for its peer and never takes one: a kernel is in
# WFReportParams from the handshake until it hears what it can't accept.
LOOKING = (
    "cs:(WFConnection|Unconnected|WFReportParams|BrokenPipe|ProtocolError|NetworkFailure|TearDown)"
)


def stay(node: Node, wanted: str, seconds: float) -> None:
    """/proc/drbd matches all the time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        text = node.proc()
        assert re.search(wanted, text), f"{node.name} did not stay {wanted!r}:\n{text}"
        time.sleep(0.1)
