"""One disk of a pair fails, in one way or the other, under a verifying writer: nobody notices.

    make disk-faults ROUNDS=50

Each round: both disks are good, a client writes and reads; then the Nth write, read or flush of one
node's disk fails, is done in part, takes long or hangs. With a good peer the client sees no error,
whatever `on-io-error` says; a disk that failed is not taken for good afterwards; the daemon lives.
Then the disk is well again, is attached or its daemon restarted; everything acknowledged is read
back and the disks are identical.
"""

from __future__ import annotations

import argparse
import errno
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from replblk.model.units import SECTOR_BYTES
from tests.processes.fault_disk import FOREVER, Fault, FaultDisks, FuseDisks, PreloadDisks
from tests.processes.pair import NODES, PATIENCE_S, RealPair, end_in_order_on_sigterm
from tests.processes.writer import Writer
from tests.support.site import until

SIZE_BYTES = 4 << 20
POLICIES = ("detach", "pass_on", "call-local-io-error")
DISK_TIMEOUT_S = 5
WRITES = 40
ACTIONS = ("error", "no space", "torn", "short", "delay", "hang")
HARMLESS = ("short", "delay")
OPTIONS = """
  disk {{ on-io-error {policy}; disk-timeout {timeout}; }}
  handlers {{ local-io-error "touch {folder}/handled"; }}
"""


