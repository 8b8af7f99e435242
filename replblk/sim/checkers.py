"""The invariants, judged from outside with knowledge of both disks.

| id | what | when |
|---|---|---|
| I1 | a promoted UpToDate node holds every acknowledged write | at promotion, at the end |
| I2 | a power cut takes nothing acknowledged (durability "disk") | as I1 |
| I3 | sectors read as the register model allows | every client read, at the end |
| I4 | blocks that differ are marked somewhere, or their write is outstanding | at changes of the
  connection, every few writes, before a boot |
| I5 | after the faults: both Connected, UpToDate, oos 0, identical | at the end |
| I6 | diverged data are never merged silently | split-brain runs |
| I7 | a Secondary serves nobody | now and then |
| I8 | what one disk alone has is acknowledged once its durable generation is newer | then |
| I9 | no error without a cause | at every error |
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from replblk.meta.al_transaction import replay
from replblk.meta.bitmap import Bitmap
from replblk.meta.superblock import MdFlag
from replblk.model.units import AL_EXTENT_BITS
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.generation_audit import judge_acknowledged
from replblk.sim.image import AL_BLOCKS
from replblk.sim.metadata_audit import MetadataAudit
from replblk.sim.register import value_of
from replblk.sim.resizes import judge_sizes
from replblk.sim.store import PAGE_BYTES, SECTOR_BYTES, differing_pages
from replblk.sim.world import SimulationError

if TYPE_CHECKING:
    from replblk.model.notices import StateChanged
    from replblk.sim.client import Workload
    from replblk.sim.disk import Drive
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.metadata_audit import Overlay

SECTORS_PER_PAGE = PAGE_BYTES // SECTOR_BYTES
ACKS_PER_AUDIT = 16
SHOWN = 8
_FLAGS_AT = 56
_CURRENT_AT = 8
_JUST_CREATED = 4


class Checkers:
    """Watches one run."""

    def __init__(self, network: Network, workload: Workload) -> None:
        self._network = network
        self._world = network.world
        self._machines = network.machines
        self._workload = workload
        self._audit_due = False
        self._acks = 0
        self.one_primary = True
        """Two Primaries at once are a violation (not so with an erring operator)."""
        self.split = False
        """The nodes' data went separate ways: they must not connect until told how."""
        self.unsynced = False
        """The pair was never in sync yet: nothing can be said of its blocks."""
        self.foreign = ""
        """The machine whose disk was swapped for an empty or older one: until the pair is in sync
        its marks mean nothing, generations have to tell."""
        self.blind = False
        """A disk lies: what differs is marked nowhere, and nobody can know."""
        self.lenient = False
        """Administrators spoil data at will: errors are no wonder."""
        self._metadata = MetadataAudit(network, workload)
        for machine in self._machines:
            for drive in machine.drives.values():
                drive.on_metadata = self._on_metadata
        workload.on_ack.append(self._on_ack)
        workload.on_error.append(self._on_error)
        for machine in self._machines:
            machine.on_state.append(self._on_state)
            machine.on_step.append(self._on_step)

    # -- states -------------------------------------------------------------------------------

    def _on_state(self, machine: Machine, change: StateChanged) -> None:
        new, other = change.new, self._network.other(machine)
        if change.old.conn is not new.conn:
            self._audit_due = True
        both = new.role is other.serving_role is Role.PRIMARY
        serve = not self.without_data(other) and not self.without_data(machine)
        if both and self.one_primary and serve:
            raise SimulationError("two Primaries at once")
        if {new.role, new.peer} == {Role.PRIMARY} and new.conn >= ConnState.CONNECTED:
            raise SimulationError(f"two Primaries are connected: {machine} is {new}")
        if self.split and new.conn >= ConnState.CONNECTED:
            raise SimulationError(f"I6: diverged nodes connect: {machine} is {new}")
        promoted = new.role is Role.PRIMARY is not change.old.role
        if promoted and new.disk is not DiskState.UP_TO_DATE is not new.pdsk:
            raise SimulationError(f"I7: {machine} is promoted without good data: {new}")
        if new.conn is ConnState.SYNC_SOURCE and new.disk is not DiskState.UP_TO_DATE:
            raise SimulationError(f"{machine} is SyncSource with a disk {new.disk}")
        if new.conn is ConnState.SYNC_TARGET and new.disk > DiskState.INCONSISTENT:
            raise SimulationError(f"{machine} is SyncTarget with a disk {new.disk}")
        resynced = change.old.conn in (ConnState.SYNC_SOURCE, ConnState.SYNC_TARGET)
        if resynced and new.conn < ConnState.CONNECTED:
            self._world.mark("resync interrupted")
        if new.conn is not change.old.conn and new.conn in (
            ConnState.SYNC_SOURCE,
            ConnState.SYNC_TARGET,
        ):
            self._world.mark(f"became {new.conn}")

    @staticmethod
    def without_data(machine: Machine) -> bool:
        """A Primary that lost its source in a resync, and can neither read nor write anything."""
        return all(
            state.disk is DiskState.INCONSISTENT and state.conn < ConnState.CONNECTED
            for state in machine.states.values()
        )

    def _on_step(self, machine: Machine) -> None:
        if self._audit_due:
            self._audit_due = False
            self.audit()
            if self.foreign and self.settled() and not self.marked_blocks():
                self.foreign = ""
                self._world.mark("a swapped disk is in sync")

    # -- acknowledgements and errors ----------------------------------------------------------

    def _on_ack(self, machine: Machine, volume: int) -> None:
        self._acks += 1
        if self._acks % ACKS_PER_AUDIT == 0:
            self._audit_due = True
        state = machine.states[volume]
        if state.disk is DiskState.UP_TO_DATE is not state.pdsk:
            self._world.mark("write acknowledged without the peer")
        if not (self._vague or self._workload.register.weak):
            self._judge_acknowledged(machine, volume)

    def _judge_acknowledged(self, machine: Machine, volume: int) -> None:
        """I8: what only one node has bears the name of a newer generation there."""
        first, sectors = self._workload.acked_place
        if self._workload.writing(volume, range(first, first + sectors)):
            return  # it overlaps this one: each disk may have either
        drives = machine.drives[volume], self._network.other(machine).drives[volume]
        if not any(drive.store.doubtful_pages() for drive in drives):
            judge_acknowledged(drives, first * SECTOR_BYTES, self._workload.acked_data)

    def peer_has_it(self, machine: Machine, volume: int) -> bool:
        """Whether what was just acknowledged is on the peer's disk all the same."""
        first, sectors = self._workload.acked_place
        place = first * SECTOR_BYTES, sectors * SECTOR_BYTES
        own, peers = (m.drives[volume].store for m in (machine, self._network.other(machine)))
        if self._workload.register.weak:
            return own.read(*place) == peers.read(*place)
        return own.read_durable(*place) == peers.read_durable(*place)

    @property
    def _vague(self) -> bool:
        """Whether the disks' metadata are not to be measured by what is on the disks."""
        return bool(self.unsynced or self.split or self.foreign or self.lenient or self.blind)

    def _on_error(self, machine: Machine, kind: str, errno: int) -> None:
        states = machine.states.values()
        reachable = all(
            s.disk is DiskState.UP_TO_DATE or s.pdsk is DiskState.UP_TO_DATE for s in states
        )
        struck = any(d.struck for m in self._machines for d in m.drives.values())
        own = any(d.struck for d in machine.drives.values())
        if own:  # the peer's disk is whole: what fails here is to be had there
            struck = any(
                s.conn < ConnState.CONNECTED or s.pdsk is not DiskState.UP_TO_DATE for s in states
            )
        elif struck:
            struck = any(s.disk is not DiskState.UP_TO_DATE for s in states)
        if reachable and not struck and not self.lenient:
            raise SimulationError(
                f"I9: {kind} failed with errno {errno} on {machine} for no reason"
            )
        self._world.mark("error told to a client")

    # -- I1, I2: what a promoted node holds -----------------------------------------------------

    def judge_promoted(self, machine: Machine) -> None:
        """Every sector of a promoted UpToDate node must be what a client may read there."""
        register = self._workload.register_of(machine)
        for volume, sector in register.written():
            if machine.states[volume].disk is not DiskState.UP_TO_DATE:
                continue
            if sector >= self._size_of(machine, volume):
                raise SimulationError(
                    f"I1: {machine} was promoted, but its vol {volume} ends before sector {sector}"
                )
            value = self._value(machine.drives[volume], sector)
            if not register.may_hold(volume, sector, value):
                raise SimulationError(
                    f"I1: {machine} was promoted, but its vol {volume} sector {sector} holds write "
                    f"{value}; possible: {register.expected(volume, sector)}"
                )

    def judge_secondary_refuses(self, machine: Machine) -> None:
        """I7: a client can't open the device of a Secondary."""
        if machine.node is None or machine.paused or machine.serving_role is Role.PRIMARY:
            return
        if all(s.role is Role.SECONDARY for s in machine.states.values()):
            for volume in machine.drives:
                if machine.node.open_device(volume) is None:
                    raise SimulationError(f"I7: {machine} is Secondary, but its device opens")

    # -- I4: what differs is marked -------------------------------------------------------------

    def audit(self) -> None:
        """While both nodes talk: blocks that differ are marked on one side."""
        first, second = self._machines
        if self.blind or not (first.alive and second.alive):
            return
        for volume in first.drives:
            states = first.states[volume], second.states[volume]
            if any(s.conn < ConnState.CONNECTED for s in states):
                continue
            if any(s.disk < DiskState.INCONSISTENT for s in states):
                continue
            bitmaps = [b for m in self._machines if (b := live_bitmap(m, volume)) is not None]
            if len(bitmaps) == 2:
                self._judge_differences(volume, bitmaps, [], "while connected")

    def judge_before_boot(self, machine: Machine) -> None:
        """From a dead node's disk alone: its bitmap and activity log cover what differs."""
        if self.unsynced or self.split or self.foreign or self.lenient:
            return
        other = self._network.other(machine)
        for volume in machine.drives:
            bitmaps: list[Bitmap] = []
            extents: list[int] = []
            for node in (machine, other):
                there = node.drives[volume]
                if node.alive:
                    live = live_bitmap(node, volume)
                    if live is None or node.states[volume].conn > ConnState.WF_REPORT_PARAMS:
                        break
                    bitmaps.append(live)
                elif not self._durable_marks(there, bitmaps, extents):
                    break
            else:
                self._judge_differences(volume, bitmaps, extents, f"at the start of {machine}")

    def _on_metadata(self, drive: Drive, overlay: Overlay) -> None:
        if not self._vague:
            self._metadata.judge(drive, overlay)

    def _judge_differences(
        self, volume: int, bitmaps: list[Bitmap], extents: list[int], when: str
    ) -> None:
        first, second = (m.drives[volume] for m in self._machines)
        unconfirmed = [
            sectors
            for m in self._machines
            if m.node is not None
            for of, sectors in m.node.unconfirmed
            if of == volume
        ]
        end = min(self._size_of(m, volume) for m in self._machines) * SECTOR_BYTES
        lost = first.store.lost_pages | second.store.lost_pages
        for page in differing_pages(first.store.pages, second.store.pages, end):
            if page in lost or any(page < len(b) and b.any(page, page + 1) for b in bitmaps):
                continue
            if page // AL_EXTENT_BITS in extents:
                continue
            sectors = range(page * SECTORS_PER_PAGE, (page + 1) * SECTORS_PER_PAGE)
            if self._workload.writing(volume, sectors):
                continue
            if any(u.start < sectors.stop and sectors.start < u.stop for u in unconfirmed):
                continue
            values = [self._raw(d, s) for d in (first, second) for s in sectors]
            raise SimulationError(
                f"I4: vol {volume} block {page} differs {when}, but is marked nowhere; "
                f"sectors hold writes {values[:8]} and {values[8:]}"
            )

    @staticmethod
    def _size_of(machine: Machine, volume: int) -> int:
        """Sectors of the device, as a running node has it or as its disk remembers it."""
        if machine.node is not None and machine.node.volumes[volume].capacity_sectors:
            return int(machine.node.volumes[volume].capacity_sectors)
        drive = machine.drives[volume]
        layout = drive.found_layout()
        block = drive.store.read(layout.md_offset_bytes, PAGE_BYTES)
        return int(struct.unpack_from(">Q", block)[0]) or layout.usable_sectors

    def _durable_marks(self, drive: Drive, bitmaps: list[Bitmap], extents: list[int]) -> bool:
        """Add what a dead node's metadata mark; False if they say "everything"."""
        layout, store = drive.found_layout(), drive.store
        block = store.read(layout.md_offset_bytes, PAGE_BYTES)
        flags = struct.unpack_from(">I", block, _FLAGS_AT)[0]
        if flags & MdFlag.FULL_SYNC:
            return False
        if struct.unpack_from(">Q", block, _CURRENT_AT)[0] == _JUST_CREATED:
            return False
        size = struct.unpack_from(">Q", block)[0] or layout.usable_sectors
        bitmaps.append(disk_bitmap(drive, -(-size // SECTORS_PER_PAGE)))
        if flags & MdFlag.PRIMARY_IND:
            blocks = [
                store.read(layout.al_offset_bytes + n * PAGE_BYTES, PAGE_BYTES)
                for n in range(AL_BLOCKS)
            ]
            extents += replay(blocks).extents
        return True

    # -- I5: the end ----------------------------------------------------------------------------

    def settled(self) -> bool:
        """Whether both nodes are Connected, UpToDate/UpToDate."""
        return all(m.settled and not m.paused for m in self._machines)

    def marked_blocks(self) -> int:
        """How many bits are set in the memory of both nodes."""
        marked = 0
        for machine in self._machines:
            if machine.node is not None:
                marked += sum(v.dirty_bits for v in machine.node.volumes.values())
        return marked

    def in_sync(self) -> bool:
        """Settled, and neither node counts a block as out of sync."""
        return self.settled() and not any(
            v.out_of_sync_kib
            for m in self._machines
            if m.node is not None
            for v in m.node.status().volumes
        )

    def describe(self) -> str:
        """Both nodes in a sentence each."""
        parts = []
        for machine in self._machines:
            if machine.node is None:
                parts.append(f"{machine}: dead")
                continue
            oos = [v.out_of_sync_kib for v in machine.node.status().volumes]
            states = ", ".join(str(s) for s in machine.states.values())
            parts.append(f"{machine}: {states} oos {oos} KiB{' paused' if machine.paused else ''}")
        return "; ".join(parts)

    def judge_end(self) -> None:
        """At rest: the disks are identical, and hold what clients may read."""
        first, second = self._machines
        judge_sizes(self._network)
        for volume in first.drives:
            size = self._size_of(first, volume)
            stores = first.drives[volume].store, second.drives[volume].store
            lost = stores[0].lost_pages | stores[1].lost_pages
            pages = differing_pages(stores[0].pages, stores[1].pages, size * SECTOR_BYTES)
            differing = [page for page in pages if page not in lost]
            if differing:
                raise SimulationError(
                    f"I5: vol {volume} is in sync by both nodes, but blocks {differing[:SHOWN]} "
                    f"({len(differing)} in all) differ"
                )
        register = self._workload.register
        for volume, sector in register.written():
            value = self._value(first.drives[volume], sector)
            register.end_read(register.tick(), volume, sector, value)

    def _value(self, drive: Drive, sector: int) -> int:
        return value_of(drive.store.read(sector * SECTOR_BYTES, SECTOR_BYTES), sector)

    def _raw(self, drive: Drive, sector: int) -> object:
        try:
            return self._value(drive, sector)
        except SimulationError:
            return "?"


def live_bitmap(machine: Machine, volume: int) -> Bitmap | None:
    """The bitmap in the memory of a running node; None without a disk."""
    assert machine.node is not None
    bitmap: Bitmap | None = machine.node.volumes[volume].bitmap
    return bitmap


def disk_bitmap(drive: Drive, bits: int) -> Bitmap:
    """The bitmap as it stands on a disk."""
    bitmap = Bitmap(bits)
    layout = drive.found_layout()
    length = layout.al_offset_bytes - layout.bm_offset_bytes
    bitmap.load(drive.store.read(layout.bm_offset_bytes, length))
    return bitmap
