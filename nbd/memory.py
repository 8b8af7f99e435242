"""Disks in memory: a small NBD server of their own, and the export that tests are made against.

``MemoryDisk`` keeps its bytes in anonymous memory that takes up room only where it was written.
It answers at once, or, with ``hold``, when ``release`` says so: then many requests are in flight,
as with a slow disk. ``fail`` makes operations fail; ``calls`` lists what the server asked, on
request. ``MemoryExports`` offers disks by name and may refuse with a sentence.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from nbd.export import (
    Buffer,
    Done,
    Export,
    Extents,
    ExtentsDone,
    Geometry,
    Pieces,
    PiecesDone,
    Refused,
)
from nbd.protocol import AllocationFlag

Finish = Callable[[], None]
T = TypeVar("T")

_HOLE, _DATA, _ZERO = 0, 1, 2
"""What a unit of a disk is: never written or given back; written; zeroed and kept."""
_RUNS = re.compile(rb"\x00+|\x01+|\x02+")
_FLAGS = {
    _HOLE: int(AllocationFlag.HOLE | AllocationFlag.ZERO),
    _DATA: 0,
    _ZERO: int(AllocationFlag.ZERO),
}
_HOLE_FLAG = int(AllocationFlag.HOLE)


@dataclass(frozen=True, slots=True)
class Call:
    """One operation as the export was asked for it."""

    kind: str
    offset: int = 0
    length: int = 0
    fua: bool = False
    may_unmap: bool = False


@dataclass(slots=True)
class MemoryDisk:
    """A disk in memory, shared by all its connections. Sizes in bytes."""

    geometry: Geometry
    holding: bool = False
    """Answers wait for ``release``. A held write is carried out when it is released."""
    recording: bool = False
    calls: list[Call] = field(default_factory=list)
    open_count: int = 0
    _store: mmap.mmap | None = None
    _units: mmap.mmap | None = None
    """A byte for every ``_unit`` bytes of the disk: _HOLE, _DATA or _ZERO."""
    _unit: int = mmap.PAGESIZE
    _held: list[Finish] = field(default_factory=list)
    _errors: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.geometry.size:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
            self._store = mmap.mmap(-1, self.geometry.size, flags=flags)
            self._unit = max(mmap.PAGESIZE, self.geometry.minimum_block)
            self._units = mmap.mmap(-1, -(-self.geometry.size // self._unit), flags=flags)

    def fail(self, kind: str, errno: int) -> None:
        """Let every later operation of this kind fail; errno 0 heals."""
        self._errors[kind] = errno

    def hold(self) -> None:
        """Keep answers back from now on."""
        self.holding = True

    def release(self, count: int | None = None) -> None:
        """Carry out and answer held operations, oldest first: *count* of them, or all and hold no
        more."""
        if count is None:
            self.holding = False
            count = len(self._held)
        ready, self._held = self._held[:count], self._held[count:]
        for finish in ready:
            finish()

    @property
    def held(self) -> int:
        """Operations that wait for ``release``."""
        return len(self._held)

    def content(self, offset: int, length: int) -> bytes:
        """What is stored, without any of the above."""
        assert self._store is not None or length == 0, "the disk has no bytes"
        return self._store[offset : offset + length] if self._store is not None else b""

    def submit(
        self, call: Call, work: Callable[[], T], done: Callable[[int, T | None], None]
    ) -> None:
        """Carry out *work* and answer, now or at ``release``."""
        if self.recording:
            self.calls.append(call)
        if self.holding:
            self._held.append(lambda: self._finish(call.kind, work, done))
        else:
            self._finish(call.kind, work, done)

    def put(self, offset: int, data: Buffer) -> None:
        """Store bytes."""
        assert self._store is not None, "the disk has no bytes"
        self._store[offset : offset + len(data)] = data
        self._mark(offset // self._unit, -(-(offset + len(data)) // self._unit), _DATA)

    def wipe(self, offset: int, length: int, may_unmap: bool = True) -> None:
        """Make a range zero; whole pages of it are given back (they count as kept all the same,
        unless they may be unmapped)."""
        assert self._store is not None and self._units is not None, "the disk has no bytes"
        end = offset + length
        begun = -(-offset // self._unit)
        ended = len(self._units) if end == self.geometry.size else end // self._unit
        if not may_unmap:  # holes at the edges are zeroes already, but no holes any longer
            for unit in (offset // self._unit, (end - 1) // self._unit):
                if self._units[unit] == _HOLE:
                    self._units[unit] = _ZERO
        self._mark(begun, ended, _HOLE if may_unmap else _ZERO)
        page = mmap.PAGESIZE
        first = -(-offset // page) * page
        last = (offset + length) // page * page
        if first >= last:
            self._store[offset : offset + length] = bytes(length)
            return
        self._store[offset:first] = bytes(first - offset)
        self._store.madvise(mmap.MADV_DONTNEED, first, last - first)
        self._store[last : offset + length] = bytes(offset + length - last)

    def extents(self, offset: int, length: int) -> Extents:
        """Which parts of a range are data, zeroes or holes (base:allocation)."""
        assert self._units is not None, "the disk has no bytes"
        first, end = offset // self._unit, offset + length
        found = []
        for run in _RUNS.finditer(self._units, first, -(-end // self._unit)):
            start = max(offset, run.start() * self._unit)
            stop = min(end, run.end() * self._unit)
            found.append((stop - start, _FLAGS[self._units[run.start()]]))
        return found

    def pieces(self, offset: int, length: int) -> Pieces:
        """The content of a range, without that of its holes."""
        found: list[tuple[int, Buffer | None]] = []
        for size, flags in self.extents(offset, length):
            found.append((size, None if flags & _HOLE_FLAG else self.content(offset, size)))
            offset += size
        return found

    def _mark(self, first: int, last: int, what: int) -> None:
        assert self._units is not None, "the disk has no bytes"
        if first < last:
            self._units[first:last] = bytes((what,)) * (last - first)

    def _finish(
        self, kind: str, work: Callable[[], T], done: Callable[[int, T | None], None]
    ) -> None:
        errno = self._errors.get(kind, 0)
        if errno:
            done(errno, None)
        else:
            done(0, work())


class MemoryExport:
    """One connection's view of a MemoryDisk."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        disk.open_count += 1

    @property
    def geometry(self) -> Geometry:
        """The disk's, as it is now."""
        return self._disk.geometry

    def read(self, offset: int, length: int, done: Done) -> None:
        """Read a copy of what is stored when the answer leaves."""
        call = Call("read", offset, length)
        self._disk.submit(call, lambda: self._disk.content(offset, length), done)

    def read_pieces(self, offset: int, length: int, done: PiecesDone) -> None:
        """The same without the zeroes of holes."""
        call = Call("read", offset, length)
        self._disk.submit(call, lambda: self._disk.pieces(offset, length), done)

    def zeroes_fast(self, offset: int, length: int, may_unmap: bool) -> bool:
        """Whole pages are only marked, or given back."""
        return length >= mmap.PAGESIZE

    def write(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write; there is nothing more stable than this memory."""
        call = Call("write", offset, len(data), fua)
        self._disk.submit(call, lambda: self._disk.put(offset, data), done)

    def zero(self, offset: int, length: int, fua: bool, may_unmap: bool, done: Done) -> None:
        """Zero the range."""
        call = Call("zero", offset, length, fua, may_unmap)
        self._disk.submit(call, lambda: self._disk.wipe(offset, length, may_unmap), done)

    def trim(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """Forget the range: it reads as zeroes."""
        call = Call("trim", offset, length, fua)
        self._disk.submit(call, lambda: self._disk.wipe(offset, length), done)

    def flush(self, done: Done) -> None:
        """Nothing to do."""
        self._disk.submit(Call("flush"), lambda: None, done)

    def extents(self, context: str, offset: int, length: int, done: ExtentsDone) -> None:
        """base:allocation, truly."""
        call = Call("extents", offset, length)
        self._disk.submit(call, lambda: self._disk.extents(offset, length), done)

    def closed(self) -> None:
        """Count the connection out."""
        self._disk.open_count -= 1


class MemoryExports:
    """Memory disks by name; the first is the default export unless one is named ""."""

    def __init__(self, disks: dict[str, MemoryDisk]) -> None:
        self.disks = disks
        self.refusal: Refused | None = None
        """Set to refuse every export with this."""

    @classmethod
    def single(cls, size: int, name: str = "memory", **geometry: object) -> MemoryExports:
        """One disk of *size* bytes; *geometry*: any other field of Geometry."""
        fast = bool(geometry.get("can_zero", True))
        told = Geometry(size, description="a disk in memory", can_fast_zero=fast)
        told = replace(told, **geometry)  # type: ignore[arg-type]
        return cls({name: MemoryDisk(told)})

    def names(self) -> list[tuple[str, str]]:
        """All disks."""
        return [(name, disk.geometry.description) for name, disk in self.disks.items()]

    def look(self, name: str) -> Geometry | Refused:
        """A disk's geometry."""
        disk = self._find(name)
        return disk if isinstance(disk, Refused) else disk.geometry

    def open(self, name: str) -> Export | Refused:
        """A new connection to a disk."""
        disk = self._find(name)
        return disk if isinstance(disk, Refused) else MemoryExport(disk)

    def _find(self, name: str) -> MemoryDisk | Refused:
        disk = self.disks.get(name)
        if disk is None and name == "" and self.disks:
            disk = next(iter(self.disks.values()))
        if self.refusal is not None:
            return self.refusal
        return disk or Refused("there is no export of that name", unknown=True)
