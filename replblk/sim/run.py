"""One seed from start to verdict.

Safety phase: clients write and read, faults happen one after the other, checkers watch. Liveness
phase: everything is mended and the pair must come to rest within bounded virtual time: Connected,
UpToDate/UpToDate, nothing out of sync, identical. With an erring operator the middle is a partition
with two Primaries, which must end in a reported split brain and, if the seed says so, in a
resolution.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from replblk.model.vocabulary import DiskState, Protocol, Role
from replblk.sim.bounds import Bounds
from replblk.sim.checkers import Checkers
from replblk.sim.client import Client, Workload
from replblk.sim.faults import FaultPlan
from replblk.sim.guarded import Guarded
from replblk.sim.handovers import Handovers
from replblk.sim.lies import Lies
from replblk.sim.machine import Machine
from replblk.sim.metadata_lies import MetadataLies
from replblk.sim.operator import Operator
from replblk.sim.options import Options
from replblk.sim.policy_faults import PolicyFaults
from replblk.sim.resizes import Resizes
from replblk.sim.setup import NAMES, build_pair
from replblk.sim.split_brain import ErringOperator
from replblk.sim.store import SECTOR_BYTES
from replblk.sim.storm import Storm
from replblk.sim.transcript import Transcript
from replblk.sim.wider_faults import WiderFaults
from replblk.sim.world import SECOND_NS, SimulationError, World

if TYPE_CHECKING:
    from replblk.model.notices import StateChanged

START_LIMIT_NS = 120 * SECOND_NS
MAIN_LIMIT_NS = 60 * SECOND_NS
REST_LIMIT_NS = 300 * SECOND_NS
FINISH_LIMIT_NS = 200 * SECOND_NS


@dataclass(slots=True)
class Outcome:
    """What became of a run. failure: empty if it passed."""

    options: Options
    failure: str = ""
    writes_acked: int = 0
    reads_answered: int = 0
    events: int = 0
    virtual_ns: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    transcript: Transcript = field(default_factory=Transcript)


class Run:
    """The parts of one run, and its phases."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.world = World(options.seed)
        self.network = build_pair(self.world, options)
        first = self.network.machines[0]
        usable = {v: d.layout.usable_sectors for v, d in first.drives.items()}
        self.workload = Workload(self.world, options.workload, usable)
        self.clients = [Client(self.workload, n) for n in range(options.workload.clients)]
        self.checkers = Checkers(self.network, self.workload)
        self.bounds = Bounds(options, self.network.machines)
        self.operator = Operator(self.network, self.clients, options.poll_ns)
        self.operator.patience_ns = options.patience_ns
        self.operator.before_boot = self.checkers.judge_before_boot
        self.operator.on_promoted = self._promoted
        self.workload.on_ack.append(self.operator.primary_said)
        self.wider = WiderFaults(options, self.network, self.operator, self.checkers)
        self.resizes = Resizes(self.network, self.workload, self.operator)
        self.plan = FaultPlan(
            *(options, self.network, self.workload, self.operator, self.wider),
            PolicyFaults(options, self.network, self.operator),
            self.resizes,
        )
        for machine in self.network.machines:
            machine.on_power.append(self._lost_power)
        if options.weak:
            self._only_flushed_is_safe()

    def go(self) -> None:
        """Everything; raises when something is wrong."""
        if self.options.policies.skip_first_sync:
            self.operator.skip_first = self.world.chance("first-sync").choice(NAMES)
        elif self.options.fresh:
            self._first_sync()
        self.operator.start()
        self._await(self._primary_serves, START_LIMIT_NS, "no node became Primary and served")
        if self.options.profile == "erring":
            ErringOperator(self).go()
            return
        if self.options.profile == "storm":
            Storm(self).go()
            return
        if self.options.profile == "metadata-lies":
            MetadataLies(self).go()
            return
        if self.options.profile == "fenced":
            Guarded(self).go()
            return
        if self.options.profile == "lies":
            Lies(self).go()
            return
        if self.options.profile == "resize":
            self.resizes.begin()
        if self.options.profile == "handover":
            Handovers(self.network, self.clients, self.operator).begin()
        self.plan.start()
        self.world.run_until(self._enough, MAIN_LIMIT_NS)
        self.come_to_rest()

    def come_to_rest(self) -> None:
        """Liveness: mend everything, wait for peace, stop the clients, judge."""
        self.world.note("world", "everything is mended")
        self.plan.stop()
        self.network.speed = replace(self.network.speed, spike=0.0)
        self.operator.healing = True
        self.workload.idle_ns = 5 * SECOND_NS
        self._await(self._at_peace, REST_LIMIT_NS, "I5: the pair doesn't come to rest")
        self.world.run_for(SECOND_NS // 100)
        self.operator.serving = False
        for client in self.clients:
            client.stop(_nothing)
        self._await(self._all_quiet, FINISH_LIMIT_NS, "I12: a client's request is never answered")
        self._await(self._at_peace, REST_LIMIT_NS, "I5: the pair doesn't stay at rest")
        self.world.run_for(SECOND_NS)
        if not self.checkers.in_sync():
            raise SimulationError(f"I5: not at rest any more: {self.checkers.describe()}")
        self.checkers.judge_end()
        for machine in self.network.machines:
            self.bounds.judge_rest(machine)

    # -- phases -------------------------------------------------------------------------------

    def _lost_power(self, machine: Machine) -> None:
        if any(drive.struck for drive in machine.drives.values()):
            for register in (self.workload.register, *self.workload.registers.values()):
                register.lose_failed()

    def _only_flushed_is_safe(self) -> None:
        """The contract of DRBD itself: a power cut takes what was acknowledged and not flushed.

        With protocols A and B the peer may not even have it: then any death may, and the loss of
        the Primary's disk.
        """
        register = self.workload.register
        register.weak = True
        register.fua_covers = self.options.protocol is Protocol.C
        for machine in self.network.machines:
            machine.on_power.append(lambda _: register.shake())
            if self.options.protocol is not Protocol.C:
                machine.on_death.append(lambda _: register.shake())
                machine.on_state.append(self._maybe_lost_its_disk)

    def _maybe_lost_its_disk(self, machine: Machine, change: StateChanged) -> None:
        if change.new.disk is DiskState.FAILED:
            self.workload.register.shake()

    def _first_sync(self) -> None:
        """From create-md: force one Primary, copy everything; the other's disk holds rubbish."""
        self.checkers.unsynced = True
        chance = self.world.chance("first-sync")
        forced = chance.choice(self.network.machines)
        other = self.network.other(forced)
        for volume, drive in other.drives.items():
            size = self.workload.sizes_sectors[volume]
            for _ in range(chance.randrange(20)):
                sector = chance.randrange(size)
                drive.store.preset(sector * SECTOR_BYTES, chance.randbytes(SECTOR_BYTES))
        self.operator.holders = frozenset({forced.name})
        self.operator.force_first = forced.name

    def _primary_serves(self) -> bool:
        return any(
            m.serving_role is Role.PRIMARY and any(c.machine is m for c in self.clients)
            for m in self.network.machines
        )

    def _enough(self) -> bool:
        workload = self.workload  # asked after every event: the cheap question first
        return workload.writes_acked + workload.errors >= workload.enough and self.plan.done

    def _at_peace(self) -> bool:
        return self.checkers.settled() and not self.checkers.marked_blocks()

    def _all_quiet(self) -> bool:
        return all(c.machine is None and not c.outstanding for c in self.clients)

    def _promoted(self, machine: Machine) -> None:
        self.checkers.unsynced = False
        self.checkers.judge_promoted(machine)
        self.checkers.judge_secondary_refuses(self.network.other(machine))

    def _await(self, predicate: object, limit_ns: int, complaint: str) -> None:
        assert callable(predicate)
        if not self.world.run_until(predicate, limit_ns):
            raise SimulationError(
                f"{complaint} within {limit_ns // SECOND_NS} s: {self.checkers.describe()}"
            )


def run_seed(options: Options) -> Outcome:
    """Run one seed; whatever goes wrong is in the outcome."""
    outcome = Outcome(options)
    run: Run | None = None
    try:
        run = Run(options)
        run.go()
    except SimulationError as error:
        outcome.failure = str(error)
    except Exception:  # a bug of the node (or of ours) is what the run looks for
        outcome.failure = traceback.format_exc(limit=-12).rstrip()
    if run is not None:
        outcome.writes_acked = run.workload.writes_acked
        outcome.reads_answered = run.workload.reads_answered
        outcome.events = run.world.events
        outcome.virtual_ns = run.world.now_ns
        outcome.marks = dict(run.world.marks)
        outcome.transcript = run.world.transcript
    return outcome


def _nothing() -> None:
    """Nobody waits for a client to have stopped."""
