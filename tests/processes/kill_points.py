"""A daemon is killed, or told of an error, at its Nth write or flush; for every N.

    make kill-points EVERY=1 FAULT=kill

SQLite's method: until no call is hit any more. strace counts the system calls that change the disk,
and at the Nth sends SIGKILL before it is carried out, or answers EIO or ENOSPC in its place (then
the daemon does its input and output by threads: strace can't see what a ring was asked for; each
thread has a count of its own). The victim is the Secondary (it
attaches, is resynced, takes writes, goes down) or the Primary (it attaches, is promoted, writes, is
demoted, goes down). After each the daemon starts again, the pair comes to rest, what was
acknowledged is there and the files are identical.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from nbd.client import NbdError
from tests.processes.pair import NODES, PATIENCE_S, RealPair, end_in_order_on_sigterm
from tests.processes.writer import Writer
from tests.support.site import until
from tests.support.tools import need

SIZE_BYTES = 4 << 20
CALLS = "pwrite64,pwritev,pwritev2,fdatasync,fsync,fallocate"
RING_CALLS = f"{CALLS},io_uring_enter"
"""An error of the ring itself is none of the disk: only kills count its calls."""
WRITES = 25
FAULTS = {"kill": "signal=KILL", "eio": "error=EIO", "enospc": "error=ENOSPC"}
INJECTED = "(INJECTED)", "killed by SIGKILL"
ERRORS_MAX = 3
"""A node without any good disk answers all writes with errors."""
SETTLED_S = 0.3
"""A node whose disk could not be attached may say so a moment before it goes on."""


class Points:
    """One victim ("alpha", the Primary, or "beta") is hit at one call after the other."""

    def __init__(self, folder: Path, port: int, victim: str, fault: str = "kill") -> None:
        need("strace")
        self.fault = fault
        self._told = folder / "strace"
        self.pair = RealPair(folder, port, SIZE_BYTES)
        self.victim = victim
        self.other = NODES[victim == NODES[0]]
        size = self.pair.layout.usable_sectors
        chance = random.Random(f"points/{victim}")
        blocks = sorted({chance.randrange(size // 8) for _ in range(60)})
        self.writer = Writer(f"points/{victim}", size, blocks)

    def start(self) -> None:
        """The node that nothing happens to."""
        self.pair.start(self.other)
        self.pair.answers(self.other)

    def hit_at(self, number: int) -> bool:
        """Live until the victim's call of that number; False if it never came so far."""
        pair = self.pair
        if self.victim == "beta":  # it missed something: a resync comes first
            pair.replblk("alpha", "primary")
            self._write("alpha")
        calls = RING_CALLS if self.fault == "kill" else CALLS
        inject = f"inject={calls}:{FAULTS[self.fault]}:when={number}"
        strace = ("strace", "-f", "-o", str(self._told), "-e", f"trace={calls}")
        module = "replblk.cli" if self.fault == "kill" else "tests.processes.threads_disk"
        pair.start(self.victim, (*strace, "-e", inject, sys.executable, "-m", module))
        try:
            self._story()
        finally:
            pair.kill(self.victim)
        said = self._told.read_text(errors="replace")
        hit = any(word in said for word in INJECTED)
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

    def _story(self) -> None:
        """What the victim goes through, as far as it comes."""
        pair = self.pair
        until(lambda: pair.ended(self.victim) or self._settled(), limit_s=PATIENCE_S)
        if pair.ended(self.victim):
            assert self.fault == "kill", "the daemon ended by an error of its disk"
            return
        pair.site.replblk("alpha", "primary", "r0")
        self._write("alpha")
        if self.victim == "alpha":
            pair.site.replblk("alpha", "secondary", "r0")
        pair.site.replblk(self.victim, "down", "r0")
        until(lambda: pair.ended(self.victim) or self.fault != "kill", limit_s=PATIENCE_S)

    def _settled(self) -> bool:
        """All is well, or the victim has no disk and nothing more comes of it."""
        if all(self.pair.healthy(node) for node in NODES):
            return True
        return self._diskless() and (time.sleep(SETTLED_S) is None) and self._diskless()

    def _diskless(self) -> bool:
        """The peer's is what it was; the connection there or never tried."""
        disk = self.pair.site.replblk(self.victim, "dstate", "r0").stdout
        state = self.pair.site.replblk(self.victim, "cstate", "r0").stdout
        return disk.startswith("Diskless/") and state in ("Connected\n", "StandAlone\n")

    def _write(self, node: str) -> None:
        """Write a little, unless the node dies of it."""
        enough = self.writer.failed + ERRORS_MAX
        try:
            with self.pair.client(node) as client:
                self.writer.write(client, WRITES, lambda: self.writer.failed >= enough)
        except (NbdError, OSError):
            return


def main(arguments: list[str] | None = None) -> int:
    """Hit every call; 0 if the pair got over all of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.kill_points")
    parser.add_argument("--fault", choices=list(FAULTS), default="kill")
    parser.add_argument("--every", type=int, default=1, help="only each so manieth call")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--limit", type=int, default=10_000, help="hits of each node at most")
    parser.add_argument("--port", type=int, default=17320)
    parser.add_argument("--victims", nargs="+", choices=list(NODES), default=["beta", "alpha"])
    args = parser.parse_args(arguments)
    end_in_order_on_sigterm()
    began, hits = time.monotonic(), 0
    for victim in args.victims:
        with tempfile.TemporaryDirectory(prefix="replblk-points-") as folder:
            points = Points(Path(folder), args.port, victim, args.fault)
            number, done = args.first, 0
            try:
                points.start()
                while done < args.limit and points.hit_at(number):
                    number += args.every
                    done += 1
                    if done % 10 == 0:
                        print(f"... {victim}: call {number - args.every}", flush=True)
            except BaseException:
                print(f"{victim}, call {number}: repeat with --first {number}", file=sys.stderr)
                raise
            finally:
                points.pair.end()
        hits += done
        node = "Primary" if victim == "alpha" else "Secondary"
        end = "the limit" if done == args.limit else f"no call {number} any more"
        print(f"{node}: {done} calls hit, then {end}", flush=True)
    print(f"{hits} x {args.fault} at a system call, nothing lost, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
