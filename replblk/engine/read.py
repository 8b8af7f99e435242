"""Application reads: from the local disk when its data is good there, else from the peer.

client ─► range lock (shared) ─► local disk ─► reply
                             └─► P_DATA_REQUEST ─► P_DATA_REPLY ─► reply
read error here ─► on-io-error policy, block marked, the peer is asked
P_DATA_REQUEST from the peer ─► range lock ─► disk ─► P_DATA_REPLY or P_NEG_DREPLY
"""

from __future__ import annotations

import errno as errnos
import struct
from typing import TYPE_CHECKING

from replblk.engine.disk_io import sector_offset
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState
from replblk.wire.hot import block_ack, block_request, data_header
from replblk.wire.packets import BlockRequest, Cmd

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.ports import Buffer, ClientRequest
    from replblk.engine.volume import Volume

_BLOCK_ID = struct.Struct(">Q")


class ReadRequest:
    """One application read in flight."""

    __slots__ = ("block_id", "lock", "number", "sector", "size", "tried_local", "volume")

    def __init__(self, volume: Volume, request: ClientRequest) -> None:
        self.volume = volume
        self.number = request.number
        self.sector = request.offset >> 9
        self.size = request.length
        self.lock: RangeLock | None = None
        self.tried_local = False
        self.block_id = b""


