"""SIGKILL at any moment, round after round, under a client that knows what it wrote.

    make soak-kill ROUNDS=300

Each round: a node is Primary and is written to; after a random time one daemon, or both, get
SIGKILL; they are started again, on the same or the other node the service goes on; everything that
was acknowledged is read back; both are UpToDate again and their files identical.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.processes.pair import NODES, PATIENCE_S, RealPair, end_in_order_on_sigterm
from tests.processes.writer import Writer
from tests.support.site import until

SIZE_BYTES = 8 << 20
KINDS = ("primary", "secondary", "both", "primary and fail over", "secondary, twice")
WRITES_MAX = 1 << 30


class Rounds:
    """A pair that is killed again and again."""

    def __init__(self, folder: Path, port: int, seed: int) -> None:
        self.pair = RealPair(folder, port, SIZE_BYTES)
        self._chance = random.Random(f"kill/{seed}")
        size = self.pair.layout.usable_sectors
        blocks = sorted({self._chance.randrange(size // 8) for _ in range(200)} | {size // 8 - 1})
        self.writer = Writer(f"kill/{seed}", size, blocks)
        self.primary = "alpha"
        self.counts = dict.fromkeys(KINDS, 0)
        self.verified = 0

    def start(self) -> None:
        """Both nodes, alpha Primary."""
        for node in NODES:
            self.pair.start(node)
        self.pair.connected()
        self.pair.replblk("alpha", "primary")

    def round(self) -> None:
        """One round; raises if anything is wrong."""
        pair, kind = self.pair, self._chance.choice(KINDS)
        self.counts[kind] += 1
        primary = self.primary
        other = NODES[primary == NODES[0]]
        with pair.client(primary) as client:
            writing = threading.Thread(
                target=self.writer.write, args=(client, WRITES_MAX, self._stop)
            )
            self._stopping = False
            writing.start()
            time.sleep(self._chance.random() * 0.3)
            victims = {"secondary": [other], "secondary, twice": [other], "both": [*NODES]}
            for node in victims.get(kind, [primary]):
                pair.kill(node)
            if kind.startswith("secondary"):
                time.sleep(self._chance.random() * 0.2)
                self._again(other)
                if kind == "secondary, twice":
                    time.sleep(self._chance.random() * 0.4)
                    pair.kill(other)
                    self._again(other)
            self._stopping = True
            writing.join()
        if kind == "primary and fail over":
            self.primary, primary, other = other, other, primary
            pair.replblk(primary, "primary")
            with pair.client(primary) as client:
                self.writer.write(client, self._chance.randrange(1, 60))
            self._again(other)
        elif not kind.startswith("secondary"):
            for node in self._chance.sample(NODES, 2):
                if node not in pair.processes:
                    self._again(node)
            # Only a node that knows it has all may serve; which one it is, the pair has to say.
            pair.connected()
            pair.replblk(primary, "primary")
        pair.connected()
        self.verify()

    def _again(self, node: str) -> None:
        self.pair.start(node)
        self.pair.answers(node)

    def _stop(self) -> bool:
        return self._stopping

    def verify(self) -> None:
        """Read all back, then compare the files once nothing is on its way."""
        with self.pair.client(self.primary) as client:
            self.verified += self.writer.verify(client)
            client.flush()
        until(lambda: self.pair.data("alpha") == self.pair.data("beta"), limit_s=PATIENCE_S)


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds; 0 if nothing was ever lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.kill_rounds")
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--port", type=int, default=17300)
    args = parser.parse_args(arguments)
    end_in_order_on_sigterm()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="replblk-kill-") as folder:
        rounds = Rounds(Path(folder), args.port, args.seed)
        try:
            rounds.start()
            for number in range(1, args.rounds + 1):
                rounds.round()
                if number % 10 == 0:
                    print(f"... {number} rounds, {rounds.writer.acked} acknowledged", flush=True)
        finally:
            rounds.pair.end()
    kinds = ", ".join(f"{count} {kind}" for kind, count in rounds.counts.items())
    print(
        f"{args.rounds} rounds ({kinds}), {rounds.writer.acked} acknowledged writes, "
        f"{rounds.verified} sectors read back, none lost, {time.monotonic() - began:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
