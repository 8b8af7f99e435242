"""The Disk port over a simulated drive: delays, any order of completion, errors by zone.

A ``Drive`` is the hardware: contents, faults, speed; it outlives processes. A ``SimDisk`` is one
opening of it. An operation takes effect when it completes. The promises that ``engine.ports.Disk``
asks of the node are asserted here: a node that breaks one fails the run.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from replblk.engine.ports import Buffer, OpenFailed
from replblk.meta.layout import Layout
from replblk.meta.superblock import Superblock
from replblk.model.errors import MetadataError
from replblk.sim.store import SECTOR_BYTES, Store
from replblk.sim.world import MICRO_NS

if TYPE_CHECKING:
    from replblk.engine.ports import Disk
    from replblk.sim.machine import Life, Machine

AL_BLOCK_BYTES = 4096
_AL_UPDATES, _AL_UPDATES_AT = struct.Struct(">H"), 14
_AL_UPDATES_MAX = 64
_AL_SLOT, _AL_SLOTS_AT = struct.Struct(">H"), 36
_AL_EXTENT, _AL_EXTENTS_AT = struct.Struct(">I"), 164
FOREVER = -1
ERR_OPEN_DISK = 104


@dataclass(slots=True)
class DriveFault:
    """Operations that fail. zone: data, bitmap, al, superblock or any; kind: read, write or flush.

    skip: how many such operations still succeed first; left: how many then fail (FOREVER: all).
    A durable write ends with a flush, so a fault of flushes hits it, too.
    """

    zone: str
    kind: str
    errno: int = errno.EIO
    skip: int = 0
    left: int = 1

    @property
    def name(self) -> str:
        """What it is called in the list of things that happened."""
        return "disk full" if self.errno == errno.ENOSPC else "disk error"

    def strikes(self, zone: str, kind: str, durable: bool) -> bool:
        """Whether this operation fails."""
        if kind == "zero":
            kind = "write"
        if kind != self.kind and not (self.kind == "flush" and durable):
            return False
        if self.zone not in ("any", zone) and self.kind != "flush":
            return False
        if self.skip:
            self.skip -= 1
            return False
        if not self.left:
            return False
        if self.left != FOREVER:
            self.left -= 1
        return True


@dataclass(frozen=True, slots=True)
class DriveSpeed:
    """How long operations take: a floor, and a spread above it (mostly small). Nanoseconds."""

    floor_ns: int = 20 * MICRO_NS
    spread_ns: int = 200 * MICRO_NS
    flush_ns: int = 100 * MICRO_NS


class _Op:
    """An operation in flight. data None with kind zero."""

    __slots__ = ("covers", "data", "durable", "kind", "length", "number", "offset", "zone")

    def __init__(self, number: int, kind: str, zone: str, offset: int, length: int) -> None:
        self.number = number
        self.kind = kind
        self.zone = zone
        self.offset = offset
        self.length = length
        self.durable = False
        self.data: Buffer | None = None
        self.covers = 0


class Drive:
    """One drive of one machine: contents, zones, faults, speed, and who holds it open."""

    def __init__(self, machine: Machine, volume: int, store: Store, layout: Layout) -> None:
        self.machine = machine
        self.volume = volume
        self.store = store
        self.layout = layout
        self._zoned, self._data_end = layout, layout.bm_offset_bytes
        """Of which layout the data end where."""
        self.speed = DriveSpeed()
        self.slowness = 1
        """Factor on all delays; more than 1 while a fault makes the drive slow."""
        self.faults: list[DriveFault] = []
        self.lies: list[str] = []
        """What becomes of the next writes, although they are said to be done: see ``lie``."""
        self.lies_about_metadata = False
        """It lies about the metadata instead of the data."""
        self.stuck_until_ns = 0
        """No operation is answered before that moment."""
        self.struck = 0
        """How many operations failed in this run."""
        self.holder: SimDisk | None = None
        self.on_submit: Callable[[str, str], None] | None = None
        """Told zone and kind of every operation submitted: triggers of faults."""
        self.on_metadata: Callable[[Drive, tuple[int, bytes] | None], None] | None = None
        """Told of every metadata write: where and what at its submission, None when it is done."""
        self.chance = machine.world.chance(f"drive/{machine.name}/{volume}")
        self.known = (store.size_bytes, 0)
        """Size and UUID that its machine has noted for a later attach."""

    def zone(self, offset: int) -> str:
        """Which part of the device an offset lies in (data, bitmap, activity log, superblock)."""
        if self.layout is not self._zoned:
            self._zoned, self._data_end = self.layout, self.layout.bm_offset_bytes
        if offset < self._data_end:
            return "data"
        layout = self.layout
        if offset > layout.md_offset_bytes:
            layout = Layout.internal(self.store.size_bytes)
        if offset < layout.bm_offset_bytes:
            return "data"
        if offset < layout.al_offset_bytes:
            return "bitmap"
        return "al" if offset < layout.md_offset_bytes else "superblock"

    def grow(self, size_bytes: int) -> None:
        """The device has that size from now on; its metadata stay where they are."""
        self.store.grow(size_bytes)

    def found_layout(self) -> Layout:
        """Where an attach would find the metadata now: at the end, else where they were noted."""
        end = Layout.internal(self.store.size_bytes)
        block = self.store.read(end.md_offset_bytes, AL_BLOCK_BYTES)
        try:
            Superblock.decode(block, partial(Layout.internal, self.store.size_bytes))
        except MetadataError:
            return self.layout
        return end

    def remember(self, size_bytes: int, device_uuid: int) -> None:
        """The machine notes how large the device is that has its metadata at its end."""
        self.known = size_bytes, device_uuid
        self.layout = Layout.internal(size_bytes)

    def strike(self, zone: str, kind: str, durable: bool) -> int:
        """The errno an operation ends with."""
        for fault in self.faults:
            if fault.strikes(zone, kind, durable):
                self.struck += 1
                self.machine.world.mark(f"{fault.name}: {fault.kind} {zone}")
                return fault.errno
        return 0

    def lie(self, offset: int, data: bytes | None, length: int) -> tuple[int, bytes | None] | None:
        """Where a write really goes, and with what: None if it is lost.

        It stays among the data, or among the metadata. In metadata the bit that flips is one of the
        first sector, where the superblock has its fields and a transaction its updates.
        """
        kind = self.lies.pop(0)
        if kind != "honest":
            of = " metadata" if self.lies_about_metadata else ""
            self.machine.world.mark(f"drive lies: {kind}{of}")
        if kind == "lost":
            return None
        if kind == "misdirected":
            first, end = 0, self.layout.bm_offset_bytes
            if self.lies_about_metadata:
                first, end = self.layout.bm_offset_bytes, self.store.size_bytes
            places = (end - first - length) // SECTOR_BYTES
            return first + self.chance.randrange(places + 1) * SECTOR_BYTES, data
        if kind == "spoilt":
            whole = bytearray(data if data is not None else bytes(length))
            where = SECTOR_BYTES if self.lies_about_metadata else length
            whole[self.chance.randrange(where)] ^= 1 << self.chance.randrange(8)
            return offset, bytes(whole)
        return offset, data

    def heal(self) -> None:
        """From now on everything succeeds again."""
        self.faults.clear()
        self.slowness = 1
        self.stuck_until_ns = 0


class SimDisks:
    """The Disks port of one life of a machine."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def open(self, volume: int) -> Disk | OpenFailed:
        """Open the drive of *volume*; held open by another: refused as a lock would."""
        drive = self._life.machine.drives.get(volume)
        if drive is None:
            return OpenFailed(ERR_OPEN_DISK, f"volume {volume} has no backing device")
        assert drive.holder is None, "the node opened a backing device that it holds open"
        drive.holder = SimDisk(self._life, drive)
        return drive.holder


