"""Application writes that have nothing in their way, many together: all of the way in one loop.

    range free ─► extent hot ─► P_DATA ─► local disk

What ``WriteOrigin`` asks for each write is asked here once where it is the same for all writes of
one state (``WriteWay.straight``), and packets and disk operations leave as one each. The first
write that is out of the ordinary ends the run: ``WriteOrigin`` takes it, and a new run begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from replblk.engine.write_request import PENDING, WriteRequest
from replblk.engine.write_way import way_of
from replblk.model.units import AL_EXTENT_SECTORS
from replblk.wire.hot import data_packet
from replblk.wire.packets import DP_FUA, Cmd

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.ports import Buffer, ClientRequest
    from replblk.engine.transfer_log import TransferLog
    from replblk.engine.volume import Volume
    from replblk.engine.write_times import WriteTimes

Stored = Callable[[list[WriteRequest], int], None]
_P_DATA = int(Cmd.P_DATA)


class WriteRuns:
    """The ordinary writes of all volumes. stored: told of writes that the local disk answered.
    barriers: sends the barriers that are due. alone: takes a write that is not ordinary. log,
    unacked and block_ids are the origin's own."""

    def __init__(
        self,
        ctx: Context,
        times: WriteTimes,
        log: TransferLog,
        unacked: dict[bytes, WriteRequest],
        block_ids: Iterator[bytes],
        *,
        stored: Stored,
        barriers: Callable[[], None],
        alone: Callable[[Volume, ClientRequest], None],
    ) -> None:
        self._ctx = ctx
        self._log = log
        self._unacked = unacked
        self._block_ids = block_ids
        self._stored = stored
        self._barriers = barriers
        self._alone = alone
        self._times = times

    def on_writes(self, volume: Volume, requests: list[ClientRequest]) -> None:
        """A client writes: many requests in this order, the ordinary ones together."""
        at, deferred = 0, self._ctx.deferred
        while at < len(requests):
            begun = self._begin(volume, requests, at)
            if begun == at:
                self._alone(volume, requests[at])
                begun += 1
                if deferred:
                    self._ctx.run_deferred()
            at = begun

    def _begin(self, volume: Volume, requests: list[ClientRequest], at: int) -> int:
        """Begin the writes from number *at* on as far as they are ordinary; returns the number of
        the first that was not begun. Nothing in here changes a state."""
        ctx, log = self._ctx, self._log
        way, gate, link = way_of(ctx, volume), volume.al_gate, ctx.peer.data
        if not way.straight or volume.sync_uuid_pending or gate is None or link is None:
            return at
        hot = gate.log_at_once
        if hot is None:
            return at
        if log.due:
            self._barriers()
        now_ns, persist = ctx.timers.now_ns, ctx.persist
        claim, capacity, bytes_max = volume.ranges.claim, volume.capacity_sectors, way.bytes_max
        number, unacked, block_ids = volume.number, self._unacked, self._block_ids
        seq, sectors, epoch_max = volume.packet_seq, 0, way.net.max_epoch_size
        epoch = log.current
        room = epoch_max - epoch.count
        pieces: list[Buffer] = []
        stores: list[tuple[int, Buffer, bool, WriteRequest]] = []
        begun = at
        for request in requests[at : at + room]:
            data, offset = request.data, request.offset
            size = len(data)
            sector = offset >> 9
            extent = sector // AL_EXTENT_SECTORS
            if (
                size > bytes_max
                or sector + (size >> 9) > capacity
                or (sector + (size >> 9) - 1) // AL_EXTENT_SECTORS != extent
                or not hot.get(extent)
            ):
                break
            if (lock := claim(sector, size, exclusive=True)) is None:
                hot.put(extent)
                break
            write = WriteRequest(volume, request)
            write.arrived_ns = write.granted_ns = write.sent_ns = write.submitted_ns = now_ns
            write.lock, write.gate = lock, gate
            write.local = write.net = PENDING
            write.enough = way.enough
            fua = request.fua
            flags = write.flags = way.flags | DP_FUA if fua else way.flags
            block_id = write.block_id = next(block_ids)
            write.epoch = epoch
            epoch.writes.append(write)
            unacked[block_id] = write
            seq = seq + 1 & 0xFFFFFFFF
            pieces.append(data_packet(_P_DATA, number, sector, block_id, seq, flags, size))
            pieces.append(data)
            stores.append((offset, data, fua or persist, write))
            sectors += size >> 9
            begun += 1
        count = begun - at
        if not count:
            return at
        epoch.count += count
        self._times.at_once += count
        volume.packet_seq = seq
        volume.app_pending += count
        volume.peer_pending += count
        volume.sent_sectors += sectors
        volume.written_sectors += sectors
        ctx.peer.send_pieces(link, pieces)
        ctx.io.writes(volume, stores, self._stored)
        if epoch.count >= epoch_max:
            log.close()
        return begun
