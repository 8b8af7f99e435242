"""Fencing against an operator without judgement: anybody is promoted at any moment, never forced.

With resource-and-stonith and an agent that never lies (``fence_agent``) nothing acknowledged may be
lost and no split brain may arise, whatever is promoted when: the nodes themselves must refuse. With
resource-only a Primary goes on while its peer is being fenced. What it acknowledges in that time is
lost to whoever is promoted after its death, and has a generation of its own even if the peer's disk
has it, or if there was nothing to acknowledge, which neither can know: such a run ends where that
happens; in all others the same is demanded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.vocabulary import ConnState, DiskState, Fencing, Role
from replblk.sim.fence_agent import FenceAgent
from replblk.sim.image import generation
from replblk.sim.world import MILLI_NS, SECOND_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.model.notices import StateChanged
    from replblk.sim.machine import Life, Machine
    from replblk.sim.run import Run

LIMIT_NS = 400 * SECOND_NS
"""A command without an answer by then will never have one (I12): a promotion may call the agent
four times, and each call may take twenty seconds."""


class Guarded:
    """One run of it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._machines = run.network.machines
        self._chance = run.world.chance("guarded")
        self._stonith = run.options.policies.fencing is Fencing.RESOURCE_AND_STONITH
        self._agent = FenceAgent(run.options, run.network, run.operator)
        self._open: dict[int, tuple[Life, Machine, str]] = {}
        self._given = 0
        self._alone: set[str] = set()
        """Who acknowledged writes alone while nobody knew the peer to be fenced."""
        self._left_alone: dict[tuple[str, int], int] = {}
        """Machine and volume: the current UUID with which a Primary lost a peer that is not fenced,
        until they meet again. Another one by now was begun alone, with or without a write."""
        self._gap = False
        self._gap_with_writes = False
        for machine in self._machines:
            machine.on_state.append(self._on_state)
        run.workload.on_ack.append(self._on_ack)

    def go(self) -> None:
        """Everything; raises when something is wrong."""
        run = self._run
        run.operator.stopped = True
        run.plan.start()
        for _ in range(self._chance.randrange(15, 60)):
            self._world.run_for(self._chance.choice((5, 50, 300, 2000)) * MILLI_NS)
            if self._gap:
                self._world.mark("resource-only: a gap before the peer was fenced")
                return
            self._look()
            self._one_act()
        run.plan.stop()
        for source, destination in (self._machines, self._machines[::-1]):
            if run.network.is_blocked(source, destination):
                run.network.unblock(source, destination)
        self._await(lambda: not self._unanswered(), "I12: a command has no answer")
        self._connect()  # or I/O may stay frozen for good, if the agent finds nothing out
        if self._gap:
            self._world.mark("resource-only: a gap before the peer was fenced")
            return
        self._world.mark("fencing: nothing lost")
        self._end_who_has_no_data()
        for client in run.clients:
            client.stop(lambda: None)
        self._await(lambda: all(c.machine is None for c in run.clients), "I12: a request hangs")
        run.operator.holders = frozenset(m.name for m in self._machines)
        run.operator.take_over()
        run.come_to_rest()

    # -- what is watched ----------------------------------------------------------------------

    def _on_ack(self, machine: Machine, volume: int) -> None:
        state = machine.states[volume]
        if state.conn >= ConnState.CONNECTED:
            return
        if self._run.checkers.peer_has_it(machine, volume):
            if state.pdsk > DiskState.OUTDATED and not self._stonith:
                self._alone.add(machine.name)  # nothing is lost, but neither node knows that
            return
        if state.pdsk <= DiskState.OUTDATED:
            return  # fenced; if I/O is still frozen, it goes on in this very step
        if state.susp_fen:
            raise SimulationError(f"I7: {machine} answers a write while its I/O is frozen: {state}")
        if self._stonith:
            raise SimulationError(f"I7: {machine} goes on, but nobody fenced its peer: {state}")
        self._alone.add(machine.name)

    def _on_state(self, machine: Machine, change: StateChanged) -> None:
        new = change.new
        if new.susp_fen and not change.old.susp_fen:
            self._world.mark("I/O frozen by fencing")
        if change.old.susp_fen and not new.susp_fen:
            back = new.conn >= ConnState.CONNECTED
            self._world.mark(f"frozen I/O goes on, the peer is {'back' if back else 'fenced'}")
        if new.pdsk <= DiskState.OUTDATED or self._run.checkers.settled():
            self._alone.discard(machine.name)
        self._watch_generation(machine, change)
        if new.role is Role.PRIMARY is not change.old.role:
            other = self._run.network.other(machine)
            if other.name in self._alone:
                self._gap = self._gap_with_writes = True
            elif self._began_alone(other, change.volume):
                self._gap = True
            elif new.conn < ConnState.CONNECTED:
                self._world.mark("promoted alone, the peer fenced")

    def _watch_generation(self, machine: Machine, change: StateChanged) -> None:
        new, old, place = change.new, change.old, (machine.name, change.volume)
        if new.conn >= ConnState.CONNECTED or new.pdsk <= DiskState.OUTDATED:
            self._left_alone.pop(place, None)
        elif (
            old.conn >= ConnState.CONNECTED
            and old.role is Role.PRIMARY
            and new.disk is DiskState.UP_TO_DATE
            and not self._stonith
        ):
            self._left_alone[place] = generation(machine.drives[change.volume]).current

    def _began_alone(self, machine: Machine, volume: int) -> bool:
        """Whether it began a generation when it lost its peer as Primary, and nobody fenced that.
        DRBD does so at once, whether or not there is a write to answer."""
        before = self._left_alone.get((machine.name, volume))
        return before is not None and generation(machine.drives[volume]).current | 1 != before | 1

    def _promoted(self, machine: Machine) -> None:
        if not self._gap_with_writes:
            self._run.checkers.judge_promoted(machine)

    # -- what is done -------------------------------------------------------------------------

    def _look(self) -> None:
        """Clients take a Primary; StandAlone nodes connect; the cluster sees a pair in sync."""
        run = self._run
        if run.checkers.settled() and self._agent.favoured:
            self._agent.favoured = ""
        for machine in self._machines:
            if machine.alive and not machine.paused and machine.serving_role is Role.PRIMARY:
                for client in run.clients:
                    if client.machine is None:
                        client.start(machine)
        self._connect()

    def _connect(self) -> None:
        for machine in self._machines:
            if self._run.operator.free(machine) and machine.connection is ConnState.STANDALONE:
                self._command(machine, "connect", discard_my_data=False)

    def _end_who_has_no_data(self) -> None:
        """A Primary that lost its source waits for data beside another Primary: for ever, unless
        the administrator turns its machine off."""
        first, second = self._machines
        if first.serving_role is second.serving_role is Role.PRIMARY:
            for machine in self._machines:
                if self._run.checkers.without_data(machine):
                    self._world.mark("fenced: a Primary without data was turned off")
                    machine.power_off()

    def _one_act(self) -> None:
        machine = self._chance.choice(self._machines)
        act = self._chance.choice(
            (
                "primary",
                "primary",
                "primary",
                "secondary",
                "partition",
                "heal",
                "heal",
                "disconnect",
            )
        )
        first, second = self._machines
        if act == "partition":
            for source, destination in ((first, second), (second, first)):
                if not self._run.network.is_blocked(source, destination):
                    self._run.network.block(source, destination)
            self._world.mark("partition while promoting at will")
        elif act == "heal":
            for source, destination in ((first, second), (second, first)):
                if self._run.network.is_blocked(source, destination):
                    self._run.network.unblock(source, destination)
        elif not self._run.operator.free(machine):
            return
        elif act == "primary":
            self._command(machine, act, force=False)
        elif act == "secondary" and machine.serving_role is Role.PRIMARY:
            self._demote(machine)
        elif act == "disconnect" and self._chance.random() < 0.3:
            self._command(machine, act, force=self._chance.random() < 0.3)

    def _demote(self, machine: Machine) -> None:
        life, left = machine.life, len(self._run.clients)

        def stopped() -> None:
            nonlocal left
            left -= 1
            if not left and machine.life is life and not machine.paused:
                self._command(machine, "secondary")

        for client in self._run.clients:
            client.stop(stopped)

    def _command(self, machine: Machine, verb: str, **options: object) -> None:
        life = machine.life
        assert life is not None
        self._given += 1
        number = self._given
        self._open[number] = (life, machine, verb)

        def answered(answer: Answer) -> None:
            del self._open[number]
            self._world.mark(f"fenced: {verb} {'refused' if answer.exit_code else 'done'}")
            if verb == "primary" and answer.exit_code == 0:
                self._promoted(machine)

        machine.command(verb, answered, None, **options)

    def _unanswered(self) -> bool:
        return any(not life.dead for life, *_ in self._open.values())

    def _await(self, predicate: Callable[[], bool], complaint: str) -> None:
        if not self._world.run_until(predicate, LIMIT_NS):
            verbs = [(m.name, verb) for life, m, verb in self._open.values() if not life.dead]
            raise SimulationError(
                f"{complaint} within {LIMIT_NS // SECOND_NS} s: {self._run.checkers.describe()} "
                f"{verbs}"
            )
