"""Writes the peer has not barrier-acknowledged, by epoch; one sequence per connection, all volumes.

A write stays here after its acknowledgement until P_BARRIER_ACK: only then is it sure that the peer
could lose it no more, whatever the peer's cache does. What is still here when the connection is
lost is out of sync. Source: protocol, epochs and barriers.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from replblk.model.errors import PeerError

if TYPE_CHECKING:
    from replblk.engine.write_request import WriteRequest

_U32 = struct.Struct(">I")


class Epoch:
    """Writes between two barriers. ``writes``: those sent to the peer and not yet finished."""

    __slots__ = ("barrier", "barrier_sent", "count", "number", "writes")

    def __init__(self, number: int) -> None:
        self.number = number
        self.count = 0
        self.writes: list[WriteRequest] = []
        self.barrier = _U32.pack(number)
        """The number as P_BARRIER carries it: four bytes, opaque to the receiver."""
        self.barrier_sent = False


class TransferLog:
    """The sender's epochs, oldest first; the last one is current."""

    def __init__(self) -> None:
        self._number = 0
        self.current = Epoch(0)
        self._closed: deque[Epoch] = deque()
        self.due = False
        """Whether a closed epoch's barrier was not sent yet."""
        self.awaited = False
        """A write is answered when the next barrier is acknowledged: it is not to wait."""

    def __len__(self) -> int:
        return len(self._closed) + bool(self.current.count)

    def add(self, request: WriteRequest, packets: int = 1) -> None:
        """A write is about to be sent in the current epoch, in so many packets."""
        request.epoch = self.current
        self.current.writes.append(request)
        self.current.count += packets

    def close(self) -> None:
        """End the current epoch, unless it is empty."""
        if self.current.count:
            self._closed.append(self.current)
            self.due = True
            self._number = self._number + 1 & 0xFFFFFFFF
            self.current = Epoch(self._number)

    def due_barriers(self) -> list[Epoch]:
        """Closed epochs whose barrier was not sent yet, in order; now they count as sent."""
        due: list[Epoch] = []
        if self.due:
            self.due = self.awaited = False
            for epoch in self._closed:
                if not epoch.barrier_sent:
                    epoch.barrier_sent = True
                    due.append(epoch)
        return due

    def named_by(self, barrier: bytes, set_size: int) -> Epoch:
        """P_BARRIER_ACK: must name the oldest epoch and its exact size. Raises PeerError.

        The epoch stays in the log until ``drop``.
        """
        if not self._closed or not self._closed[0].barrier_sent:
            raise PeerError(f"BAD! BarrierAck {barrier.hex()} received, expected none")
        epoch = self._closed[0]
        if barrier != epoch.barrier:
            raise PeerError(
                f"BAD! BarrierAck #{barrier.hex()} received, expected #{epoch.barrier.hex()}!"
            )
        if set_size != epoch.count:
            raise PeerError(
                f"BAD! BarrierAck #{barrier.hex()} received with n_writes={set_size}, "
                f"expected n_writes={epoch.count}!"
            )
        return epoch

    def drop(self, epoch: Epoch) -> None:
        """The oldest epoch is acknowledged."""
        assert epoch is self._closed[0]
        self._closed.popleft()

    def newest(self) -> Epoch | None:
        """The youngest epoch with writes in it, after closing: what a flush has to wait for."""
        return self._closed[-1] if self._closed else None

    def holds(self, epoch: Epoch) -> bool:
        """Whether that epoch is not acknowledged yet."""
        return epoch in self._closed

    def writes(self) -> list[WriteRequest]:
        """Everything in the log, oldest first."""
        return [w for epoch in (*self._closed, self.current) for w in epoch.writes]

    def lost(self) -> list[WriteRequest]:
        """The connection is gone: everything not barrier-acknowledged, oldest first; log empty."""
        self.close()
        writes = [write for epoch in self._closed for write in epoch.writes]
        self._closed.clear()
        self.due = self.awaited = False
        return writes

    def oldest_ns(self) -> int | None:
        """When the oldest write still here was sent; None if there is none."""
        for epoch in (*self._closed, self.current):
            if epoch.writes:
                return epoch.writes[0].sent_ns
        return None
