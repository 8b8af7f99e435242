"""A daemon is killed at its Nth write or flush, for every N until none is hit: SQLite's method.

    make soak-kill-points EVERY=1

strace counts the system calls that change the disk, and sends SIGKILL at the Nth, before it is
carried out. The victim is the Secondary (it attaches, is resynced, takes writes, goes down) or the
Primary (it attaches, is promoted, writes, is demoted, goes down). After each kill the daemon starts
again, the pair comes to rest, what was acknowledged is there and the files are identical.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from nbd.client import NbdError
from tests.processes.pair import NODES, PATIENCE_S, RealPair
from tests.processes.writer import Writer
from tests.support.site import until
from tests.support.tools import need

SIZE_BYTES = 4 << 20
CALLS = "pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate,io_uring_enter"
WRITES = 25


class Points:
    """Kills of one victim ("alpha", the Primary, or "beta") at one call after the other."""

    def __init__(self, folder: Path, port: int, victim: str) -> None:
        need("strace")
        self.pair = RealPair(folder, port, SIZE_BYTES)
        self.victim = victim
        self.other = NODES[victim == NODES[0]]
        size = self.pair.layout.usable_sectors
        chance = random.Random(f"points/{victim}")
        blocks = sorted({chance.randrange(size // 8) for _ in range(60)})
        self.writer = Writer(f"points/{victim}", size, blocks)
        self.pair.start(self.other)
        self.pair.answers(self.other)

    def kill_at(self, number: int) -> bool:
        """Live until the victim's call of that number; False if it never came so far."""
        pair = self.pair
        if self.victim == "beta":  # it missed something: a resync comes first
            pair.replblk("alpha", "primary")
            self._write("alpha")
        inject = f"inject={CALLS}:signal=KILL:when={number}"
        strace = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={CALLS}")
        python = (sys.executable, "-P", "-m", "replblk.cli")
        pair.start(self.victim, (*strace, "-e", inject, *python))
        try:
            hit = self._story()
        finally:
            pair.kill(self.victim)
        pair.start(self.victim)
        pair.answers(self.victim)
        pair.connected()
        pair.replblk("alpha", "primary")
        with pair.client("alpha") as client:
            self.writer.verify(client)
            client.flush()
        until(lambda: pair.data("alpha") == pair.data("beta"), limit_s=PATIENCE_S)
        pair.kill(self.victim)
        if self.victim == "beta":
            pair.replblk("alpha", "secondary")
        return hit

    def _story(self) -> bool:
        """What the victim goes through; True if it died of it."""
        pair = self.pair
        until(lambda: pair.ended(self.victim) or self._healthy(), limit_s=PATIENCE_S)
        if pair.ended(self.victim):
            return True
        if self.victim == "alpha" and pair.site.replblk("alpha", "primary", "r0").returncode:
            return pair.ended("alpha") or self._dies()
        self._write("alpha")
        pair.site.replblk(self.victim, "down", "r0")
        if self.victim == "alpha":
            pair.site.replblk("alpha", "secondary", "r0")
            pair.site.replblk("alpha", "down", "r0")
        return self._dies()

    def _dies(self) -> bool:
        """Whether the daemon was killed; one that is not ends by itself, with 0."""
        until(lambda: self.pair.ended(self.victim), limit_s=PATIENCE_S)
        return self.pair.processes[self.victim].returncode != 0

    def _healthy(self) -> bool:
        return all(self.pair.healthy(node) for node in NODES)

    def _write(self, node: str) -> None:
        """Write a little, unless the node dies of it."""
        try:
            with self.pair.client(node) as client:
                writing = threading.Thread(target=self.writer.write, args=(client, WRITES))
                writing.start()
                writing.join()
        except (NbdError, OSError):
            return


def main(arguments: list[str] | None = None) -> int:
    """Kill at every call; 0 if the pair got over all of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.kill_points")
    parser.add_argument("--every", type=int, default=1, help="only each so manieth call")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--limit", type=int, default=10_000, help="kills of each node at most")
    parser.add_argument("--port", type=int, default=17320)
    args = parser.parse_args(arguments)
    began, kills = time.monotonic(), 0
    for victim in ("beta", "alpha"):
        with tempfile.TemporaryDirectory(prefix="replblk-points-") as folder:
            points = Points(Path(folder), args.port, victim)
            try:
                number, done = args.first, 0
                while done < args.limit and points.kill_at(number):
                    number += args.every
                    done += 1
            finally:
                points.pair.end()
        kills += done
        print(f"{victim}: {done} kills, up to call {number}", flush=True)
    print(f"{kills} kills at a system call, nothing lost, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
