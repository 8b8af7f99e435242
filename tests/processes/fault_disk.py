"""Disks that fail when a test says so, under real daemons, by two ways that mean the same.

``PreloadDisks``: the daemon does its input and output by threads, and a library loaded before the C
library (``fault_preload.c``, compiled here) spoils the Nth system call. ``FuseDisks``: the daemon
uses io_uring with O_DIRECT on a file that nbdfuse makes of an NBD server in this process, whose
disk spoils the Nth request. The second one needs root and FUSE.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from nbd.export import Geometry
from nbd.memory import Call, MemoryDisk, MemoryExports
from tests.processes.pair import NODES, PATIENCE_S, RealPair
from tests.support.nbd_served import served
from tests.support.site import until

FOREVER = 1 << 30
HERE = Path(__file__).parent
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What happens to which operation. op: write, read or flush. action: error, torn, short, delay,
    hang. value: an errno, or milliseconds. first: from which operation on, counted from 1; times:
    to how many. start, end: only where it touches these bytes; a flush touches all."""

    op: str
    action: str
    value: int = errno.EIO
    first: int = 1
    times: int = FOREVER
    start: int = 0
    end: int = 1 << 62


class FaultDisks(Protocol):
    """The disks of both nodes of a pair."""

    def start(self, node: str) -> None:
        """Start the daemon of a node on its disk."""
        ...

    def plant(self, node: str, fault: Fault) -> None:
        """From now on; in place of the one before."""
        ...

    def heal(self, node: str) -> None:
        """All is well, and what hangs goes on."""
        ...

    def hits(self, node: str) -> int:
        """How many operations were spoilt since the last fault was planted."""
        ...

    def data(self, node: str) -> bytes:
        """The exported range."""
        ...


class PreloadDisks:
    """By LD_PRELOAD."""

    def __init__(self, pair: RealPair) -> None:
        self._pair = pair
        self._serial = 0
        self._library = pair.folder / "fault_preload.so"
        command = ["gcc", "-shared", "-fPIC", "-O1", "-o", str(self._library)]
        subprocess.run([*command, str(HERE / "fault_preload.c"), "-ldl"], check=True)
        for node in NODES:
            self.heal(node)

    def start(self, node: str) -> None:
        """With the library before all others."""
        target = os.path.realpath(self._pair.folder / f"{node}.img")
        environment = (
            f"LD_PRELOAD={self._library}",
            f"FAULT_TARGET={target}",
            f"FAULT_RULE={self._rule(node)}",
        )
        python = (sys.executable, "-m", "tests.processes.threads_disk")
        self._pair.start(node, ("env", *environment, *python))

    def plant(self, node: str, fault: Fault) -> None:
        """One line; it is renamed into place whole."""
        self._serial += 1
        Path(f"{self._rule(node)}.hits").unlink(missing_ok=True)
        words = (self._serial, fault.op, fault.action, fault.value, fault.first, fault.times)
        text = " ".join(map(str, (*words, fault.start, fault.end)))
        new = self._rule(node).with_suffix(".new")
        new.write_text(text + "\n")
        new.rename(self._rule(node))

    def heal(self, node: str) -> None:
        """A rule that never comes to pass."""
        self.plant(node, Fault(op="none", action="error"))

    def hits(self, node: str) -> int:
        """One byte each."""
        noted = Path(f"{self._rule(node)}.hits")
        return noted.stat().st_size if noted.exists() else 0

    def data(self, node: str) -> bytes:
        """From the file."""
        return self._pair.data(node)

    def _rule(self, node: str) -> Path:
        return self._pair.folder / f"{node}.rule"


