"""What goes wrong in a run, and when: the faults of the options, one after the other.

| fault | what happens |
|---|---|
| cut, cut-one | all connections break, or one socket: a prefix arrives, then a reset |
| stall, stall-one-way | nothing passes for a while, in both directions or in one |
| kill, kill-both | SIGKILL; the process is started again later |
| power, power-both | power cut: volatile caches are lost, the peer is not told |
| pause | SIGSTOP for a while |
| disk-error | read, write or flush fails in a zone, once or for ever |
| disk-slow | all operations of a drive take much longer for a while |
| switchover | the operator moves the Primary role |
| reconnect | the operator disconnects a node, and connects it again later |
| restart | the operator takes a node down and up again |

Those of profile wide are in ``wider_faults``, of policies in ``policy_faults``, of resize in
``resizes``. The next fault begins to wait when the one before has happened, so that faults hit
recoveries, too. A fault that waits for events strikes inside the node's step, between two of its
calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.vocabulary import Role
from replblk.sim.disk import FOREVER, Drive, DriveFault
from replblk.sim.policies import POLICY_FAULTS
from replblk.sim.resizes import RESIZE_FAULTS
from replblk.sim.wider import WIDER_FAULTS
from replblk.sim.world import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from replblk.model.notices import StateChanged
    from replblk.sim.client import Workload
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.operator import Operator
    from replblk.sim.options import Fault, Options
    from replblk.sim.policy_faults import PolicyFaults
    from replblk.sim.resizes import Resizes
    from replblk.sim.wider_faults import WiderFaults

PATIENCE_NS = SECOND_NS
"""A fault whose trigger doesn't come happens after that time anyway."""
SLOWNESS = 50


