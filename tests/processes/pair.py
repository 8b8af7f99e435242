"""Two real daemons on two files that are in sync from the beginning, however they are started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from nbd.client import Client
from replblk.meta.layout import Layout
from replblk.sim.image import synced_drive
from replblk.sim.machine import Machine
from replblk.sim.options import Options
from replblk.sim.setup import build_pair
from replblk.sim.store import PAGE_BYTES
from replblk.sim.world import World
from tests.support.site import Site, until

NODES = ("alpha", "beta")
PATIENCE_S = 180.0
"""For what a pair has to do by itself, on a machine that has other things to do, too."""
ROOT = Path(__file__).resolve().parents[2]
GENERATION = 0x1234_5678_9ABC_DEF0


def end_in_order_on_sigterm() -> None:
    """For long runs: SIGTERM ends them as an error would, so that no daemon is left behind."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def synced_pages(size_bytes: int) -> dict[int, bytes]:
    """The pages of a backing device as a pair in sync leaves it; the rest is zeroes."""
    network = build_pair(World(1), Options(seed=1, device_bytes=size_bytes))
    machine: Machine = network.machines[0]
    return dict(synced_drive(machine, 0, size_bytes, GENERATION).store.pages)


class RealPair:
    """The daemons' life. launcher: what stands before the arguments of ``replblk``."""

    def __init__(self, folder: Path, port: int, size_bytes: int, site: type[Site] = Site) -> None:
        self.site = site(folder, port, size_bytes)
        self.folder = folder
        self.layout = Layout.internal(size_bytes)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for node in NODES:
            with (folder / f"{node}.img").open("r+b") as file:
                for number, page in synced_pages(size_bytes).items():
                    file.seek(number * PAGE_BYTES)
                    file.write(page)

    def start(self, node: str, launcher: tuple[str, ...] = ()) -> None:
        """Start the daemon in the foreground of a process of ours."""
        arguments = self.site.command(node, "run", "r0")[4:]
        command = [*(launcher or (sys.executable, "-P", "-m", "replblk.cli")), *arguments]
        with (self.folder / f"{node}.out").open("ab") as out:
            self.processes[node] = subprocess.Popen(
                command,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def answers(self, node: str) -> None:
        """Wait until the daemon takes commands."""
        until(
            lambda: self.site.replblk(node, "cstate", "r0").stdout not in ("", "Unconfigured\n"),
            self.logs,
            PATIENCE_S,
        )

    def kill(self, node: str) -> None:
        """SIGKILL for the daemon and whatever it was started with."""
        process = self.processes.pop(node, None)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def ended(self, node: str) -> bool:
        """Whether the daemon is gone by itself."""
        return self.processes[node].poll() is not None

    def end(self) -> None:
        """Nothing of ours is left."""
        for node in list(self.processes):
            self.kill(node)

    def connected(self, story: str = "") -> None:
        """Wait for Connected and UpToDate on both."""
        until(self._well, lambda: f"{story} {self.logs()}", PATIENCE_S)

    def _well(self) -> bool:
        for node in self.processes:
            assert not self.ended(node), f"the daemon of {node} has ended: {self.logs()}"
        return all(self.healthy(node) for node in NODES)

    def logs(self) -> str:
        """The end of what each daemon said last."""
        return "\n".join((self.folder / f"{n}.out").read_text()[-3000:] for n in NODES)

    def healthy(self, node: str) -> bool:
        """Whether a node says that all is well."""
        done = self.site.replblk(node, "dstate", "r0")
        state = self.site.replblk(node, "cstate", "r0")
        return state.stdout == "Connected\n" and done.stdout == "UpToDate/UpToDate\n"

    def replblk(self, node: str, *arguments: str) -> str:
        """A command that must work."""
        return self.site.run(node, *arguments, "r0")

    def client(self, node: str) -> Client:
        """The device."""
        client = Client.connect(str(self.site.run_file(node, "nbd.sock")))
        client.open("0", block_sizes=False)
        return client

    def data(self, node: str) -> bytes:
        """The exported range of the backing file."""
        with (self.folder / f"{node}.img").open("rb") as file:
            return file.read(self.layout.usable_sectors * 512)
