"""A write that the peer sends: admission, local disk, acknowledgement, epoch.

    P_DATA ─► checks ─► epoch ─► range lock (arrival order) ─► disk, durable ─► P_WRITE_ACK
    P_BARRIER ─► epoch closed; all its writes acknowledged and durable ─► P_BARRIER_ACK

With protocol C every acknowledged write is durable here, and the sender completes nothing before
the acknowledgement: order between epochs holds without draining. With A and B a later epoch's
writes wait until the earlier one is durable. Source: protocol, receiver algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from replblk.engine.disk_io import sector_offset
from replblk.engine.epoch_flush import flush_epoch
from replblk.engine.epochs_received import EpochsReceived, ReceivedEpoch
from replblk.engine.write_acks import FLAGS_SINCE, SYNC_STATES, flags_received
from replblk.engine.write_way import misses_writes
from replblk.model.errors import PeerError
from replblk.model.units import DISCARD_BYTES_MAX, REQUEST_BYTES_MAX, al_extents_of
from replblk.model.vocabulary import SOURCE_STATES, ConnState, DiskState
from replblk.rules.generations import Rotation, rotation_alone
from replblk.wire.hot import ack_packet, parse_data, parse_trim
from replblk.wire.packets import (
    DP_DISCARD,
    DP_FUA,
    DP_MAY_SET_IN_SYNC,
    DP_SEND_RECEIVE_ACK,
    DP_SEND_WRITE_ACK,
    BlockDesc,
    Cmd,
)

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.al_gate import AlGate
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.ports import Buffer
    from replblk.engine.volume import Volume
    from replblk.wire.framing import Packet
    from replblk.wire.hot import DataPacket

IN_PROGRESS_BYTES_MAX = 64 << 20
"""Peer data in memory and not yet on disk; above it reading from the data socket stops."""
_BITMAP_TOLD = (ConnState.WF_BITMAP_S, *SOURCE_STATES)
"""The target has our bitmap already: what is marked now it would not hear of."""
_ACKS_ASKED = DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK
_P_WRITE_ACK, _P_RS_WRITE_ACK = int(Cmd.P_WRITE_ACK), int(Cmd.P_RS_WRITE_ACK)


class PeerWrite:
    """One write of the peer in progress."""

    __slots__ = (
        *("block_id", "data", "epoch", "flags", "gate", "lock", "sector", "session", "size"),
        *("volume", "without_disk", "zero"),
    )
    epoch: ReceivedEpoch
    lock: RangeLock

    def __init__(self, volume: Volume, sector: int, block_id: bytes, flags: int, size: int) -> None:
        self.volume = volume
        self.sector = sector
        self.block_id = block_id
        self.flags = flags
        self.size = size
        self.data: Buffer = b""
        self.zero = False
        self.without_disk = False
        """The peer's disk was not written to when it sent this: what is written here, it misses."""
        self.gate: AlGate | None = None
        self.session = 0