class SpoiltDisk(MemoryDisk):
    """A memory disk whose Nth operation is spoilt. Faults are planted from another thread."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(geometry)
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._count = 0
        self._hanging: list[Callable[[], None]] = []
        self.later: Callable[[float, Callable[[], None]], Any] | None = None
        self.hits = 0

    def plant(self, fault: Fault | None) -> None:
        """None: all is well."""
        with self._lock:
            self._fault, self._count = fault, 0
            if fault is not None:
                self.hits = 0

    def release(self) -> None:
        """On the loop's thread: what hangs goes on."""
        hanging, self._hanging = self._hanging, []
        for go_on in hanging:
            go_on()

    def submit(
        self, call: Call, work: Callable[[], T], done: Callable[[int, T | None], None]
    ) -> None:
        """As ``MemoryDisk``, unless a fault is met."""
        go_on = partial(super().submit, call, work, done)
        fault = self._met(call)
        if fault is None:
            go_on()
        elif fault.action == "error":
            done(fault.value, None)
        elif fault.action == "torn":
            assert call.kind == "write"
            work()  # all of it is there, yet it is said to have failed
            done(fault.value, None)
        elif fault.action == "delay":
            assert self.later is not None
            self.later(fault.value / 1000, go_on)
        else:
            self._hanging.append(go_on)

    def _met(self, call: Call) -> Fault | None:
        kind = "write" if call.kind in ("zero", "trim") else call.kind
        with self._lock:
            fault = self._fault
            if fault is None or fault.op != kind:
                return None
            if call.length and (
                call.offset >= fault.end or call.offset + call.length <= fault.start
            ):
                return None
            self._count += 1
            if not fault.first <= self._count < fault.first + fault.times:
                return None
            self.hits += 1
            return fault


class FuseDisks:
    """By an NBD server of ours, and nbdfuse. Ends with ``close``."""

    def __init__(self, pair: RealPair) -> None:
        self._pair = pair
        self._stack = contextlib.ExitStack()
        self._disks: dict[str, SpoiltDisk] = {}
        self._loops: dict[str, Any] = {}
        self._helpers: list[subprocess.Popen[bytes]] = []
        text = pair.site.config.read_text()
        try:
            for node in NODES:
                image = pair.folder / f"{node}.img"
                text = text.replace(str(image), str(self._mount(node) / "nbd"))
                self._serve(node, image.read_bytes())
        except BaseException:
            self.close()
            raise
        pair.site.config.write_text(text)

    def _mount(self, node: str) -> Path:
        return self._pair.folder / f"{node}.fuse"

    def _serve(self, node: str, content: bytes) -> None:
        disk = SpoiltDisk(Geometry(len(content)))
        disk.put(0, content)
        found = self._stack.enter_context(served(MemoryExports({"disk": disk})))
        disk.later = found.loop.call_later
        self._disks[node], self._loops[node] = disk, found.loop
        mount = self._mount(node)
        mount.mkdir()
        command = ["nbdfuse", str(mount / "nbd"), found.uri("disk")]
        with (self._pair.folder / f"{node}.nbdfuse").open("wb") as said:
            helper = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=said, start_new_session=True
            )
        self._helpers.append(helper)
        until(lambda: os.path.ismount(mount) or helper.poll() is not None)
        assert helper.poll() is None, "nbdfuse ended"

    def start(self, node: str) -> None:
        """As always: the disk is a file that takes O_DIRECT."""
        self._pair.start(node)

    def plant(self, node: str, fault: Fault) -> None:
        """A short answer is not in the protocol."""
        assert fault.action != "short"
        self._disks[node].plant(fault)

    def heal(self, node: str) -> None:
        """What hangs is carried out by the server's loop."""
        self._disks[node].plant(None)
        self._loops[node].call_soon_threadsafe(self._disks[node].release)

    def hits(self, node: str) -> int:
        """Counted by the disk."""
        return self._disks[node].hits

    def data(self, node: str) -> bytes:
        """From memory."""
        return self._disks[node].content(0, self._pair.layout.usable_sectors * 512)

    def close(self) -> None:
        """The daemons must have ended."""
        for node in NODES:
            if node in self._disks:
                self.heal(node)
            subprocess.run(["umount", str(self._mount(node))], capture_output=True, check=False)
        for helper in self._helpers:
            helper.terminate()
            helper.wait(PATIENCE_S)
        self._stack.close()
