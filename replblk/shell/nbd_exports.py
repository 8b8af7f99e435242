"""The volumes of a resource as NBD exports: "0", "1", ... by volume number, "" the default.

An export is served while its node is Primary; the node itself decides, counts who has the device
open, and says why not. Ranges in bytes, multiples of 512 (the server turns odd ranges of careless
clients into whole blocks). Requests longer than the node takes are split, and answered once: when
every part is answered, with the first error.

Told of ranges: ``base:allocation``, from the backing file's holes while every read is answered from
it (else all is data, which is always safe to say), and ``replblk:dirty-bitmap``, bit 0: the peer
may lack this. Source: the NBD protocol, "Metadata querying".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Protocol

from nbd.export import (
    Buffer,
    Done,
    ExtentsDone,
    Geometry,
    PiecesDone,
    Refused,
    Writes,
)
from nbd.protocol import BASE_ALLOCATION, AllocationFlag
from replblk.engine.ports import CLIENT_DATA_BYTES_MAX, CLIENT_ZERO_BYTES_MAX
from replblk.model.units import SECTOR_BYTES
from replblk.shell.client import Clients

PARTS_IN_FLIGHT_MAX = 16
"""Parts of one split request given to the node at once; the rest follow as these are answered."""

DIRTY_BITMAP = "replblk:dirty-bitmap"
"""The meta context of blocks out of sync with the peer."""
DIRTY = 1
"""Its only flag: NBD_STATE_DIRTY of QEMU's dirty-bitmap contexts."""
EXTENTS_MAX = 1024
"""Extents described at once: each costs two system calls on the loop's thread."""
PIECES_MAX = 16
"""A read of more pieces than this is sent whole."""
HOLE_BYTES_MIN = 32 << 10
"""A shorter hole is read like data: as an own piece it would cost more than it spares."""
_HOLE = int(AllocationFlag.HOLE | AllocationFlag.ZERO)

_Part = Callable[[Done], None]


class OpenableNode(Protocol):
    """The questions an export asks of a node."""

    def open_device(self, volume: int, read_only: bool = False) -> str | None:
        """None: opened and counted; else why not."""

    def close_device(self, volume: int) -> None:
        """One user less."""

    def size_bytes(self, volume: int) -> int:
        """Size of the device."""

    def out_of_sync(
        self, volume: int, offset: int, length: int, most: int
    ) -> list[tuple[int, bool]]:
        """(length, whether the peer may lack it)."""

    def all_here(self, volume: int) -> bool:
        """Whether every read is answered from the local disk."""

    def zeroes_travel(self, volume: int) -> bool:
        """Whether zeroes reach the peer without being sent as data."""


class HoleyDisks(Protocol):
    """What an export asks of the backing devices."""

    def runs(self, volume: int, offset: int, length: int, most: int) -> list[tuple[int, bool]]:
        """(length, whether it is a hole)."""

    def punches(self, volume: int) -> bool:
        """Whether a zero that may unmap is quick."""


