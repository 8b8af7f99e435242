"""Faults of profile policies, and what the handlers of such a pair do.

| fault | what happens |
|---|---|
| stuck | a disk answers nothing for a while: disk-timeout, or the peer's ko-count, gives it up |
| new-uuid | the Primary is disconnected, begins a generation by hand, and is connected again |
| suspend-io | the administrator suspends the Primary's I/O for a while |

None is begun by hand where what the two have in common stands in the history already, nor a third
before they were in sync: it would push that out, and they would refuse each other, rightly
(decision 22).

The handler local-io-error turns its machine off if the seed says so; the first calls of
before-resync-target and -source forbid the resync as often as it says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.generation import same_generation
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.handlers import HandlerEnds
from replblk.sim.image import generation
from replblk.sim.world import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from replblk.engine.ports import Answer, HandlerCall
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.operator import Operator
    from replblk.sim.options import Fault, Options

End = Callable[[HandlerEnds], None]
TOLD = (
    ("failed to meet the disk-timeout", "disk-timeout gave a disk up"),
    ("Remote failed to finish a request within ko-count", "ko-count gave the peer up"),
    ("the error is passed on; the disk stays UpToDate", "an error was passed on, nothing else"),
)
"""Sentences of the node, and the mark that each leaves."""

BY_HAND_MAX = 2


class PolicyFaults:
    """Carries them out; ``mend`` takes back what the administrator has to take back."""

    def __init__(self, options: Options, network: Network, operator: Operator) -> None:
        self._options = options
        self._network = network
        self._world = network.world
        self._operator = operator
        self._chance = self._world.chance("policy-faults")
        self._vetoes = options.policies.vetoes
        self._suspended: list[Machine] = []
        self._by_hand = 0
        """Generations begun by hand since the two were in sync last."""
        for machine in network.machines:
            machine.on_told.append(self._on_told)
            machine.on_step.append(self._on_step)
            programs = machine.handler_programs
            if options.policies.io_error_ends_node:
                programs["local-io-error"] = self._turns_off(machine)
            programs["before-resync-target"] = programs["before-resync-source"] = self._veto

    def strike(self, fault: Fault, target: Machine) -> None:
        """One fault, after the step that runs now."""
        action = getattr(self, "_" + fault.kind.replace("-", "_"))
        self._world.after(0, action, fault, target)

    def mend(self) -> None:
        """No more faults: resume what was suspended."""
        for machine in list(self._suspended):
            self._resume(machine)

    def _on_step(self, machine: Machine) -> None:
        if self._by_hand and machine.all_volumes(
            conn=ConnState.CONNECTED, disk=DiskState.UP_TO_DATE, pdsk=DiskState.UP_TO_DATE
        ):
            self._by_hand = 0

    def _on_told(self, machine: Machine, text: str) -> None:
        for sentence, mark in TOLD:
            if sentence in text:
                self._world.mark(mark)

    # -- handlers -----------------------------------------------------------------------------

    def _turns_off(self, machine: Machine) -> Callable[[HandlerCall, End], None]:
        def program(call: HandlerCall, end: End) -> None:
            self._world.after(self._chance.randrange(20) * MILLI_NS, self._off, machine)
            end(HandlerEnds(after_ns=SECOND_NS))

        return program

    def _off(self, machine: Machine) -> None:
        if machine.alive:
            self._world.mark("local-io-error turned the machine off")
            machine.power_off()
            self._operator.bring_back(machine, SECOND_NS)

    def _veto(self, call: HandlerCall, end: End) -> None:
        forbids, self._vetoes = self._vetoes > 0, max(self._vetoes - 1, 0)
        if forbids:
            self._world.mark("a handler forbade a resync")
        end(HandlerEnds(1 if forbids else 0, after_ns=self._chance.randrange(300) * MILLI_NS))

    # -- faults -------------------------------------------------------------------------------

    def _primary(self) -> Machine | None:
        for machine in self._network.machines:
            if machine.serving_role is Role.PRIMARY and self._operator.free(machine):
                return machine
        return None

    def _stuck(self, fault: Fault, target: Machine) -> None:
        sick = next(m for m in self._network.machines if m.name == self._options.sick)
        drive = self._chance.choice(list(sick.drives.values()))
        drive.stuck_until_ns = self._world.now_ns + fault.duration_ns
        drive.struck += 1

    def _new_uuid(self, fault: Fault, target: Machine) -> None:
        machine = self._primary()
        if machine is None or machine.connection is ConnState.STANDALONE:
            return
        self._operator.disconnect(machine, fault.duration_ns)
        self._world.after(self._chance.randrange(fault.duration_ns), self._begin, machine)

    def _begin(self, machine: Machine) -> None:
        alone = machine.connection is ConnState.STANDALONE
        if not alone or machine.serving_role is not Role.PRIMARY or not machine.up_to_date:
            return
        few = self._by_hand < BY_HAND_MAX and not self._nearly_forgotten(machine)
        if few and self._operator.free(machine):
            self._operator.command(machine, "new-current-uuid", self._told)

    def _nearly_forgotten(self, machine: Machine) -> bool:
        """Whether the other's generation is one that only the history tells: it has two places."""
        other = self._network.other(machine)
        for volume, drive in machine.drives.items():
            own, theirs = generation(drive), generation(other.drives[volume]).current
            if any(same_generation(theirs, past) for past in (own.history0, own.history1)):
                return True
        return False

    def _told(self, answer: Answer) -> None:
        self._by_hand += not answer.exit_code
        self._world.mark(f"new-current-uuid {'refused' if answer.exit_code else 'done'}")

    def _suspend_io(self, fault: Fault, target: Machine) -> None:
        machine = self._primary()
        if machine is None or machine in self._suspended:
            return
        self._suspended.append(machine)
        machine.command("suspend-io", lambda answer: self._world.mark("I/O suspended by hand"))
        self._world.after(min(fault.duration_ns, 5 * SECOND_NS), self._resume, machine)

    def _resume(self, machine: Machine) -> None:
        if machine in self._suspended:
            self._suspended.remove(machine)
            if machine.alive:
                machine.command("resume-io", lambda answer: None)
