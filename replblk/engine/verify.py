"""Online verify: both nodes hash every block, the initiator compares, differences are marked.

    initiator (VerifyS): range lock ─► P_OV_REQUEST ─► P_OV_REPLY with the peer's digest ─► own read
                         ─► compare ─► P_OV_RESULT, bits set on both if different
    responder (VerifyT): range lock ─► read ─► P_OV_REPLY; counts the results
    all blocks done ─► ping ─► Connected

Found blocks are only marked; the next connect resyncs them. A Primary that began it keeps its own
writes away from a block until that is compared; the peer's writes keep their place in the stream.
A Secondary that began it takes its lock when the reply is in: the Primary's writes wait for ours,
so its reading, which waits for them, must not be what our lock waits for. The reply leaves before
the Primary lets go of the block: what it writes there next comes behind. Source: protocol, online
verify.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.engine.disk_io import sector_offset
from replblk.engine.peer_reads import read_for_peer
from replblk.engine.resync_progress import ResyncProgress
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.model.units import BIT_BYTES, BIT_SECTORS, bits_of_capacity
from replblk.model.vocabulary import ConnState, DiskState
from replblk.wire import auth
from replblk.wire.hot import block_ack, block_request
from replblk.wire.packets import ID_IN_SYNC, ID_OUT_OF_SYNC, ID_SYNCER, BlockRequest, Cmd

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.ports import Buffer
    from replblk.engine.volume import Volume
    from replblk.model.state import State

WINDOW = 64
"""Blocks asked for and not compared yet."""
_VERIFY = (ConnState.VERIFY_S, ConnState.VERIFY_T)


class Verification:
    """One volume's verify in progress. left: blocks not settled yet."""

    def __init__(self, first_bit: int, end_bit: int) -> None:
        self.cursor_bit = first_bit
        self.end_bit = end_bit
        self.left = end_bit - first_bit
        self.asked: dict[int, RangeLock | None] = {}
        """Initiator: the blocks asked for, by sector; a Primary's with their locks."""
        self.waiting = 0
        """Initiator: blocks waiting for their lock or being read here."""
        self.open: set[int] = set()
        """Initiator: sectors of all blocks begun and not settled, wherever they wait."""
        self.run: tuple[int, int] | None = None
        """Run of differing sectors being gathered for the log."""
        self.finishing = False


