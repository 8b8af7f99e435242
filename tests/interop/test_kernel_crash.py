"""The Primary crashes under load; nothing that was acknowledged may be missing afterwards.

Each write is a block of 4 KiB that holds its own number, to a place that no other write of the run
uses, spread over extents of the activity log.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Iterator

import pytest

from nbd.client import Client, NbdError
from tests.interop.kernel.guest import GuestError
from tests.interop.kernel.nodes import (
    KernelNode,
    Node,
    ReplblkNode,
    check,
    eventually,
    number,
    wait,
)
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20
BLOCK = 4096
EXTENT_KIB = 4096
large = pytest.mark.disk_bytes(48 * MIB)


def places(size: int) -> list[int]:
    """Block numbers in the order of use: all over the first 40 MiB."""
    blocks = list(range(min(size, 40 * MIB) // BLOCK))
    random.Random(5).shuffle(blocks)
    return blocks


def content(count: int) -> bytes:
    """What write number *count* holds."""
    return b"%-16d" % count * (BLOCK // 16)


class Load(threading.Thread):
    """Writes until the node is gone; acked: how many writes were acknowledged, in order."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self.node = node
        self.places = places(node.size())
        self.acked: set[int] = set()
        self._line = b""

    def run(self) -> None:
        """Until the node dies."""
        if isinstance(self.node, KernelNode):
            self._run_in_guest(self.node)
        elif isinstance(self.node, ReplblkNode):
            self._run_over_nbd(self.node)

    def _run_in_guest(self, node: KernelNode) -> None:
        # A line is printed after a direct write has returned.
        chosen = " ".join(str(block) for block in self.places[:3000])
        script = (
            "n=0; for block in " + chosen + "; do\n"
            "printf -v w '%-16d' $n; for i in 1 2 3 4 5 6 7 8; do w=$w$w; done\n"
            "printf '%s' \"$w\" > /run/w\n"
            "dd if=/run/w of=/dev/drbd0 bs=4k seek=$block count=1 oflag=direct "
            "conv=nocreat,notrunc 2> /run/err && echo $n\n"
            "n=$((n + 1)); done"
        )
        try:
            node.guest.sh(script, 120, self._on_output)
        except (GuestError, OSError):
            return  # the power was cut

    def _on_output(self, piece: bytes) -> None:
        lines = (self._line + piece).split(b"\n")
        self._line = lines.pop()
        self.acked |= {int(line) for line in lines if line.strip().isdigit()}

    def _run_over_nbd(self, node: ReplblkNode) -> None:
        cookies: dict[int, int] = {}
        numbers: Iterator[int] = iter(range(len(self.places)))
        try:
            with node.device() as client:
                while True:
                    self._fill(client, cookies, numbers)
                    for answer in client.collect(1):
                        answer.checked()
                        self.acked.add(cookies.pop(answer.cookie))
        except NbdError:
            return  # the daemon was killed

    def _fill(self, client: Client, cookies: dict[int, int], numbers: Iterator[int]) -> None:
        while len(cookies) < 16:
            count = next(numbers)
            at = self.places[count] * BLOCK
            cookies[client.submit_write(at, content(count))] = count

    def missing(self, node: Node) -> list[int]:
        """Acknowledged writes that a node's disk does not hold."""
        with node.disk.open("rb") as disk:
            lost = []
            for count in sorted(self.acked):
                disk.seek(self.places[count] * BLOCK)
                if disk.read(BLOCK) != content(count):
                    lost.append(count)
        return lost


def crash_under_load(pair: Pair) -> Load:
    """The first node is Primary and writes; its power is cut."""
    load = Load(pair.first)
    load.start()
    eventually("some writes were acknowledged", lambda: len(load.acked) > 60, 60)
    time.sleep(0.3)
    pair.first.power_cut()
    load.join(30)
    assert not load.is_alive()
    wait(pair.second, "cs:(WFConnection|Unconnected)", 20)
    assert not load.missing(pair.second), "the Secondary had acknowledged them"
    return load


@large
@pytest.mark.parametrize(
    ("side", "volatile"),
    [("kernel", False), ("replblk", False), ("replblk", True)],
    ids=["kernel", "replblk-killed", "replblk-power-cut"],
)
def test_the_primary_crashes_and_returns(pair: Pair, volatile: bool) -> None:
    """The Primary crashes under load: it returns as SyncSource of its active extents"""
    pair.replblk.volatile = volatile
    pair.in_sync()
    load = crash_under_load(pair)
    pair.first.start()
    pair.wait_in_sync()
    source = pair.first.log().rpartition("Began resync as SyncSource")[2]
    resynced = int(re.findall(r"will sync (\d+) KB", source)[0])
    hot = len({load.places[count] * BLOCK // (4 * MIB) for count in load.acked})
    assert resynced <= (hot + 1) * EXTENT_KIB
    assert resynced >= EXTENT_KIB
    pair.compare()
    for node in (pair.first, pair.second):
        assert not load.missing(node)


@large
@sides
def test_the_other_takes_over(pair: Pair) -> None:
    """The Primary crashes, the Secondary becomes Primary and writes; the old one is SyncTarget"""
    pair.in_sync()
    load = crash_under_load(pair)
    check(pair.second, "primary")
    pair.second.write(44 * MIB, b"taken over      " * 256)
    oos = number(pair.second, "oos")
    assert oos == 4
    pair.first.start()
    wait(pair.first, "ro:Secondary/Primary", 30)
    pair.compare()
    assert "Began resync as SyncTarget" in pair.first.log()
    for node in (pair.first, pair.second):
        assert not load.missing(node)
    assert pair.second.read(44 * MIB, BLOCK) == b"taken over      " * 256


@sides
def test_the_target_crashes_in_a_resync(pair: Pair) -> None:
    """The SyncTarget dies in the middle of a resync: Inconsistent until it is done after all"""
    pair.in_sync()
    check(pair.second, "disconnect")
    wait(pair.first, "cs:WFConnection")
    pair.first.write(0, bytes(range(256)) * 4096)
    pair.replblk.ask("pause-sync")
    check(pair.second, "connect")
    wait(pair.second, "cs:PausedSync|cs:Sync")
    wait(pair.second, "ds:Inconsistent/UpToDate")
    pair.second.power_cut()
    wait(pair.first, "cs:(WFConnection|Unconnected)", 20)
    if pair.second is pair.kernel:
        pair.replblk.ask("resume-sync")
    pair.second.start()
    pair.compare()