class FaultPlan:
    """Carries the faults of a run out."""

    def __init__(
        self,
        options: Options,
        network: Network,
        workload: Workload,
        operator: Operator,
        wider: WiderFaults,
        policy: PolicyFaults,
        resizes: Resizes,
    ) -> None:
        self._resizes = resizes
        self._options = options
        self._network = network
        self._machines = network.machines
        self._world = network.world
        self._operator = operator
        self._wider = wider
        self._policy = policy
        self._chance = self._world.chance("faults")
        self._next = 0
        self._left = 0
        self._stopped = False
        self._workload = workload
        self._share = options.writes_goal // (len(options.faults) + 1) + 1
        workload.enough = self._share
        workload.on_write.append(lambda: self._count("write", None))
        for machine in self._machines:
            machine.on_state.append(self._on_state)
            machine.on_send.append(lambda m: self._count("send", m))
            for drive in machine.drives.values():
                drive.on_submit = self._submit_hook(machine)

    @property
    def done(self) -> bool:
        """Whether every fault has happened."""
        return self._next >= len(self._options.faults)

    def start(self) -> None:
        """The first fault begins to wait."""
        self._arm()

    def stop(self) -> None:
        """No more faults; everything that is broken is mended (machines stay as they are)."""
        self._stopped = True
        self._wider.mend()
        self._policy.mend()
        self._network.heal()
        for machine in self._machines:
            machine.resume()
            for drive in machine.drives.values():
                drive.heal()

    # -- when ---------------------------------------------------------------------------------

    def _arm(self) -> None:
        if self.done:
            return
        fault = self._options.faults[self._next]
        self._left = fault.count
        wait = fault.count * MILLI_NS if fault.trigger == "time" else PATIENCE_NS
        self._world.after(wait, self._due, self._next)

    def _due(self, number: int) -> None:
        if number == self._next and not self._stopped:
            self._strike()

    def _count(self, trigger: str, machine: Machine | None) -> None:
        if self.done or self._stopped:
            return
        fault = self._options.faults[self._next]
        if fault.trigger != trigger or (machine and machine is not self._target(fault)):
            return
        self._left -= 1
        if self._left == 0:
            self._strike()

    def _on_state(self, machine: Machine, change: StateChanged) -> None:
        self._count("state", None)

    def _submit_hook(self, machine: Machine) -> Callable[[str, str], None]:
        def on_submit(zone: str, kind: str) -> None:
            if not self.done and self._options.faults[self._next].zone in ("any", zone):
                self._count("submit", machine)

        return on_submit

    # -- what ---------------------------------------------------------------------------------

    def _strike(self) -> None:
        fault = self._options.faults[self._next]
        self._next += 1
        target = self._target(fault)
        self._world.note("world", "fault {}: {} (of {})", self._next, fault.kind, target.name)
        self._world.mark(f"fault: {fault.kind}")
        self._workload.enough = self._workload.writes_acked + self._workload.errors + self._share
        self._mark_circumstances(fault, target)
        if fault.kind in WIDER_FAULTS:
            self._wider.strike(fault, target)
        elif fault.kind in POLICY_FAULTS:
            self._policy.strike(fault, target)
        elif fault.kind in RESIZE_FAULTS:
            self._resizes.strike(fault, target)
        else:
            getattr(self, "_" + fault.kind.replace("-", "_"))(fault, target)
        self._arm()

    def _target(self, fault: Fault) -> Machine:
        """Whom a fault is meant for, by the roles as they are now."""
        first, second = self._machines
        if fault.target in (first.name, second.name):
            return first if fault.target == first.name else second
        primary = second if second.serving_role is Role.PRIMARY else first
        return primary if fault.target == "primary" else self._network.other(primary)

    def _mark_circumstances(self, fault: Fault, target: Machine) -> None:
        resyncing = any(
            "Sync" in str(s.conn) or "BitMap" in str(s.conn) for s in target.states.values()
        )
        if target.alive and resyncing:
            self._world.mark(f"{fault.kind} during a resync")
        if target.serving_role is Role.PRIMARY:
            self._world.mark(f"{fault.kind} of the Primary")
        if any(write for *_, write in self._workload.busy):
            self._world.mark(f"{fault.kind} while writing")

    def _cut(self, fault: Fault, target: Machine) -> None:
        self._network.cut()

    def _cut_one(self, fault: Fault, target: Machine) -> None:
        self._network.cut(self._chance.randrange(8))

    def _stall(self, fault: Fault, target: Machine) -> None:
        self._block(fault, *self._machines)
        self._block(fault, *reversed(self._machines))

    def _stall_one_way(self, fault: Fault, target: Machine) -> None:
        self._block(fault, target, self._network.other(target))

    def _block(self, fault: Fault, source: Machine, destination: Machine) -> None:
        self._network.block(source, destination)
        self._world.after(fault.duration_ns, self._unblock, source, destination)

    def _unblock(self, source: Machine, destination: Machine) -> None:
        if self._network.is_blocked(source, destination):
            self._network.unblock(source, destination)

    def _kill(self, fault: Fault, target: Machine) -> None:
        target.kill()
        self._operator.bring_back(target, fault.duration_ns)

    def _kill_both(self, fault: Fault, target: Machine) -> None:
        for machine in self._machines:
            machine.kill()
            self._operator.bring_back(machine, self._chance.randrange(fault.duration_ns + 1))

    def _power(self, fault: Fault, target: Machine) -> None:
        target.power_off()
        self._operator.bring_back(target, fault.duration_ns)

    def _power_both(self, fault: Fault, target: Machine) -> None:
        for machine in self._machines:
            machine.power_off()
            self._operator.bring_back(machine, self._chance.randrange(fault.duration_ns + 1))

    def _pause(self, fault: Fault, target: Machine) -> None:
        # the signal takes effect between two events: a step that runs is finished first
        self._world.after(0, target.pause)
        self._world.after(fault.duration_ns, target.resume)

    def _disk_error(self, fault: Fault, target: Machine) -> None:
        drive = self._sick_drive()
        left = FOREVER if fault.forever else 1
        drive.faults.append(DriveFault(fault.zone, fault.operation, left=left))

    def _disk_slow(self, fault: Fault, target: Machine) -> None:
        for drive in target.drives.values():
            drive.slowness = SLOWNESS
            self._world.after(fault.duration_ns, self._drive_is_fast_again, drive)

    def _drive_is_fast_again(self, drive: Drive) -> None:
        drive.slowness = 1

    def _switchover(self, fault: Fault, target: Machine) -> None:
        self._operator.wants_switchover = True

    def _reconnect(self, fault: Fault, target: Machine) -> None:
        self._world.after(0, self._operator.disconnect, target, fault.duration_ns)

    def _restart(self, fault: Fault, target: Machine) -> None:
        self._world.after(0, self._operator.restart, self._network.other(self._target(fault)))

    def _sick_drive(self) -> Drive:
        for machine in self._machines:
            if machine.name == self._options.sick:
                return self._chance.choice(list(machine.drives.values()))
        raise AssertionError(self._options.sick)