class VolumeExports:
    """``nbd.export.Exports`` over a node. volumes: their numbers, in the configuration's order."""

    def __init__(
        self,
        resource: str,
        volumes: tuple[int, ...],
        node: OpenableNode,
        clients: Clients,
        disks: HoleyDisks,
        wake: Callable[[], None],
        undecided: Callable[[int], bool] = lambda volume: False,
    ) -> None:
        """undecided: a volume that may yet become Primary by itself: clients shall come again."""
        self._resource = resource
        self._undecided = undecided
        self._volumes = volumes
        self._node = node
        self._clients = clients
        self._disks = disks
        self._wake = wake
        self._open: dict[int, set[VolumeExport]] = {}

    def names(self) -> list[tuple[str, str]]:
        """Every volume, whether it can be opened now or not."""
        return [(str(number), self._describe(number)) for number in self._volumes]

    def look(self, name: str) -> Geometry | Refused:
        """The geometry, or why it can't be opened now."""
        volume = self._volume_of(name)
        if isinstance(volume, Refused):
            return volume
        if (refusal := self._node.open_device(volume)) is not None:
            return Refused(refusal, later=self._undecided(volume))
        geometry = self._geometry(volume)
        self._node.close_device(volume)
        self._wake()
        return geometry

    def open(self, name: str) -> VolumeExport | Refused:
        """Open the device for a client; it counts as a user until ``closed``."""
        volume = self._volume_of(name)
        if isinstance(volume, Refused):
            return volume
        if (refusal := self._node.open_device(volume)) is not None:
            return Refused(refusal, later=self._undecided(volume))
        self._wake()
        export = VolumeExport(
            volume, self._geometry(volume), self._node, self._clients, self._disks, self._closed
        )
        self._open.setdefault(volume, set()).add(export)
        return export

    def resized(self, volume: int, old_bytes: int, new_bytes: int) -> None:
        """The device has another size: connections that are open obey it from now on.

        Nothing in the protocol tells them; what asks the server anew (or is told by other means)
        may use the whole device at once.
        """
        for export in self._open.get(volume, ()):
            export.geometry = replace(export.geometry, size=new_bytes)

    def _closed(self, volume: int, export: VolumeExport) -> None:
        self._open[volume].discard(export)
        self._node.close_device(volume)
        self._wake()

    def volume_of(self, name: str) -> int | None:
        """The volume that an export's name means; None if there is none of that name."""
        found = self._volume_of(name)
        return None if isinstance(found, Refused) else found

    def _volume_of(self, name: str) -> int | Refused:
        if name == "":
            if 0 in self._volumes:
                return 0
            if len(self._volumes) == 1:
                return self._volumes[0]
        for number in self._volumes:
            if name == str(number):
                return number
        return Refused(
            f"resource {self._resource} has no such volume; its exports are "
            + ", ".join(f"'{number}'" for number in self._volumes),
            unknown=True,
        )

    def _geometry(self, volume: int) -> Geometry:
        return Geometry(
            size=self._node.size_bytes(volume),
            description=self._describe(volume),
            minimum_block=SECTOR_BYTES,
            identity=self._describe(volume),
            can_fast_zero=True,
            contexts=(DIRTY_BITMAP,),
        )

    def _describe(self, volume: int) -> str:
        return f"{self._resource}/{volume}"


