"""The target of a resync: asks for dirty blocks, writes them durably, acknowledges, finishes.

    next dirty bits ─► P_RS_DATA_REQUEST ─► P_RS_DATA_REPLY ─► range lock ─► disk, durable
    ─► bits cleared ─► P_RS_WRITE_ACK
    none left ─► P_PING, P_PING_ACK (the source saw every ack) ─► generation taken over, UpToDate,
    durable ─► P_STATE

A Primary that is target holds a block's range from the request on, so that its own writes and the
resync of the same block never mix. How fast it asks, and how it yields to an application, is in
``resync_pace``. Source: protocol, resync.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from replblk.engine.context import TENTH_NS
from replblk.engine.disk_io import sector_offset
from replblk.engine.resync_cursor import Target, thin_granule_bytes
from replblk.engine.resync_pace import SHARES, Pace, rate_kib_s
from replblk.model.errors import PeerError
from replblk.model.generation import UuidSet
from replblk.model.notices import Level
from replblk.model.units import (
    BIT_SECTORS,
    bits_touched,
)
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.wire import auth
from replblk.wire.hot import block_ack, block_request
from replblk.wire.packets import ID_SYNCER, BlockDesc, BlockRequest, Cmd, StateWord

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.ports import Buffer
    from replblk.engine.volume import Volume
    from replblk.model.state import State

_TARGET = (ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T)


class ResyncTarget:
    """Drives the resync of every volume that is SyncTarget."""

    def __init__(self, ctx: Context, disk_failure: DiskFailure) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._targets: dict[int, Target] = {}
        self._abandoned: Counter[tuple[int | None, int, int, int]] = Counter()
        """Asked for in a resync that was aborted, by connection: the answers may still come."""

    # -- pace ---------------------------------------------------------------------------------

    def ready(self, volume: Volume) -> None:
        """SyncTarget is durable: begin to ask."""
        share = SHARES[self._ctx.settings.resync]
        pace = Pace(volume, share, self._ctx.now_ns())
        target = self._targets[volume.number] = Target(pace)
        self._arm(volume)
        self._ask(volume, target)

    def rate_kib_s(self, volume: Volume) -> int:
        """The most this volume asks for in a second."""
        return rate_kib_s(volume.config.options)

    def _arm(self, volume: Volume) -> None:
        name = ("resync-tick", volume.number)
        self._ctx.timers.set(name, TENTH_NS, lambda: self._tick(volume))

    def _tick(self, volume: Volume) -> None:
        target = self._targets.get(volume.number)
        if target is None or volume.state.conn not in _TARGET:
            return
        target.pace.tick()
        if volume.resync is not None:
            volume.resync.advance(volume.dirty_bits, self._ctx.now_ns())
        self._arm(volume)
        self._ask(volume, target)

    # -- asking -------------------------------------------------------------------------------

    def _ask(self, volume: Volume, target: Target) -> None:
        if volume.state.conn is not ConnState.SYNC_TARGET or target.finishing:
            return
        pace, now_ns = target.pace, self._ctx.now_ns()
        request_max = self._ctx.peer.request_bytes_max
        granule = thin_granule_bytes(volume, self._ctx.peer)
        while (room := pace.room_bytes(target.bytes_out, now_ns)) > 0:
            run = target.next_run(volume, min(max(room, granule), request_max), granule)
            if run is None:
                break
            sector, size = run
            target.bytes_out += size
            pace.asked(size, now_ns)
            if volume.primary:
                self._ask_locked(volume, target, sector, size)
            else:
                self._request(volume, target, sector, size, None)
        if target.quiet and target.next_run(volume, 0) is None:
            self._end_of_pass(volume, target)
        elif rest_ns := pace.rest_ns(now_ns):
            name = ("resync-rest", volume.number)
            self._ctx.timers.set(name, rest_ns, lambda: self._again(volume, target))

    def _ask_locked(self, volume: Volume, target: Target, sector: int, size: int) -> None:
        """As Primary: our own writes to the range wait from now until it is on disk."""
        key = (sector, size)
        target.waiting.add(key)

        def granted(claim: RangeLock) -> None:
            self._ctx.defer(lambda: go(claim))

        def go(claim: RangeLock) -> None:
            target.waiting.discard(key)
            current = self._targets.get(volume.number) is target
            if current and volume.state.conn in _TARGET and self._all_dirty(volume, sector, size):
                if volume.primary:
                    self._request(volume, target, sector, size, claim)
                else:  # demoted while it waited
                    volume.ranges.release(claim)
                    self._request(volume, target, sector, size, None)
                return
            volume.ranges.release(claim)
            self._settled(target, size)
            if current and volume.state.conn in _TARGET:
                # A write of ours settled some of it meanwhile: look at this stretch again.
                target.cursor_bit = min(target.cursor_bit, sector // BIT_SECTORS)
                self._ask(volume, target)

        volume.ranges.lock(sector, size, granted, exclusive=True)

    @staticmethod
    def _all_dirty(volume: Volume, sector: int, size: int) -> bool:
        assert volume.bitmap is not None
        touched = bits_touched(sector, size)
        return volume.bitmap.count_range(touched.start, touched.stop) == len(touched)

    def _request(
        self, volume: Volume, target: Target, sector: int, size: int, lock: RangeLock | None
    ) -> None:
        options = self._ctx.net
        if options.csums_alg and (volume.crashed_primary or not options.csums_after_crash_only):
            self._request_if_different(volume, target, sector, size, lock)
            return
        target.asked[sector, size] = lock
        volume.peer_pending += 1
        payload = block_request(sector, ID_SYNCER, size)
        thin = size == thin_granule_bytes(volume, self._ctx.peer)
        cmd = Cmd.P_RS_THIN_REQ if thin else Cmd.P_RS_DATA_REQUEST
        self._ctx.peer.send_raw(cmd, volume.number, payload)

    def _request_if_different(
        self, volume: Volume, target: Target, sector: int, size: int, lock: RangeLock | None
    ) -> None:
        """csums-alg: show the source our digest; it sends the block only if it has another one."""
        alg, session = self._ctx.net.csums_alg, self._ctx.peer.data
        target.waiting.add((sector, size))

        def go(claim: RangeLock) -> None:
            if volume.state.conn not in _TARGET or session != self._ctx.peer.data:
                self._ctx.defer(lambda: done(claim, -1, None))
                return
            volume.read_sectors += size >> 9
            target.pace.moved(size)
            self._ctx.io.read(
                volume, sector_offset(sector), size, lambda errno, data: done(claim, errno, data)
            )

        def done(claim: RangeLock, errno: int, data: Buffer | None) -> None:
            target.waiting.discard((sector, size))
            if errno > 0:
                self._disk_failure.failed(
                    volume, f"local READ IO error sector {sector}+{size >> 9} (errno {errno})"
                )
            current = session == self._ctx.peer.data and volume.state.conn in _TARGET
            if errno or not current or self._targets.get(volume.number) is not target:
                volume.ranges.release(claim)
                self._settled(target, size)
                return
            if lock is None:
                volume.ranges.release(claim)
            assert data is not None
            target.asked[sector, size] = lock
            volume.peer_pending += 1
            request = BlockRequest(sector, ID_SYNCER, size, auth.digest(alg, data))
            self._ctx.peer.send(Cmd.P_CSUM_RS_REQUEST, request, volume.number)

        if lock is not None:
            go(lock)
        else:
            volume.ranges.lock(sector, size, go, exclusive=False)

    # -- answers ------------------------------------------------------------------------------

    def on_in_sync(self, volume: Volume, ack: tuple[int, bytes, int, int]) -> None:
        """P_RS_IS_IN_SYNC: the source has the same data there."""
        sector, _, size, _ = ack
        if not self._ctx.net.csums_alg:
            raise PeerError("P_RS_IS_IN_SYNC without checksums")
        answered = self._answered(volume, "P_RS_IS_IN_SYNC", sector, size)
        if answered is None:
            return
        target, lock = answered
        volume.mark_in_sync(sector, size)
        target.cleared_this_pass = True
        if volume.resync is not None:
            volume.resync.equal_bits += len(bits_touched(sector, size))
        if lock is not None:
            volume.ranges.release(lock)
        self._settled(target, size)
        self._ask(volume, target)

    def on_data(self, volume: Volume, sector: int, data: Buffer) -> None:
        """P_RS_DATA_REPLY: write it, durably, then acknowledge."""
        answered = self._answered(volume, "P_RS_DATA_REPLY", sector, len(data))
        if answered is None:
            return
        target, lock = answered
        volume.received_sectors += len(data) >> 9
        target.pace.moved(len(data))
        self._store(volume, target, sector, len(data), data, lock)

    def on_deallocated(self, volume: Volume, what: BlockDesc) -> None:
        """P_RS_DEALLOCATED: the source reads zeroes there."""
        answered = self._answered(volume, "P_RS_DEALLOCATED", what.sector, what.blksize)
        if answered is None:
            return
        target, lock = answered
        self._store(volume, target, what.sector, what.blksize, None, lock)

    def on_negative(self, volume: Volume, cmd: Cmd, ack: tuple[int, bytes, int, int]) -> None:
        """P_NEG_RS_DREPLY or P_RS_CANCEL: this block can't be had now."""
        sector, _, size, _ = ack
        answered = self._answered(volume, cmd.name, sector, size)
        if answered is None:
            return
        target, lock = answered
        if cmd is Cmd.P_NEG_RS_DREPLY and volume.resync is not None:
            volume.resync.failed_bits += len(bits_touched(sector, size))
        if lock is not None:
            volume.ranges.release(lock)
        self._settled(target, size)
        self._ask(volume, target)

    def _answered(
        self, volume: Volume, name: str, sector: int, size: int
    ) -> tuple[Target, RangeLock | None] | None:
        """The request this answers; None if its resync was aborted meanwhile. Raises PeerError.

        A source that saw our disk go does not answer at all: what a new resync asks for comes
        first. Either answer is as good, because later writes follow it in the stream.
        """
        target = self._targets.get(volume.number)
        if target is None or (sector, size) not in target.asked:
            owed = (self._ctx.peer.data, volume.number, sector, size)
            if not self._abandoned[owed]:
                del self._abandoned[owed]
                raise PeerError(f"{name} for sector {sector}, {size} bytes: not requested")
            self._abandoned[owed] -= 1
            return None
        volume.peer_pending -= 1
        return target, target.asked.pop((sector, size))

    def _settled(self, target: Target, size: int) -> None:
        """Something that was asked for is on disk, or won't be."""
        target.bytes_out -= size
        if not target.bytes_out:
            target.pace.settled(self._ctx.now_ns())

    def _store(
        self,
        volume: Volume,
        target: Target,
        sector: int,
        size: int,
        data: Buffer | None,
        lock: RangeLock | None,
    ) -> None:
        session = self._ctx.peer.data
        target.writing += 1
        volume.unacked += 1

        def go(claim: RangeLock) -> None:
            def done(errno: int, _: Buffer | None) -> None:
                ended(claim, errno)

            if volume.state.disk < DiskState.INCONSISTENT:
                self._ctx.defer(lambda: done(-1, None))
                return
            volume.written_sectors += size >> 9
            target.pace.moved(size)
            offset = sector_offset(sector)
            if data is None:
                self._ctx.io.zero(volume, offset, size, done, unmap=True, durable=True)
            else:
                self._ctx.io.write(volume, offset, data, done, durable=True)

        def ended(claim: RangeLock, errno: int) -> None:
            target.writing -= 1
            self._settled(target, size)
            volume.unacked -= 1
            if errno > 0:
                self._disk_failure.failed(
                    volume, f"local WRITE IO error sector {sector}+{size >> 9} (errno {errno})"
                )
            same = session == self._ctx.peer.data and self._targets.get(volume.number) is target
            if errno == 0 and same:
                volume.mark_in_sync(sector, size)
                target.cleared_this_pass = True
            elif errno and volume.resync is not None:
                volume.resync.failed_bits += len(bits_touched(sector, size))
            if session == self._ctx.peer.data:
                cmd = Cmd.P_NEG_ACK if errno else Cmd.P_RS_WRITE_ACK
                ack = block_ack(sector, ID_SYNCER, size, volume.next_seq())
                self._ctx.peer.send_raw(cmd, volume.number, ack)
            volume.ranges.release(claim)
            if same:
                self._ask(volume, target)

        if lock is None:
            volume.ranges.lock(sector, size, go, exclusive=True)
        else:
            go(lock)

    # -- end ----------------------------------------------------------------------------------

    def _end_of_pass(self, volume: Volume, target: Target) -> None:
        """The cursor is at the end and nothing is on the way: done, or once more."""
        failed = volume.resync.failed_bits if volume.resync is not None else 0
        if volume.dirty_bits > failed:
            if target.cleared_this_pass:
                target.cleared_this_pass = False
                target.cursor_bit = 0
                self._ctx.defer(lambda: self._again(volume, target))
            return  # otherwise the next tick looks again
        target.finishing = True
        session = self._ctx.peer.data

        def answered() -> None:
            if session == self._ctx.peer.data and self._targets.get(volume.number) is target:
                self._finish(volume)

        self._ctx.peer.ping(answered)

    def _again(self, volume: Volume, target: Target) -> None:
        if self._targets.get(volume.number) is target and volume.state.conn in _TARGET:
            self._ask(volume, target)

    def _finish(self, volume: Volume) -> None:
        failed = volume.resync.failed_bits if volume.resync is not None else 0
        running = volume.state.conn is ConnState.SYNC_TARGET  # or else it has just been paused
        if not running or volume.meta is None or volume.dirty_bits > failed:
            self._targets[volume.number].finishing = False
            return
        if volume.resync is not None:
            self._ctx.tell(Level.INFO, volume.resync.summary(self._ctx.now_ns()), volume.number)
            if volume.resync.equal_bits:
                share = 100 * volume.resync.equal_bits // max(volume.resync.total_bits, 1)
                self._ctx.tell(
                    Level.INFO,
                    f"{share} % had equal checksums, eliminated: "
                    f"{volume.resync.equal_bits * 4}K; "
                    f"transferred {(volume.resync.total_bits - volume.resync.equal_bits) * 4}K "
                    f"total {volume.resync.total_bits * 4}K",
                    volume.number,
                )
        if failed:
            self._ctx.tell(Level.ERROR, f"            {failed} failed blocks", volume.number)
            self._ctx.states.force(volume, "resync ended", conn=ConnState.CONNECTED)
        else:
            theirs = volume.peer_uuids
            assert theirs is not None
            peer = UuidSet(theirs.current, theirs.bitmap, theirs.history0, theirs.history1)
            volume.uuids = volume.uuids.sync_finished(peer, primary=volume.primary)
            self._ctx.tell(Level.INFO, f"updated UUIDs {volume.uuids}", volume.number)
            volume.adopt_own_generation_for_peer()
            self._ctx.states.force(
                volume,
                "resync done",
                conn=ConnState.CONNECTED,
                disk=DiskState.UP_TO_DATE,
                pdsk=DiskState.UP_TO_DATE,
            )
        session = self._ctx.peer.data
        word = StateWord(volume.state.packed())

        def durable(ok: bool) -> None:
            if ok and session == self._ctx.peer.data:
                self._ctx.peer.send(Cmd.P_STATE, word, volume.number)

        volume.meta.sync(durable)

    def _guard_asked(self, volume: Volume, target: Target) -> None:
        """Promoted in the middle: our writes must wait for what was asked for as Secondary."""
        for key, lock in list(target.asked.items()):
            if lock is None:
                sector, size = key
                volume.ranges.lock(
                    sector,
                    size,
                    lambda claim, key=key: self._guarded(volume, target, key, claim),  # type: ignore[misc]
                    exclusive=True,
                )

    def _guarded(
        self, volume: Volume, target: Target, key: tuple[int, int], claim: RangeLock
    ) -> None:
        current = self._targets.get(volume.number) is target
        if current and volume.primary and key in target.asked and target.asked[key] is None:
            target.asked[key] = claim
        else:
            self._ctx.defer(lambda: volume.ranges.release(claim))

    @staticmethod
    def _unguard_asked(volume: Volume, target: Target) -> None:
        """Demoted in the middle: now the peer's writes come, and must not wait for its answers."""
        for key, lock in list(target.asked.items()):
            if lock is not None:
                target.asked[key] = None
                volume.ranges.release(lock)

    def on_state(self, volume: Volume, old: State, new: State) -> None:
        """A resync that ended forgets its requests; one that goes on after a pause asks again."""
        running = self._targets.get(volume.number)
        if running is not None and old.role is not new.role:
            if new.role is Role.PRIMARY:
                self._guard_asked(volume, running)
            else:
                self._unguard_asked(volume, running)
        if new.conn < ConnState.CONNECTED <= old.conn:
            self._abandoned.clear()  # no answer survives its connection
        if old.conn in _TARGET and new.conn not in _TARGET:
            volume.sync_uuid_pending = False
            target = self._targets.pop(volume.number, None)
            self._ctx.timers.cancel(("resync-tick", volume.number))
            self._ctx.timers.cancel(("resync-rest", volume.number))
            if target is not None:
                volume.peer_pending -= len(target.asked)
                if new.conn >= ConnState.CONNECTED:
                    session = self._ctx.peer.data
                    self._abandoned.update((session, volume.number, *key) for key in target.asked)
                for lock in target.asked.values():
                    if lock is not None:
                        volume.ranges.release(lock)
            volume.resync = None
            volume.release_held()
        elif old.conn is ConnState.PAUSED_SYNC_T and new.conn is ConnState.SYNC_TARGET:
            target = self._targets.get(volume.number)
            if target is not None:
                self._ask(volume, target)
