"""The worlds a port can live in: the contract tests run the same stories in each of them.

A rig builds the port under test, hands its events to a ``Recorder``, and lets the world go on until
something has happened. ``submit`` brackets what a node does in one step.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import pytest
import uvloop

from replblk.engine.ports import Clock, Disk, HandlerCall, Links, OpenFailed, Ports
from replblk.model.config import Address, Resource, Settings
from replblk.shell.clock import MonotonicClock
from replblk.shell.disks import FileDisks
from replblk.shell.handler_processes import HandlerProcesses
from replblk.shell.links import TcpLinks
from replblk.sim.handlers import HandlerEnds
from replblk.sim.options import Options
from replblk.sim.setup import build_pair
from replblk.sim.world import MILLI_NS, SECOND_NS, World
from tests.support.recorder import Recorder

LIMIT_S = 10.0
"""Real time after which a story that does not go on has failed."""


class DiskRig(Protocol):
    """One machine with one backing device of *size_bytes*."""

    recorder: Recorder

    def open(self) -> Disk | OpenFailed: ...
    def submit(self) -> None: ...
    def run_until(self, happened: Callable[[], bool]) -> None: ...


class LinkRig(Protocol):
    """Two nodes, 0 and 1, that can reach each other."""

    links: tuple[Links, Links]
    recorders: tuple[Recorder, Recorder]

    def submit(self) -> None: ...
    def run_until(self, happened: Callable[[], bool]) -> None: ...


class ClockRig(Protocol):
    """One clock; its ringing is recorded as wakes."""

    clock: Clock
    recorder: Recorder

    def run_until(self, happened: Callable[[], bool]) -> None: ...


class HandlerRig(Protocol):
    """One machine whose handlers end as the story says."""

    recorder: Recorder

    def call(self, number: int, exit_code: int | None, timeout_s: int) -> None: ...
    def run_until(self, happened: Callable[[], bool]) -> None: ...


class _Looped:
    """A uvloop that runs only while a story waits."""

    def __init__(self) -> None:
        self.loop = uvloop.new_event_loop()

    def run_until(self, happened: Callable[[], bool]) -> None:
        async def wait() -> None:
            async with asyncio.timeout(LIMIT_S):
                while not happened():
                    await asyncio.sleep(0.001)

        self.submit()
        self.loop.run_until_complete(wait())

    def submit(self) -> None:
        """Ports with nothing to hand over."""


class ShellDiskRig(_Looped):
    """A file in a temporary directory behind ``shell.disk_ring``, or else ``shell.disk``: *direct*,
    or over the page cache."""

    def __init__(self, folder: Path, size_bytes: int, *, ring: bool, direct: bool = False) -> None:
        super().__init__()
        self.recorder = Recorder()
        self.path = folder / "disk"
        with self.path.open("wb") as file:
            file.truncate(size_bytes)
        self.refusals: list[str] = []
        self._disks = FileDisks(
            {0: str(self.path)},
            self.loop,
            self.recorder.on_disk_answers,
            self.refusals.append,
            ring=ring,
            direct=direct,
        )

    def open(self) -> Disk | OpenFailed:
        disk = self._disks.open(0)
        if self.refusals:
            pytest.skip(f"no O_DIRECT, or no io_uring or AIO, here: {self.refusals[0]}")
        return disk

    def submit(self) -> None:
        self._disks.end_step()


class ShellLinkRig(_Looped):
    """Two TCP endpoints on loopback addresses behind ``shell.links``."""

    def __init__(self, port: int) -> None:
        super().__init__()
        own = Address(family="ipv4", host="127.0.0.1", port=port)
        peer = Address(family="ipv4", host="127.0.0.2", port=port)
        self.recorders = (Recorder(), Recorder())
        self.links = tuple(
            TcpLinks(one, other, self.loop, recorder, recorder.warn)
            for (one, other), recorder in zip(
                ((own, peer), (peer, own)), self.recorders, strict=True
            )
        )

    def submit(self) -> None:
        for links in self.links:
            links.end_step()


class ShellClockRig(_Looped):
    """The machine's own clock."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder()
        self.clock = MonotonicClock(self.loop, self.recorder.on_wake)


@contextlib.contextmanager
def threads_disk(folder: Path, size_bytes: int) -> Iterator[DiskRig]:
    rig = ShellDiskRig(folder, size_bytes, ring=False)
    yield rig
    rig.loop.close()


@contextlib.contextmanager
def direct_disk(folder: Path, size_bytes: int) -> Iterator[DiskRig]:
    rig = ShellDiskRig(folder, size_bytes, ring=False, direct=True)
    yield rig
    rig.loop.close()


@contextlib.contextmanager
def ring_disk(folder: Path, size_bytes: int) -> Iterator[DiskRig]:
    rig = ShellDiskRig(folder, size_bytes, ring=True)
    yield rig
    rig.loop.close()


