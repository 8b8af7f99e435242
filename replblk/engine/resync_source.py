"""The source of a resync: answers the target's requests, clears bits on its acknowledgements.

    P_RS_DATA_REQUEST ─► range lock (writes to it wait) ─► disk.read ─► P_RS_DATA_REPLY
    P_RS_WRITE_ACK ─► bits cleared: the target has it on disk
    target reports Connected, UpToDate ─► no bits left? ─► ping ─► generation handed over

The range is held from the read until the reply is sent, so a reply never carries data older than a
P_DATA already sent. Source: protocol, resync.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from replblk.engine.peer_reads import read_for_peer
from replblk.engine.write_acks import SYNC_STATES
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.model.units import REQUEST_BYTES_MAX, bits_touched
from replblk.model.vocabulary import SOURCE_STATES, ConnState, DiskState
from replblk.wire import auth
from replblk.wire.hot import block_ack, data_header
from replblk.wire.packets import ID_SYNCER, BlockDesc, BlockRequest, Cmd

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.ports import Buffer
    from replblk.engine.transfer_log import TransferLog
    from replblk.engine.volume import Volume
    from replblk.model.state import State

_SETTLED = (*SOURCE_STATES, ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T, ConnState.CONNECTED)
"""States in which an older resync that was cut off means nothing any more."""
ANSWERED_MAX = 65536
"""Requests answered and not acknowledged yet; a peer that never acknowledges is given up."""


_ZEROES = bytes(REQUEST_BYTES_MAX)


def only_zeroes(data: Buffer) -> bool:
    """Whether there is nothing but zeroes; data that begins or ends with another byte is not
    looked through."""
    if data[0] or data[-1]:
        return False
    return _ZEROES.startswith(data)


def _ours_alone(volume: Volume) -> int:
    """Bits that are set here and that the target need not wait for: refused, or marked since."""
    failed = volume.resync.failed_bits if volume.resync is not None else 0
    return failed + _marked(volume, volume.marked_anew)


def _marked(volume: Volume, bits: set[int]) -> int:
    """How many of these are set in the bitmap; none without one."""
    bitmap = volume.bitmap
    return 0 if bitmap is None else sum(bitmap.any(bit, bit + 1) for bit in bits)


class ResyncSource:
    """Serves resync requests of all volumes."""

    def __init__(self, ctx: Context, disk_failure: DiskFailure) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._answered: Counter[tuple[int, int, int]] = Counter()
        """(volume, sector, size) sent as resync data: only these may be acknowledged."""

    def on_request(self, volume: Volume, request: BlockRequest, *, thin: bool = False) -> None:
        """P_RS_DATA_REQUEST, P_RS_THIN_REQ, P_CSUM_RS_REQUEST: send the block, or say why not.

        With a digest in the request: only if our block is another one.
        """
        if request.digest and len(request.digest) != self._csum_bytes():
            raise PeerError(f"P_CSUM_RS_REQUEST with a digest of {len(request.digest)} bytes")
        sector, size = request.sector, request.blksize
        if sector + (size >> 9) > volume.capacity_sectors:
            raise PeerError(f"resync request beyond the end: sector {sector}, {size} bytes")
        if volume.state.pdsk < DiskState.INCONSISTENT:
            return
        if volume.state.disk is not DiskState.UP_TO_DATE:
            self._refuse(volume, request)
            return
        if len(self._answered) > ANSWERED_MAX:
            raise PeerError("the peer acknowledges no resync data")

        def read(data: Buffer | None) -> None:
            if data is None:
                self._refuse(volume, request)
            else:
                volume.marked_anew.difference_update(bits_touched(sector, size))
                self._send(volume, request, data, thin)

        read_for_peer(self._ctx, self._disk_failure, volume, request, read, marks=True)

    def _csum_bytes(self) -> int:
        alg = self._ctx.net.csums_alg
        return auth.digest_size(alg) if alg else 0

    def _send(self, volume: Volume, request: BlockRequest, data: Buffer, thin: bool) -> None:
        peer = self._ctx.peer
        if request.digest and auth.digest(self._ctx.net.csums_alg, data) == request.digest:
            volume.mark_in_sync(request.sector, request.blksize)
            ack = block_ack(request.sector, ID_SYNCER, request.blksize, volume.next_seq())
            peer.send_raw(Cmd.P_RS_IS_IN_SYNC, volume.number, ack)
            return
        self._answered[volume.number, request.sector, request.blksize] += 1
        if thin and only_zeroes(data):
            peer.send(
                Cmd.P_RS_DEALLOCATED, BlockDesc(request.sector, request.blksize), volume.number
            )
            return
        head = data_header(request.sector, ID_SYNCER, 0, 0)
        peer.send_data(Cmd.P_RS_DATA_REPLY, volume.number, head, data)
        volume.sent_sectors += request.blksize >> 9

    def _refuse(self, volume: Volume, request: BlockRequest) -> None:
        bits = bits_touched(request.sector, request.blksize)
        if volume.resync is not None:
            volume.resync.failed_bits += len(bits)
            volume.marked_anew.difference_update(bits)
        ack = block_ack(request.sector, request.block_id, request.blksize, volume.next_seq())
        self._ctx.peer.send_raw(Cmd.P_NEG_RS_DREPLY, volume.number, ack)

    def on_ack(self, cmd: Cmd, volume: Volume, ack: tuple[int, bytes, int, int]) -> None:
        """P_RS_WRITE_ACK or P_NEG_ACK for resync data (block id ID_SYNCER)."""
        sector, _, size, _ = ack
        if volume.state.conn not in SOURCE_STATES:
            return  # late, of a resync that was aborted: it proves nothing any more
        key = (volume.number, sector, size)
        if not self._answered[key]:
            del self._answered[key]
            raise PeerError(f"{cmd.name} for resync data never sent: sector {sector}, {size} bytes")
        self._answered[key] -= 1
        if not self._answered[key]:
            del self._answered[key]
        if cmd is Cmd.P_RS_WRITE_ACK:
            volume.mark_older_in_sync(sector, size)
            if volume.resync is not None:
                volume.resync.advance(volume.dirty_bits, self._ctx.now_ns())
        elif volume.resync is not None:
            volume.resync.failed_bits += len(bits_touched(sector, size))

    # -- end ----------------------------------------------------------------------------------

    def target_reports_done(self, volume: Volume) -> None:
        """P_STATE of the target says Connected and UpToDate: finish if no bit of its is left."""
        if volume.state.conn not in SOURCE_STATES or volume.dirty_bits > _ours_alone(volume):
            return
        session = self._ctx.peer.data
        volume.target_done = True

        def answered() -> None:
            if session == self._ctx.peer.data and volume.state.conn in SOURCE_STATES:
                self._finish(volume)

        self._ctx.peer.ping(answered)

    def _finish(self, volume: Volume) -> None:
        if volume.resync is not None:
            self._ctx.tell(Level.INFO, volume.resync.summary(self._ctx.now_ns()), volume.number)
        volume.uuids = volume.uuids.bitmap_cleared()
        self._ctx.tell(Level.INFO, f"updated UUIDs {volume.uuids}", volume.number)
        volume.adopt_own_generation_for_peer()
        disk = volume.state.disk
        if blocks := _marked(volume, volume.failed_anew):
            # The error was passed on, as no other disk was better: now the peer's is.
            self._ctx.tell(
                Level.WARNING,
                f"{blocks} blocks could not be written here in the meantime: this disk is "
                "Inconsistent, the peer serves them",
                volume.number,
            )
            disk = min(disk, DiskState.INCONSISTENT)
        self._ctx.states.force(
            volume, "resync done", conn=ConnState.CONNECTED, disk=disk, pdsk=DiskState.UP_TO_DATE
        )

    def on_state(self, volume: Volume, old: State, new: State) -> None:
        """A resync that ended, for whatever reason, leaves nothing to be acknowledged."""
        if new.conn in _SETTLED and old.conn not in _SETTLED:
            volume.target_unfinished = False
        if old.conn in SOURCE_STATES and new.conn not in SOURCE_STATES:
            for key in [key for key in self._answered if key[0] == volume.number]:
                del self._answered[key]
            volume.sync_uuid_pending = volume.target_done = False
            volume.resync = None
            volume.release_held()
        if volume.marked_anew and new.conn not in SYNC_STATES:
            volume.marked_anew.clear()
        if volume.failed_anew and new.conn not in SYNC_STATES:
            volume.failed_anew.clear()

    def connection_ends(self, log: TransferLog) -> None:
        """Before anything is settled: can the target have finished, unseen? log: writes under way.

        A block that is out of sync, and went to the target neither in a reply nor in a write that
        is still under way, is one that the target misses, too.
        """
        for volume in self._ctx.volumes.values():
            if volume.state.conn not in SOURCE_STATES:
                continue
            number = volume.number
            sent = [bits_touched(at, size) for of, at, size in self._answered if of == number]
            mine = (write for write in log.writes() if write.volume is volume)
            sent.extend(bits_touched(write.sector, write.size) for write in mine)
            known = _ours_alone(volume) + sum(map(len, sent))
            volume.target_unfinished = volume.dirty_bits > known

    def connection_lost(self) -> None:
        """Nothing sent on the old connection can be acknowledged any more."""
        self._answered.clear()
