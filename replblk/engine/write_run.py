"""Application writes that have nothing in their way, many together: all of the way in one loop.

    range free ─► extent hot ─► P_DATA ─► local disk

What ``WriteOrigin`` asks for each write is asked here once where it is the same for all writes of
one state (``WriteWay.straight``), and packets and disk operations leave as one each. The first
write that is out of the ordinary ends the run: ``WriteOrigin`` takes it, and a new run begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from replblk.engine.write_request import DONE, PENDING, WriteRequest
from replblk.engine.write_way import way_of
from replblk.model.units import AL_EXTENT_SECTORS
from replblk.model.vocabulary import DiskState
from replblk.wire.hot import data_packet
from replblk.wire.packets import DP_FUA, Cmd

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.ports import Buffer, ClientRequest
    from replblk.engine.transfer_log import TransferLog
    from replblk.engine.volume import Volume
    from replblk.wire.hot import AckPacket

_P_DATA, _P_WRITE_ACK = int(Cmd.P_DATA), int(Cmd.P_WRITE_ACK)


class WriteRuns:
    """The ordinary writes of all volumes, and what is ordinary of all writes' answers.

    What is not is told to: alone (a request), acked (an acknowledgement), stored (the local disk's
    error), completes (a write that may be complete), forgets (one that nobody needs). barriers:
    sends the barriers that are due. log, unacked and block_ids are the origin's own.
    """

    def __init__(
        self,
        ctx: Context,
        log: TransferLog,
        unacked: dict[bytes, WriteRequest],
        block_ids: Iterator[bytes],
        *,
        barriers: Callable[[], None],
        alone: Callable[[Volume, ClientRequest], None],
        acked: Callable[[int, Volume, int, bytes, int], None],
        stored: Callable[[WriteRequest, int], None],
        completes: Callable[[WriteRequest], None],
        forgets: Callable[[WriteRequest], None],
    ) -> None:
        self._ctx = ctx
        self._log = log
        self._unacked = unacked
        self._block_ids = block_ids
        self._stored = stored
        self._barriers = barriers
        self._alone = alone
        self._acked = acked
        self._completes = completes
        self._forgets = forgets
        latencies = ctx.latencies
        self._admission, self._activity_log = latencies.admission, latencies.activity_log
        self._disk_ns, self._peer_ns = latencies.disk.gathered, latencies.peer.gathered
        self._write_ns = latencies.write.gathered
        self._told = self._all_local_done  # one object: answers that go there are told together

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
        waits = volume.sync_uuid_pending or volume.paused is not None
        if not way.straight or waits or gate is None or link is None:
            return at
        if volume.marked_anew:
            return at  # what settles those marks, each write asks for itself
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
        self._admission.at_once += count
        self._activity_log.at_once += count
        volume.packet_seq = seq
        volume.app_pending += count
        volume.peer_pending += count
        volume.sent_sectors += sectors
        volume.written_sectors += sectors
        ctx.peer.send_pieces(link, pieces)
        ctx.io.writes(volume, stores, self._told)
        if epoch.count >= epoch_max:
            log.close()
        return begun

    # -- answers ------------------------------------------------------------------------------

    def on_acks(self, volume: Volume, acks: list[AckPacket]) -> None:
        """P_WRITE_ACK in a row, each as ``WriteOrigin.on_block_ack``. Raises PeerError."""
        unacked, now_ns = self._unacked, self._ctx.timers.now_ns
        ready: list[WriteRequest] = []
        for _, _, cmd, _, _, sector, block_id, size, seq in acks:
            volume.saw_seq(seq)
            write = unacked.get(block_id)
            if (
                write is None
                or cmd != _P_WRITE_ACK
                or write.volume is not volume
                or write.sector != sector
                or write.size != size
            ):
                self._acked(cmd, volume, sector, block_id, size)
                continue
            del unacked[block_id]
            volume.peer_pending -= 1
            write.rs_ack = False
            write.net = DONE
            self._peer_ns.append(now_ns - write.sent_ns)
            if write.local != PENDING and not write.completed:
                ready.append(write)
        if ready:
            self._complete_all(ready)

    def _all_local_done(self, writes: list[WriteRequest], errno: int) -> None:
        """Writes of a run, each as ``WriteOrigin._local_done``."""
        if errno:
            for write in writes:
                self._stored(write, errno)
            return
        now_ns = self._ctx.timers.now_ns
        self._disk_ns += [now_ns - write.submitted_ns for write in writes]
        ready: list[WriteRequest] = []
        for write in writes:
            write.local = DONE
            if write.net != PENDING or write.enough:
                ready.append(write)
        if ready:
            self._complete_all(ready)

    def _complete_all(self, writes: list[WriteRequest]) -> None:
        """Each as ``WriteOrigin._maybe_complete``; those well on both disks answered together."""
        log, now_ns = self._log, self._ctx.timers.now_ns
        answered: list[int] = []
        for write in writes:
            volume = write.volume
            if (
                write.local != DONE
                or write.net != DONE
                or write.completed
                or volume.replies_held
                or volume.state.disk is not DiskState.UP_TO_DATE
                or (lock := write.lock) is None
            ):
                self._completes(write)
                continue
            write.completed = True
            self._write_ns.append(now_ns - write.arrived_ns)
            volume.app_pending -= 1
            answered.append(write.number)
            if write.epoch is None:
                self._forgets(write)
            elif write.epoch is log.current:
                log.close()
            write.lock = None
            volume.ranges.release(lock)
        if answered:
            self._ctx.ports.clients.replies(answered)
