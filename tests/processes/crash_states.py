"""Power cut of both nodes, or of one of two that are killed, at any moment of a recorded story.

    make crash-states COUNT=5000

Two real daemons run stories (write, disconnect, write, reconnect, detach and attach either disk,
invalidate, switch over) while every disk operation and every acknowledgement is recorded on one
clock. Afterwards, for a moment of such a
story: what was durable by then is there; what was asked for and not durable is there, is not, or is
there in part, each by itself and in any order (dm-log-writes, without dm): on both nodes, or on one
while the other's process is killed, whose disk has all that it was asked for. On each such pair of
images two nodes attach, connect and come to rest in the simulator; then both hold every write that
had been acknowledged at that moment, and they are identical.
"""

from __future__ import annotations

import argparse
import pickle
import random
import sys
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from replblk.meta.layout import Layout
from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.register import Register, value_of
from replblk.sim.store import SECTOR_BYTES, Pages, Store, differing_pages
from tests.processes.pair import NODES, RealPair, end_in_order_on_sigterm, synced_pages
from tests.processes.writer import Logged, Writer
from tests.support.lab import Lab
from tests.support.site import until

SIZE_BYTES = 5 << 20
"""Two extents: what a crashed Primary's activity log marks is resynced in every state."""
NEVER = 1 << 62
FATES = ("none", "all", "one", "all but one", "random", "random")


@dataclass(slots=True)
class Operation:
    """One disk operation of a node, as recorded. data None: zeroes; length 0: a flush."""

    asked_ns: int
    done_ns: int
    offset: int
    length: int
    durable: bool
    data: bytes | None


@dataclass
class Story:
    """What happened: each node's operations in the order of asking, and the client's writes."""

    operations: dict[str, list[Operation]]
    writes: list[Logged]

    def moments(self) -> list[int]:
        """Every time at which something was asked for, answered or acknowledged."""
        found: set[int] = set()
        for operations in self.operations.values():
            found.update(op.asked_ns for op in operations)
            found.update(op.done_ns for op in operations)
        found.update(w.acked_ns for w in self.writes)
        return sorted(t for t in found if 0 < t < NEVER)


# -- recording ------------------------------------------------------------------------------------


