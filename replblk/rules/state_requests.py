"""State changes as nodes ask each other for them: a mask and a value in the layout of State.packed.

The mask has all bits of a field set where the request concerns it. A request arrives in the peer's
point of view; ``mirror`` turns it into ours. What may be asked is a short list
(``allowed_remote_request``): anything else would let a peer set what is ours alone, our role first.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role


class StateRequest(NamedTuple):
    """A wanted change of some fields."""

    mask: int
    val: int

    def and_also(self, other: StateRequest) -> StateRequest:
        """Both changes; where both concern a field, *other* decides."""
        return StateRequest(self.mask | other.mask, self.val & ~other.mask | other.val)


ROLE_MASK: Final = 0x3
PEER_MASK: Final = 0xC
CONN_MASK: Final = 0x1F0
DISK_MASK: Final = 0x1E00
PDSK_MASK: Final = 0x1E000

_AFTR_ISP: Final = 1 << 18
_PEER_ISP: Final = 1 << 19
_USER_ISP: Final = 1 << 20
_COPIED: Final = 1 << 17 | _AFTR_ISP | _USER_ISP | 1 << 21 | 1 << 22
_WHOLE_CONN: Final = 31


def _disk(disk: DiskState) -> int:
    return disk << 9


def _pdsk(disk: DiskState) -> int:
    return disk << 13


def _conn(conn: ConnState) -> int:
    return conn << 4


PROMOTE: Final = StateRequest(ROLE_MASK, Role.PRIMARY)
PROMOTE_UPTODATE: Final = StateRequest(
    ROLE_MASK | DISK_MASK, Role.PRIMARY | _disk(DiskState.UP_TO_DATE)
)
PEER_OUTDATED: Final = StateRequest(PDSK_MASK, _pdsk(DiskState.OUTDATED))
DETACH: Final = StateRequest(DISK_MASK, _disk(DiskState.FAILED))
INVALIDATE: Final = StateRequest(CONN_MASK, _conn(ConnState.STARTING_SYNC_T))
INVALIDATE_REMOTE: Final = StateRequest(CONN_MASK, _conn(ConnState.STARTING_SYNC_S))
VERIFY: Final = StateRequest(CONN_MASK, _conn(ConnState.VERIFY_S))
DISCONNECT: Final = StateRequest(CONN_MASK, _conn(ConnState.DISCONNECTING))
DISCONNECT_OUTDATE_PEER: Final = StateRequest(
    CONN_MASK | PDSK_MASK, _conn(ConnState.DISCONNECTING) | _pdsk(DiskState.OUTDATED)
)
DISCONNECT_OUTDATE_SELF: Final = StateRequest(
    CONN_MASK | DISK_MASK, _conn(ConnState.DISCONNECTING) | _disk(DiskState.OUTDATED)
)

_MIRRORED_CONN: Final = {
    ConnState.WF_REPORT_PARAMS: ConnState.WF_REPORT_PARAMS,
    ConnState.CONNECTED: ConnState.CONNECTED,
    ConnState.STARTING_SYNC_S: ConnState.STARTING_SYNC_T,
    ConnState.STARTING_SYNC_T: ConnState.STARTING_SYNC_S,
    ConnState.DISCONNECTING: ConnState.TEAR_DOWN,
    ConnState.VERIFY_S: ConnState.VERIFY_T,
    _WHOLE_CONN: _WHOLE_CONN,
}


def mirror(mask: int, val: int) -> StateRequest:
    """A request in the peer's point of view, turned into ours: its role is our ``peer``, ..."""
    return StateRequest(_mirrored(mask), _mirrored(val))


def _mirrored(word: int) -> int:
    paused = bool(word & (_AFTR_ISP | _USER_ISP))
    return (
        (word & ROLE_MASK) << 2
        | (word & PEER_MASK) >> 2
        | _MIRRORED_CONN.get((word & CONN_MASK) >> 4, 0) << 4
        | (word & DISK_MASK) << 4
        | (word & PDSK_MASK) >> 4
        | (word & _COPIED)
        | (_PEER_ISP if paused else 0)
    )


_ALLOWED: Final = frozenset(
    mirror(*request)
    for request in (
        PROMOTE,
        PROMOTE_UPTODATE,
        DETACH,
        INVALIDATE,
        INVALIDATE_REMOTE,
        VERIFY,
        DISCONNECT,
        DISCONNECT_OUTDATE_PEER,
        DISCONNECT_OUTDATE_SELF,
    )
)


def allowed_remote_request(mask: int, val: int) -> bool:
    """Whether a peer may ask for this at all; the pair is in our view (after ``mirror``)."""
    return StateRequest(mask, val) in _ALLOWED


def apply_mask(state: State, mask: int, val: int) -> State:
    """*state* with the fields under *mask* taken from *val*.

    ValueError when that gives a field a number that names no state; no allowed request does.
    """
    return State.unpack(state.packed() & ~mask | val & mask)


def outdated_by(state: State, wish: StateRequest) -> State:
    """*state* with what a graceful disconnect says of the disks: Outdated, unless worse already."""
    asked = apply_mask(state, wish.mask & (DISK_MASK | PDSK_MASK), wish.val)
    return state.but(disk=min(state.disk, asked.disk), pdsk=min(state.pdsk, asked.pdsk))
