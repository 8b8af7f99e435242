"""What each 512-byte sector may read as: the register model of a device (invariant I3).

Every write of a client has a number of its own, written into each of its sectors, so a sector names
the write it came from. A read may return the last completed write or one concurrent with it. A
write whose outcome nobody was told (the node died, or answered with an error) is *in doubt*: its
sectors are old or new, each by itself, until a read settles it: after a read returned one value, no
later read returns an older one. A trim counts as a write of zeroes that stays in doubt.

What a write leaves that was answered with an error is undefined, on any disk: it may be in a cache
from which no flush brings it down. A read may show it, and the power cut of a machine whose disk
failed takes it away again: ``lose_failed``.

Where an acknowledgement does not mean durable (``weak``: durability "kernel", protocols A and B)
only what a flush has *covered* is safe: ``shake`` puts all else back in doubt, as a power cut does.

Order is that of a counter that every begin and end advances, so there are no ties.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass, replace

from replblk.sim.store import SECTOR_BYTES
from replblk.sim.world import SimulationError

ZERO = 0
"""The value of a sector of zeroes."""
_HEADER = struct.Struct("<4sQQ12x")
_MAGIC = b"SIMW"
_COPIES = SECTOR_BYTES // _HEADER.size
_ZERO_SECTOR = bytes(SECTOR_BYTES)
CANDIDATES_MANY = 8
"""From so many on, it is worth looking for those that are history."""


def sector_content(write: int, sector: int) -> bytes:
    """What write number *write* puts into *sector*: the same 32 bytes sixteen times."""
    return _HEADER.pack(_MAGIC, write, sector) * _COPIES


def value_of(data: bytes, sector: int) -> int:
    """The number of the write a sector came from; torn, misplaced or foreign: the run failed."""
    if data == _ZERO_SECTOR:
        return ZERO
    magic, write, place = _HEADER.unpack_from(data)
    if data != data[: _HEADER.size] * _COPIES:
        raise SimulationError(f"I3: sector {sector} is torn: {data[:32].hex()}...")
    if magic != _MAGIC:
        raise SimulationError(f"I3: sector {sector} holds what nobody wrote: {data[:32].hex()}")
    if place != sector:
        raise SimulationError(f"I3: sector {sector} holds sector {place} of write {write}")
    return int(write)


@dataclass(slots=True, eq=False)
class Write:
    """A write, zero or trim. end None: still running. certain: it was acknowledged.

    covered: a flush that began after the acknowledgement was answered, or it had FUA. failed: it
    was answered with an error.
    """

    number: int
    value: int
    begin: int
    end: int | None = None
    certain: bool = False
    covered: bool = False
    volume: int = 0
    failed: bool = False


class _Candidate:
    __slots__ = ("gone", "write")

    def __init__(self, write: Write) -> None:
        self.write = write
        self.gone: int | None = None
        """No read that begins later returns it: an earlier read settled on something else."""


_BEFORE = Write(0, ZERO, 0, 0, True, True)


class Register:
    """All sectors of all volumes. Keys are (volume, sector)."""

    def __init__(self) -> None:
        self._sectors: dict[tuple[int, int], list[_Candidate]] = {}
        self._now = 0
        self._running: dict[int, Write] = {}
        self._reads: list[int] = []
        """When the reads began that still run."""
        self.weak = False
        self.fua_covers = True
        """A write with FUA is on both nodes when it is answered. With protocols A and B it is safe
        on the Primary alone, and only a flush sees to the peer."""
        self.loose = False
        """Nothing is promised of what sectors hold: see ``adopt``."""
        self._uncovered: list[Write] = []

    def tick(self) -> int:
        """The next moment."""
        self._now += 1
        return self._now

    def written(self) -> list[tuple[int, int]]:
        """Every sector that was ever written, in the order of first writing."""
        return list(self._sectors)

    def forget_from(self, volume: int, first: int) -> None:
        """Nothing is known any more of the sectors of a volume from *first* on."""
        for key in [key for key in self._sectors if key[0] == volume and key[1] >= first]:
            del self._sectors[key]

    def begin_write(self, number: int, volume: int, sectors: range, *, zero: bool = False) -> Write:
        """A client asks for a write."""
        write = Write(number, ZERO if zero else number, self.tick(), volume=volume)
        self._running[number] = write
        known = self._sectors
        for sector in sectors:
            held = known.get((volume, sector))
            if held is None:
                known[volume, sector] = [_Candidate(_BEFORE), _Candidate(write)]
                continue
            if len(held) > CANDIDATES_MANY:
                self._forget(held)
            held.append(_Candidate(write))
        return write

    def end_write(
        self, write: Write, *, certain: bool, fua: bool = False, failed: bool = False
    ) -> None:
        """A write was acknowledged (certain), refused, or its outcome will never be known."""
        if write.end is None:
            write.end = self.tick()
            write.failed = failed
            write.certain = certain
            write.covered = certain and fua and self.fua_covers
            del self._running[write.number]
            if self.weak and certain and not write.covered:
                self._uncovered.append(write)

    def flushed(self, volume: int, begin: int) -> None:
        """A flush that began at *begin* was answered: what was acknowledged before is covered."""
        left = []
        for write in self._uncovered:
            if write.volume == volume and write.end is not None and write.end < begin:
                write.covered = True
            else:
                left.append(write)
        self._uncovered = left

    def shake(self) -> None:
        """Acknowledged writes that no flush covered may be lost: they are in doubt again.

        What a read had settled may be undone, too, unless a covered write settles it.
        """
        if not self.weak:
            return
        for write in self._uncovered:
            write.certain = False
        self._uncovered.clear()
        for held in self._sectors.values():
            for candidate in held:
                candidate.gone = None

    def lose_failed(self) -> None:
        """A disk that failed lost its power: where a write failed, reads have settled nothing."""
        for held in self._sectors.values():
            if any(candidate.write.failed for candidate in held):
                for candidate in held:
                    candidate.gone = None

    def begin_read(self) -> int:
        """A client asks for a read: the moment to judge it by. Pairs with ``forget_read``."""
        now = self.tick()
        self._reads.append(now)
        return now

    def forget_read(self, begin: int) -> None:
        """A read was answered, or never will be."""
        self._reads.remove(begin)

    def end_read(self, begin: int, volume: int, sector: int, value: int) -> None:
        """A read that began at *begin* returned *value* for a sector just now."""
        held = self._sectors.get((volume, sector))
        now = self.tick()
        if self.loose:
            return
        if held is None:
            if value != ZERO:
                raise SimulationError(f"I3: vol {volume} sector {sector} reads as write {value}")
            return
        chosen = self._possible(held, begin, value)
        if chosen is None:
            raise SimulationError(self._complaint(held, begin, volume, sector, value))
        for candidate in held:
            write = candidate.write
            if write is chosen.write or candidate.gone is not None:
                continue
            if write.end is not None and write.end < begin:
                candidate.gone = now

    def adopt(self, contents: Callable[[int, int], bytes]) -> None:
        """From now on the truth is what a disk holds. contents: of (volume, sector)."""
        for (volume, sector), held in self._sectors.items():
            value = value_of(contents(volume, sector), sector)
            now = self.tick()
            held[:] = [_Candidate(Write(0, value, now, self.tick(), True, True, volume))]

    def may_hold(self, volume: int, sector: int, value: int) -> bool:
        """Whether a read now could return *value*; settles nothing."""
        held = self._sectors.get((volume, sector))
        if held is None:
            return value == ZERO
        return self._possible(held, self._now + 1, value) is not None

    def expected(self, volume: int, sector: int) -> list[int]:
        """The values a read now could return."""
        held = self._sectors.get((volume, sector), [_Candidate(_BEFORE)])
        possible = (self._possible(held, self._now + 1, c.write.value) for c in held)
        return sorted({c.write.value for c in possible if c is not None})

    def fork(self) -> Register:
        """A copy that goes its own way from here: the data of a node in a split brain."""
        copy = Register()
        copy._now = self._now
        lost = {
            write.number: replace(write, end=self._now) for write in self._running.values()
        }  # they run on the other node: here nobody will ever tell
        for key, held in self._sectors.items():
            copied = []
            for candidate in held:
                twin = _Candidate(lost.get(candidate.write.number, candidate.write))
                twin.gone = candidate.gone
                copied.append(twin)
            copy._sectors[key] = copied
        return copy

    def _possible(self, held: list[_Candidate], begin: int, value: int) -> _Candidate | None:
        """The latest candidate with that value that a read begun at *begin* may return."""
        covered = _last_certain(held, begin)
        for at in range(len(held) - 1, -1, -1):
            candidate = held[at]
            write = candidate.write
            if write.value != value or (candidate.gone is not None and candidate.gone < begin):
                continue
            if write.end is None or write.end >= covered:
                return candidate
        return None

    def _forget(self, held: list[_Candidate]) -> None:
        """Drop what no read that still runs, or is yet to begin, can return."""
        horizon = min(self._reads, default=self._now)
        covered = _last_certain(held, horizon, covered_only=self.weak)
        may_return = self.weak or any(c.write.failed for c in held)
        held[:] = [
            c
            for c in held
            if (may_return or c.gone is None or c.gone >= horizon)
            and (c.write.end is None or c.write.end >= covered)
        ]

    def _complaint(
        self, held: list[_Candidate], begin: int, volume: int, sector: int, value: int
    ) -> str:
        story = ", ".join(
            f"write {c.write.number} value {c.write.value} [{c.write.begin}..{c.write.end}"
            f"{' acked' if c.write.certain else ''}]{'' if c.gone is None else f' gone {c.gone}'}"
            for c in held[-8:]
        )
        return (
            f"I3: vol {volume} sector {sector} reads as {value} at {self._now} (read began "
            f"{begin}); possible: {self.expected(volume, sector)}; history: {story}"
        )


def _last_certain(held: list[_Candidate], before: int, *, covered_only: bool = False) -> int:
    """When the latest write began that was acknowledged by then: what had ended is overwritten."""
    for candidate in reversed(held):  # they stand in the order in which they began
        write = candidate.write
        if covered_only and not write.covered:
            continue
        if write.certain and write.end is not None and write.end < before:
            return write.begin
    return -1
