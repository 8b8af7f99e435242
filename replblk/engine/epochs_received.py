"""The receiver's epochs: how many writes each holds, and when its P_BARRIER_ACK is due.

One sequence per connection, spanning all volumes. An epoch is acknowledged when its barrier is
known, none of its writes is in progress, everything before it was acknowledged, and its writes are
durable. Source: protocol, epochs and barriers, receiver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class ReceivedEpoch:
    """Writes between two barriers of the peer. stored: numbers of the volumes whose disks have
    taken any of them."""

    __slots__ = ("active", "barrier", "flushed", "size", "stored")

    def __init__(self) -> None:
        self.size = 0
        self.active = 0
        self.barrier: bytes | None = None
        self.flushed = False
        self.stored: set[int] = set()


class EpochsReceived:
    """ready(epoch): called once per epoch, in order, when all its writes are done: whether they are
    durable; if not the caller makes them so, then calls ``flushed``. ack(barrier, size) sends the
    answer.
    """

    def __init__(
        self, ready: Callable[[ReceivedEpoch], bool], ack: Callable[[bytes, int], None]
    ) -> None:
        self._ready = ready
        self._ack = ack
        self._epochs: deque[ReceivedEpoch] = deque([ReceivedEpoch()])
        self._flushing = False

    def __len__(self) -> int:
        return len(self._epochs)

    def write_received(self) -> ReceivedEpoch:
        """A write belongs to the current epoch and is in progress."""
        epoch = self._epochs[-1]
        epoch.size += 1
        epoch.active += 1
        return epoch

    @property
    def current(self) -> ReceivedEpoch:
        """The epoch that writes belong to now."""
        return self._epochs[-1]

    def writes_done(self, epochs: list[ReceivedEpoch], volume: int) -> None:
        """``write_done`` for a write of each, stored on the disk of *volume*."""
        for epoch in epochs:
            epoch.active -= 1
            epoch.stored.add(volume)
            assert epoch.active >= 0
        if self._epochs[0].barrier is not None:
            self._advance()

    def write_done(self, epoch: ReceivedEpoch) -> None:
        """That write was acknowledged, positively or not."""
        epoch.active -= 1
        assert epoch.active >= 0
        self._advance()

    def barrier(self, barrier: bytes) -> bool:
        """P_BARRIER: the current epoch ends. False for an empty one: nobody may send that."""
        epoch = self._epochs[-1]
        if epoch.size == 0:
            return False
        epoch.barrier = barrier
        self._epochs.append(ReceivedEpoch())
        self._advance()
        return True

    def flushed(self, epoch: ReceivedEpoch) -> None:
        """The epoch's writes are durable."""
        self._flushing = False
        epoch.flushed = True
        self._advance()

    def is_oldest(self, epoch: ReceivedEpoch) -> bool:
        """Whether all earlier epochs are done and durable: this one's writes may begin."""
        return self._epochs[0] is epoch

    def _advance(self) -> None:
        while not self._flushing:
            epoch = self._epochs[0]
            if epoch.barrier is None or epoch.active:
                return
            if not epoch.flushed:
                self._flushing = True
                if not self._ready(epoch):
                    continue
                self._flushing = False
                epoch.flushed = True
            self._epochs.popleft()
            self._ack(epoch.barrier, epoch.size)
