"""A write that begins here: admission, activity log, local disk and peer, acknowledgement, reply.

    client request ─► range lock (overlaps wait) ─► activity log (cold extents wait) ─► local disk
                                                                                   └─► P_DATA
    local done and P_WRITE_ACK, in any order ─► reply ─► range lock released, epoch closed
    P_BARRIER_ACK ─► activity-log references dropped
    peer lost before that ─► range marked out of sync, new generation durable, then the reply

Zeroes and discards go the same way as P_ZEROES or P_TRIM. A discard is carried out as zeroes that
may be unmapped, so that both replicas read the same afterwards.
"""

from __future__ import annotations

import errno as errnos
import struct
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from replblk.engine.app_flush import AppFlushes
from replblk.engine.disk_io import sector_offset
from replblk.engine.frozen_writes import FrozenWrites
from replblk.engine.ko_count import KoCount
from replblk.engine.split_writes import SplitWrites
from replblk.engine.transfer_log import TransferLog
from replblk.engine.write_acks import SYNC_STATES, flags_to_send
from replblk.engine.write_request import ABSENT, DONE, FAILED, PENDING, WriteRequest
from replblk.engine.write_run import WriteRuns
from replblk.engine.write_way import replicates, way_of
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState
from replblk.wire.hot import data_header, trim_header
from replblk.wire.packets import (
    DP_DISCARD,
    DP_FUA,
    DP_SEND_RECEIVE_ACK,
    DP_SEND_WRITE_ACK,
    DP_ZEROES,
    FF_WZEROES,
    BlockDesc,
    Cmd,
)

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.al_gate import AlGate
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.ports import Buffer, ClientRequest
    from replblk.engine.volume import Volume

BARRIER_IDLE_NS = 10_000_000
"""How long a closed epoch waits for a write that would carry its barrier. What is still without
its acknowledgement when the connection is lost is resynced; nobody waits for it meanwhile."""
_BLOCK_ID = struct.Struct(">Q")
_P_RECV_ACK, _P_RS_WRITE_ACK = int(Cmd.P_RECV_ACK), int(Cmd.P_RS_WRITE_ACK)
_P_NEG_ACK = int(Cmd.P_NEG_ACK)


