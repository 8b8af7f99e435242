"""Short stories: a few commands and faults, close together, under a writer. Nothing may get lost.

    make stories COUNT=10000 SEED=1

The simulator's runs are long and their faults far apart; here two to four things happen within
milliseconds, in each of a handful of situations, so that every pair of them meets at every moment
of the other. Then the administrator makes all well again, as the documentation says: the pair has
to be in sync, both disks equal, every block what was acknowledged last or newer, every request
answered, and no split brain told, as no story has two Primaries. Each acknowledgement is judged:
what one node alone has bears the name of a newer generation there.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from typing import Any

from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.disk import DriveSpeed
from replblk.sim.generation_audit import judge_acknowledged
from replblk.sim.links import NetworkSpeed
from replblk.sim.machine import Machine
from replblk.sim.world import MICRO_NS
from tests.support.lab import BLOCK, Lab, Waiting
from tests.support.pair import Request

NODES = ("alpha", "beta")
OTHER = {"alpha": "beta", "beta": "alpha"}
BLOCKS = 6
TURNS = 60
PATIENT_TURNS = 8
"""Of making all well: so long nothing is forced."""
SITUATIONS = (
    *("in sync", "resync", "resync back", "diskless Primary", "diskless", "moved"),
    *("invalidated", "verify", "attaching", "peer restarted"),
)
COMMANDS = (
    *("detach", "detach", "detach --force", "attach", "attach", "invalidate", "invalidate-remote"),
    *("disconnect", "disconnect --force", "connect", "verify", "pause-sync", "resume-sync"),
    *("primary", "secondary", "suspend-io", "resume-io", "switchover"),
)
FAULTS = (
    *("cut", "stall", "heal", "heal", "partition", "kill", "power", "boot", "failing write"),
    *("failing read", "failing flush", "failing metadata", "slow disk", "pause", "go on"),
)
SLOW = 60
"""A slow disk takes milliseconds for everything."""


class Story:
    """One story; ``run`` raises AssertionError with what is wrong. lines: what was done, when."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(f"story/{seed}")
        network = NetworkSpeed(
            latency_ns=self._chance.choice((20, 80)) * MICRO_NS,
            jitter_ns=self._chance.choice((1, 60 * MICRO_NS, 400 * MICRO_NS)),
            cut_piece=self._chance.choice((0.0, 0.1)),
        )
        size = self._chance.choice((1 << 20, 9 << 20))
        spread_ns = self._chance.choice((1, 1, 300 * MICRO_NS))
        drives = DriveSpeed(20 * MICRO_NS, spread_ns, 20 * MICRO_NS)
        disk: dict[str, Any] = {}
        if self._chance.random() < 0.4:  # a resync takes a second
            disk = {"c_plan_ahead": 0, "resync_rate": 1000}
        self.lab = Lab(seed=seed, device_bytes=size, network=network, drives=drives, disk=disk)
        self.lines: list[str] = []
        self._acknowledged = [0] * BLOCKS
        self._sent = [0] * BLOCKS
        self._number = 0
        self._requests: list[tuple[Request, int, int, object]] = []
        self._promotions: list[Waiting] = []
        self._detaches: list[Waiting] = []
        self._reachable = True
        self._both_lost = False
        """No disk was left: what the one began and could not tell, the other can't count with."""

    def run(self) -> None:
        """From two nodes in sync to two nodes in sync."""
        chance = self._chance
        self.lab.up()
        self.lab.primary("alpha")
        self._pass(2000)
        self._situation(chance.choice(SITUATIONS))
        for _ in range(chance.choice((2, 2, 3, 3, 4))):
            self._pass(chance.choice((0, 50, 200, 500, 1000, 2500, 8000)) + chance.randrange(300))
            what = chance.choice((*COMMANDS, *FAULTS))
            name = chance.choice(NODES)
            self.lines.append(f"{self.lab.world.now_ns / 1e6:.3f} ms {what} {name}")
            self._fault(what, name) if what in FAULTS else self._command(what, name)
        self._pass(chance.choice((200, 2000, 20_000)))
        self._make_well()
        self._judge()

    # -- the writer ---------------------------------------------------------------------------

    def _pass(self, micros: int) -> None:
        """Time passes; whoever is Primary has clients that write."""
        end_ns = self.lab.world.now_ns + micros * MICRO_NS
        while self.lab.world.now_ns < end_ns:
            self.lab.run_for(min(self._chance.choice((30, 60, 150, 400)), micros) / 1e6)
            self._note_answers()
            for name in NODES:
                if self._chance.random() < 0.7:
                    self._write(name)
                if self._chance.random() < 0.15:
                    self._read(name)

    def _read(self, name: str) -> None:
        """What was acknowledged before is read, or what was written since."""
        machine, block = self.lab[name], self._chance.randrange(BLOCKS)
        if not self._serves(machine):
            return
        least = self._acknowledged[block]

        def answered(errno: int, data: bytes | None) -> None:
            found = int.from_bytes(bytes(data or b"")[:8], "big")
            if not errno and not least <= found <= self._sent[block]:
                raise AssertionError(f"block {block} reads as {found}, acknowledged was {least}")

        place = {"offset": block * BLOCK, "length": BLOCK}
        machine.request(answered, kind="read", volume=0, **place)

    @staticmethod
    def _serves(machine: Machine) -> bool:
        return machine.node is not None and bool(machine.node.volumes[0].serving)

    def _write(self, name: str) -> None:
        machine, block = self.lab[name], self._chance.randrange(BLOCKS)
        if not self._serves(machine):
            return
        if any(number == block for _, number, _, _ in self._requests):
            return
        self._number += 1
        self._sent[block] = self._number
        data = self._number.to_bytes(8, "big") * (BLOCK // 8)
        request = Request()

        def answered(errno: int, read: object) -> None:
            request.answered(errno, read)
            if not errno:
                drives = machine.drives[0], self.lab[OTHER[name]].drives[0]
                judge_acknowledged(drives, block * BLOCK, data)

        machine.request(answered, kind="write", volume=0, offset=block * BLOCK, data=data)
        self._requests.append((request, block, self._number, machine.life))

    def _note_answers(self) -> None:
        lives = [self.lab[name].life for name in NODES]
        for request, block, number, _ in self._requests:
            if request.done and not request.errno:
                self._acknowledged[block] = max(self._acknowledged[block], number)
        disks = [machine.states[0].disk for machine in self.lab.network.machines if machine.states]
        self._both_lost |= max(disks) < DiskState.INCONSISTENT
        self._requests = [r for r in self._requests if not r[0].done and r[3] in lives]

    def _drain(self) -> None:
        self.lab.run_until(lambda: all(request.done for request, *_ in self._requests))
        self._note_answers()

    # -- what happens -------------------------------------------------------------------------

    def _situation(self, kind: str) -> None:
        lab = self.lab
        self.lines.append(kind)
        if kind in ("resync", "resync back"):
            lab.partition()
            self._pass(1500)
            if kind == "resync back":
                self._drain()
                lab.secondary("alpha")
            lab.heal()
            lab.run_until(lambda: lab.alpha.connection >= ConnState.WF_REPORT_PARAMS)
        elif kind == "diskless Primary":
            lab.command("alpha", "detach")
        elif kind == "diskless":
            lab.command("beta", "detach")
        elif kind == "invalidated":
            lab.command("beta", "invalidate")
        elif kind == "verify":
            lab.command("alpha", "verify")
        elif kind == "attaching":
            lab.command("alpha", "detach")
            self._pass(500)
            lab.ask("alpha", "attach")
        elif kind == "peer restarted":
            lab.beta.kill()
            self._pass(1500)
            lab.beta.boot()
            lab.ask("beta", "up")
            lab.run_until(lambda: lab.alpha.connection >= ConnState.WF_REPORT_PARAMS)
        elif kind == "moved":
            self._drain()
            lab.secondary("alpha")
            lab.primary("beta")

    def _fault(self, what: str, name: str) -> None:
        lab, machine = self.lab, self.lab[name]
        network = lab.network
        if what == "cut":
            network.cut()
        elif what == "heal":
            network.heal()
        elif what == "failing metadata":
            lab.fail(name, "superblock", "write", times=1)
        elif what.startswith("failing"):
            lab.fail(name, "data", what.split()[1], times=1)
        elif what == "slow disk":
            lab.drive(name).slowness = SLOW
        elif what == "pause":
            machine.pause()
        elif what == "go on":
            machine.resume()
        elif what == "power":
            machine.power_off()
        elif what == "kill":
            if machine.alive:
                machine.kill()
        elif what == "boot":
            if not machine.alive:
                machine.boot()
                lab.ask(name, "up")
        else:
            self._reachable = False
            network.block(machine, lab[OTHER[name]])
            if what == "partition":
                network.block(lab[OTHER[name]], machine)

    def _command(self, what: str, name: str) -> None:
        """Unless it would be careless: two Primaries, or the last good data given up."""
        own, other = self.lab[name], self.lab[OTHER[name]]
        if not own.alive or (what in CAREFUL and not (other.alive and CAREFUL[what](own, other))):
            return
        options: dict[str, Any] = {}
        verb, _, force = what.partition(" ")
        if force:
            options["force"] = True
        if verb == "connect":
            options["discard_my_data"] = False
        if verb in ("primary", "switchover"):
            pending = any(not promotion.answers for promotion in self._promotions)
            if pending or self._requests or not self._reachable:
                return
            if verb == "primary":
                options["force"] = False
        if verb == "detach" and not all(detach.answers for detach in self._detaches):
            return  # both at once: each may begin a generation for what the other loses
        waiting = self.lab.ask(name, verb, **options)
        if verb == "detach":
            self._detaches.append(waiting)
        if verb in ("primary", "switchover"):
            self._promotions.append(waiting)

    # -- afterwards ---------------------------------------------------------------------------

    def _make_well(self) -> None:
        """What an administrator does: start, connect, attach, resume, and wait."""
        lab = self.lab
        self.lines.append("made well")
        for name in NODES:
            lab.drive(name).heal()
            lab[name].resume()
        lab.network.heal()
        for turn in range(TURNS):
            for machine in lab.network.machines:
                if not machine.alive:
                    machine.boot()
                    lab.ask(machine.name, "up")
            lab.run_for(0.4 if turn else 2.0)
            self._note_answers()
            states = [machine.states[0] for machine in lab.network.machines]
            if self.lab.is_in_sync() and not any(state.susp for state in states):
                return
            for name, state in zip(NODES, states, strict=True):
                if state.susp:
                    lab.ask(name, "resume-io")
                if state.user_isp:
                    lab.ask(name, "resume-sync")
                if state.conn is ConnState.STANDALONE and turn < TURNS // 2:
                    lab.ask(name, "connect", discard_my_data=False)
                connected = state.conn >= ConnState.CONNECTED
                if state.disk is DiskState.DISKLESS and (connected or turn > PATIENT_TURNS):
                    lab.ask(name, "attach")
            if turn > PATIENT_TURNS and not turn % 4:
                lab.network.cut()  # what is marked is resynced by the next connection

    def _judge(self) -> None:
        lab = self.lab
        lab.run_for(1)
        self._note_answers()
        told = [line for machine in lab.network.machines for line in machine.told]
        if any("Split-Brain" in line or "but this node is Primary" in line for line in told):
            assert self._both_lost, "a split brain was told"
            return
        states = " / ".join(str(machine.states[0]) for machine in lab.network.machines)
        assert self.lab.is_in_sync(), f"not in sync: {states}"
        assert not lab.differing_blocks(), f"the disks differ: {lab.differing_blocks()}"
        assert not self._requests, "a request was never answered"
        for block in range(BLOCKS):
            found = int.from_bytes(lab.on_disk("alpha", block * BLOCK, 8), "big")
            least, most = self._acknowledged[block], self._sent[block]
            assert least <= found <= most, f"block {block} holds {found}, acknowledged was {least}"


def _may_be_primary(own: Any, other: Any) -> bool:
    connected = min(own.states[0].conn, other.states[0].conn) >= ConnState.CONNECTED
    return connected and other.states[0].role is Role.SECONDARY


def _may_be_invalidated(own: Any, other: Any) -> bool:
    ours, theirs = own.states[0], other.states[0]
    if ours.role is not Role.SECONDARY or theirs.disk is not DiskState.UP_TO_DATE:
        return False
    return theirs.role is Role.PRIMARY or ours.conn in (ConnState.CONNECTED, ConnState.SYNC_TARGET)


CAREFUL: dict[str, Callable[[Any, Any], bool]] = {
    "primary": _may_be_primary,
    "switchover": _may_be_primary,
    "invalidate": _may_be_invalidated,
    "invalidate-remote": lambda own, other: _may_be_invalidated(other, own),
}
"""Commands that a careful administrator gives only beside such a peer."""


def told(seed: int) -> str:
    """What went wrong in the story of that seed, or ""."""
    story = Story(seed)
    try:
        story.run()
    except Exception as problem:  # whatever it is, it is the story's end
        what = str(problem).partition("\n")[0] or repr(problem)
        return f"story {seed}: {what}: {', '.join(story.lines)}"
    return ""


def main(arguments: list[str] | None = None) -> int:
    """Run stories; 0 if nothing went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation.stories")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    args = parser.parse_args(arguments)
    began, failed = time.perf_counter(), 0
    for seed in range(args.seed, args.seed + args.count):
        if problem := told(seed):
            failed += 1
            print(problem, flush=True)
    pace = args.count / (time.perf_counter() - began)
    print(f"{args.count} stories, {failed} failed, {pace:.0f} stories/s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
