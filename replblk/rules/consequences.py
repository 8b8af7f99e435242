"""What has to follow a committed state change, as an ordered list of things to do.

``after_change`` is asked once per volume and change, ``after_connection_change`` once per resource.
Each thing is named at most once, at the place of its last reason, so that P_STATE comes after what
it refers to. The list says what the two states alone call for; where a thing depends on more
(UUIDs, a policy, the other volumes), the text of the member says what the caller still has to ask.

Not consequences, but parts of a journey: the handshake packets before WFReportParams, the P_STATE
after an administrator's promotion or demotion, before-resync handlers (they may veto).
"""

from __future__ import annotations

from enum import Enum

from replblk.model.state import State
from replblk.model.vocabulary import SOURCE_STATES, ConnState, DiskState, Role
from replblk.rules.generations import (
    Rotation,
    lost_peer_data,
    needs_new_current_uuid,
    promotion_needs_new_uuid,
    rotated,
    rotation_after,
    rotation_at_promotion,
)

__all__ = [
    "Follow",
    "Rotation",
    "after_change",
    "after_connection_change",
    "needs_new_current_uuid",
    "promotion_needs_new_uuid",
    "rotated",
    "rotation_after",
    "rotation_at_promotion",
]

_C = ConnState
_D = DiskState


class Follow(Enum):
    """One thing to do."""

    CLEAR_CRASHED_PRIMARY = "clear the crashed-primary marks, ours and what we know of the peer's"
    CALL_PRI_ON_INCON_DEGR = "handler pri-on-incon-degr"
    THAW_BY_PEER = "susp_nod off, resend frozen requests (once every volume is connected)"
    THAW_BY_DISK = "susp_nod off, restart frozen requests on the local disk"
    THAW_FENCING = "susp_fen off, forget the planned UUID, resend (once every volume is connected)"
    PEER_FENCED = "susp_fen off, rotate as planned, complete requests (once all peers are fenced)"
    SEND_SYNC_UUID = "rotate the UUIDs for a resync as source, send P_SYNC_UUID before all else"
    SEND_BITMAP = "send our bitmap"
    NEW_CURRENT_UUID = "rotate as rotation_after says (planned while suspended); then P_UUIDS"
    WRITE_BITMAP = "write changed bitmap pages"
    SEND_SIZES = "send P_SIZES"
    SEND_UUIDS = "send P_UUIDS"
    SEND_STATE = "send P_STATE"
    CHECK_RESYNC_AFTER = "re-evaluate the resync-after dependencies of other volumes"
    SET_ALL_BITS = "set the whole bitmap, durably"
    AWAIT_SYNC_UUID = "go to WFSyncUUID once the bits are set"
    START_RESYNC_SOURCE = "start the resync as source once the bits are set"
    CALL_LOCAL_IO_ERROR = "handler local-io-error, if an I/O error and on-io-error led here"
    DROP_RESYNC = "forget resync bookkeeping and resync requests"
    CLOSE_DISK = "close the backing device once nothing is in flight"
    CALL_AFTER_RESYNC_TARGET = "handler after-resync-target"
    CALL_UNFENCE_PEER = "handler unfence-peer, if fencing counts and every volume is UpToDate twice"
    CALL_FENCE_PEER = "handler fence-peer, if fencing counts (a volume is at least Consistent)"
    WRITE_SUPERBLOCK = "write the superblock if it changed"
    START_CONNECTING = "listen and connect"
    DROP_CONNECTION = "close the links, settle what waited for the peer, then Unconnected"
    DROP_NET = "close the links, settle what waited for the peer, then StandAlone"


def after_change(old: State, new: State, *, apv: int = 101) -> tuple[Follow, ...]:
    """What follows the change of one volume, in order (rules A2 to A24).

    apv: agreed protocol version; it decides whether the end of a verify is announced.
    """
    if new == old:
        return ()
    todo: list[Follow] = []
    online = new.conn >= _C.CONNECTED
    reconnected = old.conn < _C.CONNECTED <= new.conn

    if _entered_sync_source(old, new):  # A6: before all other packets
        todo.append(Follow.SEND_SYNC_UUID)
    if _both_good(new) and not _both_good(old):  # A2
        todo.append(Follow.CLEAR_CRASHED_PRIMARY)
    if _no_data(new) and not _no_data(old):  # A3
        todo.append(Follow.CALL_PRI_ON_INCON_DEGR)
    if new.susp_nod:  # A4
        if online and new.pdsk == _D.UP_TO_DATE and (reconnected or old.pdsk != new.pdsk):
            todo.append(Follow.THAW_BY_PEER)
        if old.disk in (_D.ATTACHING, _D.NEGOTIATING) and new.disk == _D.UP_TO_DATE:
            todo.append(Follow.THAW_BY_DISK)
    if new.susp_fen:  # A5, and its counterpart
        if reconnected:
            todo.append(Follow.THAW_FENCING)
        elif new.pdsk <= _D.OUTDATED < old.pdsk:
            todo.append(Follow.PEER_FENCED)
    attaches = old.pdsk < _D.FAILED and new.pdsk not in (_D.DISKLESS, _D.DUNKNOWN)
    if online and attaches and old.pdsk != new.pdsk:  # A7
        todo += (Follow.SEND_UUIDS, Follow.SEND_STATE)
    if new.conn == _C.WF_BITMAP_S != old.conn:  # A8
        todo.append(Follow.SEND_BITMAP)
    if lost_peer_data(old, new):  # A9, A10
        todo.append(Follow.NEW_CURRENT_UUID)
    if _demoted(old, new):  # A11, A12
        todo.append(Follow.WRITE_BITMAP)
    if online and (old.disk, new.disk) == (_D.ATTACHING, _D.NEGOTIATING):  # A13
        todo += (Follow.SEND_SIZES, Follow.SEND_UUIDS, Follow.SEND_STATE)
    if online and (old.aftr_isp, old.user_isp) != (new.aftr_isp, new.user_isp):  # A14
        todo.append(Follow.SEND_STATE)
    if _isp_set(old, new):  # A15
        todo.append(Follow.CHECK_RESYNC_AFTER)
    if (old.conn == _C.WF_REPORT_PARAMS and online) or new.conn == _C.AHEAD != old.conn:  # A16
        todo.append(Follow.SEND_STATE)
    if new.conn == _C.STARTING_SYNC_S != old.conn:  # A17
        todo += (Follow.SET_ALL_BITS, Follow.START_RESYNC_SOURCE)
    if new.conn == _C.STARTING_SYNC_T != old.conn:
        todo += (Follow.SET_ALL_BITS, Follow.AWAIT_SYNC_UUID)
    if new.disk == _D.FAILED != old.disk:  # A18
        todo.append(Follow.CALL_LOCAL_IO_ERROR)
        if online:
            todo.append(Follow.SEND_STATE)
        todo.append(Follow.DROP_RESYNC)
    if new.disk == _D.DISKLESS != old.disk:  # A19
        if online:
            todo.append(Follow.SEND_STATE)
        todo.append(Follow.CLOSE_DISK)
    if online and (old.disk, new.disk) == (_D.UP_TO_DATE, _D.INCONSISTENT):  # A20
        todo.append(Follow.SEND_STATE)
    todo += _after_resync(old, new, apv)  # A21 to A23
    if _wants_fencing(old, new):
        todo.append(Follow.CALL_FENCE_PEER)
    if new.disk >= _D.FAILED:  # A24
        todo.append(Follow.WRITE_SUPERBLOCK)
    return _once(todo)


