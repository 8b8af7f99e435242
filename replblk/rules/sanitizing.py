"""What a wanted state implies: a disk can't resync without a link, a lost peer is Unknown, ...

``sanitize`` completes a wanted state by DRBD's rules S1 to S10, in their order. Four additions,
all on the side of safety, and without effect on what a peer sees during normal operation:

* S3a: a disk that turns Inconsistent (I/O error passed on) in a state that needs it UpToDate ends
  that resync or verify, where S6 alone would declare the damaged disk UpToDate again.
* S5: an Outdated disk becomes UpToDate only if the other node has a disk to compare with: a
  diskless peer proves nothing.
* S3b: a resync that is aborted leaves its target Inconsistent, where S5 would declare the Outdated
  or half-written disk UpToDate because the nodes are Connected.
* the limits of S6 hold also after S9 and S10: a SyncTarget is Inconsistent however it got there.

And S2 stands behind S4, which may take the disk away: so that what came out stays what it is.
"""

from __future__ import annotations

from typing import Final

from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Fencing, OnNoData, Role
from replblk.rules.facts import Facts

RESYNC_ABORTED: Final = "Resync aborted."
VERIFY_ABORTED: Final = "Online-verify aborted."
LOST_WHILE_NEGOTIATING: Final = "Connection lost while negotiating, no data!"
DISK_UPGRADED: Final = "Implicitly upgraded disk"
PDSK_UPGRADED: Final = "Implicitly upgraded pdsk"

VERIFYING: Final = frozenset({ConnState.VERIFY_S, ConnState.VERIFY_T})

_Limits = tuple[DiskState, DiskState, DiskState, DiskState]
_D = DiskState
_TARGET: _Limits = (_D.INCONSISTENT, _D.OUTDATED, _D.UP_TO_DATE, _D.UP_TO_DATE)
_SOURCE: _Limits = (_D.UP_TO_DATE, _D.UP_TO_DATE, _D.INCONSISTENT, _D.CONSISTENT)
_VERIFY: _Limits = (_D.UP_TO_DATE, _D.UP_TO_DATE, _D.UP_TO_DATE, _D.UP_TO_DATE)
_OFFLINE: _Limits = (_D.DISKLESS, _D.UP_TO_DATE, _D.INCONSISTENT, _D.DUNKNOWN)
LIMITS: Final[dict[ConnState, _Limits]] = {
    **{conn: _OFFLINE for conn in ConnState if conn < ConnState.CONNECTED},
    ConnState.CONNECTED: (_D.DISKLESS, _D.UP_TO_DATE, _D.DISKLESS, _D.UP_TO_DATE),
    ConnState.STARTING_SYNC_S: _SOURCE,
    ConnState.STARTING_SYNC_T: _TARGET,
    ConnState.WF_BITMAP_S: _SOURCE,
    ConnState.WF_BITMAP_T: _TARGET,
    ConnState.WF_SYNC_UUID: _TARGET,
    ConnState.SYNC_SOURCE: (_D.UP_TO_DATE, _D.UP_TO_DATE, _D.INCONSISTENT, _D.INCONSISTENT),
    ConnState.SYNC_TARGET: (_D.INCONSISTENT, _D.INCONSISTENT, _D.UP_TO_DATE, _D.UP_TO_DATE),
    ConnState.VERIFY_S: _VERIFY,
    ConnState.VERIFY_T: _VERIFY,
    ConnState.PAUSED_SYNC_S: _SOURCE,
    ConnState.PAUSED_SYNC_T: _TARGET,
    ConnState.AHEAD: _SOURCE,
    ConnState.BEHIND: _TARGET,
}
"""Smallest and largest disk, smallest and largest peer disk, by connection state (rule S6)."""

_TO_TARGET: Final = (_TARGET, LIMITS[ConnState.SYNC_TARGET])
_TO_SOURCE: Final = (_SOURCE, LIMITS[ConnState.SYNC_SOURCE])

_PAUSED: Final = {
    ConnState.SYNC_SOURCE: ConnState.PAUSED_SYNC_S,
    ConnState.SYNC_TARGET: ConnState.PAUSED_SYNC_T,
}
_RUNNING: Final = {paused: running for running, paused in _PAUSED.items()}


