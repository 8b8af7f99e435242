"""What a server needs of a disk: the seam between this package and whoever uses it."""

from __future__ import annotations

import errno as host
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from nbd.protocol import BASE_ALLOCATION, STRING_MAX

Buffer = bytes | bytearray | memoryview
Done = Callable[[int, "Buffer | None"], None]
"""Called once with (errno, data): errno 0 and the bytes for a read, 0 and None otherwise, or an
errno of the host (EIO, ENOSPC, EPERM, ...), which the server maps to an NBD error. The data belong
to the server from then on: it sends them without a copy."""
Extents = Sequence[tuple[int, int]]
"""(length, flags) of neighbouring ranges; the flags mean what their meta context says."""
ExtentsDone = Callable[[int, "Extents | None"], None]
"""Called once with (0, extents), at least one, or with (errno, None)."""
Pieces = Sequence[tuple[int, "Buffer | None"]]
"""(length, data) of neighbouring ranges, each longer than zero; data None: all of it is zeroes."""
PiecesDone = Callable[[int, "Pieces | None"], None]
"""Called once with (0, pieces) that cover the range exactly, or with (errno, None)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """An export can't be served now. text: a sentence that reaches the client's user.

    unknown: there is no such export (NBD_REP_ERR_UNKNOWN), rather than a policy against serving
    it (NBD_REP_ERR_POLICY). later: it is not decided yet, come back (NBD_REP_ERR_SHUTDOWN, which
    clients that connect again take for what passes).
    """

    text: str
    unknown: bool = False
    later: bool = False


@dataclass(frozen=True, slots=True)
class Geometry:
    """What is told to clients. Sizes in bytes; minimum and preferred are powers of two.

    identity: which disk this is. Connections to the same identity are kept from tearing each
    other's blocks when a client writes less than minimum_block; left empty, all exports of a
    server count as one disk, which is safe but lets them wait for each other.
    can_fast_zero: some ranges can be zeroed faster than by writing; ``FastZeroes`` says which.
    contexts: names ("namespace:leaf") of meta contexts beside base:allocation that the export
    describes by ``MetaContexts.extents``. Namespaces are registered with the NBD project; one that
    is not begins with "x-".
    Raises ValueError for sizes that no client could obey (NBD protocol, block size constraints).
    """

    size: int
    description: str = ""
    minimum_block: int = 1
    preferred_block: int = 4096
    maximum_payload: int = 32 << 20
    read_only: bool = False
    rotational: bool = False
    can_trim: bool = True
    can_zero: bool = True
    can_fast_zero: bool = False
    can_multi_conn: bool = True
    identity: str = ""
    contexts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        minimum, preferred = self.minimum_block, self.preferred_block
        if not 1 <= minimum <= 65536 or minimum & (minimum - 1):
            raise ValueError(f"minimum block {minimum} is not a power of two up to 65536")
        if preferred < max(minimum, 512) or preferred & (preferred - 1):
            raise ValueError(
                f"preferred block {preferred} is not a power of two of at least {max(minimum, 512)}"
            )
        if not preferred <= self.maximum_payload <= 64 << 20:
            raise ValueError(
                f"maximum payload {self.maximum_payload} is not between the preferred block "
                f"{preferred} and 64 MiB"
            )
        if not 0 <= self.size < 1 << 63 or self.size % minimum:
            raise ValueError(
                f"export size {self.size} is not below 2^63 and a multiple of the minimum block "
                f"{minimum}"
            )
        if self.can_fast_zero and not self.can_zero:
            raise ValueError("an export that can't zero can't zero fast")
        for name in self.contexts:
            space, colon, leaf = name.partition(":")
            if not (space and colon and leaf) or space == "base" or "\0" in name:
                raise ValueError(
                    f"meta context {name!r} is not of the form namespace:leaf, in a namespace of "
                    "its own"
                )
            if len(name.encode()) > STRING_MAX:
                raise ValueError(f"meta context {name[:40]!r}... is longer than {STRING_MAX} bytes")
        if len(set(self.contexts)) < len(self.contexts):
            raise ValueError(f"a meta context is not named twice: {self.contexts}")


class Export(Protocol):
    """One disk, as one client connection sees it. Calls come from the loop's thread.

    Ranges are checked before they get here: inside the device, and (when minimum_block > 1,
    multiples of minimum_block; what a client asks in other pieces is rounded outwards first, so a
    length may exceed maximum_payload by less than two blocks). Overlapping requests may be in
    flight together. ``done`` may be called before the method returns or later, from the same
    thread, exactly once.
    """

    @property
    def geometry(self) -> Geometry:
        """What the device is like. Its size may change while it is open; nothing else does."""

    def read(self, offset: int, length: int, done: Done) -> None:
        """Read *length* bytes."""

    def write(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write *data*, which the callee owns from now on; fua: stable before done."""

    def zero(self, offset: int, length: int, fua: bool, may_unmap: bool, done: Done) -> None:
        """Make the range read as zeroes; may_unmap unless the client said NO_HOLE."""

    def trim(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """The range's content is no longer needed."""

    def flush(self, done: Done) -> None:
        """Make every write answered before this call stable, whichever connection it came by."""

    def closed(self) -> None:
        """The connection is gone; whatever is still in flight may finish and is not waited for.

        Its ``done`` must be called all the same: unaligned writes of others may wait for it."""


@runtime_checkable
class MetaContexts(Protocol):
    """What an Export may offer beside: a description of its ranges, for BLOCK_STATUS."""

    def extents(self, context: str, offset: int, length: int, done: ExtentsDone) -> None:
        """Describe the range, from *offset* on, in the words of *context*: "base:allocation"
        (nbd.protocol.AllocationFlag; flags 0 are always safe, ZERO only where a read yields
        zeroes) or one of the geometry's contexts.

        An answer may stop before the end of the range, and may reach beyond it; lengths are above
        zero and, up to the end of the export, multiples of the minimum block."""


def ask_extents(export: Export, context: str, offset: int, length: int, done: ExtentsDone) -> None:
    """``export.extents``; an export without it has data everywhere."""
    if isinstance(export, MetaContexts):
        export.extents(context, offset, length, done)
    elif context == BASE_ALLOCATION:
        done(0, [(length, 0)])
    else:
        done(host.EOPNOTSUPP, None)


@runtime_checkable
class SparseReads(Protocol):
    """What an Export may offer beside: reads that do not move the zeroes of holes."""

    def read_pieces(self, offset: int, length: int, done: PiecesDone) -> None:
        """Read, as ``read`` does, with nothing in the place of holes. Few, large pieces: each
        costs the client a header."""


Writes = list[tuple[int, Buffer, bool, Done]]
"""Writes that arrived together, in order: offset, data, fua, done."""


@runtime_checkable
class ManyWrites(Protocol):
    """What an Export may offer beside: many writes with one call."""

    def writes(self, writes: Writes) -> None:
        """``write`` for each, in this order."""


@runtime_checkable
class FastZeroes(Protocol):
    """What an Export whose geometry says can_fast_zero offers beside."""

    def zeroes_fast(self, offset: int, length: int, may_unmap: bool) -> bool:
        """Whether ``zero`` would be faster now than writing zeroes. Must not change anything."""


class Exports(Protocol):
    """The disks a server offers, by name. The default export has the name ""."""

    def names(self) -> list[tuple[str, str]]:
        """(name, description) of what LIST shows."""

    def look(self, name: str) -> Geometry | Refused:
        """What INFO tells of an export, without opening it."""

    def open(self, name: str) -> Export | Refused:
        """A client enters transmission on this export (GO, EXPORT_NAME)."""
