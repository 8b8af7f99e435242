"""Faults of profile resize: backing devices that grow, and the command at bad moments.

| fault | what happens |
|---|---|
| grow | both backing devices grow, by much or by less than their metadata, and a node is resized |
| grow-one | only one of them does; the other catches up, or never does |
| grow-offline | a machine is killed, its device grows, and it comes back |
| shrink | the device is made smaller by name |
| resize | the command alone, on whichever node, Primary or not |

New room reads as zeroes. What clients know of a sector that was cut off is forgotten, and they do
not use it again, though the device may grow over it later: its old contents are nobody's promise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.meta.layout import Layout
from replblk.sim.world import MILLI_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.model.notices import SizeChanged
    from replblk.sim.client import Workload
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.operator import Operator
    from replblk.sim.options import Fault

RESIZE_FAULTS = ("grow", "grow-one", "grow-offline", "shrink", "resize")
STEPS_BYTES = (4096, 12288, 40960, 65536, 512 << 10, 1 << 20, 3 << 20)
"""By how much a device grows: less than its metadata take, just that, more, much more."""
RETRY_NS = 200 * MILLI_NS
TRIES = 20


class Resizes:
    """Carries them out, and keeps the clients' idea of the device's size."""

    def __init__(self, network: Network, workload: Workload, operator: Operator) -> None:
        self._network = network
        self._world = network.world
        self._workload = workload
        self._operator = operator
        self._chance = self._world.chance("resizes")
        self._limits = dict(workload.sizes_sectors)
        """The volumes, and the sizes that they begin with."""
        for machine in network.machines:
            machine.on_size.append(self._on_size)

    def begin(self) -> None:
        """From now on sizes are set right by hand where nodes refuse each other for them."""
        for machine in self._network.machines:
            machine.on_told.append(self._heard)

    def strike(self, fault: Fault, target: Machine) -> None:
        """One fault, after the step that runs now."""
        name = "resize-alone" if fault.kind == "resize" else fault.kind
        action = getattr(self, "_" + name.replace("-", "_"))
        self._world.after(0, action, fault, target)

    # -- what happens -------------------------------------------------------------------------

    def _grow(self, fault: Fault, target: Machine) -> None:
        volume, step = self._pick(target)
        for machine in self._network.machines:
            self._enlarge(machine, volume, step)
        self._resize(target, TRIES)

    def _grow_one(self, fault: Fault, target: Machine) -> None:
        volume, step = self._pick(target)
        self._enlarge(target, volume, step)
        self._resize(target, TRIES)
        if self._chance.random() < 0.6:
            other = self._network.other(target)
            self._world.after(fault.duration_ns, self._enlarge, other, volume, step)
            again = self._chance.choice((target, other))
            self._world.after(fault.duration_ns + MILLI_NS, self._resize, again, TRIES)

    def _grow_offline(self, fault: Fault, target: Machine) -> None:
        volume, step = self._pick(target)
        if self._chance.random() < 0.5:
            target.kill()
        else:
            target.power_off()
        self._enlarge(target, volume, step)
        if self._chance.random() < 0.5:
            self._enlarge(self._network.other(target), volume, step)
        self._operator.bring_back(target, fault.duration_ns)
        self._world.after(fault.duration_ns + MILLI_NS, self._resize, target, TRIES)

    def _shrink(self, fault: Fault, target: Machine) -> None:
        if target.node is None:
            return
        volume, _ = self._pick(target)
        current = target.node.volumes[volume].capacity_sectors
        wanted = self._chance.randrange(current // 2, current + 1)
        self._resize(target, 3, volume=volume, size_sectors=max(wanted, 8))

    def _resize_alone(self, fault: Fault, target: Machine) -> None:
        self._resize(target, 1)

    def _pick(self, target: Machine) -> tuple[int, int]:
        return self._chance.choice(list(target.drives)), self._chance.choice(STEPS_BYTES)

    def _enlarge(self, machine: Machine, volume: int, step: int) -> None:
        if self._operator.healing:
            return
        drive = machine.drives[volume]
        drive.grow(drive.store.size_bytes + step)
        size = drive.store.size_bytes
        self._world.note(machine.name, "drive {} grows to {} bytes", volume, size)

    def _heard(self, machine: Machine, text: str) -> None:
        """One node became smaller and the other never heard of it: as the log tells, by hand."""
        if "disk size is too small!" in text:
            self._world.after(0, self._by_hand, machine)

    def _by_hand(self, machine: Machine) -> None:
        other = self._network.other(machine)
        if machine.node is None or other.node is None:
            return
        for volume in machine.drives:
            size = other.node.volumes[volume].capacity_sectors
            if 0 < size < machine.node.volumes[volume].capacity_sectors:
                self._world.mark("made smaller by hand as its peer was")
                self._resize(machine, 3, volume=volume, by_hand=True, size_sectors=size)
                return

    def _resize(
        self,
        machine: Machine,
        tries: int,
        *,
        volume: int | None = None,
        by_hand: bool = False,
        **options: object,
    ) -> None:
        """Give the command when the machine can take one; an administrator repeats a refusal."""
        if tries <= 0 or (self._operator.healing and not by_hand):
            return  # once everything is mended, nobody begins anything new

        def again() -> None:
            self._world.after(
                RETRY_NS,
                lambda: self._resize(machine, tries - 1, volume=volume, by_hand=by_hand, **options),
            )

        if not self._operator.free(machine):
            again()
            return

        def told(answer: Answer) -> None:
            self._world.mark(f"resize {'refused' if answer.exit_code else 'done'}")
            if answer.exit_code:
                self._world.mark(f"resize refused: {answer.code}")
                again()

        self._operator.command(machine, "resize", told, volume=volume, **options)

    # -- what clients know --------------------------------------------------------------------

    def _on_size(self, machine: Machine, change: SizeChanged) -> None:
        """A node's device has another size: clients of a Primary obey it at once."""
        volume, new = change.volume, change.new_sectors
        if not change.old_sectors or volume not in self._limits:
            return
        workload = self._workload
        if new < change.old_sectors:
            self._world.mark("device became smaller")
            if new < workload.sizes_sectors[volume]:
                workload.cut_off(volume, new)
            return
        self._world.mark("device became larger")
        if machine.serving_role.name == "PRIMARY" and volume not in workload.capped:
            workload.grown(volume, new)


def judge_sizes(network: Network) -> None:
    """At rest: both devices have the same size, and metadata that could be attached again."""
    first, second = network.machines
    assert first.node is not None and second.node is not None
    for volume in first.drives:
        sizes = [m.node.volumes[volume].capacity_sectors for m in (first, second) if m.node]
        if sizes[0] != sizes[1]:
            raise SimulationError(f"I13: vol {volume} has {sizes[0]} sectors and {sizes[1]}")
        for machine in (first, second):
            drive = machine.drives[volume]
            known = drive.known[0]
            if drive.found_layout() != Layout.internal(known):
                raise SimulationError(
                    f"I13: the metadata of {machine} vol {volume} are not where an attach would "
                    f"look for them ({known} of {drive.store.size_bytes} bytes)"
                )
