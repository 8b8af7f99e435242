"""A disk that lies about its metadata: pieces of them are lost, go elsewhere, or are spoilt.

It is the Secondary's, while it is disconnected, resynced and cut off; then its process starts again
on what is there. The v08 format has a checksum over a transaction of the activity log, a magic
number and plausible values in the superblock, and nothing over UUIDs, flags and bitmap. So what is
demanded is this: the node refuses the disk, or the peer, with a sentence; or it attaches, and
whatever the metadata made it do, giving its copy up (invalidate, else create-md) makes the pair
whole. It never stops with an error of its own, and a Primary that did not lie stays what it is.

What nothing can tell is counted, not judged: a flipped bit may turn the liar into a crashed
Primary, whose blocks then go to the other node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.image import fresh_drive
from replblk.sim.lies import KINDS
from replblk.sim.world import MILLI_NS, SECOND_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.model.notices import StateChanged
    from replblk.sim.machine import Machine
    from replblk.sim.run import Run

LIMIT_NS = 200 * SECOND_NS
_REFUSALS = ("unrelated", "split-brain", "split brain", "contradict", "too small")


class MetadataLies:
    """One run of it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._chance = run.world.chance("metadata-lies")
        self._misled = False

    def go(self) -> None:
        """Everything; raises when something is wrong."""
        run = self._run
        self._await(run.checkers.settled, "the pair is not in sync to begin with")
        run.operator.stopped = True
        run.checkers.blind = run.checkers.lenient = True
        honest = next(m for m in run.network.machines if m.serving_role is Role.PRIMARY)
        liar = run.network.other(honest)
        honest.on_state.append(self._on_state)
        self._lie(liar)
        for _ in range(self._chance.randrange(1, 4)):
            self._write()
            self._cut_off(liar)
        (liar.kill, liar.power_off)[self._chance.randrange(2)]()
        self._write()
        (drive,) = liar.drives.values()
        drive.lies.clear()
        liar.boot()
        attached = self._command(liar, "up").exit_code == 0
        self._world.mark(f"spoilt metadata: {'attached' if attached else 'refused'}")
        self._world.run_for(5 * SECOND_NS)
        if self._misled:
            self._world.mark("spoilt metadata: nothing can tell, the liar became source")
            return
        if honest.serving_role is not Role.PRIMARY or not honest.up_to_date:
            raise SimulationError(f"the node that did not lie suffers: {honest.states}")
        self._mend(liar, honest, attached=attached)
        run.checkers.blind = run.checkers.lenient = False
        run.operator.holders = frozenset(m.name for m in run.network.machines)
        run.operator.take_over()
        run.come_to_rest()

    # -- steps --------------------------------------------------------------------------------

    def _on_state(self, honest: Machine, change: StateChanged) -> None:
        self._misled |= change.new.conn in (ConnState.WF_BITMAP_T, ConnState.SYNC_TARGET)

    def _lie(self, liar: Machine) -> None:
        (drive,) = liar.drives.values()
        drive.lies_about_metadata = True
        for _ in range(self._chance.randrange(1, 4)):
            drive.lies += ["honest"] * self._chance.randrange(6)
            drive.lies.append(self._chance.choice(KINDS))

    def _write(self) -> None:
        goal = self._run.workload.writes_acked + self._chance.randrange(3, 20)
        self._run.workload.enough = goal
        self._world.run_until(lambda: self._run.workload.writes_acked >= goal, LIMIT_NS)

    def _cut_off(self, liar: Machine) -> None:
        """Out of sync and back: a superblock, a bitmap, UUIDs are written."""
        self._command(liar, "disconnect", force=True)
        self._write()
        self._command(liar, "connect", discard_my_data=False)
        self._world.run_for(self._chance.choice((5, 100, 2000)) * MILLI_NS)

    def _mend(self, liar: Machine, honest: Machine, *, attached: bool) -> None:
        """Give the liar's copy up."""
        whole = self._run.checkers.settled
        if attached and all(s.conn >= ConnState.CONNECTED for s in liar.states.values()):
            self._world.run_until(whole, 30 * SECOND_NS)
            if whole() and self._command(liar, "invalidate").exit_code == 0:
                self._world.mark("spoilt metadata: mended by invalidate")
                self._await(whole, "invalidate does not help")
                return
        reason = any(word in line.lower() for line in liar.told for word in _REFUSALS)
        reason |= any(word in line.lower() for line in honest.told for word in _REFUSALS)
        disk = any(state.disk is DiskState.DISKLESS for state in liar.states.values())
        if not disk and not reason and not whole():
            raise SimulationError(f"neither in sync nor refused: {self._run.checkers.describe()}")
        liar.kill()
        for volume in liar.drives:
            liar.swap_drive(fresh_drive(liar, volume, self._run.options.device_bytes))
        liar.boot()
        self._command(liar, "up")
        if honest.connection is ConnState.STANDALONE:
            self._command(honest, "connect", discard_my_data=False)
        self._world.mark("spoilt metadata: mended by create-md")
        self._await(whole, "create-md does not help")

    def _command(self, machine: Machine, verb: str, **options: object) -> Answer:
        answers: list[Answer] = []
        machine.command(verb, answers.append, None, **options)
        self._await(lambda: bool(answers), f"I12: {verb!r} on {machine} hangs")
        return answers[0]

    def _await(self, predicate: Callable[[], bool], complaint: str) -> None:
        if not self._world.run_until(predicate, LIMIT_NS):
            raise SimulationError(
                f"{complaint} within {LIMIT_NS // SECOND_NS} s: {self._run.checkers.describe()}"
            )