class Narrator:
    """Lives through a story with two recorded daemons: the one that all know, or one by chance."""

    def __init__(self, folder: Path, port: int, seed: int, writes: int) -> None:
        self._pair = RealPair(folder, port, SIZE_BYTES)
        size = self._pair.layout.usable_sectors
        self._chance = random.Random(f"crash/{seed}")
        blocks = [self._chance.randrange(size // 8) for _ in range(60)] + [size // 8 - 1]
        self._writer = Writer(f"crash/{seed}", size, sorted(set(blocks)))
        self._writes = writes
        self._folder = folder
        self._primary, self._secondary = NODES

    def tell(self, steps: list[str]) -> Story:
        """Carry out the steps (names of methods without the underscore), then end in order."""
        pair = self._pair
        try:
            for node in NODES:
                log = str(self._folder / f"{node}.log")
                pair.start(node, (sys.executable, "-m", "tests.processes.recording", log))
            pair.connected()
            pair.replblk(self._primary, "primary")
            for step in steps:
                getattr(self, f"_{step}")()
            with pair.client(self._primary) as client:
                client.flush()
            pair.connected()
            pair.replblk(self._primary, "secondary")
            for node in NODES:
                pair.replblk(node, "down")
                until(lambda node=node: pair.ended(node))  # type: ignore[misc]
        finally:
            pair.end()
        logs = {node: _operations(self._folder / f"{node}.log") for node in NODES}
        return Story(logs, self._writer.log)

    def _write(self) -> None:
        with self._pair.client(self._primary) as client:
            self._writer.write(client, self._writes)

    def _alone(self) -> None:
        """The peer is away for a while; the resync runs under writes."""
        self._pair.replblk(self._secondary, "disconnect")
        self._write()
        self._pair.replblk(self._secondary, "connect")
        self._write()

    def _diskless(self) -> None:
        """The Primary works on the peer's disk for a while."""
        self._away(self._primary)

    def _diskless_peer(self) -> None:
        self._away(self._secondary)

    def _away(self, node: str) -> None:
        self._pair.connected()
        self._pair.replblk(node, "detach")
        self._write()
        self._pair.replblk(node, "attach")
        self._write()

    def _invalidate(self) -> None:
        """All is copied anew, under writes."""
        self._pair.connected()
        self._pair.replblk(self._secondary, "invalidate")
        self._write()

    def _move(self) -> None:
        """The service moves to the other node."""
        self._pair.connected()
        self._pair.replblk(self._primary, "secondary")
        self._primary, self._secondary = self._secondary, self._primary
        self._pair.replblk(self._primary, "primary")


KNOWN = ["write", "alone", "move", "write"]
BY_CHANCE = ("write", "alone", "diskless", "diskless_peer", "invalidate", "move")
STEPS = 7


def record(folder: Path, port: int, seed: int, writes: int) -> Story:
    """One story. Seed 1 tells the known one, all others what chance says. writes: in each step."""
    chance = random.Random(f"steps/{seed}")
    steps = KNOWN if seed == 1 else chance.choices(BY_CHANCE, k=STEPS)
    return Narrator(folder, port, seed, writes).tell(steps)


def _operations(log: Path) -> list[Operation]:
    found: dict[int, Operation] = {}
    with log.open("rb") as file:
        while True:
            try:
                entry: Any = pickle.load(file)
            except EOFError:
                return list(found.values())
            if entry[0] == "ask":
                _, when, op, _, offset, length, durable, data = entry
                found[op] = Operation(when, NEVER, offset, length, durable, data)
            elif entry[2] in found:
                assert entry[3] == 0, f"operation {entry[2]} failed while recording"
                found[entry[2]].done_ns = entry[1]


# -- what a disk may hold -------------------------------------------------------------------------


class Cuts:
    """The images of one node at any moment. Builds on the one before if time goes forward."""

    def __init__(self, base: Pages, operations: list[Operation]) -> None:
        self._operations = operations
        self._flushes = [op for op in operations if not op.length and op.done_ns < NEVER]
        self._asked = [op.asked_ns for op in operations]
        self._base = base
        self._folded = 0
        self._store = self._fresh(base)

    @staticmethod
    def _fresh(pages: Pages) -> Store:
        store = Store(SIZE_BYTES)
        store.restore(pages)
        return store

    def at(self, when: int, fate: str, chance: random.Random) -> Pages:
        """One way in which the disk could look after a power cut at that moment."""
        store = self._fresh(self._settled(when))
        begun = self._operations[self._folded : bisect_right(self._asked, when)]
        undecided = [op for op in begun if op.length and not self._is_durable(op, when)]
        chosen = chance.randrange(len(undecided)) if undecided else -1
        shuffled = chance.sample(range(len(undecided)), len(undecided))
        for op in begun:
            if op.length and self._is_durable(op, when):
                _put(store, op, None)
        for number in shuffled:
            kept = {
                "none": False,
                "all": True,
                "one": number == chosen,
                "all but one": number != chosen,
            }.get(fate)
            if kept is None:
                draw = chance.random()
                kept = draw < 0.4
                if 0.4 <= draw < 0.7:
                    _put(store, undecided[number], chance)
            if kept:
                _put(store, undecided[number], None)
        return store.pages

    def _settled(self, when: int) -> Pages:
        """The pages after the leading operations that are all durable by then."""
        while self._folded < len(self._operations):
            op = self._operations[self._folded]
            if op.asked_ns > when or (op.length and not self._is_durable(op, when)):
                break
            if op.length:
                _put(self._store, op, None)
            self._folded += 1
        return self._store.pages

    def _is_durable(self, op: Operation, when: int) -> bool:
        if op.done_ns > when:
            return False
        if op.durable:
            return True
        return any(
            op.done_ns <= flush.asked_ns and flush.done_ns <= when for flush in self._flushes
        )


def _put(store: Store, op: Operation, torn: random.Random | None) -> None:
    """Carry an operation out; torn: only some of its sectors."""
    if torn is None:
        store.write(op.offset, op.data, op.length, durable=True)
        return
    for at in range(0, op.length, SECTOR_BYTES):
        if torn.random() < 0.5:
            part = None if op.data is None else op.data[at : at + SECTOR_BYTES]
            store.write(op.offset + at, part, SECTOR_BYTES, durable=True)


# -- judging --------------------------------------------------------------------------------------


def register_at(writes: list[Logged], when: int) -> Register:
    """What the sectors may hold if everything stopped at that moment."""
    register = Register()
    events = [(w.issued_ns, 0, w) for w in writes if w.issued_ns <= when]
    events += [(w.acked_ns, 1, w) for w in writes if 0 < w.acked_ns <= when]
    running: dict[int, Any] = {}
    for _, kind, write in sorted(events, key=lambda event: event[:2]):
        if kind == 0:
            sectors = range(write.first, write.first + write.sectors)
            running[write.number] = register.begin_write(write.number, 0, sectors)
        else:
            register.end_write(running.pop(write.number), certain=True)
    for write in running.values():
        register.end_write(write, certain=False)
    return register


def recover(images: dict[str, Pages], register: Register, usable_sectors: int) -> str:
    """Attach, connect and come to rest on these images; what came of it. Raises if wrong."""
    lab = Lab(device_bytes=SIZE_BYTES)
    for name in NODES:
        lab.drive(name).store.restore(images[name])
    for name in NODES:
        answer = lab.boot(name)
        assert answer.exit_code == 0, f"{name}: {answer.text}"
    marked = sum(lab.out_of_sync_kib(name) > 0 for name in NODES)
    lab.run_until(
        lambda: all(
            lab.shows(n, conn=ConnState.CONNECTED, disk=DiskState.UP_TO_DATE) for n in NODES
        ),
        what="both UpToDate",
    )
    lab.in_sync()
    first, second = (lab.drive(name).store.pages for name in NODES)
    differing = differing_pages(first, second, usable_sectors * SECTOR_BYTES)
    assert not differing, f"in sync, but blocks {differing[:8]} differ"
    for volume, sector in register.written():
        value = value_of(lab.on_disk("alpha", sector * SECTOR_BYTES, SECTOR_BYTES), sector)
        assert register.may_hold(volume, sector, value), (
            f"sector {sector} holds write {value}; possible: {register.expected(volume, sector)}"
        )
    return "blocks were marked" if marked else "nothing was marked"


def enumerate_states(story: Story, count: int, seed: int) -> Counter[str]:
    """Judge so many states, moments from first to last; what became of them. Raises if wrong."""
    chance = random.Random(f"states/{seed}")
    base = synced_pages(SIZE_BYTES)
    usable = Layout.internal(SIZE_BYTES).usable_sectors
    cuts = {node: Cuts(base, story.operations[node]) for node in NODES}
    moments = story.moments()
    outcomes: Counter[str] = Counter()
    for when in sorted(chance.choice(moments) for _ in range(count)):
        fate = chance.choice(FATES)
        cut = chance.choice(("both", "both", *NODES))
        # Whoever keeps its power is killed: what it has asked for is carried out.
        fates = {node: fate if cut in ("both", node) else "all" for node in NODES}
        images = {node: cuts[node].at(when, fates[node], chance) for node in NODES}
        try:
            outcome = recover(images, register_at(story.writes, when), usable)
        except AssertionError as error:
            raise AssertionError(
                f"power cut of {cut} {(when - moments[0]) / 1e6:.3f} ms into the story, fate "
                f"{fate!r}: {error}"
            ) from error
        outcomes[outcome] += 1
        outcomes[f"fate: {fate}"] += 1
        outcomes[f"power cut of {cut}"] += 1
    return outcomes


def main(arguments: list[str] | None = None) -> int:
    """Record stories and judge their states; 0 if all are well."""
    parser = argparse.ArgumentParser(prog="python -m tests.processes.crash_states")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--stories", type=int, default=10, help="the states are shared out")
    parser.add_argument("--seed", type=int, default=1, help="of the first story")
    parser.add_argument("--writes", type=int, default=60, help="of one step of a story")
    parser.add_argument("--port", type=int, default=17310)
    args = parser.parse_args(arguments)
    end_in_order_on_sigterm()
    began = time.monotonic()
    outcomes: Counter[str] = Counter()
    for seed in range(args.seed, args.seed + args.stories):
        with tempfile.TemporaryDirectory(prefix="replblk-crash-") as folder:
            story = record(Path(folder), args.port, seed, args.writes)
        asked = sum(len(operations) for operations in story.operations.values())
        share = args.count // args.stories
        print(f"story {seed}: {asked} disk operations, {len(story.writes)} writes", flush=True)
        try:
            outcomes += enumerate_states(story, share, seed)
        except AssertionError:
            print(f"story {seed}: repeat with --seed {seed} --stories 1", file=sys.stderr)
            raise
    for name, times in sorted(outcomes.items()):
        print(f"  {times:>6} {name}")
    judged = outcomes["blocks were marked"] + outcomes["nothing was marked"]
    print(f"{judged} crash states, all well, {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
