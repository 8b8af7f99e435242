"""May a node that was Primary when its process ended become Primary again by itself?

Only when no split brain can come of it, and nobody can have written meanwhile: the peer is
connected, agrees on whose data is newest (ours), and is Secondary; or it can't be promoted, because
it is known, durably, to be Outdated; or there is none. Everything else waits, or is left to the
administrator. Source: docs/decisions/0014.
"""

from __future__ import annotations

from replblk.engine.volume import Volume
from replblk.model.vocabulary import ConnState, DiskState, Role

_SOURCE = frozenset(
    {
        *(ConnState.CONNECTED, ConnState.SYNC_SOURCE, ConnState.PAUSED_SYNC_S),
        *(ConnState.VERIFY_S, ConnState.VERIFY_T),
    }
)
"""Connected and settled, with data here that are as new as the peer's or newer."""
_TARGET = frozenset({ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T, ConnState.WF_BITMAP_T})


def resumption(volume: Volume, *, has_peer: bool) -> str | None:
    """ "": promote now; None: wait; else why it will not be."""
    state = volume.state
    if state.peer is Role.PRIMARY:
        return "the peer is Primary now"
    if state.disk in (DiskState.DISKLESS, DiskState.FAILED):
        return "there is no disk"
    if state.conn in _TARGET or state.disk is DiskState.INCONSISTENT:
        return "the peer has newer data"
    if not has_peer:
        return "" if state.disk is DiskState.UP_TO_DATE else "the disk is not UpToDate"
    if state.conn in (ConnState.STANDALONE, ConnState.DISCONNECTING):
        return "the nodes do not connect (a split brain?)"
    if state.conn < ConnState.CONNECTED:
        alone = state.pdsk is DiskState.OUTDATED and state.disk is DiskState.UP_TO_DATE
        return "" if alone else None
    settled = state.conn in _SOURCE and not volume.handshaking
    if not settled or state.disk is DiskState.NEGOTIATING:
        return None
    return "" if state.disk is DiskState.UP_TO_DATE else "the disk is not UpToDate"
