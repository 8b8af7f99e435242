"""Application reads: from the local disk when its data is good there, else from the peer.

client ─► range lock (shared) ─► local disk ─► reply
                             └─► P_DATA_REQUEST ─► P_DATA_REPLY ─► reply
read error here ─► on-io-error policy, block marked, the peer is asked
P_DATA_REQUEST from the peer ─► range lock ─► disk ─► P_DATA_REPLY or P_NEG_DREPLY
"""

from __future__ import annotations

import errno as errnos
import struct
from functools import partial
from typing import TYPE_CHECKING

from replblk.engine.disk_io import sector_offset
from replblk.engine.peer_reads import read_for_peer
from replblk.engine.write_way import way_of
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

    __slots__ = (
        *("arrived_ns", "left", "lock", "number", "pieces", "refused", "sector", "size"),
        *("tried_local", "volume"),
    )

    def __init__(self, volume: Volume, request: ClientRequest, arrived_ns: int) -> None:
        self.arrived_ns = arrived_ns
        self.volume = volume
        self.number = request.number
        self.sector = request.offset >> 9
        self.size = request.length
        self.lock: RangeLock | None = None
        self.tried_local = False
        self.left = 0
        """Answers of the peer that are outstanding: one packet can't ask for everything."""
        self.refused = False
        self.pieces: dict[int, Buffer] = {}
        """What the peer sent, by sector."""


