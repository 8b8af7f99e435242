"""Replies that wait for news of the peer: what only one node has is acknowledged under a new name.

    our disk failed, the peer has the data ─► P_UUIDS with the peer's new generation ─► replies
    the peer refused a write (P_NEG_ACK) ─► P_STATE that says why ─► our new generation ─► replies

The two come on different sockets, in any order. Without them both disks bear the same generation
though one misses what was acknowledged: a crash of both nodes could make the older one the newest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.generation import same_generation
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.wire.commands import UUID_FLAG_BEGINS

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.model.state import State

NEWS_NS = 10_000_000_000
"""How long the peer may take to tell them; DRBD itself does not wait for them at all."""


class PeerNews:
    """Holds the replies of volumes that wait, and lets them go."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    # -- our disk failed ----------------------------------------------------------------------

    def disk_failed(self, volume: Volume, old: State, new: State) -> None:
        """What only the peer has is acknowledged once its data has another name, durably."""
        theirs = volume.peer_uuids
        beside_good_data = (
            new.role is Role.PRIMARY
            and old.disk > DiskState.FAILED
            and new.conn >= ConnState.CONNECTED
            and new.pdsk is DiskState.UP_TO_DATE
            and not volume.detaches_unnamed
        )
        volume.peer_begins |= beside_good_data
        if (
            beside_good_data
            and theirs is not None
            and same_generation(theirs.current, volume.uuids.current)
        ):
            self._await_generation(volume)

    def _await_generation(self, volume: Volume) -> None:
        volume.awaits_peer_generation = True
        volume.hold_replies()
        name = ("peer-generation", volume.number)
        self._ctx.timers.set(name, NEWS_NS, lambda: self._given_up(volume))

    def _given_up(self, volume: Volume) -> None:
        if volume.awaits_peer_generation:
            self._ctx.tell(Level.WARNING, "the peer begins no new generation", volume.number)
            self._generation_known(volume, True)

    def uuids_changed(self, volume: Volume) -> None:
        """P_UUIDS came in: maybe the new generation that acknowledgements wait for."""
        theirs = volume.peer_uuids
        if (
            volume.awaits_peer_generation
            and theirs is not None
            and not same_generation(theirs.current, volume.uuids.current)
            and not theirs.flags & UUID_FLAG_BEGINS  # else a power cut may take it back
        ):
            self._generation_known(volume, True)

    def _generation_known(self, volume: Volume, ok: bool) -> None:
        volume.awaits_peer_generation = False
        self._ctx.timers.cancel(("peer-generation", volume.number))
        volume.release_replies(ok)

    # -- the peer's disk failed ---------------------------------------------------------------

    def refused(self, volume: Volume) -> None:
        """P_NEG_ACK: its disk failed, and what that leads to here is not decided yet, or, while I/O
        is suspended, only planned: nothing names what only we have."""
        unnamed = volume.uuids.bitmap == 0 or volume.generation_planned is not None
        state = volume.state
        counts = state.conn >= ConnState.CONNECTED and state.disk is DiskState.UP_TO_DATE
        if counts and unnamed and not volume.awaits_peer_disk:
            volume.awaits_peer_disk = True
            volume.hold_replies()
            self._expect_news(volume)

    def _expect_news(self, volume: Volume) -> None:
        name = ("peer-disk", volume.number)
        self._ctx.timers.set(name, NEWS_NS, lambda: self._no_news(volume))

    def _no_news(self, volume: Volume) -> None:
        if volume.generation_planned is not None:
            self._expect_news(volume)
        else:
            self._disk_known(volume)

    def _disk_known(self, volume: Volume) -> None:
        if volume.awaits_peer_disk:
            volume.awaits_peer_disk = False
            self._ctx.timers.cancel(("peer-disk", volume.number))
            volume.release_replies(True)

    # -- states -------------------------------------------------------------------------------

    def before(self, volume: Volume, old: State, new: State) -> None:
        """A state was committed, nothing has followed yet: no news come from a lost peer, nor from
        one whose disk is lost. A target that was done when our disk had failed is good data now,
        and hears of the failure yet."""
        done = old.pdsk is DiskState.INCONSISTENT and new.pdsk is DiskState.UP_TO_DATE
        serves = new.role is Role.PRIMARY and old.disk < DiskState.INCONSISTENT
        if done and serves and not volume.awaits_peer_generation:
            volume.peer_begins = True
            self._await_generation(volume)
        lost = new.conn < ConnState.CONNECTED or new.pdsk is not DiskState.UP_TO_DATE
        if lost and volume.awaits_peer_generation:
            self._generation_known(volume, False)

    def after(self, volume: Volume, old: State, new: State) -> None:
        """All that follows was begun: a new generation holds the replies itself from here on."""
        resynced = old.conn is ConnState.SYNC_SOURCE and new.conn is ConnState.CONNECTED
        if resynced and new.pdsk is DiskState.UP_TO_DATE:
            volume.generation_planned = None  # the peer misses nothing of it any more
            self._disk_known(volume)
        if new.suspended:
            return  # it is only planned, and begins when I/O goes on
        if new.conn < ConnState.CONNECTED or new.pdsk is not DiskState.UP_TO_DATE:
            self._disk_known(volume)
