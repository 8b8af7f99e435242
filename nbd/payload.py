"""The payload of a client's request: put together as it arrives, in memory that a disk can use.

A short payload arrives with its request and is copied out of the receive buffer. A long one that
comes in pieces is put where it belongs: its memory is had when it is announced, and may be received
into directly. What is longer than ``WHOLE_BYTES_MAX`` grows with what arrives, never by the
announced length: a stranger's 28 bytes must not reserve 32 MiB. Sizes in bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from nbd.export import Buffer

NewMemory = Callable[[int], memoryview]
"""Fresh memory of just so many bytes, with anything in it."""
LENT_BYTES_MIN = 16 << 10
"""From here on a payload gets memory of its own: for less, asking costs more than a second copy."""
WHOLE_BYTES_MAX = 1 << 20
_NOBODY = 1 << 62


class Payload:
    """What has come of the payload that is arriving. new_memory: None for plain bytes."""

    def __init__(self, new_memory: NewMemory | None) -> None:
        self._new_memory = new_memory
        self.lent_min = LENT_BYTES_MIN if new_memory is not None else _NOBODY
        """Payloads from this length on are lent memory."""
        self.missing = 0
        """Bytes that are still to come; 0: none is arriving."""
        self._data: bytearray | memoryview | None = None

    def begin(self, length: int, *, skipped: bool) -> None:
        """One of *length* bytes is coming. skipped: it is consumed, and nobody gets it."""
        self.missing = length
        if skipped:
            self._data = None
        elif self.lent_min <= length <= WHOLE_BYTES_MAX and self._new_memory is not None:
            self._data = self._new_memory(length)
        else:
            self._data = bytearray()

    def add(self, data: memoryview) -> int:
        """Take what belongs to it; returns how much that was."""
        step = min(len(data), self.missing)
        if isinstance(self._data, memoryview):
            at = len(self._data) - self.missing
            self._data[at : at + step] = data[:step]
        elif self._data is not None:
            self._data += data[:step]
        self.missing -= step
        return step

    @property
    def room(self) -> memoryview | None:
        """Where the rest belongs, for whoever can receive it right there and then says so with
        ``filled``. None: it goes the usual way."""
        if self.missing < LENT_BYTES_MIN or not isinstance(self._data, memoryview):
            return None
        return self._data[-self.missing :]

    def filled(self, count: int) -> None:
        """*count* bytes were received into ``room``."""
        assert count <= self.missing, "more than there was room for"
        self.missing -= count

    def take(self) -> Buffer | None:
        """All of it, forgotten here; None if it was skipped."""
        assert not self.missing, "a payload that is still arriving"
        data, self._data = self._data, None
        return data

    def copied(self, data: memoryview) -> memoryview:
        """One that came at once, of at least ``lent_min`` bytes."""
        assert self._new_memory is not None
        lent = self._new_memory(len(data))
        lent[:] = data
        return lent

    def drop(self) -> None:
        """Nobody wants it any more."""
        self._data = None