def sanitize(old: State, new: State, facts: Facts) -> tuple[State, tuple[str, ...]]:
    """The wanted state *new* with everything it implies, and DRBD's warnings about that."""
    warnings: list[str] = []

    if new.conn < ConnState.CONNECTED:  # S1
        new = new.but(peer_isp=False, peer=Role.UNKNOWN)
        if not _D.INCONSISTENT <= new.pdsk <= _D.DUNKNOWN:
            new = new.but(pdsk=_D.DUNKNOWN)

    if new.conn > ConnState.CONNECTED and (  # S3, S3a
        new.disk <= _D.FAILED or new.pdsk <= _D.FAILED or _broke_while_needed(old, new)
    ):
        warnings.append(VERIFY_ABORTED if old.conn in VERIFYING else RESYNC_ABORTED)
        new = _unfinished(old, new.but(conn=ConnState.CONNECTED))

    if new.conn < ConnState.CONNECTED and new.disk == _D.NEGOTIATING:  # S4
        if facts.exposed_is_current and facts.kept_disk is not None:
            kept_pdsk = _D.DUNKNOWN if facts.kept_pdsk is None else facts.kept_pdsk
            new = new.but(disk=facts.kept_disk, pdsk=kept_pdsk)
        else:
            warnings.append(LOST_WHILE_NEGOTIATING)
            new = new.but(disk=_D.DISKLESS, pdsk=_D.DUNKNOWN)

    if (  # S2, here: S4 may have made it Diskless
        new.conn == ConnState.STANDALONE and new.disk == _D.DISKLESS and new.role == Role.SECONDARY
    ):
        new = new.but(aftr_isp=False)

    if ConnState.CONNECTED <= new.conn < ConnState.AHEAD:  # S5
        if new.disk == _D.CONSISTENT or (new.disk == _D.OUTDATED and new.pdsk > _D.FAILED):
            new = new.but(disk=_D.UP_TO_DATE)
        if new.pdsk == _D.CONSISTENT or (new.pdsk == _D.OUTDATED and new.disk > _D.FAILED):
            new = new.but(pdsk=_D.UP_TO_DATE)

    new = _limited(new, warnings)  # S6

    if (  # S7
        facts.fencing_of(old) == Fencing.RESOURCE_AND_STONITH
        and _alone_unfenced(new)
        and not _alone_unfenced(old)
    ):
        new = new.but(susp_fen=True)

    if facts.on_no_data == OnNoData.SUSPEND_IO and _no_data(new) and not _no_data(old):  # S8
        new = new.but(susp_nod=True)

    if new.aftr_isp or new.peer_isp or new.user_isp:  # S9
        new = new.but(conn=_PAUSED.get(new.conn, new.conn))
    else:  # S10
        new = new.but(conn=_RUNNING.get(new.conn, new.conn))
    return _limited(new, warnings), tuple(warnings)


def _broke_while_needed(old: State, new: State) -> bool:
    """Rule S3a: our good disk turned Inconsistent in the middle of what needs it UpToDate."""
    return (
        old.conn == new.conn
        and old.disk == _D.UP_TO_DATE
        and new.disk == _D.INCONSISTENT
        and LIMITS[new.conn][0] == _D.UP_TO_DATE
    )


def _unfinished(old: State, new: State) -> State:
    """Rule S3b: an aborted resync leaves its target Inconsistent, in the eyes of both nodes."""
    if LIMITS[old.conn] in _TO_TARGET and _D.FAILED < new.disk < _D.UP_TO_DATE:
        new = new.but(disk=_D.INCONSISTENT)
    if LIMITS[old.conn] in _TO_SOURCE and _D.FAILED < new.pdsk < _D.UP_TO_DATE:
        new = new.but(pdsk=_D.INCONSISTENT)
    return new


def _limited(state: State, warnings: list[str]) -> State:
    """Rule S6: disk and peer disk within the limits; raising one is worth a warning."""
    disk_min, disk_max, pdsk_min, pdsk_max = LIMITS[state.conn]
    if state.disk < disk_min:
        warnings.append(DISK_UPGRADED)
    if state.pdsk < pdsk_min:
        warnings.append(PDSK_UPGRADED)
    return state.but(
        disk=min(max(state.disk, disk_min), disk_max),
        pdsk=min(max(state.pdsk, pdsk_min), pdsk_max),
    )


def _alone_unfenced(state: State) -> bool:
    """A Primary without its peer that doesn't know the peer's disk to be outdated."""
    return (
        state.role == Role.PRIMARY and state.conn < ConnState.CONNECTED and state.pdsk > _D.OUTDATED
    )


def _no_data(state: State) -> bool:
    """A Primary that reaches no UpToDate disk."""
    return state.role == Role.PRIMARY and state.disk < _D.UP_TO_DATE and state.pdsk < _D.UP_TO_DATE