class ReadPath:
    """Reads of our clients, and reads the peer asks of us."""

    def __init__(self, ctx: Context, disk_failure: DiskFailure) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._next_block = 1 << 63
        self._asked: dict[bytes, tuple[ReadRequest, int, int]] = {}
        """By block id: whose, sector, bytes."""
        self._took_ns = ctx.latencies.read.gathered

    # -- ours ---------------------------------------------------------------------------------

    def on_read(self, volume: Volume, request: ClientRequest) -> None:
        """A client reads."""
        if volume.paused is not None:
            volume.paused.append(lambda: self.on_read(volume, request))
            return
        volume.app_pending += 1
        read = ReadRequest(volume, request, self._ctx.timers.now_ns)
        way, sector, size = way_of(self._ctx, volume), read.sector, read.size
        if (
            way.good_here
            and not way.suspended
            and sector + (size >> 9) <= volume.capacity_sectors
            and (claim := volume.ranges.claim(sector, size, exclusive=False)) is not None
        ):  # nothing is in its way, and its data are here: what is asked below comes to this
            read.lock = claim
            self._read_here(read)
        else:
            self._admit(read)

    def _admit(self, read: ReadRequest) -> None:
        volume = read.volume
        if way_of(self._ctx, volume).suspended:
            volume.held.append(lambda: self._admit(read))
        elif (claim := volume.ranges.claim(read.sector, read.size, exclusive=False)) is not None:
            read.lock = claim
            self._go(read)
        else:
            volume.ranges.lock(
                read.sector, read.size, lambda claim: self._granted(read, claim), exclusive=False
            )

    def _granted(self, read: ReadRequest, claim: RangeLock) -> None:
        read.lock = claim
        self._go(read)

    def _go(self, read: ReadRequest) -> None:
        volume = read.volume
        way = way_of(self._ctx, volume)
        state = way.state
        if way.suspended:
            volume.held.append(lambda: self._go(read))
            return
        if read.sector + (read.size >> 9) > volume.capacity_sectors:
            self._finish(read, errnos.EIO, None)  # the device became smaller meanwhile
            return
        # While both bitmaps are not merged yet our own says nothing about what is good here.
        good_here = way.good_here or (
            state.disk is DiskState.INCONSISTENT
            and state.conn in (ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T)
            and volume.is_in_sync(read.sector, read.size)
        )
        if good_here and not read.tried_local:
            self._read_here(read)
        elif volume.state.pdsk is DiskState.UP_TO_DATE and volume.state.conn >= ConnState.CONNECTED:
            self._ask_peer(read)
        else:
            self._ctx.tell(
                Level.ERROR,
                f"IO ERROR: neither local nor remote data, sector {read.sector}+{read.size >> 9}",
                volume.number,
            )
            self._finish(read, errnos.EIO, None)

    def _read_here(self, read: ReadRequest) -> None:
        volume = read.volume
        read.tried_local = True
        volume.read_sectors += read.size >> 9
        offset = sector_offset(read.sector)
        self._ctx.io.read(volume, offset, read.size, partial(self._local_done, read))

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
        volume, most = read.volume, self._ctx.peer.request_bytes_max
        read.refused = False
        read.pieces.clear()
        for start in range(0, read.size, most):
            self._next_block += 1
            block_id = _BLOCK_ID.pack(self._next_block)
            sector, size = read.sector + (start >> 9), min(most, read.size - start)
            self._asked[block_id] = (read, sector, size)
            read.left += 1
            volume.peer_pending += 1
            payload = block_request(sector, block_id, size)
            self._ctx.peer.send_raw(Cmd.P_DATA_REQUEST, volume.number, payload)

    def on_data_reply(
        self, volume: Volume, header: tuple[int, bytes, int, int], data: Buffer
    ) -> None:
        """P_DATA_REPLY: must answer a read of ours, with just as many bytes."""
        sector, block_id, _, _ = header
        asked = self._asked.get(block_id)
        if asked is None or asked[1] != sector or asked[0].volume is not volume:
            raise PeerError(f"P_DATA_REPLY for sector {sector}: no such read is outstanding")
        read, _, size = asked
        if len(data) != size:
            raise PeerError(f"P_DATA_REPLY: {len(data)} bytes for a read of {size}")
        volume.received_sectors += size >> 9
        read.pieces[sector] = data
        self._answered(block_id, read)

    def on_neg_dreply(self, volume: Volume, ack: tuple[int, bytes, int, int]) -> None:
        """P_NEG_DREPLY: the peer could not read; another path, or an error."""
        sector, block_id, _, _ = ack
        asked = self._asked.get(block_id)
        if asked is None or asked[1] != sector:
            raise PeerError(f"P_NEG_DREPLY for sector {sector}: no such read is outstanding")
        asked[0].refused = True
        self._answered(block_id, asked[0])

    def _answered(self, block_id: bytes, read: ReadRequest) -> None:
        """The peer said yes or no to a piece; the last one decides."""
        volume = read.volume
        del self._asked[block_id]
        volume.peer_pending -= 1
        read.left -= 1
        if read.left:
            return
        if not read.refused:
            pieces = [read.pieces[sector] for sector in sorted(read.pieces)]
            self._finish(read, 0, pieces[0] if len(pieces) == 1 else b"".join(pieces))
        elif read.tried_local or volume.state.disk is not DiskState.UP_TO_DATE:
            self._finish(read, errnos.EIO, None)
        else:
            self._go(read)

    def connection_lost(self) -> None:
        """Reads that the peer owes us go another way, or fail."""
        asked, self._asked = self._asked, {}
        reads = dict.fromkeys(read for read, _, _ in asked.values())
        for read in reads:
            read.volume.peer_pending -= read.left
            read.left = 0
            self._go(read)

    def _finish(self, read: ReadRequest, errno: int, data: Buffer | None) -> None:
        volume = read.volume
        volume.app_pending -= 1
        self._took_ns.append(self._ctx.timers.now_ns - read.arrived_ns)
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

        def read(data: Buffer | None) -> None:
            if data is None:
                self._refuse(volume, request)
                return
            head = data_header(sector, block_id, 0, 0)
            self._ctx.peer.send_data(Cmd.P_DATA_REPLY, volume.number, head, data)
            volume.sent_sectors += size >> 9

        read_for_peer(self._ctx, self._disk_failure, volume, request, read)

    def _refuse(self, volume: Volume, request: BlockRequest) -> None:
        ack = block_ack(request.sector, request.block_id, request.blksize, volume.next_seq())
        self._ctx.peer.send_raw(Cmd.P_NEG_DREPLY, volume.number, ack)
