"""A storm of commands: any command, forced or not, to any node, at any moment, while faults happen.

Whose writes survive is nobody's promise then. What must hold: no command stays without an answer;
no node is promoted without good data unless by force; what differs between connected nodes is
marked; sectors are whole. And afterwards, once an administrator declares one node's data good and
gives up the other's, the pair comes to rest, identical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblk.model.vocabulary import DiskState, Role
from replblk.sim.image import fresh_drive
from replblk.sim.store import SECTOR_BYTES
from replblk.sim.world import MILLI_NS, SECOND_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.sim.machine import Life, Machine
    from replblk.sim.run import Run

LIMIT_NS = 200 * SECOND_NS
"""A command without an answer by then will never have one (I12)."""
COMMANDS: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("primary", {"force": False}), ("primary", {"force": True}), ("secondary", {})),
    *(("disconnect", {"force": False}), ("disconnect", {"force": True})),
    *(("connect", {"discard_my_data": False}), ("connect", {"discard_my_data": True})),
    *(("connect", {"discard_my_data": False}), ("invalidate", {}), ("invalidate-remote", {})),
    *(("detach", {}), ("detach", {"force": True}), ("attach", {}), ("attach", {})),
    *(("pause-sync", {}), ("resume-sync", {}), ("verify", {}), ("outdate", {})),
)


class Storm:
    """One run of it."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._world = run.world
        self._machines = run.network.machines
        self._chance = run.world.chance("storm")
        self._open: dict[int, tuple[Life, Machine, str, int]] = {}
        self._given = 0

    def go(self) -> None:
        """Everything; raises when something is wrong."""
        run = self._run
        run.operator.stopped = True
        run.checkers.lenient = True
        run.checkers.one_primary = False
        run.workload.register.loose = True
        run.plan.start()
        for _ in range(self._chance.randrange(10, 60)):
            self._world.run_for(self._chance.choice((1, 20, 300, 2000)) * MILLI_NS)
            self._serve()
            self._one_command()
        run.plan.stop()
        self._await(lambda: not self._unanswered(), LIMIT_NS, "I12: a command has no answer")
        self._world.mark("storm over")
        self._settle()
        run.come_to_rest()

    # -- the storm ----------------------------------------------------------------------------

    def _one_command(self) -> None:
        machine = self._chance.choice(self._machines)
        verb, options = self._chance.choice(COMMANDS)
        life = machine.life
        if life is None or machine.paused:
            return
        self._given += 1
        number = self._given
        self._open[number] = (life, machine, verb, self._world.now_ns)

        def answered(answer: Answer) -> None:
            del self._open[number]
            self._world.mark(f"storm: {verb} {'refused' if answer.exit_code else 'done'}")

        machine.command(verb, answered, None, **options)

    def _unanswered(self) -> bool:
        return any(not life.dead for life, *_ in self._open.values())

    def _serve(self) -> None:
        """Clients that have no node take a Primary, if there is one."""
        for client in self._run.clients:
            if client.machine is None:
                for machine in self._machines:
                    if machine.serving_role is Role.PRIMARY and not machine.paused:
                        client.start(machine)
                        break
            elif self._chance.random() < 0.1:
                client.stop(lambda: None)

    # -- after it -----------------------------------------------------------------------------

    def _settle(self) -> None:
        """Both start again; one node's data are declared good, the other's given up."""
        run, machines = self._run, self._machines
        for machine in machines:
            machine.kill()
        for client in run.clients:
            assert client.machine is None
        for machine in machines:
            if not machine.alive:  # a start that the storm had planned may have come first
                machine.boot()
            self._command(machine, "up")
            self._command(machine, "disconnect", force=True)
        survivor = self._chance.choice(machines)
        victim = run.network.other(survivor)
        self._command(survivor, "primary", must=True, force=True)
        self._command(victim, "invalidate")
        for machine in (victim, survivor):
            self._command(machine, "connect", discard_my_data=False)
        if not self._world.run_until(run.checkers.settled, LIMIT_NS):
            if not all(self._refused(m) for m in machines):
                raise SimulationError(
                    f"I5: after the storm neither sync nor refusal: {run.checkers.describe()}"
                )
            self._world.mark("storm: create-md was needed")
            self._create_md(victim, survivor)
        run.checkers.lenient = False
        run.workload.register.adopt(
            lambda volume, sector: survivor.drives[volume].store.read(
                sector * SECTOR_BYTES, SECTOR_BYTES
            )
        )
        run.workload.register.loose = False
        run.operator.holders = frozenset(m.name for m in machines)
        run.checkers.one_primary = True
        run.operator.take_over()

    def _refused(self, machine: Machine) -> bool:
        words = ("unrelated", "split-brain", "split brain", "contradict")
        return any(word in line.lower() for line in machine.told for word in words)

    def _create_md(self, victim: Machine, survivor: Machine) -> None:
        victim.kill()
        for volume in victim.drives:
            victim.swap_drive(fresh_drive(victim, volume, self._run.options.device_bytes))
        victim.boot()
        self._command(victim, "up")
        if all(s.conn.name == "STANDALONE" for s in survivor.states.values()):
            self._command(survivor, "connect", discard_my_data=False)
        self._await(self._run.checkers.settled, LIMIT_NS, "I5: create-md does not help")

    def _command(self, machine: Machine, verb: str, *, must: bool = False, **options: Any) -> None:
        answers: list[Answer] = []
        machine.command(verb, answers.append, None, **options)
        self._await(lambda: bool(answers), LIMIT_NS, f"I12: {verb!r} on {machine} hangs")
        if must and answers[0].exit_code:
            raise SimulationError(f"{verb!r} on {machine} is refused: {answers[0].text}")
        if must and any(s.disk is not DiskState.UP_TO_DATE for s in machine.states.values()):
            raise SimulationError(f"{verb!r} on {machine} leaves it {machine.states}")

    def _await(self, predicate: object, limit_ns: int, complaint: str) -> None:
        assert callable(predicate)
        if not self._world.run_until(predicate, limit_ns):
            raise SimulationError(
                f"{complaint} within {limit_ns // SECOND_NS} s: {self._run.checkers.describe()}; "
                f"{[(m.name, verb) for life, m, verb, _ in self._open.values() if not life.dead]}"
            )
