"""May a volume go from this state to that one: the pipeline every state change passes.

``change`` answers for one volume in the order DRBD asks: complete the wanted state, nothing to do?,
hard rules, and for requests validity and soft rules. Who may be asked first (``is_cluster_wide``),
committing and what follows (``consequences``) are the caller's. *hard*: a fact (link lost, disk
failed, resync ended), which only the hard rules can refuse; otherwise a request.
"""

from __future__ import annotations

from dataclasses import dataclass

from replblk.model.state import State
from replblk.model.vocabulary import Code, ConnState, DiskState, Role
from replblk.rules.facts import Facts
from replblk.rules.permits import forbidden_step, soft_step, validity
from replblk.rules.sanitizing import VERIFYING, sanitize
from replblk.rules.state_requests import (
    DETACH,
    DISCONNECT,
    DISCONNECT_OUTDATE_PEER,
    DISCONNECT_OUTDATE_SELF,
    INVALIDATE,
    INVALIDATE_REMOTE,
    PEER_OUTDATED,
    PROMOTE,
    PROMOTE_UPTODATE,
    VERIFY,
    StateRequest,
    allowed_remote_request,
    apply_mask,
    mirror,
    outdated_by,
)

__all__ = [
    "DETACH",
    "DISCONNECT",
    "DISCONNECT_OUTDATE_PEER",
    "DISCONNECT_OUTDATE_SELF",
    "INVALIDATE",
    "INVALIDATE_REMOTE",
    "PEER_OUTDATED",
    "PROMOTE",
    "PROMOTE_UPTODATE",
    "VERIFY",
    "Accepted",
    "Facts",
    "Refused",
    "StateRequest",
    "allowed_remote_request",
    "apply_mask",
    "change",
    "forbidden_step",
    "is_cluster_wide",
    "mirror",
    "outdated_by",
    "sanitize",
    "soft_step",
    "validity",
]


@dataclass(frozen=True, slots=True)
class Accepted:
    """The state to commit (equal to the old one if there is nothing to do) and DRBD's warnings."""

    state: State
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """Why not. wanted: the completed state that was judged, for DRBD's two log lines."""

    code: Code
    wanted: State | None = None


def change(old: State, wanted: State, facts: Facts, *, hard: bool) -> Accepted | Refused:
    """Whether a volume in *old* may become *wanted*, and what exactly it then becomes."""
    new, warnings = sanitize(old, wanted, facts)
    if new == old:
        return Accepted(old, warnings)
    code = forbidden_step(old, new)
    if code >= Code.SUCCESS and not hard:
        code = _permitted(old, new, facts)
    if code >= Code.SUCCESS and _would_whitewash(old, wanted):
        code = Code.NO_UP_TO_DATE_DISK
    return Accepted(new, warnings) if code >= Code.SUCCESS else Refused(code, new)


def _permitted(old: State, new: State, facts: Facts) -> Code:
    """Validity and soft rules; a state that was already invalid in that way may change further."""
    code = validity(new, facts)
    if code < Code.SUCCESS and validity(old, facts) != code:
        return code
    return soft_step(old, new, facts)


def _would_whitewash(old: State, wanted: State) -> bool:
    """Whether a verify would begin with a disk that S6 would first have to declare UpToDate."""
    return (
        wanted.conn in VERIFYING
        and old.conn not in VERIFYING
        and (wanted.disk != DiskState.UP_TO_DATE or wanted.pdsk != DiskState.UP_TO_DATE)
    )


def is_cluster_wide(old: State, new: State) -> bool:
    """Whether a request for this (completed) change has to be put to the peer first."""
    if old.conn < ConnState.CONNECTED:
        return False
    starting = (ConnState.STARTING_SYNC_S, ConnState.STARTING_SYNC_T)
    return (
        (
            new.conn >= ConnState.CONNECTED
            and (
                (old.role != Role.PRIMARY and new.role == Role.PRIMARY)
                or (new.conn in starting and new.conn != old.conn)
                or (new.disk == DiskState.FAILED and old.disk != DiskState.FAILED)
            )
        )
        or new.conn == ConnState.DISCONNECTING
        or (
            old.conn == ConnState.CONNECTED
            and new.conn in (ConnState.VERIFY_S, ConnState.WF_REPORT_PARAMS)
        )
    )
