"""An application write and an application flush while they are in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.units import AL_EXTENT_SECTORS

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.al_gate import AlGate
    from replblk.engine.ports import ClientRequest
    from replblk.engine.transfer_log import Epoch
    from replblk.engine.volume import Volume

PENDING, DONE, FAILED, ABSENT = range(4)
"""What became of the local or the peer's part of a request."""


class WriteRequest:
    """One application write in flight. local and net: PENDING, DONE, FAILED or ABSENT."""

    gate: AlGate | None = None
    """The activity log that covers the write, while it does."""
    lock: RangeLock | None = None
    local = net = ABSENT
    enough = False
    """The peer part is good enough for the reply, by the replication protocol."""
    rs_ack = False
    completed = False
    epoch: Epoch | None = None
    block_id = b""
    sent_ns = arrived_ns = granted_ns = submitted_ns = 0
    flags = 0

    def __init__(self, volume: Volume, request: ClientRequest) -> None:
        self.volume = volume
        self.number = request.number
        self.kind = request.kind
        self.sector = request.offset >> 9
        self.data = request.data
        self.size = len(request.data) if request.kind == "write" else request.length
        self.fua = request.fua
        self.unmap = request.unmap or request.kind == "trim"
        first = self.sector // AL_EXTENT_SECTORS
        self.extents = range(first, (self.sector + (self.size >> 9) - 1) // AL_EXTENT_SECTORS + 1)


class Flush:
    """An application flush: waits for the local flush and for every epoch that was open."""

    __slots__ = ("epoch", "local", "number", "volume")

    def __init__(self, volume: Volume, number: int, epoch: Epoch | None) -> None:
        self.volume = volume
        self.number = number
        self.epoch = epoch
        self.local = PENDING
