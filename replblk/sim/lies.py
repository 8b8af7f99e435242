"""A disk that lies: writes that are said to be done are lost, go elsewhere, or are spoilt.

Nothing in the protocol can see that: both nodes say UpToDate and 0 out of sync. The disk that lies
is the Secondary's, so that clients never meet its data. What must follow: online verify finds
exactly the blocks that differ, on both nodes; the next connection repairs them. A verify whose
connection is lost goes on where it stopped: what it had found is repaired, what is left is found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.vocabulary import ConnState, Role
from replblk.sim.checkers import live_bitmap
from replblk.sim.store import SECTOR_BYTES, differing_pages
from replblk.sim.world import SECOND_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.model.notices import StateChanged
    from replblk.sim.machine import Machine
    from replblk.sim.run import Run

LIMIT_NS = 120 * SECOND_NS
TURNS = 100
"""A verify that is interrupted more often than that makes no progress."""
KINDS = ("lost", "misdirected", "spoilt")


class Lies:
    """One run with a lying disk."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._chance = run.world.chance("lies")
        self._interrupted = False
        """The connection was lost while a verify ran."""
        for machine in run.network.machines:
            machine.on_state.append(self._on_state)

    def go(self) -> None:
        """Everything; raises when something is wrong."""
        run = self._run
        self._await(run.checkers.settled, "the pair is not in sync to begin with")
        run.checkers.blind = True  # what differs is marked nowhere: that is the point
        primary = next(m for m in run.network.machines if m.serving_role is Role.PRIMARY)
        liar = run.network.other(primary)
        (drive,) = liar.drives.values()
        for _ in range(self._chance.randrange(1, 6)):
            drive.lies += ["honest"] * self._chance.randrange(12)
            drive.lies.append(self._chance.choice(KINDS))
        goal = run.workload.writes_acked + run.options.writes_goal
        run.workload.enough = goal
        self._world.run_until(lambda: run.workload.writes_acked >= goal, LIMIT_NS)
        drive.lies.clear()
        self._quiet()
        self._await(lambda: not run.checkers.marked_blocks(), "bits stay set without a reason")
        differing = self._differing()
        self._world.mark(f"lies left {'differences' if differing else 'nothing'}")
        self._verify(self._chance.choice((primary, liar)), differing)
        self._command(liar, "disconnect")
        self._command(liar, "connect", discard_my_data=False)
        run.checkers.blind = False
        run.operator.serving = True
        run.operator.stopped = False
        run.come_to_rest()

    def _quiet(self) -> None:
        """No client, no operator: what differs now differs for good."""
        run = self._run
        run.operator.serving = False
        run.operator.stopped = True
        for client in run.clients:
            client.stop(lambda: None)
        self._await(lambda: all(c.machine is None for c in run.clients), "I12: a request hangs")

    def _verify(self, machine: Machine, differing: list[int]) -> None:
        """Compare everything, in as many turns as the network demands."""
        for _ in range(TURNS):
            self._interrupted = False
            self._command(machine, "verify")
            self._await(self._run.checkers.settled, "the verify never ends")
            if not self._interrupted:
                self._judge_found(differing)
                return
            self._world.mark("verify interrupted")
            self._await(lambda: not self._run.checkers.marked_blocks(), "what was found stays")
            differing = self._differing()
        raise SimulationError(f"I12: the verify was interrupted {TURNS} times")

    def _on_state(self, _: Machine, change: StateChanged) -> None:
        verifying = change.old.conn in (ConnState.VERIFY_S, ConnState.VERIFY_T)
        self._interrupted |= verifying and change.new.conn < ConnState.CONNECTED

    def _differing(self) -> list[int]:
        first, second = (m.drives[0].store.pages for m in self._run.network.machines)
        return differing_pages(first, second, self._run.workload.sizes_sectors[0] * SECTOR_BYTES)

    def _judge_found(self, differing: list[int]) -> None:
        for machine in self._run.network.machines:
            bitmap = live_bitmap(machine, 0)
            assert bitmap is not None
            found = [bit for bit in range(len(bitmap)) if bitmap.any(bit, bit + 1)]
            if found != differing:
                raise SimulationError(
                    f"verify on {machine} marked blocks {found}, but {differing} differ"
                )
        if differing:
            self._world.mark("verify found a difference")

    def _command(self, machine: Machine, verb: str, **options: object) -> None:
        answers: list[Answer] = []
        machine.command(verb, answers.append, None, **options)
        self._await(lambda: bool(answers), f"I12: {verb!r} on {machine} hangs")
        if answers[0].exit_code:
            raise SimulationError(f"{verb!r} on {machine} is refused: {answers[0].text}")
        if verb == "disconnect":
            self._await(
                lambda: all(m.connection < ConnState.CONNECTED for m in self._run.network.machines),
                "the disconnect is never noticed",
            )

    def _await(self, predicate: object, complaint: str) -> None:
        assert callable(predicate)
        if not self._world.run_until(predicate, LIMIT_NS):
            raise SimulationError(
                f"{complaint} within {LIMIT_NS // SECOND_NS} s: {self._run.checkers.describe()}"
            )
