"""Trouble on the link at a chosen packet, under a verifying writer: nothing lost, nothing spoilt.

    make link-faults ROUNDS=100

Each round: a client of the Primary writes; at the Nth packet of one node on one of the two sockets
the link is cut, reset, silent one way or both, stalls, gets slow, comes in small pieces, breaks off
inside the packet, or a bit of a block flips. Later the link is well again. The client sees no
error; everything acknowledged is read back; both nodes are UpToDate and their disks identical.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

from tests.processes.link_proxy import ProxiedSite, Proxy, Trouble
from tests.processes.pair import NODES, PATIENCE_S, RealPair, end_in_order_on_sigterm
from tests.processes.writer import Writer
from tests.support.site import until

SIZE_BYTES = 4 << 20
KINDS = (
    "cut",
    "reset",
    "half",
    "one way",
    "silence",
    "stall",
    "late",
    "pieces",
    "flapping",
    "flip",
)
QUIET = ("stall", "late", "pieces")
"""Trouble that nobody needs to notice; all other ends the connection."""
WRITES = 120
SPOILT = "Digest integrity check FAILED"


class LinkFaults:
    """A pair with a proxy between its nodes."""

    def __init__(self, folder: Path, port: int, seed: int) -> None:
        self.pair = RealPair(folder, port, SIZE_BYTES, ProxiedSite)
        self._folder = folder
        self.proxy = Proxy(port)
        self._chance = random.Random(f"links/{seed}")
        size = self.pair.layout.usable_sectors
        blocks = sorted({self._chance.randrange(size // 8) for _ in range(100)})
        self.writer = Writer(f"links/{seed}", size, blocks)
        self.counts: Counter[str] = Counter()

    def start(self) -> None:
        """Both nodes, alpha Primary."""
        for node in NODES:
            self.pair.start(node)
        self.pair.connected()
        self.pair.replblk("alpha", "primary")

    def draw(self) -> Trouble:
        """Some trouble."""
        kind = self._chance.choice(KINDS)
        sender, sock = self._chance.choice(NODES), self._chance.choice(("data", "meta"))
        if kind == "flip":
            sender, sock = "alpha", "data"
        elif sender == "alpha" and sock == "meta":
            sock = "data"  # only its pings go there
        if sender == "beta":
            sock = "meta"  # its acknowledgements
        return Trouble(kind=kind, sender=sender, sock=sock, at=self._chance.randrange(1, 150))

    def round(self, trouble: Trouble | None = None) -> None:
        """One trouble, by chance or as told. Raises if anything is wrong."""
        trouble = trouble or self.draw()
        story = str(trouble)
        failed, seen = self.writer.failed, self._spoilt()
        ending = threading.Event()
        self.proxy.plant(trouble)
        with self.pair.client("alpha") as client:
            writing = threading.Thread(
                target=self.writer.write, args=(client, 1 << 30, ending.is_set)
            )
            writing.start()
            try:
                assert self.proxy.hit.wait(PATIENCE_S), f"it never came so far: {story}"
                time.sleep(0.2 + self._chance.random())
            finally:
                self.proxy.heal()
                goal = self.writer.acked + WRITES
                until(
                    lambda: self.writer.acked >= goal or not writing.is_alive(),
                    lambda: f"writes do not go on: {story}",
                    PATIENCE_S,
                )
                ending.set()
                writing.join(PATIENCE_S)
            assert not writing.is_alive(), f"requests are not answered: {story}"
            assert self.writer.failed == failed, f"the client was told of an error: {story}"
        if trouble.kind == "flip":
            until(lambda: self._spoilt() > seen, lambda: f"nobody noticed: {story}", PATIENCE_S)
        self.pair.connected()
        with self.pair.client("alpha") as client:
            self.writer.verify(client)
            client.flush()
        until(
            lambda: self.pair.data("alpha") == self.pair.data("beta"),
            lambda: f"the disks differ: {story}",
            PATIENCE_S,
        )
        self.counts[trouble.kind] += 1

    def _spoilt(self) -> int:
        return (self._folder / "beta.out").read_text().count(SPOILT)

    def end(self) -> None:
        """Nothing of ours is left."""
        self.pair.end()
        self.proxy.close()


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds; 0 if nothing was ever lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.link_faults")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=17370)
    args = parser.parse_args(arguments)
    end_in_order_on_sigterm()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="replblk-links-") as folder:
        faults = LinkFaults(Path(folder), args.port, args.seed)
        try:
            faults.start()
            for number in range(1, args.rounds + 1):
                faults.round()
                if number % 10 == 0:
                    told = f"... {number} rounds, {faults.writer.acked} acknowledged"
                    print(told, flush=True)
        finally:
            faults.end()
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(faults.counts.items()))
    print(
        f"{args.rounds} rounds ({counts}), {faults.writer.acked} acknowledged writes, "
        f"{faults.proxy.passed.total()} packets passed on, none lost, "
        f"{time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