class ReadPath:
    """Reads of our clients, and reads the peer asks of us."""

    def __init__(self, ctx: Context, disk_failure: DiskFailure) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._next_block = 1 << 63
        self._asked: dict[bytes, ReadRequest] = {}

    # -- ours ---------------------------------------------------------------------------------

    def on_read(self, volume: Volume, request: ClientRequest) -> None:
        """A client reads."""
        volume.app_pending += 1
        self._admit(ReadRequest(volume, request))

    def _admit(self, read: ReadRequest) -> None:
        volume = read.volume
        if volume.state.suspended:
            volume.held.append(lambda: self._admit(read))
            return
        volume.ranges.lock(
            read.sector, read.size, lambda claim: self._granted(read, claim), exclusive=False
        )

    def _granted(self, read: ReadRequest, claim: RangeLock) -> None:
        read.lock = claim
        self._go(read)

    def _go(self, read: ReadRequest) -> None:
        volume = read.volume
        state = volume.state
        if state.suspended:
            volume.held.append(lambda: self._go(read))
            return
        # While both bitmaps are not merged yet our own says nothing about what is good here.
        good_here = state.disk is DiskState.UP_TO_DATE or (
            state.disk is DiskState.INCONSISTENT
            and state.conn in (ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T)
            and volume.is_in_sync(read.sector, read.size)
        )
        if good_here and not read.tried_local:
            read.tried_local = True
            volume.read_sectors += read.size >> 9
            self._ctx.io.read(
                volume,
                sector_offset(read.sector),
                read.size,
                lambda errno, data: self._local_done(read, errno, data),
            )
        elif volume.state.pdsk is DiskState.UP_TO_DATE and volume.state.conn >= ConnState.CONNECTED:
            self._ask_peer(read)
        else:
            self._ctx.tell(
                Level.ERROR,
                f"IO ERROR: neither local nor remote data, sector {read.sector}+{read.size >> 9}",
                volume.number,
            )
            self._finish(read, errnos.EIO, None)

    def _local_done(self, read: ReadRequest, errno: int, data: Buffer | None) -> None:
        if errno == 0:
            self._finish(read, 0, data)
            return
        volume = read.volume
        if not self._disk_failure.only_passed_on(volume):
            volume.mark_out_of_sync(
                read.sector, read.size
            )  # else the peer's copy may be the good one
        self._disk_failure.failed(
            volume, f"local READ IO error sector {read.sector}+{read.size >> 9} (errno {errno})"
        )
        self._go(read)

    def _ask_peer(self, read: ReadRequest) -> None:
        self._next_block += 1
        read.block_id = _BLOCK_ID.pack(self._next_block)
        self._asked[read.block_id] = read
        read.volume.peer_pending += 1
        payload = block_request(read.sector, read.block_id, read.size)
        self._ctx.peer.send_raw(Cmd.P_DATA_REQUEST, read.volume.number, payload)

    def on_data_reply(
        self, volume: Volume, header: tuple[int, bytes, int, int], data: Buffer
    ) -> None:
        """P_DATA_REPLY: must answer a read of ours, with just as many bytes."""
        sector, block_id, _, _ = header
        read = self._asked.get(block_id)
        if read is None or read.sector != sector or read.volume is not volume:
            raise PeerError(f"P_DATA_REPLY for sector {sector}: no such read is outstanding")
        if len(data) != read.size:
            raise PeerError(f"P_DATA_REPLY: {len(data)} bytes for a read of {read.size}")
        del self._asked[block_id]
        volume.peer_pending -= 1
        volume.received_sectors += read.size >> 9
        self._finish(read, 0, data)

    def on_neg_dreply(self, volume: Volume, ack: tuple[int, bytes, int, int]) -> None:
        """P_NEG_DREPLY: the peer could not read; another path, or an error."""
        sector, block_id, _, _ = ack
        read = self._asked.pop(block_id, None)
        if read is None or read.sector != sector:
            raise PeerError(f"P_NEG_DREPLY for sector {sector}: no such read is outstanding")
        volume.peer_pending -= 1
        if read.tried_local or volume.state.disk is not DiskState.UP_TO_DATE:
            self._finish(read, errnos.EIO, None)
        else:
            self._go(read)

    def connection_lost(self) -> None:
        """Reads that the peer owes us go another way, or fail."""
        asked, self._asked = self._asked, {}
        for read in asked.values():
            read.volume.peer_pending -= 1
            self._go(read)

    def _finish(self, read: ReadRequest, errno: int, data: Buffer | None) -> None:
        volume = read.volume
        volume.app_pending -= 1
        self._ctx.ports.clients.reply(read.number, errno, data)
        assert read.lock is not None
        volume.ranges.release(read.lock)

    # -- the peer's ---------------------------------------------------------------------------

    def on_data_request(self, volume: Volume, request: BlockRequest) -> None:
        """P_DATA_REQUEST: the peer reads from our disk."""
        sector, block_id, size = request.sector, request.block_id, request.blksize
        if sector + (size >> 9) > volume.capacity_sectors:
            raise PeerError(f"P_DATA_REQUEST beyond the end: sector {sector}, {size} bytes")
        if volume.state.disk is not DiskState.UP_TO_DATE:
            self._refuse(volume, request)
            return
        session = self._ctx.peer.data
        volume.unacked += 1

        def go(claim: RangeLock) -> None:
            if volume.state.disk is not DiskState.UP_TO_DATE:
                self._ctx.defer(lambda: done(claim, -1, None))  # it went while we waited
                return
            volume.read_sectors += size >> 9
            self._ctx.io.read(
                volume, sector_offset(sector), size, lambda errno, data: done(claim, errno, data)
            )

        def done(claim: RangeLock, errno: int, data: Buffer | None) -> None:
            volume.unacked -= 1
            volume.ranges.release(claim)
            if errno > 0:
                self._disk_failure.failed(
                    volume, f"local READ IO error sector {sector}+{size >> 9} (errno {errno})"
                )
            if session != self._ctx.peer.data:
                return  # that connection is gone, and the question with it
            if errno:
                self._refuse(volume, request)
            else:
                assert data is not None
                head = data_header(sector, block_id, 0, 0)
                self._ctx.peer.send_data(Cmd.P_DATA_REPLY, volume.number, head, data)
                volume.sent_sectors += size >> 9

        volume.ranges.lock(sector, size, go, exclusive=False)

    def _refuse(self, volume: Volume, request: BlockRequest) -> None:
        ack = block_ack(request.sector, request.block_id, request.blksize, volume.next_seq())
        self._ctx.peer.send_raw(Cmd.P_NEG_DREPLY, volume.number, ack)
