"""The erring operator: both nodes are promoted during a partition, and both take writes.

What must follow: the pair never connects and never resyncs by itself, and at least one node stands
alone and says "split brain". If the seed says so, the operator then names a victim, whose writes
go, and the pair must come to rest with the survivor's data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.vocabulary import ConnState, Role
from replblk.sim.client import Client
from replblk.sim.world import SECOND_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.sim.machine import Machine
    from replblk.sim.run import Run

NOTICE_LIMIT_NS = 120 * SECOND_NS
WRITE_LIMIT_NS = 30 * SECOND_NS
COMMAND_LIMIT_NS = 120 * SECOND_NS


class ErringOperator:
    """One split brain, from partition to verdict."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._network = run.network
        self._chance = run.world.chance("erring")
        self._clients_of: dict[str, list[Client]] = {}

    def go(self) -> None:
        """Everything; raises when something is wrong."""
        run, world = self._run, self._world
        goal = self._chance.randrange(5, run.options.writes_goal // 2)
        world.run_until(lambda: run.workload.writes_acked >= goal, WRITE_LIMIT_NS)
        self._await(run.checkers.settled, WRITE_LIMIT_NS, "the pair is not in sync to begin with")
        run.operator.stopped = True
        old = next(m for m in self._network.machines if m.serving_role is Role.PRIMARY)
        new = self._network.other(old)
        self._partition(old, new)
        self._split(old, new)
        for machine in (old, new):
            goal = run.workload.writes_acked + self._chance.randrange(1, 20)
            world.run_until(lambda goal=goal: run.workload.writes_acked >= goal, WRITE_LIMIT_NS)  # type: ignore[misc]
            self._maybe_demote(machine)
        self._network.heal()
        world.note("world", "the partition ends")
        self._await(self._reported, NOTICE_LIMIT_NS, "the split brain is never reported")
        world.run_for(20 * SECOND_NS)
        world.mark("split brain detected")
        if self._chance.random() < 0.3:
            return
        survivor, victim = (old, new) if self._chance.random() < 0.5 else (new, old)
        self._resolve(survivor, victim)
        world.mark("split brain resolved")
        if self._clients_of[survivor.name] is not run.clients:
            self._stop_clients(survivor)  # the run itself knows nothing of this client
        run.come_to_rest()

    # -- steps --------------------------------------------------------------------------------

    def _partition(self, old: Machine, new: Machine) -> None:
        run = self._run
        run.workload.split((old, new))  # what is acknowledged from here on, only *old* has
        run.checkers.one_primary = False
        run.checkers.split = True
        self._network.block(old, new)
        self._network.block(new, old)
        if self._chance.random() < 0.5:
            self._network.cut()
        for machine in (old, new):
            self._await(
                lambda machine=machine: machine.connection < ConnState.CONNECTED,
                NOTICE_LIMIT_NS,
                f"{machine} never notices the partition",
            )

    def _split(self, old: Machine, new: Machine) -> None:
        run = self._run
        self._clients_of[old.name] = run.clients
        self._command(new, "primary", force=False)
        if new.serving_role is not Role.PRIMARY:
            raise SimulationError(f"{new} has UpToDate data and no peer, but is not promoted")
        client = Client(run.workload, len(run.clients))
        self._clients_of[new.name] = [client]
        refusal = client.start(new)
        if refusal:
            raise SimulationError(f"{new} is Primary, but its device can't be opened: {refusal}")

    def _maybe_demote(self, machine: Machine) -> None:
        """Sometimes a node is Secondary again before the partition ends."""
        if self._chance.random() < 0.4:
            self._stop_clients(machine)
            self._command(machine, "secondary")

    def _reported(self) -> bool:
        """Somebody stands alone and says why."""
        for machine in self._network.machines:
            standing = machine.alive and machine.connection is ConnState.STANDALONE
            if standing and any(
                "split-brain" in t.lower() or "split brain" in t.lower() for t in machine.told
            ):
                assert machine.node is not None
                if not machine.node.status().split_brain:
                    raise SimulationError(f"{machine} has a split brain, but its status denies it")
                return True
        return False

    def _resolve(self, survivor: Machine, victim: Machine) -> None:
        run = self._run
        self._stop_clients(victim)
        if victim.serving_role is Role.PRIMARY:
            self._command(victim, "secondary")
        for machine in (victim, survivor):
            if machine.connection is not ConnState.STANDALONE:
                self._command(machine, "disconnect", force=True)
        run.workload.rejoin(survivor)
        run.checkers.split = False
        run.operator.holders = frozenset({survivor.name})
        self._command(victim, "connect", discard_my_data=True)
        self._command(survivor, "connect", discard_my_data=False)
        self._await(run.checkers.settled, NOTICE_LIMIT_NS, "the resolution leads nowhere")
        run.checkers.one_primary = True
        run.operator.stopped = False

    # -- means --------------------------------------------------------------------------------

    def _stop_clients(self, machine: Machine) -> None:
        clients = self._clients_of.get(machine.name, [])
        for client in clients:
            client.stop(_nothing)
        self._await(
            lambda: all(c.machine is None for c in clients),
            COMMAND_LIMIT_NS,
            "I12: a client's request is never answered",
        )

    def _command(self, machine: Machine, verb: str, **options: object) -> None:
        answers: list[Answer] = []
        machine.command(verb, answers.append, None, **options)
        self._await(lambda: bool(answers), COMMAND_LIMIT_NS, f"I12: {verb!r} on {machine} hangs")
        if answers[0].exit_code:
            raise SimulationError(f"{verb!r} on {machine} is refused: {answers[0].text}")

    def _await(self, predicate: object, limit_ns: int, complaint: str) -> None:
        assert callable(predicate)
        if not self._world.run_until(predicate, limit_ns):
            raise SimulationError(
                f"{complaint} within {limit_ns // SECOND_NS} s: {self._run.checkers.describe()}"
            )


def _nothing() -> None:
    """Nobody waits for a client to have stopped."""
