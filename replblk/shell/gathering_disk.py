"""What both ways to a disk have in common: operations are judged and gathered until a step ends.

Offsets and lengths in bytes, multiples of 512. All methods are called on the loop's thread.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from replblk.engine.ports import Buffer
from replblk.shell.backing_device import BackingDevice
from replblk.shell.disk_writer import DiskDone, WriteOp

Read = tuple[int, int, int]  # op, offset, length


class GatheringDisk(ABC):
    """The front of a disk (``engine.ports.Disk``). A subclass has ``end_step`` and ``_stop``."""

    def __init__(self, device: BackingDevice, on_done: DiskDone) -> None:
        self.size_bytes = device.size_bytes
        self.block_bytes = device.block_bytes
        self._device = device
        self._on_done = on_done
        self._in_flight = 0
        self.closed = False
        """Whether the device and its lock were given back."""
        self.due = False
        """Whether operations were gathered since ``end_step``."""
        self.all_due: list[GatheringDisk] = []
        """Where a disk puts itself when it becomes due; whoever has many disks gives them one."""
        self._reads: deque[Read] = deque()
        self._gathered: deque[WriteOp] = deque()

    def read(self, op: int, offset: int, length: int) -> None:
        """Read *length* bytes."""
        self._check(offset, length)
        self._in_flight += 1
        if not self.due:
            self._becomes_due()
        self._reads.append((op, offset, length))

    def write(self, op: int, offset: int, data: Buffer, *, durable: bool) -> None:
        """Write *data*, which stays untouched by the caller until the answer."""
        length = len(data)
        self._check(offset, length)
        self._in_flight += 1
        if not self.due:
            self._becomes_due()
        self._gathered.append(WriteOp(op, offset, length, data, durable))

    def writes(self, operations: list[tuple[int, int, Buffer, bool]]) -> None:
        """``write`` for each, in this order: op, offset, data, durable."""
        assert not self.closed, "an operation on a closed disk"
        size_bytes, gathered = self.size_bytes, self._gathered
        for op, offset, data, durable in operations:
            length = len(data)
            if length <= 0 or offset < 0 or (offset | length) & 511 or offset + length > size_bytes:
                self._check(offset, length)
            gathered.append(WriteOp(op, offset, length, data, durable))
        self._in_flight += len(operations)
        if not self.due:
            self._becomes_due()

    def zero(self, op: int, offset: int, length: int, *, unmap: bool, durable: bool) -> None:
        """Make the range read as zeroes."""
        self._check(offset, length)
        self._in_flight += 1
        if not self.due:
            self._becomes_due()
        self._gathered.append(WriteOp(op, offset, length, None, durable, unmap))

    def flush(self, op: int) -> None:
        """Make every answered write durable."""
        assert not self.closed, "a flush of a closed disk"
        self._in_flight += 1
        if not self.due:
            self._becomes_due()
        self._gathered.append(WriteOp(op, 0, 0, None, durable=True))

    def measure(self) -> int:
        """The device's size as it is now."""
        self.size_bytes = self._device.measure()
        return self.size_bytes

    def last_known(self) -> tuple[int, int]:
        """Size and UUID of the device when its metadata were written last."""
        known = self._device.known
        return known.read() if known is not None else (0, 0)

    def remember(self, size_bytes: int, device_uuid: int) -> None:
        """The metadata are at the end of a device of that size."""
        if self._device.known is not None:
            self._device.known.write(size_bytes, device_uuid)

    @abstractmethod
    def end_step(self) -> None:
        """Hand over what was gathered."""

    def close(self) -> None:
        """Stop and give device and lock back; nothing may be in flight."""
        assert not self._in_flight, f"{self._in_flight} operations in flight on a disk being closed"
        if self.closed:
            return
        self.closed = True
        self._stop()
        self._device.close()

    @abstractmethod
    def _stop(self) -> None:
        """End what carries the operations out."""

    def _becomes_due(self) -> None:
        self.due = True
        self.all_due.append(self)

    def _check(self, offset: int, length: int) -> None:
        assert not self.closed, "an operation on a closed disk"
        assert length > 0, "an empty operation"
        assert offset >= 0, f"offset {offset}"
        assert not (offset | length) & 511, f"offset {offset} or length {length} is no multiple"
        assert offset + length <= self.size_bytes, f"{offset}+{length} ends behind the device"

    def _ended(self, operations: int) -> None:
        """So many are about to be answered."""
        self._in_flight -= operations
        assert self._in_flight >= 0, "more answers than operations"
