"""The volumes of a resource as NBD exports: "0", "1", ... by volume number, "" the default.

An export is served while its node is Primary; the node itself decides, counts who has the device
open, and says why not. Ranges in bytes, multiples of 512 (the server turns odd ranges of careless
clients into whole blocks). Requests longer than the node takes are split, and answered once: when
every part is answered, with the first error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from nbd.export import Buffer, Done, Geometry, Refused
from replblk.engine.ports import CLIENT_DATA_BYTES_MAX, CLIENT_ZERO_BYTES_MAX
from replblk.model.units import SECTOR_BYTES
from replblk.shell.client import Clients

PARTS_IN_FLIGHT_MAX = 16
"""Parts of one split request given to the node at once; the rest follow as these are answered."""

_Part = Callable[[Done], None]


class OpenableNode(Protocol):
    """The questions an export asks of a node."""

    def open_device(self, volume: int, read_only: bool = False) -> str | None:
        """None: opened and counted; else why not."""

    def close_device(self, volume: int) -> None:
        """One user less."""

    def size_bytes(self, volume: int) -> int:
        """Size of the device."""


class VolumeExports:
    """``nbd.export.Exports`` over a node. volumes: their numbers, in the configuration's order."""

    def __init__(
        self,
        resource: str,
        volumes: tuple[int, ...],
        node: OpenableNode,
        clients: Clients,
        wake: Callable[[], None],
    ) -> None:
        self._resource = resource
        self._volumes = volumes
        self._node = node
        self._clients = clients
        self._wake = wake

    def names(self) -> list[tuple[str, str]]:
        """Every volume, whether it can be opened now or not."""
        return [(str(number), self._describe(number)) for number in self._volumes]

    def look(self, name: str) -> Geometry | Refused:
        """The geometry, or why it can't be opened now."""
        volume = self._volume_of(name)
        if isinstance(volume, Refused):
            return volume
        if (refusal := self._node.open_device(volume)) is not None:
            return Refused(refusal)
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
            return Refused(refusal)
        self._wake()
        return VolumeExport(volume, self._geometry(volume), self._clients, self._closed)

    def _closed(self, volume: int) -> None:
        self._node.close_device(volume)
        self._wake()

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
        )

    def _describe(self, volume: int) -> str:
        return f"{self._resource}/{volume}"


class VolumeExport:
    """``nbd.export.Export``: one client connection's view of a volume."""

    def __init__(
        self,
        volume: int,
        geometry: Geometry,
        clients: Clients,
        on_closed: Callable[[int], None],
    ) -> None:
        self.geometry = geometry
        self._volume = volume
        self._clients = clients
        self._on_closed = on_closed

    def read(self, offset: int, length: int, done: Done) -> None:
        """Read *length* bytes."""
        if 0 < length <= CLIENT_DATA_BYTES_MAX:
            self._clients.request(done, self._volume, "read", offset, length)
            return
        _Split(self._ranges("read", offset, length, CLIENT_DATA_BYTES_MAX), done, wants_data=True)

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
        self._on_closed(self._volume)

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