def after_connection_change(old: ConnState, new: ConnState) -> tuple[Follow, ...]:
    """What follows a change of the connection's own state (0 to 9), once for all volumes."""
    if new == old:
        return ()
    if new == _C.UNCONNECTED:
        return (Follow.START_CONNECTING,)
    if new == _C.DISCONNECTING:
        return (Follow.DROP_NET,)
    if _C.TIMEOUT <= new <= _C.TEAR_DOWN:
        return (Follow.DROP_CONNECTION,)
    return ()


def _after_resync(old: State, new: State, apv: int) -> list[Follow]:
    """A21 to A23: a resync or verify ended, well or not, or may go on."""
    todo: list[Follow] = []
    ended = old.conn > _C.CONNECTED >= new.conn
    if ended or (old.peer_isp and not new.peer_isp) or (old.user_isp and not new.user_isp):  # A21
        todo.append(Follow.CHECK_RESYNC_AFTER)
    finished = old.conn >= _C.SYNC_SOURCE and new.conn == _C.CONNECTED
    alive = new.disk >= _D.INCONSISTENT and new.pdsk >= _D.INCONSISTENT
    was_target = old.conn in (_C.SYNC_TARGET, _C.PAUSED_SYNC_T)
    was_source = old.conn in SOURCE_STATES
    if finished and alive and was_target:
        todo.append(Follow.CALL_AFTER_RESYNC_TARGET)
    if finished and was_source and _both_good(new):
        todo.append(Follow.CALL_UNFENCE_PEER)
    if finished and alive and old.disk < _D.UP_TO_DATE:  # A22
        todo.append(Follow.SEND_STATE)
    verified = finished and old.conn == _C.VERIFY_S and apv >= 97 and apv != 100
    if verified and new.disk != _D.FAILED:  # A18 sends it, before the writes that go on
        todo.append(Follow.SEND_STATE)
    left_for = (_C.CONNECTED, _C.AHEAD, _C.BEHIND)
    if _C.SYNC_SOURCE <= old.conn < _C.AHEAD and new.conn in left_for:  # A23
        todo.append(Follow.WRITE_BITMAP)
    return todo


def _entered_sync_source(old: State, new: State) -> bool:
    return new.conn in SOURCE_STATES and old.conn not in SOURCE_STATES


def _both_good(state: State) -> bool:
    return state.disk == _D.UP_TO_DATE and state.pdsk == _D.UP_TO_DATE


def _no_data(state: State) -> bool:
    return state.role == Role.PRIMARY and state.disk < _D.UP_TO_DATE and state.pdsk < _D.UP_TO_DATE


def _demoted(old: State, new: State) -> bool:
    """We, or the diskless Primary whose data we keep, became Secondary."""
    if new.disk < _D.INCONSISTENT:
        return False
    ours = old.role == Role.PRIMARY and new.role == Role.SECONDARY
    peers = old.peer == Role.PRIMARY and new.peer == Role.SECONDARY
    return (ours and new.conn <= _C.CONNECTED) or (peers and new.pdsk < _D.INCONSISTENT)


def _isp_set(old: State, new: State) -> bool:
    return (
        (new.aftr_isp and not old.aftr_isp)
        or (new.peer_isp and not old.peer_isp)
        or (new.user_isp and not old.user_isp)
    )


def _wants_fencing(old: State, new: State) -> bool:
    """A Primary lost the connection and does not know the peer to be outdated."""
    return (
        new.role == Role.PRIMARY and old.conn >= _C.CONNECTED > new.conn and new.pdsk >= _D.DUNKNOWN
    )


def _once(todo: list[Follow]) -> tuple[Follow, ...]:
    """Each thing once, at the place of its last reason."""
    return tuple(reversed(dict.fromkeys(reversed(todo))))
