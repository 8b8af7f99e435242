"""Faults of profile wide: the network's strangers, the clock, the administrator, swapped disks.

| fault | what happens |
|---|---|
| stranger | somebody else connects to the port of replication |
| flip | a bit of a block is flipped on the way, unseen by TCP (if there is an integrity digest) |
| no-space | writes of a zone fail with ENOSPC, once or for ever (a thin or sparse disk) |
| clock-jump | the monotonic clock of a machine jumps ahead |
| invalidate | the administrator gives up the copy of a Secondary |
| verify | an online verify; it must find nothing |
| detach | the disk is detached, and attached again later |
| pause-sync | the resync is paused for a while |
| empty-disk | the disk of a machine is replaced by a new one (create-md) |
| rollback | the disk of a machine is replaced by an older copy of itself |

Without data-integrity-alg nothing could tell a flipped bit, so none is flipped then.

What gives up a copy strikes the *sick* machine only, and only while the other one holds everything:
one good copy stays. A rollback within the same data generation can't be told by anything in the
protocol, nor one to a generation that the target of a resync may have while that goes on: then the
administrator does what the documentation tells him, create-md.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.generation import UuidSet, same_generation
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.rules.uuid_compare import Outcome, Side, compare
from replblk.sim.disk import FOREVER, DriveFault
from replblk.sim.image import fresh_drive, generation
from replblk.sim.strangers import visit
from replblk.sim.world import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.model.notices import StateChanged
    from replblk.sim.checkers import Checkers
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.operator import Operator
    from replblk.sim.options import Fault, Options
    from replblk.sim.store import Pages

_BY_BITMAP = (Outcome.NONE, Outcome.SOURCE_BITMAP, Outcome.TARGET_BITMAP)
"""What a handshake decides that takes the bitmaps at their word."""
RETRY_NS = 300 * MILLI_NS
REFUSALS_ENOUGH = 4
"""So often may a pair refuse each other because of a rolled-back disk; then comes create-md."""


class WiderFaults:
    """Carries them out; ``mend`` takes back what the administrator has to take back."""

    def __init__(
        self, options: Options, network: Network, operator: Operator, checkers: Checkers
    ) -> None:
        self._options = options
        self._network = network
        self._world = network.world
        self._operator = operator
        self._checkers = checkers
        self._chance = self._world.chance("wider-faults")
        self._copies: dict[int, Pages] = {}
        self._paused: list[Machine] = []
        self._refusals = 0
        if any(fault.kind == "rollback" for fault in options.faults):
            self.take_copy()
            self._world.after(SECOND_NS, self._watch_refusals)
            for machine in network.machines:
                machine.on_state.append(self._on_state)

    @property
    def _sick(self) -> Machine:
        return next(m for m in self._network.machines if m.name == self._options.sick)

    def strike(self, fault: Fault, target: Machine) -> None:
        """One fault, after the step that runs now."""
        action = getattr(self, "_" + fault.kind.replace("-", "_"))
        self._world.after(0, action, fault, target)

    def mend(self) -> None:
        """No more faults: resume what was paused."""
        self._network.flips = 0
        for machine in self._paused:
            self._resume(machine)
        self._paused.clear()

    # -- network and clock --------------------------------------------------------------------

    def _stranger(self, fault: Fault, target: Machine) -> None:
        for _ in range(self._chance.choice((1, 1, 3, 20))):
            visit(self._network, target, self._chance)

    def _flip(self, fault: Fault, target: Machine) -> None:
        if self._options.integrity_alg:
            self._network.flips = 1

    def _clock_jump(self, fault: Fault, target: Machine) -> None:
        target.jump_clock(self._chance.choice((1, 5, 60, 3600)) * SECOND_NS)

    def _no_space(self, fault: Fault, target: Machine) -> None:
        drive = self._chance.choice(list(self._sick.drives.values()))
        left = FOREVER if fault.forever else 1
        drive.faults.append(DriveFault(fault.zone, "write", errno.ENOSPC, left=left))

    # -- the administrator --------------------------------------------------------------------

    def _command(self, machine: Machine, verb: str, **options: object) -> bool:
        if not self._operator.free(machine):
            return False
        self._operator.command(machine, verb, self._told(machine, verb), None, **options)
        return True

    def _told(self, machine: Machine, verb: str) -> Callable[[Answer], None]:
        def told(answer: Answer) -> None:
            self._world.mark(f"{verb} {'refused' if answer.exit_code else 'done'}")

        return told

    def _invalidate(self, fault: Fault, target: Machine) -> None:
        sick = self._sick
        other = self._network.other(sick)
        if (
            sick.serving_role is Role.PRIMARY
            or other.name not in self._operator.holders
            or not other.up_to_date
        ):
            return
        if self._command(sick, "invalidate"):
            self._operator.holders = frozenset({other.name})

    def _verify(self, fault: Fault, target: Machine) -> None:
        if self._options.verify_alg:
            self._command(target, "verify")

    def _detach(self, fault: Fault, target: Machine) -> None:
        if self._command(self._sick, "detach"):
            self._world.after(min(fault.duration_ns, SECOND_NS), self._attach, self._sick)

    def _attach(self, machine: Machine) -> None:
        if any(s.disk is DiskState.DISKLESS for s in machine.states.values()):
            self._command(machine, "attach")

    def _pause_sync(self, fault: Fault, target: Machine) -> None:
        if self._command(target, "pause-sync"):
            self._paused.append(target)
            self._world.after(min(fault.duration_ns, 2 * SECOND_NS), self._resume, target)

    def _resume(self, machine: Machine) -> None:
        if not machine.alive or not any(s.user_isp for s in machine.states.values()):
            return
        if not self._command(machine, "resume-sync"):
            self._world.after(RETRY_NS, self._resume, machine)

    # -- disks that are swapped ---------------------------------------------------------------

    def take_copy(self) -> None:
        """Somebody makes a backup of the sick machine's disks, as they are at this moment."""
        for volume, drive in self._sick.drives.items():
            self._copies[volume] = drive.store.snapshot()

    def _spare(self) -> bool:
        """Whether the sick machine's copy can be given up."""
        other = self._network.other(self._sick)
        settled = not self._checkers.foreign and not self._checkers.unsynced
        # A target that lost its source holds a mixture, though no write is missing from both.
        whole = other.node is not None and all(
            volume.state.disk > DiskState.INCONSISTENT for volume in other.node.volumes.values()
        )
        return settled and whole and other.name in self._operator.holders

    def _empty_disk(self, fault: Fault, target: Machine) -> None:
        if self._spare():
            self._world.mark("disk replaced by an empty one")
            self._stop_sick()
            self._create_md()
            self._operator.bring_back(self._sick, fault.duration_ns)

    def _rollback(self, fault: Fault, target: Machine) -> None:
        if not self._spare():
            return
        self._stop_sick()
        moved = False
        for volume, pages in self._copies.items():
            drive = self._sick.drives[volume]
            before = generation(drive)
            drive.store.restore(pages)
            if self._told_apart(volume, before):
                moved = True
            else:  # as documented, it is made new
                self._make_new(volume)
        self._world.mark(f"rollback that {'generations tell' if moved else 'nothing can tell'}")
        self._operator.bring_back(self._sick, fault.duration_ns)

    def _told_apart(self, volume: int, before: UuidSet) -> bool:
        """Whether the copy's generation tells it from the disk that was there.

        If not: it is the same one, or while a resync goes on one that its target may have as well,
        as one that never got the sync UUID, or has ended unseen. Then blocks that the real target
        has acknowledged are marked nowhere any more, and only the rest would be resynced.
        """
        copy = generation(self._sick.drives[volume])
        node = self._network.other(self._sick).node
        assert node is not None
        own, peer = Side(node.volumes[volume].uuids), Side(copy)
        verdict = compare(own, peer, resolves_conflicts=True, apv=101, wsame=True)
        same = same_generation(copy.current, before.current)
        return not same and verdict.outcome not in _BY_BITMAP

    def _stop_sick(self) -> None:
        sick = self._sick
        sick.kill()
        self._operator.holders = frozenset({self._network.other(sick).name})
        self._checkers.foreign = sick.name

    def _create_md(self) -> None:
        for volume in self._sick.drives:
            self._make_new(volume)

    def _make_new(self, volume: int) -> None:
        sick = self._sick
        sick.swap_drive(fresh_drive(sick, volume, self._options.device_bytes))

    def _on_state(self, machine: Machine, change: StateChanged) -> None:
        standing = change.new.conn is ConnState.STANDALONE is not change.old.conn
        if self._checkers.foreign and standing:
            self._refusals += 1

    def _watch_refusals(self) -> None:
        """A pair that refuses a rolled-back disk by name has done its duty: create-md."""
        self._world.after(SECOND_NS, self._watch_refusals)
        if not self._checkers.foreign:
            self._refusals = 0
        elif self._refusals >= REFUSALS_ENOUGH and self._operator.idle:
            self._world.mark("rolled-back disk was refused by name")
            self._refusals = 0
            self._stop_sick()
            self._create_md()
            self._operator.bring_back(self._sick, SECOND_NS)