class SimDisk:
    """One open backing device (``engine.ports.Disk``)."""

    def __init__(self, life: Life, drive: Drive) -> None:
        self.size_bytes = drive.store.size_bytes
        self.block_bytes = SECTOR_BYTES
        self._life = life
        self._drive = drive
        self._world = life.machine.world
        self._flying: dict[int, _Op] = {}
        self._last_op = 0
        self._slots: dict[int, int] = {}
        """Which extent each slot of the activity log holds, by the transactions seen."""
        self._closed = False

    def read(self, op: int, offset: int, length: int) -> None:
        """Read; answered with the contents at completion."""
        self._submit(_Op(op, "read", self._drive.zone(offset), offset, length))

    def write(self, op: int, offset: int, data: Buffer, *, durable: bool) -> None:
        """Write; the buffer is looked at when the write completes, as by a device."""
        action = _Op(op, "write", self._drive.zone(offset), offset, len(data))
        action.data = data
        action.durable = durable
        self._submit(action)

    def writes(self, operations: list[tuple[int, int, Buffer, bool]]) -> None:
        """``write`` for each."""
        for op, offset, data, durable in operations:
            self.write(op, offset, data, durable=durable)

    def zero(self, op: int, offset: int, length: int, *, unmap: bool, durable: bool) -> None:
        """Zero a range."""
        action = _Op(op, "zero", self._drive.zone(offset), offset, length)
        action.durable = durable
        self._submit(action)

    def flush(self, op: int) -> None:
        """Make everything answered so far durable."""
        action = _Op(op, "flush", "any", 0, 0)
        action.covers = self._drive.store.write_count()
        self._submit(action)

    def measure(self) -> int:
        """The drive's size as it is now."""
        self.size_bytes = self._drive.store.size_bytes
        return self.size_bytes

    def last_known(self) -> tuple[int, int]:
        """What the machine noted of the drive."""
        return self._drive.known

    def remember(self, size_bytes: int, device_uuid: int) -> None:
        """Note where the metadata are."""
        if not self._life.dead:
            self._world.note(self._life.machine.name, "metadata are at the end of {}", size_bytes)
            self._drive.remember(size_bytes, device_uuid)

    def close(self) -> None:
        """Give the drive back."""
        if self._life.dead:
            return
        assert not self._closed, "a disk was closed twice"
        assert not self._flying, f"closed with operations in flight: {sorted(self._flying)}"
        self._closed = True
        self._drive.holder = None
        self._world.note(self._life.machine.name, "disk closed")

    def in_flight_writes(self) -> list[tuple[int, bytes | None, int]]:
        """Offset, data (None: zeroes) and length of the writes that have not been answered."""
        return [
            (op.offset, None if op.data is None else bytes(op.data), op.length)
            for op in self._flying.values()
            if op.kind in ("write", "zero")
        ]

    def _submit(self, op: _Op) -> None:
        if self._life.dead:
            return
        self._check(op)
        self._flying[op.number] = op
        drive = self._drive
        self._world.note(
            self._life.machine.name,
            "disk {} #{} {} {}+{}{}",
            *(op.kind, op.number, op.zone, op.offset, op.length, " durable" if op.durable else ""),
        )
        draw = drive.chance.random()
        delay = drive.speed.floor_ns + int(draw * draw * draw * drive.speed.spread_ns)
        if op.durable or op.kind == "flush":
            delay += drive.speed.flush_ns
        ends_ns = max(self._world.now_ns + delay * drive.slowness, drive.stuck_until_ns + delay)
        self._world.at(ends_ns, self._complete, op)
        if op.zone == "al" and op.data is not None:
            self._watch_evictions(op.data)
        if drive.on_metadata is not None and op.zone != "data" and op.data is not None:
            drive.on_metadata(drive, (op.offset, bytes(op.data)))
        if drive.on_submit is not None:
            drive.on_submit(op.zone, op.kind)

    def _watch_evictions(self, block: Buffer) -> None:
        """Mark the run when an activity-log transaction puts another extent into a used slot."""
        if len(block) != AL_BLOCK_BYTES:
            return
        updates = int(_AL_UPDATES.unpack_from(block, _AL_UPDATES_AT)[0])
        for at in range(min(updates, _AL_UPDATES_MAX)):
            slot = int(_AL_SLOT.unpack_from(block, _AL_SLOTS_AT + at * _AL_SLOT.size)[0])
            extent = int(_AL_EXTENT.unpack_from(block, _AL_EXTENTS_AT + at * _AL_EXTENT.size)[0])
            if self._slots.setdefault(slot, extent) != extent:
                self._slots[slot] = extent
                self._world.mark("activity log evicted an extent")

    def _check(self, op: _Op) -> None:
        assert not self._closed, f"{op.kind} on a closed disk"
        assert op.number > self._last_op, f"operation number {op.number} was used before"
        self._last_op = op.number
        if op.kind == "flush":
            return
        assert op.length > 0, f"{op.kind} of nothing"
        assert op.offset % SECTOR_BYTES == 0 and op.length % SECTOR_BYTES == 0, "unaligned"
        assert 0 <= op.offset <= self.size_bytes - op.length, f"{op.kind} beyond the end"
        end = op.offset + op.length
        for other in self._flying.values():
            if op.kind == "read" and other.kind == "read":
                continue
            assert not (op.offset < other.offset + other.length and other.offset < end), (
                f"{op.kind} #{op.number} {op.offset}+{op.length} overlaps {other.kind} "
                f"#{other.number} {other.offset}+{other.length} in flight"
            )

    def _complete(self, op: _Op) -> None:
        if self._life.dead:
            return
        del self._flying[op.number]
        drive, store = self._drive, self._drive.store
        failed = drive.strike(op.zone, op.kind, op.durable)
        data: bytes | None = None
        if op.kind == "read":
            data = None if failed else store.read(op.offset, op.length)
        elif op.kind == "flush":
            if failed:
                store.flush_failed(drive.chance)
            else:
                store.flushed(op.covers)
        else:
            content = None if op.data is None else bytes(op.data)
            if failed:
                store.kill([(op.offset, content, op.length)], drive.chance)
                if op.durable:
                    store.flush_failed(drive.chance)
            elif drive.lies and (op.zone != "data") is drive.lies_about_metadata:
                real = drive.lie(op.offset, content, op.length)
                if real is not None:
                    store.write(*real, op.length, durable=op.durable)
            else:
                store.write(op.offset, content, op.length, durable=op.durable)
        if failed:
            self._world.note(self._life.machine.name, "disk #{} fails, errno {}", op.number, failed)
        if drive.on_metadata is not None and op.zone != "data" and op.data is not None:
            drive.on_metadata(drive, None)
        machine = self._life.machine
        machine.deliver(self._life, "on_disk_answers", [(op.number, failed, data)])