class WriteOrigin:
    """Application writes of all volumes, and the transfer log they share."""

    def __init__(self, ctx: Context, disk_failure: DiskFailure) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._latencies = ctx.latencies
        self.log = TransferLog()
        self._block_ids = map(_BLOCK_ID.pack, count(1))
        self._unacked: dict[bytes, WriteRequest] = {}
        self._split = SplitWrites(self._pieces_done, self._pieces_received)
        self.frozen = FrozenWrites()
        self.flushes = AppFlushes(ctx, disk_failure, self.log, self.frozen)
        self._ko = KoCount(ctx, self.log)
        self.runs = WriteRuns(
            ctx,
            self.log,
            self._unacked,
            self._block_ids,
            barriers=self.send_barriers,
            alone=self.on_write,
            acked=self.on_block_ack,
            stored=self._local_done,
            completes=self._maybe_complete,
            forgets=self._forget,
        )

    # -- from the client ----------------------------------------------------------------------

    def on_write(self, volume: Volume, request: ClientRequest) -> None:
        """A client writes, zeroes or trims."""
        if volume.paused is not None:
            volume.paused.append(lambda: self.on_write(volume, request))
            return
        volume.app_pending += 1
        write = WriteRequest(volume, request)
        write.arrived_ns = self._ctx.timers.now_ns
        self._admit(write)

    def _admit(self, write: WriteRequest) -> None:
        volume = write.volume
        if way_of(self._ctx, volume).wait or volume.sync_uuid_pending:
            volume.held.append(lambda: self._admit(write))
        elif (claim := volume.ranges.claim(write.sector, write.size, exclusive=True)) is not None:
            self._ranged(write, claim)
        else:
            volume.ranges.lock(
                write.sector, write.size, lambda claim: self._ranged(write, claim), exclusive=True
            )

    def _ranged(self, write: WriteRequest, claim: RangeLock) -> None:
        volume = write.volume
        write.lock = claim
        write.granted_ns = self._ctx.timers.now_ns
        gate = volume.al_gate
        if gate is None or not volume.has_disk:
            self._submit(write)
        elif gate.enter_at_once(write.extents):
            write.gate = gate
            self._submit(write)
        else:
            gate.enter(write.extents, lambda hot: self._logged(write, gate if hot else None))

    def _logged(self, write: WriteRequest, gate: AlGate | None) -> None:
        write.gate = gate
        self._submit(write)

    def _submit(self, write: WriteRequest) -> None:
        """The range is ours and the activity log covers it: to disk and peer."""
        volume = write.volume
        way = way_of(self._ctx, volume)
        if way.wait or volume.sync_uuid_pending:
            # The state moved on meanwhile: wait for it with range and log reference in hand.
            volume.held.append(lambda: self._submit(write))
            return
        if refused := volume.refusal(write.sector, write.size):
            self._complete(write, refused)
            self._forget(write)
            return
        gate = write.gate
        local = way.has_disk and gate is not None and gate is volume.al_gate
        if not (way.replicate and way.good_there) and not (local and way.good_here):
            self._ctx.tell(
                Level.ERROR,
                f"IO ERROR: neither local nor remote data, sector {write.sector}+{write.size >> 9}",
                volume.number,
            )
            self._complete(write, errnos.EIO)
            self._forget(write)
            return
        if way.replicate:
            volume.written_elsewhere |= not local
            self._send(write)
        else:
            newly = volume.mark_out_of_sync(write.sector, write.size)
            if newly and way.state.conn in (ConnState.WF_BITMAP_S, ConnState.AHEAD):
                self._ctx.peer.send(
                    Cmd.P_OUT_OF_SYNC, BlockDesc(write.sector, write.size), volume.number
                )
        now_ns = write.submitted_ns = self._ctx.timers.now_ns
        self._latencies.admission.record(write.granted_ns - write.arrived_ns)
        self._latencies.activity_log.record(now_ns - write.granted_ns)
        if local:
            write.local = PENDING
            self._write_local(write)

    def _write_local(self, write: WriteRequest) -> None:
        volume, io = write.volume, self._ctx.io
        durable = write.fua or self._ctx.persist
        volume.written_sectors += write.size >> 9
        done = partial(self._local_done, write)
        offset = sector_offset(write.sector)
        if write.kind == "write":
            io.write(volume, offset, write.data, done, durable=durable)
        else:
            io.zero(volume, offset, write.size, done, unmap=write.unmap, durable=durable)

    def _send(self, write: WriteRequest) -> None:
        volume, peer, log = write.volume, self._ctx.peer, self.log
        way = way_of(self._ctx, volume)
        volume.sent_anew(write.sector, write.size)
        if log.due:
            self.send_barriers()
        write.block_id = next(self._block_ids)
        write.net = PENDING
        write.sent_ns = self._ctx.timers.now_ns
        data = write.kind == "write"
        zeroes = not data and (peer.features & FF_WZEROES and not self._ctx.net.data_integrity_alg)
        if write.size > way.bytes_max and not zeroes:
            self._send_pieces(write)
            return
        log.add(write)
        self._unacked[write.block_id] = write
        write.enough = way.enough
        flags = write.flags = way.flags | DP_FUA if write.fua else way.flags
        seq = volume.next_seq()
        if data:
            volume.sent_sectors += write.size >> 9
            if way.plain:
                peer.send_write(volume.number, write.sector, write.block_id, seq, flags, write.data)
            else:
                head = data_header(write.sector, write.block_id, seq, flags)
                peer.send_data(Cmd.P_DATA, volume.number, head, write.data)
        elif zeroes:
            flags |= DP_ZEROES | (DP_DISCARD if write.unmap else 0)
            head = trim_header(write.sector, write.block_id, seq, flags, write.size)
            peer.send_raw(Cmd.P_ZEROES, volume.number, head)
        else:
            # No P_ZEROES, or a kernel that would look for a digest in it: zeroes go as data.
            head = data_header(write.sector, write.block_id, seq, flags)
            peer.send_data(Cmd.P_DATA, volume.number, head, bytes(write.size))
        volume.peer_pending += 1
        log.awaited |= way.barrier_tells
        if way.barrier_tells or log.current.count >= way.net.max_epoch_size:
            log.close()

    def _send_pieces(self, write: WriteRequest) -> None:
        """More data than one packet can carry: zeroes, or any write to a peer of old.

        At protocol 100 and up each piece asks for P_WRITE_ACK. Before that a peer acknowledges as
        the replication protocol says: with B and A the barrier's acknowledgement is what counts.
        """
        volume, peer = write.volume, self._ctx.peer
        self.log.add(write, packets=-(-write.size // peer.request_bytes_max))
        flags = flags_to_send(self._ctx, volume) | (DP_FUA if write.fua else 0)
        if peer.apv >= 100:
            flags = flags & ~DP_SEND_RECEIVE_ACK | DP_SEND_WRITE_ACK
        write.flags = flags
        write.rs_ack = bool(flags & DP_SEND_WRITE_ACK)
        if not flags & DP_SEND_WRITE_ACK:
            self._unacked[write.block_id] = write
        self._split.send(peer, write, self._block_ids.__next__)
        volume.sent_sectors += write.size >> 9 if write.kind == "write" else 0
        write.enough = not flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK)
        volume.peer_pending += 1
        way = way_of(self._ctx, volume)
        self.log.awaited |= way.barrier_tells
        if way.barrier_tells or self.log.current.count >= way.net.max_epoch_size:
            self.log.close()

    # -- answers ------------------------------------------------------------------------------

    def on_block_ack(
        self, cmd: int, volume: Volume, sector: int, block_id: bytes, blksize: int
    ) -> None:
        """P_WRITE_ACK, P_RS_WRITE_ACK, P_RECV_ACK or P_NEG_ACK for an application write."""
        write = self._unacked.get(block_id)
        if write is None and self._split.on_ack(Cmd(cmd), volume, sector, block_id, blksize):
            return
        if write is None or write.volume is not volume or write.sector != sector:
            if cmd != _P_NEG_ACK:
                raise PeerError(
                    f"{Cmd(cmd).name} for sector {sector}: no such write is outstanding"
                )
            volume.mark_out_of_sync(sector, blksize)
            return
        if blksize != write.size and cmd != _P_NEG_ACK:
            raise PeerError(f"{Cmd(cmd).name}: {blksize} bytes acknowledged of {write.size} sent")
        if cmd == _P_RECV_ACK:
            if not write.flags & DP_SEND_RECEIVE_ACK:
                raise PeerError("P_RECV_ACK for a write that did not ask for it")
            write.enough = True
            self._maybe_complete(write)
            return
        del self._unacked[block_id]
        volume.peer_pending -= 1
        write.rs_ack = cmd == _P_RS_WRITE_ACK
        self._net_done(write, cmd != _P_NEG_ACK)

    def _pieces_received(self, write: WriteRequest) -> None:
        write.enough = True
        self._maybe_complete(write)

    def _pieces_done(self, write: WriteRequest, ok: bool) -> None:
        write.volume.peer_pending -= 1
        self._net_done(write, ok)

    def on_barrier_ack(self, number: bytes, set_size: int) -> None:
        """P_BARRIER_ACK: the peer has an epoch for good; its writes may be forgotten."""
        epoch = self.log.named_by(number, set_size)
        for write in epoch.writes:
            if write.net == PENDING and write.flags & DP_SEND_WRITE_ACK:
                raise PeerError("BarrierAck for an epoch with unacknowledged writes")
        self.log.drop(epoch)
        left: dict[AlGate, list[int]] = {}
        for write in epoch.writes:
            write.epoch = None
            if write.net == PENDING:  # protocol A or B: this is the first and only proof
                del self._unacked[write.block_id]
                write.volume.peer_pending -= 1
                self._net_done(write, True)
            if write.completed and not write.rs_ack and (gate := write.gate) is not None:
                write.gate = None
                left.setdefault(gate, []).extend(write.extents)
            elif write.completed:
                self._forget(write)
            # else it was faster than the local disk: _maybe_complete comes back
        for gate, extents in left.items():
            gate.leave(extents)
        if self.flushes.pending:
            self.flushes.progress()

    def _local_done(self, write: WriteRequest, errno: int, _data: Buffer | None = None) -> None:
        if errno:
            write.local = FAILED
            volume = write.volume
            volume.mark_failed(write.sector, write.size)
            self._disk_failure.failed(
                volume,
                f"local WRITE IO error sector {write.sector}+{write.size >> 9} (errno {errno})",
            )
        else:
            write.local = DONE
            self._latencies.disk.record(self._ctx.timers.now_ns - write.submitted_ns)
        if write.net != PENDING or write.enough:
            self._maybe_complete(write)

    def _net_done(self, write: WriteRequest, ok: bool) -> None:
        write.net = DONE if ok else FAILED
        if ok:
            self._latencies.peer.record(self._ctx.timers.now_ns - write.sent_ns)
        else:
            write.volume.mark_out_of_sync(write.sector, write.size)
        if write.local != PENDING and not write.completed:
            self._maybe_complete(write)

    def _maybe_complete(self, write: WriteRequest) -> None:
        if write.local == PENDING or write.completed:
            return
        if write.volume.state.susp_fen and not write.net == write.local == DONE:
            self.frozen.add(write)  # one node lacks it, and nobody fenced the other one yet
            return
        self._conclude(write)

    def _conclude(self, write: WriteRequest) -> None:
        # A copy counts if the data around it is good: a resync overwrites what is not.
        state = write.volume.state
        good_here = write.local == DONE and state.disk is DiskState.UP_TO_DATE
        if write.net == PENDING and not (write.enough and good_here):
            # Without a good local copy only the peer's disk counts; with A and B its barrier tells.
            if write.enough:
                self.log.awaited = True
                if write.epoch is self.log.current:
                    self.log.close()
            return
        good_there = write.net == DONE and state.pdsk is DiskState.UP_TO_DATE
        if not good_here and not good_there and state.susp_nod and write.epoch is None:
            self.frozen.add(write)
            return
        self._complete(write, 0 if good_here or good_there else errnos.EIO)
        if write.epoch is None:
            self._forget(write)

    def _complete(self, write: WriteRequest, errno: int) -> None:
        """Reply to the client (once the generation is durable) and let overlapping writes go on."""
        write.completed = True
        self._latencies.write.record(self._ctx.timers.now_ns - write.arrived_ns)
        volume, number = write.volume, write.number
        volume.app_pending -= 1
        clients = self._ctx.ports.clients
        if volume.replies_held:
            volume.reply_when_durable(
                lambda ok: clients.reply(number, errno if ok else errno or errnos.EIO, None)
            )
        else:
            clients.reply(number, errno, None)
        if write.epoch is not None and write.epoch is self.log.current:
            self.log.close()
        lock, write.lock = write.lock, None
        if lock is not None:
            volume.ranges.release(lock)

    def _forget(self, write: WriteRequest) -> None:
        """Nobody needs this write any more: settle its bits, drop its activity-log references."""
        if not write.completed:
            return  # barrier-acknowledged before the local disk: _maybe_complete comes back
        volume = write.volume
        both = write.rs_ack and write.local == write.net == DONE
        if both and volume.state.conn in SYNC_STATES:
            # Its range is free since it was answered: what is written there now may be marked, and
            # without a resync, as while the connection ends, all of it is.
            volume.mark_older_in_sync(write.sector, write.size)
        gate, write.gate = write.gate, None
        if gate is not None:
            gate.leave(write.extents)

    # -- flushes and barriers -----------------------------------------------------------------

    def send_barriers(self) -> None:
        """Send the barrier of every closed epoch."""
        if due := self.log.due_barriers():
            self._ctx.peer.send_barriers([epoch.barrier for epoch in due])

    def step_ended(self) -> None:
        """Nothing more follows for the moment: closed epochs get their barrier, but not in haste.

        The next write carries it along; only when none comes does it go alone. A flush waits for
        it, or a write that only the peer's disk has: then it goes at once.
        """
        log = self.log
        if not log.due and not (log.current.count and not self._ko.armed):
            return
        if not self._ctx.peer.up:
            return
        if not self._ko.armed:
            self._ko.watch()
        if not log.due:
            return
        if self.flushes.pending or log.awaited:
            self.send_barriers()
        elif not self._ctx.timers.pending("barrier"):
            self._ctx.timers.set("barrier", BARRIER_IDLE_NS, self.send_barriers)

    # -- loss ---------------------------------------------------------------------------------

    def peer_lost_disk(self, volume: Volume) -> None:
        """What is on its way there may be refused; when we hear of that, the peer may have its disk
        again, and our bitmap."""
        for write in self.log.writes():
            if write.volume is volume and write.net == PENDING:
                volume.mark_out_of_sync(write.sector, write.size)

    def connection_lost(self) -> None:
        """What the peer did not barrier-acknowledge is out of sync; writes complete without it."""
        self._ko.stop()
        for write in self.log.lost():
            if write.net == PENDING:
                write.volume.peer_pending -= 1
            if write.volume.state.suspended:
                self.frozen.add(write)
            else:
                self._settle(write)
        self._unacked.clear()
        self._split.connection_lost()
        self.flushes.progress()

    def _settle(self, write: WriteRequest) -> None:
        """The peer may or may not have it, and will not say: out of sync, complete without it."""
        write.volume.mark_out_of_sync(write.sector, write.size)
        write.epoch = None
        write.rs_ack = False
        if write.net == PENDING:
            write.net = FAILED
        if write.completed:
            self._forget(write)
        elif write.local != PENDING:
            self._conclude(write)

    def thaw(self, volume: Volume, *, resend: bool) -> None:
        """Frozen writes go on: to the peer that is back, or as if it were lost for good.

        Called before I/O is let on, so that what is sent again comes before what is new.
        """
        if not self.frozen.of(volume):
            return
        resend = resend and volume.state.conn is ConnState.CONNECTED and replicates(volume.state)
        again: list[WriteRequest] = []
        epoch = None
        bad_here = not resend and volume.state.disk is not DiskState.UP_TO_DATE
        for was_in, write in self.frozen.take(volume):
            if not write.completed and (write.local in (ABSENT, FAILED) or bad_here):
                if write.local == DONE:
                    volume.mark_out_of_sync(write.sector, write.size)
                write.epoch, write.local, write.net, write.enough = None, ABSENT, ABSENT, False
                again.append(write)
            elif resend:
                if was_in is not epoch:
                    self.log.close()
                epoch = was_in
                self._send(write)
            else:
                self._settle(write)
        self.log.close()
        for write in reversed(again):
            volume.held.appendleft(partial(self._begin_again, write))
        self.flushes.thaw(volume, resend=resend)

    def _begin_again(self, write: WriteRequest) -> None:
        """No good disk has the write: its way begins anew, in the range it still holds."""
        gate, write.gate = write.gate, None
        if gate is not None:
            gate.leave(write.extents)
        assert write.lock is not None
        self._ranged(write, write.lock)

    def idle(self, volume: Volume) -> bool:
        """Whether there is no request of a client, begun or waiting, nor one short of its barrier
        ack."""
        return not volume.paused and self.drained(volume)

    def drained(self, volume: Volume) -> bool:
        """Whether no request that was begun is in flight or short of its barrier ack."""
        self.send_barriers()
        return not (volume.app_pending or self.frozen.of(volume)) and not any(
            write.volume is volume for write in self.log.writes()
        )