@contextlib.contextmanager
def shell_links(port: int) -> Iterator[LinkRig]:
    rig = ShellLinkRig(port)
    yield rig
    for links in rig.links:
        rig.loop.run_until_complete(links.shut(0.2))
    rig.loop.run_until_complete(asyncio.sleep(0))
    rig.loop.close()


@contextlib.contextmanager
def shell_clock() -> Iterator[ClockRig]:
    rig = ShellClockRig()
    yield rig
    rig.clock.close()
    rig.loop.close()


class ShellHandlerRig(_Looped):
    """Child processes."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder()
        self._handlers = HandlerProcesses(self.loop, self.recorder.on_handler_done, {})

    def call(self, number: int, exit_code: int | None, timeout_s: int) -> None:
        """None: it does not end by itself."""
        command = "sleep 1000" if exit_code is None else f"exit {exit_code}"
        self._handlers.call(number, HandlerCall("split-brain", command, (), timeout_s))

    def close(self) -> None:
        self._handlers.close()
        self.loop.close()


class _Simulated:
    """Two simulated machines whose nodes only remember; time passes only while a story waits."""

    def __init__(self, seed: int, device_bytes: int = 1 << 20) -> None:
        self.world = World(seed)
        options = Options(seed=seed, device_bytes=device_bytes)
        network = build_pair(self.world, options, _SimulatedNode)
        for machine in network.machines:
            machine.boot()
        self.machines = network.machines
        self.nodes = tuple(machine.node for machine in network.machines)

    def run_until(self, happened: Callable[[], bool]) -> None:
        if not self.world.run_until(happened, int(LIMIT_S * SECOND_NS)):
            raise TimeoutError("it did not happen in the simulated time")

    def submit(self) -> None:
        """The simulator takes everything at once."""


class _SimulatedNode(Recorder):
    """What runs on a simulated machine."""

    def __init__(self, resource: Resource, settings: Settings, ports: Ports) -> None:
        super().__init__()
        self.ports = ports


class SimDiskRig(_Simulated):
    """The first machine's drive."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__(1, size_bytes)
        self.recorder = self.nodes[0]

    def open(self) -> Disk | OpenFailed:
        return self.recorder.ports.disks.open(0)


class SimHandlerRig(_Simulated):
    """The first machine's handlers."""

    def __init__(self) -> None:
        super().__init__(1)
        self.recorder = self.nodes[0]

    def call(self, number: int, exit_code: int | None, timeout_s: int) -> None:
        """None: it does not end by itself."""
        machine, name = self.machines[0], f"handler {number}"
        machine.handlers[name] = HandlerEnds(exit_code or 0, never=exit_code is None)
        self.recorder.ports.handlers.call(number, HandlerCall(name, "/x", (), timeout_s))


class SimLinkRig(_Simulated):
    """The cable between both machines."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.recorders = self.nodes
        self.links = tuple(node.ports.links for node in self.nodes)


class SimClockRig(_Simulated):
    """The first machine's clock."""

    def __init__(self) -> None:
        super().__init__(1)
        self.recorder = self.nodes[0]
        self.clock = self.recorder.ports.clock

    def run_until(self, happened: Callable[[], bool]) -> None:
        # Nothing may be due any more, so time itself has to be moved.
        deadline_ns = self.world.now_ns + int(LIMIT_S * SECOND_NS)
        while not happened():
            assert self.world.now_ns < deadline_ns, "it did not happen in the simulated time"
            self.world.run_for(MILLI_NS // 10)


@contextlib.contextmanager
def sim_disk(folder: Path, size_bytes: int) -> Iterator[DiskRig]:
    yield SimDiskRig(size_bytes)


@contextlib.contextmanager
def sim_links(port: int) -> Iterator[LinkRig]:
    yield SimLinkRig(port)


@contextlib.contextmanager
def sim_clock() -> Iterator[ClockRig]:
    yield SimClockRig()


@contextlib.contextmanager
def shell_handlers() -> Iterator[HandlerRig]:
    """Real handlers."""
    rig = ShellHandlerRig()
    try:
        yield rig
    finally:
        rig.close()


@contextlib.contextmanager
def sim_handlers() -> Iterator[HandlerRig]:
    """Simulated handlers."""
    yield SimHandlerRig()


DISK_RIGS = {
    "threads": threads_disk,
    "direct": direct_disk,
    "ring": ring_disk,
    "sim": sim_disk,
}
LINK_RIGS = {"shell": shell_links, "sim": sim_links}
HANDLER_RIGS = {"shell": shell_handlers, "sim": sim_handlers}
CLOCK_RIGS = {"shell": shell_clock, "sim": sim_clock}
