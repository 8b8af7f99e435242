"""The kernel and replblk as a pair, with a recorder on the way of each to the other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.interop.kernel.config import Options
from tests.interop.kernel.guest import Guest
from tests.interop.kernel.nodes import (
    CONNECTED,
    IN_SYNC,
    KernelNode,
    Node,
    ReplblkNode,
    check,
    same_disks,
    wait_both,
)
from tests.interop.kernel.recorder import Recorder, Talk

DISK_BYTES = 12 << 20
"""Small, so that a full sync is short; with metadata no multiple of 256 KiB, where the kernel loses
the end of its bitmap."""


def create(node: Node) -> None:
    """Fresh metadata."""
    check(node, "create-md", "--force")


def up(node: Node) -> None:
    """Start it."""
    node.up()


def create_and_up(node: Node) -> None:
    """Fresh, and started."""
    create(node)
    up(node)


class Pair:
    """One test's nodes. first, second: the two in the parts that the test's side gives them."""

    def __init__(self, guest: Guest, folder: Path, side: str, disk_bytes: int) -> None:
        self.kernel = KernelNode(guest)
        self.kernel.begin(disk_bytes)
        self.replblk = ReplblkNode(folder, disk_bytes)
        self.options = Options()
        self.dissected = True
        """Whether tshark's dissector knows the protocol version that is used."""
        self.from_kernel = Recorder("kernel", "replblk", self.replblk.port)
        self.from_replblk = Recorder("replblk", "kernel", guest.drbd_port)
        nodes: tuple[Node, Node] = (self.kernel, self.replblk)
        self.first, self.second = nodes if side == "kernel" else nodes[::-1]

    # -- life ---------------------------------------------------------------------------------

    def configure(self, options: Options | None = None, replblk: Options | None = None) -> None:
        """The same options for both, or others for replblk."""
        options = self.options = options or Options()
        self.kernel.configure("replblk", self.from_kernel.port, options)
        self.replblk.configure("kernel", self.from_replblk.port, replblk or options)

    def both(self, work: Callable[[Node], None]) -> None:
        """Do the same on both nodes, at the same time."""
        with ThreadPoolExecutor(2) as threads:
            for done in [threads.submit(work, node) for node in (self.kernel, self.replblk)]:
                done.result()

    def create(self) -> None:
        """Fresh metadata on both."""
        self.both(create)

    def up(self) -> None:
        """Start both."""
        self.both(up)

    def connected(self, options: Options | None = None) -> None:
        """Fresh, up, and connected."""
        self.configure(options)
        self.both(create_and_up)
        wait_both(self.kernel, self.replblk, CONNECTED)

    def in_sync(self, options: Options | None = None) -> None:
        """The same, and UpToDate on both by a full sync; first is Primary."""
        self.connected(options)
        check(self.first, "primary", "--force")
        self.wait_in_sync()

    def close(self) -> None:
        """The end of the test; the guest stays."""
        self.replblk.close()
        for recorder in self.recorders:
            recorder.close()

    # -- the network --------------------------------------------------------------------------

    @property
    def recorders(self) -> tuple[Recorder, Recorder]:
        """Both ways."""
        return self.from_kernel, self.from_replblk

    @property
    def talks(self) -> list[Talk]:
        """Every connection made so far, in order."""
        return sorted((t for r in self.recorders for t in r.talks), key=lambda talk: talk.number)

    def cut(self, kind: str = "") -> None:
        """Reset the connections of a kind: data, meta, or all."""
        assert sum(recorder.cut(kind) for recorder in self.recorders), f"no {kind} connection"

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """No way to reach each other, and connections are reset."""
        for recorder in self.recorders:
            recorder.refuse(True)
            recorder.cut()
        try:
            yield
        finally:
            for recorder in self.recorders:
                recorder.refuse(False)

    @contextlib.contextmanager
    def silent(self) -> Iterator[None]:
        """Nothing passes, nothing is closed."""
        for recorder in self.recorders:
            recorder.silence(True)
        try:
            yield
        finally:
            for recorder in self.recorders:
                recorder.silence(False)

    # -- judgement ----------------------------------------------------------------------------

    def wait_in_sync(self, limit_s: float = 60) -> None:
        """Until both say that both are UpToDate."""
        wait_both(self.kernel, self.replblk, IN_SYNC, limit_s)

    def compare(self) -> None:
        """Both disks hold the same, and both nodes know of nothing out of sync."""
        self.wait_in_sync()
        for node in (self.kernel, self.replblk):
            assert " oos:0" in node.proc(), node.proc()
        size = self.kernel.size()
        assert size == self.replblk.size()
        same_disks(self.kernel, self.replblk, size)

    def story(self) -> str:
        """What both nodes showed and said, for a test that failed."""
        return "\n".join(
            f"--- {node.name}\n{node.proc()}\n{node.log()[-6000:]}"
            for node in (self.kernel, self.replblk)
        )
