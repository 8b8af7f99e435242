"""Carries out what follows a committed state change, in the order ``rules.consequences`` gives.

This is the second table of a node: which state leads to which work. Journeys that begin with a
state (resync, detach) are started here through callables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.fencing import PeerFencing
from replblk.engine.handshake import send_sizes, send_state, send_uuids
from replblk.engine.peer_news import PeerNews
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState, OnIoError
from replblk.rules.consequences import Follow, after_change, rotated, rotation_after
from replblk.rules.generations import Rotation
from replblk.wire.packets import UUID_FLAG_CRASHED_PRIMARY

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.engine.write_origin import WriteOrigin
    from replblk.model.state import State

_HANDLERS = {
    Follow.CALL_PRI_ON_INCON_DEGR: "pri-on-incon-degr",
    Follow.CALL_AFTER_RESYNC_TARGET: "after-resync-target",
}
_TARGET = (ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T)
_ELSEWHERE = frozenset(
    {
        Follow.SEND_SYNC_UUID,  # resync_bitmap.start_source sends it once it is durable
        Follow.SEND_BITMAP,  # resync_bitmap.begin
        Follow.START_RESYNC_SOURCE,  # with SET_ALL_BITS
        Follow.AWAIT_SYNC_UUID,  # with SET_ALL_BITS
    }
)
NOT_CALLED_YET = frozenset(
    {
        Follow.CHECK_RESYNC_AFTER,
    }
)
"""resync-after: the configuration is warned about at ``up``."""


class FollowUps:
    """detach(volume): let a Failed disk go. start_source(volume): resync as source, bits set."""

    def __init__(
        self,
        ctx: Context,
        *,
        detach: Callable[[Volume], None],
        start_source: Callable[[Volume], None],
        writes: WriteOrigin,
    ) -> None:
        self._ctx = ctx
        self._writes = writes
        self.fencing = PeerFencing(ctx, writes, self.begin_generation)
        self.news = PeerNews(ctx)
        self._detach = detach
        self._start_source = start_source

    def after(self, volume: Volume, old: State, new: State) -> None:
        """Do all that follows."""
        self.news.before(volume, old, new)
        if new.conn < ConnState.CONNECTED:
            volume.peer_detaches = False
        elif new.pdsk < DiskState.INCONSISTENT <= old.pdsk:
            self._writes.peer_lost_disk(volume)
        if old.conn < ConnState.CONNECTED <= new.conn:
            self.fencing.peer_is_back(volume)
        for follow in after_change(old, new, apv=self._ctx.peer.apv or 101):
            self._do(follow, volume, old, new)
        if new.susp_fen and new.conn < ConnState.WF_REPORT_PARAMS is old.conn:
            self.fencing.lost_peer()  # what it found out meanwhile, if anything, was not believed
        self.news.after(volume, old, new)
        begun_here = old.disk is DiskState.NEGOTIATING and new.disk is DiskState.UP_TO_DATE
        if begun_here and new.serves_diskless and volume.uuids.bitmap == 0:
            volume.generation_due = True  # its own disk may bear the same generation

    def _do(self, follow: Follow, volume: Volume, old: State, new: State) -> None:
        ctx, meta = self._ctx, volume.meta
        if new.conn < ConnState.CONNECTED:
            volume.generation_due = False
        if follow in _ELSEWHERE or follow in NOT_CALLED_YET:
            return
        if follow in _HANDLERS:
            ctx.handlers.call(_HANDLERS[follow], volume)
        elif follow is Follow.CALL_LOCAL_IO_ERROR:
            # Begun before the peer is told, but not waited for: it may be what ends this node.
            policy = volume.config.options.on_io_error
            if volume.io_failed and policy is OnIoError.CALL_LOCAL_IO_ERROR:
                ctx.handlers.call("local-io-error", volume)
        elif follow is Follow.CLEAR_CRASHED_PRIMARY:
            volume.crashed_primary = False
            self._clear_peers_crash_mark(volume)
        elif follow is Follow.THAW_BY_PEER:
            ctx.states.force(volume, "the peer has data", susp_nod=False)
        elif follow is Follow.THAW_BY_DISK:
            self.fencing.thaw(volume, "the local disk has data", susp_nod=False)
        elif follow is Follow.THAW_FENCING:
            ctx.states.force(volume, "the peer is back", susp_fen=False)
        elif follow is Follow.PEER_FENCED:
            self.fencing.thaw(volume, "the peer is fenced", susp_fen=False)
        elif follow is Follow.CALL_FENCE_PEER:
            self.fencing.lost_peer()
        elif follow is Follow.CALL_UNFENCE_PEER:
            self.fencing.resync_finished()
        elif follow is Follow.NEW_CURRENT_UUID:
            self._rotate(volume, old, new)
        elif follow is Follow.WRITE_BITMAP:
            if meta is not None:
                meta.write_bitmap()
        elif follow is Follow.SEND_SIZES:
            send_sizes(ctx, volume)
        elif follow is Follow.SEND_UUIDS:
            send_uuids(ctx, volume)
        elif follow is Follow.SEND_STATE:
            finished = old.conn in _TARGET and new.disk >= DiskState.INCONSISTENT
            if not (finished and new.conn is ConnState.CONNECTED):
                # A target that finished says so itself, once UpToDate is durable.
                send_state(ctx, volume)
        elif follow is Follow.SET_ALL_BITS:
            self._set_all_bits(volume)
        elif follow is Follow.DROP_RESYNC:
            self.news.disk_failed(volume, old, new)
            self._detach(volume)
        elif follow is Follow.CLOSE_DISK:
            if volume.backing is not None:  # else attach.detach has closed it, and said Diskless
                self._detach(volume)
        elif follow is Follow.WRITE_SUPERBLOCK:
            if meta is not None and volume.al_gate is not None:
                meta.sync()
        else:
            raise AssertionError(f"{follow} follows a change of the connection, not of a volume")

    def _clear_peers_crash_mark(self, volume: Volume) -> None:
        theirs = volume.peer_uuids
        if theirs is not None:
            flags = theirs.flags & ~UUID_FLAG_CRASHED_PRIMARY
            volume.peer_uuids = type(theirs)(
                theirs.current,
                theirs.bitmap,
                theirs.history0,
                theirs.history1,
                theirs.dirty_bits,
                flags,
            )

    def _rotate(self, volume: Volume, old: State, new: State) -> None:
        """The peer misses what is written now: a new generation, durable before any reply."""
        unnamed = (
            volume.peer_detaches
            or volume.detaching > 0
            or old.pdsk in (new.pdsk, DiskState.DUNKNOWN)
        )
        attached = old.disk is DiskState.NEGOTIATING  # nothing of what it served came from here
        if new.serves_diskless and (unnamed or attached):
            # It may yet refuse us, as not holding what it served last, or have let its disk go with
            # nothing in flight: nothing differs before its first write, and a generation made for
            # nothing would end in a split brain.
            volume.generation_due = True
            return
        rotation = rotation_after(
            old, new, volume.uuids, target_unfinished=volume.target_unfinished
        )
        if volume.state.suspended and rotation is not Rotation.KEEP:
            volume.generation_planned = rotation  # nothing is written before it begins
            return
        self.begin_generation(volume, rotation)

    def begin_generation(
        self,
        volume: Volume,
        rotation: Rotation = Rotation.NEW_CURRENT,
        then: Callable[[bool], None] | None = None,
    ) -> None:
        """Rotate the generation; no write is acknowledged before that is durable."""
        volume.generation_due = False
        if rotation is Rotation.KEEP or volume.meta is None:
            return
        primary = volume.primary
        fresh = self._ctx.random_u64()
        uuids = rotated(volume.uuids, rotation, fresh, primary=primary, target=volume.peer_current)
        volume.begin_generation(uuids)
        self._ctx.tell(Level.INFO, f"new current UUID {volume.uuids}", volume.number)
        volume.hold_replies()

        def durable(ok: bool) -> None:
            if ok:
                volume.generation_is_durable(uuids.current)
            volume.release_replies(ok)
            if ok and volume.state.conn >= ConnState.CONNECTED:
                send_uuids(self._ctx, volume)
            if then is not None:
                then(ok)

        volume.meta.sync(durable)

    def _set_all_bits(self, volume: Volume) -> None:
        """Invalidate, by either side: everything is out of sync, then source or target begins."""
        meta, session = volume.meta, self._ctx.peer.data
        assert meta is not None

        def done(ok: bool) -> None:
            if not ok or session != self._ctx.peer.data:
                return
            if volume.state.conn is ConnState.STARTING_SYNC_T:
                self._ctx.states.force(volume, "bits set", conn=ConnState.WF_SYNC_UUID)
            elif volume.state.conn is ConnState.STARTING_SYNC_S:
                self._start_source(volume)

        meta.set_all(done)