class DiskFaults:
    """A pair with one policy, and disks that can fail."""

    def __init__(self, folder: Path, port: int, seed: int, policy: str, *, fuse: bool) -> None:
        self.policy = policy
        self.pair = RealPair(folder, port, SIZE_BYTES)
        self.handled = folder / "handled"
        options = OPTIONS.format(policy=policy, timeout=DISK_TIMEOUT_S * 10, folder=folder)
        config = self.pair.site.config
        config.write_text(config.read_text().replace("protocol C;", "protocol C;" + options))
        self.disks: FaultDisks = (FuseDisks if fuse else PreloadDisks)(self.pair)
        self._chance = random.Random(f"disks/{policy}/{seed}")
        size = self.pair.layout.usable_sectors
        blocks = sorted({self._chance.randrange(size // 8) for _ in range(60)})
        self.writer = Writer(f"disks/{policy}/{seed}", size, blocks)
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Both nodes, alpha Primary."""
        for node in NODES:
            self.disks.start(node)
        self.pair.connected()
        self.pair.replblk("alpha", "primary")
        self._work("alpha")

    def draw(self) -> tuple[str, Fault]:
        """A victim and what becomes of its disk."""
        victim = self._chance.choice(NODES)
        actions = [a for a in ACTIONS if a != "short" or isinstance(self.disks, PreloadDisks)]
        action = self._chance.choice(actions)
        ops = {"no space": ["write"], "torn": ["write"], "short": ["write", "read"]}
        op = self._chance.choice(ops.get(action, ["write", "read", "flush"]))
        if victim == "beta" and op == "read":
            op = "write"  # a Secondary in sync reads nothing
        usable = self.pair.layout.usable_sectors * SECTOR_BYTES
        start, end = self._chance.choice([(0, 1 << 62), (0, usable), (usable, 1 << 62)])
        if op == "read":
            start, end = 0, 1 << 62
        value = {"no space": errno.ENOSPC, "delay": 300}.get(action, errno.EIO)
        # A read that fails once is tried again by a thread, and rightly succeeds.
        times = FOREVER if op == "read" else self._chance.choice([1, FOREVER])
        if action in HARMLESS:
            times = 3  # a disk that only ever does half has failed
        name = "error" if action == "no space" else action
        seldom = op == "flush" or start > 0  # metadata are written a few times in a round
        first = self._chance.randrange(1, 4 if seldom else 12)
        fault = Fault(
            op=op, action=name, value=value, first=first, times=times, start=start, end=end
        )
        return victim, fault

    def round(self, victim: str | None = None, fault: Fault | None = None) -> int:
        """One fault, by chance or as told; how often it was met. Raises if anything is wrong."""
        if victim is None or fault is None:
            victim, fault = self.draw()
        self.handled.unlink(missing_ok=True)
        failed = self.writer.failed
        story = f"{fault} of {victim}, on-io-error {self.policy}"
        self.disks.plant(victim, fault)
        try:
            self._work("alpha")
        except BaseException as problem:
            problem.add_note(f"{story}\n{self.pair.logs()}")
            raise
        hits = self.disks.hits(victim)
        assert self.writer.failed == failed, f"the client was told of an error: {story}"
        if hits and fault.action not in HARMLESS:
            until(lambda: self._own_disk(victim) != "UpToDate", lambda: story, PATIENCE_S)
            if self.policy == "call-local-io-error":
                until(self.handled.exists, lambda: f"no handler was called: {story}")
        else:
            self.pair.connected(story)
        name = fault.action if hits else "never met"
        self.counts[f"{name} {fault.op} of {victim}" if hits else name] += 1
        self.disks.heal(victim)
        self._mend(victim)
        with self.pair.client("alpha") as client:
            self.writer.verify(client)
            client.flush()
        until(
            lambda: self.disks.data("alpha") == self.disks.data("beta"),
            lambda: f"the disks differ: {story}",
            PATIENCE_S,
        )
        return hits

    def _mend(self, victim: str) -> None:
        """An administrator's way: attach what was let go, or start anew."""
        assert not self.pair.ended(victim), "the daemon ended"
        if self._own_disk(victim) != "UpToDate":
            until(lambda: self._own_disk(victim) != "Failed", limit_s=PATIENCE_S)
            attach = self._own_disk(victim) == "Diskless" and self._chance.random() < 0.5
            if attach:
                self.pair.replblk(victim, "attach")
            else:
                self.pair.kill(victim)
                self.disks.start(victim)
                self.pair.answers(victim)
        self.pair.connected()
        self.pair.replblk("alpha", "primary")

    def _work(self, node: str) -> None:
        """Write some, read all: in a thread, as a disk that hangs must not stop the test."""
        problems: list[BaseException] = []

        def work() -> None:
            try:
                with self.pair.client(node) as client:
                    self.writer.write(client, WRITES, lambda: self.writer.failed > 0)
                    self.writer.verify(client)
            except BaseException as problem:
                problems.append(problem)

        working = threading.Thread(target=work)
        working.start()
        working.join(PATIENCE_S)
        assert not working.is_alive(), "requests are not answered"
        for problem in problems:
            raise problem

    def _own_disk(self, node: str) -> str:
        return self.pair.replblk(node, "dstate").partition("/")[0].strip()

    def end(self) -> None:
        """Nothing of ours is left."""
        for node in NODES:
            self.disks.heal(node)
        self.pair.end()
        if isinstance(self.disks, FuseDisks):
            self.disks.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds for each policy and both ways; 0 if nobody noticed anything."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.disk_faults")
    parser.add_argument("--rounds", type=int, default=50, help="of each policy and way")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=17360)
    args = parser.parse_args(arguments)
    end_in_order_on_sigterm()
    ways = [False, True] if os.geteuid() == 0 and Path("/dev/fuse").exists() else [False]
    if len(ways) == 1:
        print("without root and FUSE: io_uring is left out")
    for fuse in ways:
        for policy in POLICIES:
            began = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="replblk-disks-") as folder:
                faults = DiskFaults(Path(folder), args.port, args.seed, policy, fuse=fuse)
                try:
                    faults.start()
                    for _ in range(args.rounds):
                        faults.round()
                finally:
                    faults.end()
            way = "io_uring over FUSE" if fuse else "threads, LD_PRELOAD"
            print(
                f"{way}, {policy}: {args.rounds} faults, {faults.writer.acked} acknowledged "
                f"writes, none lost, {time.monotonic() - began:.0f} s",
                flush=True,
            )
            for name, times in sorted(faults.counts.items()):
                print(f"  {times:>4} {name}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