class WritePeer:
    """The peer's writes of all volumes, and the epochs they come in."""

    def __init__(
        self,
        ctx: Context,
        disk_failure: DiskFailure,
        begin_generation: Callable[[Volume, Rotation, Callable[[bool], None]], None],
    ) -> None:
        self._ctx = ctx
        self._begin_generation = begin_generation
        self._disk_failure = disk_failure
        self._session = 0
        self._bytes = 0
        self._paused = False
        self._waiting: list[PeerWrite] = []
        self._storing = 0
        """Writes given to the disk and not answered."""
        self._barrier_acks: list[tuple[bytes, int]] = []
        """Due, and to be sent with the next acknowledgement of a write."""
        self.epochs = EpochsReceived(self._make_durable, self._ack_barrier)
        self._told = self._all_stored  # one object: answers that go there are told together

    @property
    def congested(self) -> bool:
        """Whether reading from the data socket is stopped for want of memory."""
        return self._paused

    # -- packets ------------------------------------------------------------------------------

    def on_data(self, volume: Volume, packet: Packet) -> None:
        """P_DATA: sector, block id, sequence number, flags, then digest and data."""
        sector, block_id, seq, flags = parse_data(packet.payload)
        self.on_write(volume, sector, block_id, seq, flags, self._ctx.peer.data_of(packet))

    def on_writes(self, volume: Volume, packets: list[DataPacket]) -> None:
        """P_DATA in a row, taken apart: the ordinary ones together."""
        link = self._ctx.peer.data
        at = 0
        while at < len(packets) and self._ctx.peer.data == link:
            begun = self._begin_run(volume, packets, at)
            if begun == at:
                self.on_write(volume, *packets[at][1:])
                begun += 1
            at = begun

    def _begin_run(self, volume: Volume, packets: list[DataPacket], at: int) -> int:
        """All of the way to the disk for the writes from number *at* on, as far as nothing is out
        of the ordinary; returns the number of the first that was not begun."""
        state, session = volume.state, self._session
        if (
            state.disk < DiskState.INCONSISTENT
            or misses_writes(state)
            or state.conn < ConnState.CONNECTED
            or volume.al_gate is None
            or volume.sync_uuid_pending
            or self._waiting
            or self._ctx.peer.apv < FLAGS_SINCE
        ):
            return at
        claim, capacity, persist = volume.ranges.claim, volume.capacity_sectors, self._ctx.persist
        room = IN_PROGRESS_BYTES_MAX - self._bytes
        epoch = self.epochs.current
        stores: list[tuple[int, Buffer, bool, PeerWrite]] = []
        bytes_begun, begun = 0, at
        for _, sector, block_id, seq, flags, data in packets[at:] if at else packets:
            size = len(data)
            if (
                flags & _ACKS_ASKED != DP_SEND_WRITE_ACK
                or size & 511
                or not 0 < size <= REQUEST_BYTES_MAX
                or sector + (size >> 9) > capacity
                or bytes_begun + size > room
                or (lock := claim(sector, size, exclusive=True)) is None
            ):
                break
            volume.saw_seq(seq)
            write = PeerWrite(volume, sector, block_id, flags, size)
            write.epoch, write.session, write.lock = epoch, session, lock
            bytes_begun += size
            begun += 1
            stores.append((sector << 9, data, persist or bool(flags & DP_FUA), write))
        if count := begun - at:
            epoch.size += count
            epoch.active += count
            volume.received_sectors += bytes_begun >> 9
            volume.written_sectors += bytes_begun >> 9
            volume.unacked += count
            self._bytes += bytes_begun
            self._storing += count
            self._ctx.io.writes(volume, stores, self._told)
        return begun

    def on_write(
        self, volume: Volume, sector: int, block_id: bytes, seq: int, flags: int, data: Buffer
    ) -> None:
        """P_DATA, taken apart."""
        volume.saw_seq(seq)
        size = len(data)
        if size % 512 or size > REQUEST_BYTES_MAX:
            raise PeerError(f"P_DATA: {size} bytes of data, wanted a multiple of 512 up to 1 MiB")
        write = PeerWrite(volume, sector, block_id, flags, size)
        write.data = data
        self._receive(write, refused_size=size)

    def on_zeroes(self, volume: Volume, payload: Buffer) -> None:
        """P_TRIM and P_ZEROES: a range that reads as zeroes afterwards; no data."""
        sector, block_id, seq, flags, size = parse_trim(payload)
        volume.saw_seq(seq)
        if size == 0 or size % 512 or size > DISCARD_BYTES_MAX:
            raise PeerError(
                f"P_TRIM/P_ZEROES: bad size {size}, wanted a multiple of 512 up to 128 MiB"
            )
        write = PeerWrite(volume, sector, block_id, flags, size)
        write.zero = True
        self._receive(write, refused_size=0)

    def on_barrier(self, number: bytes) -> None:
        """P_BARRIER: the current epoch ends."""
        if not self.epochs.barrier(number):
            raise PeerError("P_BARRIER for an empty epoch")
        if self._waiting:
            self.release_waiting()

    def on_out_of_sync(self, volume: Volume, what: BlockDesc) -> None:
        """P_OUT_OF_SYNC: the peer wrote without us; remember the range."""
        start, size = what.sector, what.blksize
        if size == 0 or size % 512 or size > DISCARD_BYTES_MAX or start >= volume.capacity_sectors:
            raise PeerError(
                f"P_OUT_OF_SYNC: sector {start}, {size} bytes is no range of this device"
            )
        end = min(start + (size >> 9), volume.capacity_sectors)
        volume.mark_out_of_sync(start, (end - start) << 9)

    # -- the way of a write -------------------------------------------------------------------

    def _receive(self, write: PeerWrite, refused_size: int) -> None:
        volume = write.volume
        if write.sector + (write.size >> 9) > volume.capacity_sectors:
            raise PeerError(
                f"write beyond the end of the device: sector {write.sector}, {write.size} bytes, "
                f"device {volume.capacity_sectors} sectors"
            )
        if self._ctx.peer.apv < FLAGS_SINCE:
            write.flags = flags_received(write.flags, self._ctx.net.protocol)
        epoch = self.epochs.write_received()
        write.epoch = epoch
        write.session = self._session
        left = volume.diskless_link == self._ctx.peer.data
        write.without_disk = left or misses_writes(volume.state)
        volume.received_sectors += write.size >> 9
        if volume.state.disk < DiskState.INCONSISTENT:
            self._nack(write, refused_size)
            self.epochs.write_done(epoch)
            return
        if write.size == 0:  # an empty flush: nothing to write, but it counts
            self._answer(write)
            self.epochs.write_done(epoch)
            return
        if write.flags & DP_SEND_RECEIVE_ACK:
            self._send_ack(Cmd.P_RECV_ACK, write, write.size)
        self._count(write, 1)
        if self._bytes > IN_PROGRESS_BYTES_MAX:
            self._throttle()
        self._admit(write)

    def _may_go(self, write: PeerWrite) -> bool:
        if write.volume.sync_uuid_pending:
            return False  # Inconsistent must be durable before anything is mixed in
        return bool(write.flags & DP_SEND_WRITE_ACK) or self.epochs.is_oldest(write.epoch)

    def release_waiting(self) -> None:
        """What held writes back may be gone: let them go on."""
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            self._ranged(write, write.lock)

    def _admit(self, write: PeerWrite) -> None:
        ranges = write.volume.ranges
        if (claim := ranges.claim(write.sector, write.size, exclusive=True)) is not None:
            self._ranged(write, claim)
        else:
            ranges.lock(
                write.sector, write.size, lambda claim: self._ranged(write, claim), exclusive=True
            )

    def _ranged(self, write: PeerWrite, claim: RangeLock) -> None:
        volume = write.volume
        write.lock = claim
        if not self._may_go(write):
            # With its range: what is read or resynced from now on comes behind it.
            if write.session == self._session:
                self._waiting.append(write)
            else:
                self._drop(write)
            return
        gate = volume.al_gate
        if volume.state.disk < DiskState.INCONSISTENT or gate is None:
            self._done(write, -1)
            return
        if write.sector + (write.size >> 9) > volume.capacity_sectors:
            self._done(write, 0)  # the device became smaller: nobody reads it any more
            return
        if write.without_disk or volume.state.pdsk < DiskState.INCONSISTENT:
            # We are the only storage of a diskless Primary: keep book as a Primary would, also for
            # what is left of a connection that is gone by now.
            gone = volume.state.conn < ConnState.CONNECTED or write.session != self._session
            if volume.generation_due or gone:
                unfinished = volume.target_unfinished
                rotation = rotation_alone(volume.uuids, target_unfinished=unfinished)
                if rotation is not Rotation.KEEP:
                    self._begin_generation(volume, rotation, lambda _: self._ranged(write, claim))
                    return
            if volume.replies_held:  # a generation is on its way to the disk
                volume.reply_when_durable(lambda _: self._ranged(write, claim))
                return
            newly = volume.mark_out_of_sync(write.sector, write.size)
            if newly and volume.state.conn in _BITMAP_TOLD:
                desc = BlockDesc(write.sector, write.size)
                self._ctx.peer.send(Cmd.P_OUT_OF_SYNC, desc, volume.number)
            write.flags &= ~DP_MAY_SET_IN_SYNC
            meta = volume.meta
            assert meta is not None
            if meta.marked_primary:
                write.gate = gate
                extents = al_extents_of(write.sector, write.size)
                gate.enter(extents, lambda hot: self._logged(write, hot))
            else:
                # After a crash the activity log is read on a disk that is marked as a Primary's:
                # where that is not so, or not yet, the mark itself has to be durable first.
                meta.write_bitmap(lambda ok: self._logged(write, ok))
        else:
            self._store(write)

    def _logged(self, write: PeerWrite, hot: bool) -> None:
        if hot:
            self._store(write)
        else:
            write.gate = None
            self._done(write, -1)

    def _store(self, write: PeerWrite) -> None:
        volume, io = write.volume, self._ctx.io
        if volume.state.disk < DiskState.INCONSISTENT:
            self._done(write, -1)
            return
        durable = self._ctx.persist or bool(write.flags & DP_FUA)
        offset = sector_offset(write.sector)
        volume.written_sectors += write.size >> 9
        self._storing += 1
        done = partial(self._stored, write)
        if write.zero:
            unmap = bool(write.flags & DP_DISCARD)
            io.zero(volume, offset, write.size, done, unmap=unmap, durable=durable)
        else:
            io.write(volume, offset, write.data, done, durable=durable)

    def _all_stored(self, writes: list[PeerWrite], errno: int) -> None:
        """Writes of a run, all of one volume, each as ``_stored``."""
        if errno:
            for write in writes:
                self._stored(write, errno, None)
            return
        session, volume, link = self._session, writes[0].volume, self._ctx.peer.meta
        syncing = volume.state.conn in SYNC_STATES
        number, seq = volume.number, volume.packet_seq
        acks: list[bytes] = []
        epochs: list[ReceivedEpoch] = []
        done_bytes = 0
        for write in writes:
            done_bytes += write.size
            if write.session != session:
                continue
            cmd = _P_WRITE_ACK
            if syncing and write.flags & DP_MAY_SET_IN_SYNC:
                volume.mark_in_sync(write.sector, write.size)
                cmd = _P_RS_WRITE_ACK
            seq = seq + 1 & 0xFFFFFFFF
            acks.append(ack_packet(cmd, number, write.sector, write.block_id, write.size, seq))
            epochs.append(write.epoch)
        volume.unacked -= len(writes)
        self._bytes -= done_bytes
        self._storing -= len(writes)
        if acks:
            volume.packet_seq = seq
            if link is not None:
                self._ctx.ports.links.send(link, b"".join(acks))
            self.epochs.writes_done(epochs, number)
        release = volume.ranges.release
        for write in writes:
            release(write.lock)
        if self._paused:
            self._throttle()
        if self._waiting:
            self.release_waiting()
        if self._barrier_acks:
            self._send_barrier_acks()

    def _stored(self, write: PeerWrite, errno: int, _data: Buffer | None) -> None:
        self._storing -= 1
        self._done(write, errno)
        if self._barrier_acks:
            self._send_barrier_acks()

    def _done(self, write: PeerWrite, errno: int) -> None:
        """On disk, or failed: acknowledge, then let the epoch go on."""
        volume = write.volume
        self._count(write, -1)
        gate, write.gate = write.gate, None
        if gate is not None:
            gate.leave(al_extents_of(write.sector, write.size))
        if errno:
            volume.mark_out_of_sync(write.sector, write.size)
            if errno > 0:
                self._disk_failure.failed(
                    volume,
                    f"local WRITE IO error sector {write.sector}+{write.size >> 9} (errno {errno})",
                )
        if write.session == self._session:
            if errno:
                self._nack(write, write.size)
            else:
                self._answer(write)
                write.epoch.stored.add(volume.number)
            self.epochs.write_done(write.epoch)
        volume.ranges.release(write.lock)
        if self._paused:
            self._throttle()
        if self._waiting:
            self.release_waiting()

    def _count(self, write: PeerWrite, by: int) -> None:
        write.volume.unacked += by
        self._bytes += by * (512 if write.zero else write.size)

    # -- answers ------------------------------------------------------------------------------

    def _answer(self, write: PeerWrite) -> None:
        if not write.flags & DP_SEND_WRITE_ACK:
            return
        volume = write.volume
        if write.flags & DP_MAY_SET_IN_SYNC and volume.state.conn in SYNC_STATES:
            volume.mark_in_sync(write.sector, write.size)
            self._send_ack(Cmd.P_RS_WRITE_ACK, write, write.size)
        else:
            self._send_ack(Cmd.P_WRITE_ACK, write, write.size)

    def _nack(self, write: PeerWrite, size: int) -> None:
        self._send_ack(Cmd.P_NEG_ACK, write, size)

    def _send_ack(self, cmd: Cmd, write: PeerWrite, size: int) -> None:
        volume = write.volume
        seq = volume.next_seq()
        self._ctx.peer.send_ack(cmd, volume.number, write.sector, write.block_id, size, seq)

    def _make_durable(self, epoch: ReceivedEpoch) -> bool:
        """All writes of an epoch are done: flush the disks unless each write already was."""
        if self._ctx.persist:
            return True
        session = self._session

        def settled(durable: bool) -> None:
            if session != self._session:
                return
            if not durable:
                # The epoch can't be promised: without its barrier ack the peer keeps it dirty.
                self._ctx.peer.give_up(ConnState.BROKEN_PIPE, "flushing an epoch failed")
                return
            self.epochs.flushed(epoch)
            self.release_waiting()

        flush_epoch(self._ctx, self._disk_failure, epoch, settled)
        return False

    def _ack_barrier(self, number: bytes, size: int) -> None:
        """P_BARRIER_ACK, later in this step; or, while writes are on their way to the disk, with
        the next of their acknowledgements: one packet less to wake the sender for."""
        if not self._barrier_acks:
            self._ctx.defer(self._barrier_acks_due)
        self._barrier_acks.append((number, size))

    def _barrier_acks_due(self) -> None:
        if not self._storing:
            self._send_barrier_acks()

    def _send_barrier_acks(self) -> None:
        if due := self._barrier_acks:
            self._barrier_acks = []
            self._ctx.peer.send_barrier_acks(due)

    def _throttle(self) -> None:
        link = self._ctx.peer.data
        want = self._bytes > IN_PROGRESS_BYTES_MAX
        if want == self._paused or link is None:
            return
        if not want and self._bytes > IN_PROGRESS_BYTES_MAX // 2:
            return
        self._paused = want
        self._ctx.ports.links.pause(link, want)

    # -- life ---------------------------------------------------------------------------------

    def connection_lost(self) -> None:
        """Epochs are dropped, nothing of the old connection is acknowledged any more."""
        self._session += 1
        self._paused = False
        self._barrier_acks.clear()
        self.epochs = EpochsReceived(self._make_durable, self._ack_barrier)
        waiting, self._waiting = self._waiting, []
        for write in waiting:
            self._drop(write)

    def _drop(self, write: PeerWrite) -> None:
        """Never submitted, never acknowledged: the peer knows it as lost."""
        self._count(write, -1)
        write.volume.ranges.release(write.lock)