class VolumeExport:
    """``nbd.export.Export``: one client connection's view of a volume."""

    def __init__(
        self,
        volume: int,
        geometry: Geometry,
        node: OpenableNode,
        clients: Clients,
        disks: HoleyDisks,
        on_closed: Callable[[int, VolumeExport], None],
    ) -> None:
        self.geometry = geometry
        self._volume = volume
        self._node = node
        self._clients = clients
        self._disks = disks
        self._on_closed = on_closed

    def read(self, offset: int, length: int, done: Done) -> None:
        """Read *length* bytes."""
        if 0 < length <= CLIENT_DATA_BYTES_MAX:
            self._clients.request(done, self._volume, "read", offset, length)
            return
        _Split(self._ranges("read", offset, length, CLIENT_DATA_BYTES_MAX), done, wants_data=True)

    def read_pieces(self, offset: int, length: int, done: PiecesDone) -> None:
        """Read only what is no hole of the backing file.

        The holes are found now, and what is read is read later: both lie between the request and
        its answer, so a write answered before the request is seen by both.
        """
        runs = _coarse(self._holes(offset, length, PIECES_MAX * 2), length)
        if len(runs) > PIECES_MAX:
            runs = [(length, False)]
        pieces: list[tuple[int, Buffer | None]] = [(size, None) for size, _hole in runs]
        waiting = sum(1 for _size, hole in runs if not hole)
        failed = 0

        def answered(number: int, errno: int, data: Buffer | None) -> None:
            nonlocal waiting, failed
            waiting -= 1
            failed = failed or errno
            pieces[number] = (pieces[number][0], data)
            if not waiting:
                done(failed, None if failed else pieces)

        if not waiting:
            done(0, pieces)
            return
        for number, (size, hole) in enumerate(runs):
            if not hole:
                self.read(offset, size, partial(answered, number))
            offset += size

    def extents(self, context: str, offset: int, length: int, done: ExtentsDone) -> None:
        """Describe a range."""
        if context == BASE_ALLOCATION:
            told = [
                (size, _HOLE if hole else 0)
                for size, hole in self._holes(offset, length, EXTENTS_MAX)
            ]
        else:
            assert context == DIRTY_BITMAP, f"a context that was not offered: {context}"
            told = [
                (size, DIRTY if dirty else 0)
                for size, dirty in self._node.out_of_sync(self._volume, offset, length, EXTENTS_MAX)
            ]
        done(0, told)

    def zeroes_fast(self, offset: int, length: int, may_unmap: bool) -> bool:
        """On both nodes: here where the file's space may be given back."""
        volume = self._volume
        return may_unmap and self._disks.punches(volume) and self._node.zeroes_travel(volume)

    def _holes(self, offset: int, length: int, most: int) -> list[tuple[int, bool]]:
        if not self._node.all_here(self._volume):
            return [(length, False)]
        return self._disks.runs(self._volume, offset, length, most)

    def write(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write *data*."""
        if 0 < len(data) <= CLIENT_DATA_BYTES_MAX:
            self._clients.request(done, self._volume, "write", offset, len(data), data, fua=fua)
            return
        whole = memoryview(data)

        def part(start: int) -> _Part:
            piece = whole[start : start + CLIENT_DATA_BYTES_MAX]
            return lambda told: self._clients.request(
                told, self._volume, "write", offset + start, len(piece), piece, fua=fua
            )

        starts = range(0, len(data), CLIENT_DATA_BYTES_MAX)
        _Split((part(start) for start in starts), done)

    def writes(self, writes: Writes) -> None:
        """Write many."""
        for _offset, data, _fua, _done in writes:
            if not 0 < len(data) <= CLIENT_DATA_BYTES_MAX:
                break
        else:
            self._clients.writes(self._volume, writes)
            return
        for offset, data, fua, done in writes:
            self.write(offset, data, fua, done)

    def zero(self, offset: int, length: int, fua: bool, may_unmap: bool, done: Done) -> None:
        """Make the range read as zeroes."""
        parts = self._ranges(
            "zero", offset, length, CLIENT_ZERO_BYTES_MAX, fua=fua, unmap=may_unmap
        )
        _Split(parts, done)

    def trim(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """The range's content is no longer needed."""
        parts = self._ranges("trim", offset, length, CLIENT_ZERO_BYTES_MAX, fua=fua, unmap=True)
        _Split(parts, done)

    def flush(self, done: Done) -> None:
        """Make every answered write stable."""
        self._clients.request(done, self._volume, "flush")

    def closed(self) -> None:
        """The connection is gone."""
        self._on_closed(self._volume, self)

    def _ranges(
        self,
        kind: str,
        offset: int,
        length: int,
        longest: int,
        *,
        fua: bool = False,
        unmap: bool = False,
    ) -> Iterator[_Part]:
        def part(start: int) -> _Part:
            size = min(longest, length - start)
            return lambda told: self._clients.request(
                told, self._volume, kind, offset + start, size, fua=fua, unmap=unmap
            )

        return (part(start) for start in range(0, length, longest))


def _coarse(runs: list[tuple[int, bool]], length: int) -> list[tuple[int, bool]]:
    """Runs that cover *length*, without short holes."""
    found: list[tuple[int, bool]] = []
    left = length - sum(size for size, _hole in runs)
    for size, is_hole in [*runs, *([(left, False)] if left else [])]:
        hole = is_hole and size >= HOLE_BYTES_MIN
        if found and found[-1][1] == hole:
            found[-1] = (found[-1][0] + size, hole)
        else:
            found.append((size, hole))
    return found


class _Split:
    """A request in parts, a few in flight at a time; told once, when no part is in flight."""

    __slots__ = ("_data", "_done", "_errno", "_in_flight", "_next", "_parts", "_wants_data")

    def __init__(self, parts: Iterator[_Part], done: Done, *, wants_data: bool = False) -> None:
        self._parts = parts
        self._done = done
        self._wants_data = wants_data
        self._errno = 0
        self._in_flight = 0
        self._next = 0
        self._data: dict[int, Buffer] = {}
        self._go_on()

    def _go_on(self) -> None:
        while self._in_flight < PARTS_IN_FLIGHT_MAX and not self._errno:
            part = next(self._parts, None)
            if part is None:
                break
            number, self._next = self._next, self._next + 1
            self._in_flight += 1
            part(partial(self._answered, number))
        if self._in_flight:
            return
        data: Buffer | None = None
        if self._wants_data and not self._errno:
            data = b"".join(self._data[number] for number in range(self._next))
        self._done(self._errno, data)

    def _answered(self, number: int, errno: int, data: Buffer | None) -> None:
        self._in_flight -= 1
        if errno and not self._errno:
            self._errno = errno
        if self._wants_data and not errno:
            assert data is not None, "a read answered without data"
            self._data[number] = data
        self._go_on()