class Verify:
    """Both ends of online verify, for all volumes."""

    def __init__(self, ctx: Context, disk_failure: DiskFailure) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._running: dict[int, Verification] = {}
        self._late: set[tuple[int | None, int, int]] = set()
        """Asked for by a verify that ended before the answer: connection, volume, sector."""
        self.start_sector: dict[int, int] = {}
        """Where the next verify of a volume begins: where the last one was interrupted."""
        self.stop_sector: dict[int, int] = {}

    # -- initiator ----------------------------------------------------------------------------

    def _begin(self, volume: Volume) -> None:
        if volume.state.conn is not ConnState.VERIFY_S:
            return
        bits = bits_of_capacity(volume.capacity_sectors)
        start = min(self.start_sector.pop(volume.number, 0) // BIT_SECTORS, max(bits - 1, 0))
        stop = self.stop_sector.pop(volume.number, 0)
        end = min(bits, -(-stop // BIT_SECTORS)) if stop else bits
        run = self._running[volume.number] = Verification(start, max(end, start))
        volume.resync = ResyncProgress(run.left, self._ctx.now_ns())
        self._ctx.tell(
            Level.INFO,
            f"Starting Online Verify from sector {start * BIT_SECTORS}",
            volume.number,
        )
        self._ask(volume, run)

    def _ask(self, volume: Volume, run: Verification) -> None:
        while len(run.asked) + run.waiting < WINDOW and run.cursor_bit < run.end_bit:
            sector = run.cursor_bit * BIT_SECTORS
            size = min(BIT_BYTES, (volume.capacity_sectors - sector) * 512)
            run.cursor_bit += 1
            run.waiting += 1
            run.open.add(sector)
            if not volume.primary:
                self._locked(volume, run, sector, size, None)
                continue
            volume.ranges.lock(
                sector,
                size,
                lambda claim, sector=sector, size=size: self._locked(  # type: ignore[misc]
                    volume, run, sector, size, claim
                ),
                exclusive=False,
            )
        if not run.left and not run.finishing:
            self._finish(volume, run)

    def _locked(
        self, volume: Volume, run: Verification, sector: int, size: int, claim: RangeLock | None
    ) -> None:
        run.waiting -= 1
        if self._running.get(volume.number) is not run:
            if claim is not None:
                volume.ranges.release(claim)
            return
        run.asked[sector] = claim
        volume.peer_pending += 1
        payload = block_request(sector, ID_SYNCER, size)
        self._ctx.peer.send_raw(Cmd.P_OV_REQUEST, volume.number, payload)

    def on_reply(self, volume: Volume, reply: BlockRequest) -> None:
        """P_OV_REPLY: the peer's digest of a block we asked about."""
        run, sector, size = self._running.get(volume.number), reply.sector, reply.blksize
        alg = self._ctx.net.verify_alg
        if self._is_late(volume, sector):
            return
        if run is None or volume.state.conn is not ConnState.VERIFY_S or sector not in run.asked:
            raise PeerError(f"P_OV_REPLY for sector {sector}: not asked")
        if not alg or len(reply.digest) != auth.digest_size(alg):
            raise PeerError(f"P_OV_REPLY with a digest of {len(reply.digest)} bytes")
        claim = run.asked.pop(sector)
        volume.peer_pending -= 1
        run.waiting += 1
        session = self._ctx.peer.data

        def read(claim: RangeLock) -> None:
            if volume.state.disk < DiskState.INCONSISTENT:
                self._ctx.defer(lambda: done(claim, -1, None))
                return
            volume.read_sectors += size >> 9
            self._ctx.io.read(
                volume, sector_offset(sector), size, lambda errno, data: done(claim, errno, data)
            )

        def done(claim: RangeLock, errno: int, data: Buffer | None) -> None:
            run.waiting -= 1
            volume.ranges.release(claim)
            if errno > 0:
                self._disk_failure.failed(
                    volume, f"local READ IO error sector {sector}+{size >> 9} (errno {errno})"
                )
            if session != self._ctx.peer.data or self._running.get(volume.number) is not run:
                return
            same = data is not None and auth.matches(auth.digest(alg, data), reply.digest)
            verdict = ID_IN_SYNC if same else ID_OUT_OF_SYNC
            ack = block_ack(sector, verdict, size, volume.next_seq())
            self._ctx.peer.send_raw(Cmd.P_OV_RESULT, volume.number, ack)
            self._settle(volume, run, sector, size, same)
            self._ask(volume, run)

        if claim is not None:
            read(claim)
        else:
            volume.ranges.lock(sector, size, read, exclusive=False)

    def _is_late(self, volume: Volume, sector: int) -> bool:
        """Whether its verify ended, by a detach for one, while this answer was on its way."""
        late = (self._ctx.peer.data, volume.number, sector)
        if late not in self._late:
            return False
        self._late.discard(late)
        return True

    def on_negative(self, volume: Volume, ack: tuple[int, bytes, int, int]) -> bool:
        """P_NEG_RS_DREPLY while verifying: that block can't be compared. False if not ours."""
        run, sector = self._running.get(volume.number), ack[0]
        if self._is_late(volume, sector):
            return True
        if run is None or sector not in run.asked:
            return False
        claim = run.asked.pop(sector)
        if claim is not None:
            volume.ranges.release(claim)
        volume.peer_pending -= 1
        run.open.discard(sector)
        run.left -= 1
        self._ask(volume, run)
        return True

    # -- responder ----------------------------------------------------------------------------

    def on_request(self, volume: Volume, request: BlockRequest) -> None:
        """P_OV_REQUEST: read the block and send its digest."""
        sector, size = request.sector, request.blksize
        alg = self._ctx.net.verify_alg
        if sector + (size >> 9) > volume.capacity_sectors:
            raise PeerError(f"P_OV_REQUEST beyond the end: sector {sector}, {size} bytes")
        if not alg or volume.state.conn is not ConnState.VERIFY_T:
            self._refuse(volume, request)
            return
        if volume.number not in self._running:
            first = sector // BIT_SECTORS
            run = Verification(first, bits_of_capacity(volume.capacity_sectors))
            self._running[volume.number] = run
            volume.resync = ResyncProgress(run.left, self._ctx.now_ns())
            self._ctx.tell(Level.INFO, f"Online Verify start sector: {sector}", volume.number)

        def read(data: Buffer | None) -> None:
            if data is None:
                self._refuse(volume, request)
                return
            reply = BlockRequest(sector, ID_SYNCER, size, auth.digest(alg, data))
            self._ctx.peer.send(Cmd.P_OV_REPLY, reply, volume.number)

        read_for_peer(self._ctx, self._disk_failure, volume, request, read)

    def _refuse(self, volume: Volume, request: BlockRequest) -> None:
        ack = block_ack(request.sector, request.block_id, request.blksize, volume.next_seq())
        self._ctx.peer.send_raw(Cmd.P_NEG_RS_DREPLY, volume.number, ack)

    def on_result(self, volume: Volume, ack: tuple[int, bytes, int, int]) -> None:
        """P_OV_RESULT: what the initiator made of a block."""
        sector, verdict, size, _ = ack
        run = self._running.get(volume.number)
        if run is None or volume.state.conn is not ConnState.VERIFY_T:
            return  # the verify ended meanwhile: an answer to nothing changes nothing
        if verdict not in (ID_IN_SYNC, ID_OUT_OF_SYNC):
            raise PeerError(f"P_OV_RESULT with the verdict {verdict.hex()}")
        if sector + (size >> 9) > volume.capacity_sectors or not size or size % 512:
            raise PeerError(f"P_OV_RESULT: sector {sector}, {size} bytes: not in this device")
        self._settle(volume, run, sector, size, verdict == ID_IN_SYNC)
        if run.left <= 0 and not run.finishing:
            self._finish(volume, run)

    def initiator_reports_done(self, volume: Volume) -> None:
        """P_STATE of the initiator says Connected while we are VerifyT."""
        self._ended(volume)

    # -- both ---------------------------------------------------------------------------------

    def _settle(
        self, volume: Volume, run: Verification, sector: int, size: int, same: bool
    ) -> None:
        run.left -= 1
        run.open.discard(sector)
        if volume.resync is not None:
            volume.resync.advance(run.left, self._ctx.now_ns())
        if same:
            self._tell_run(volume, run)
            return
        volume.mark_out_of_sync(sector, size)
        sectors = size >> 9
        if run.run is not None and run.run[0] + run.run[1] == sector:
            run.run = (run.run[0], run.run[1] + sectors)
        else:
            self._tell_run(volume, run)
            run.run = (sector, sectors)

    def _tell_run(self, volume: Volume, run: Verification) -> None:
        if run.run is not None:
            start, sectors = run.run
            run.run = None
            self._ctx.tell(
                Level.ERROR, f"Out of sync: start={start}, size={sectors} (sectors)", volume.number
            )

    def _finish(self, volume: Volume, run: Verification) -> None:
        run.finishing = True
        session = self._ctx.peer.data

        def answered() -> None:
            if session == self._ctx.peer.data and self._running.get(volume.number) is run:
                self._ended(volume)

        self._ctx.peer.ping(answered)

    def _ended(self, volume: Volume) -> None:
        run = self._running.get(volume.number)
        if run is not None:
            self._tell_run(volume, run)
        summary = "Online verify done"
        if volume.resync is not None:
            summary = volume.resync.summary(self._ctx.now_ns(), summary)
        self._ctx.tell(Level.INFO, summary, volume.number)
        if volume.dirty_bits:
            self._ctx.tell(
                Level.ERROR,
                f"Online verify found {volume.dirty_bits} 4k block out of sync!",
                volume.number,
            )
            self._ctx.handlers.call("out-of-sync", volume)
        self._ctx.states.force(volume, "verify done", conn=ConnState.CONNECTED)

    def left_bits(self, volume: Volume) -> int | None:
        """Blocks still to compare; None while no verify runs."""
        run = self._running.get(volume.number)
        return None if run is None else run.left

    def on_state(self, volume: Volume, old: State, new: State) -> None:
        """A verify begins with its state and ends with it."""
        if new.conn is ConnState.VERIFY_S and old.conn is not ConnState.VERIFY_S:
            self._ctx.defer(lambda: self._begin(volume))
        elif old.conn in _VERIFY and new.conn not in _VERIFY:
            run = self._running.pop(volume.number, None)
            volume.resync = None
            if run is None:
                return
            if run.left > 0 and old.conn is ConnState.VERIFY_S:
                reached = min([*run.open, run.cursor_bit * BIT_SECTORS])
                self.start_sector[volume.number] = reached
                self._ctx.tell(Level.INFO, f"Online Verify reached sector {reached}", volume.number)
            volume.peer_pending -= len(run.asked)
            session = self._ctx.peer.data
            if session is None:
                self._late.clear()
            else:
                self._late.update((session, volume.number, sector) for sector in run.asked)
            for claim in run.asked.values():
                if claim is not None:
                    volume.ranges.release(claim)
