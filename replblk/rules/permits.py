"""What a state change may not do: hard steps (H), states (V) and soft steps (T), table by table.

A rule *bars* a change when its condition holds. H1 to H6: the first that matches decides, H7
overrides them. V: the first that matches decides. T: the last that matches decides. The hard rules
bind everybody, even a forced change; the others only requests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from replblk.model.state import State
from replblk.model.vocabulary import Code, ConnState, DiskState, Fencing, Role
from replblk.rules.facts import Facts
from replblk.rules.sanitizing import VERIFYING

_C = ConnState
_D = DiskState

_STARTING: Final = frozenset({_C.STARTING_SYNC_S, _C.STARTING_SYNC_T})
_SYNCING: Final = frozenset({_C.SYNC_SOURCE, _C.SYNC_TARGET})
_OUTDATED_BARRED: Final = frozenset(
    {_C.CONNECTED, _C.WF_BITMAP_S, _C.SYNC_SOURCE, _C.PAUSED_SYNC_S}
)


@dataclass(frozen=True, slots=True)
class StateRule:
    """A state that a request may not lead to."""

    name: str
    code: Code
    bars: Callable[[State, Facts], bool]


@dataclass(frozen=True, slots=True)
class StepRule:
    """A step from old to new that a request may not take."""

    name: str
    code: Code
    bars: Callable[[State, State, Facts], bool]


def forbidden_step(old: State, new: State) -> Code:
    """Hard rules H1 to H7: SUCCESS, or why nobody may take this step, not even by force."""
    if old.disk == _D.DISKLESS and new.disk == _D.FAILED:  # H7
        return Code.IS_DISKLESS
    if new.conn == old.conn:  # H1
        return Code.SUCCESS
    if old.conn == _C.STANDALONE and new.conn == _C.DISCONNECTING:  # H2
        return Code.ALREADY_STANDALONE
    if old.conn == _C.STANDALONE and new.conn != _C.UNCONNECTED:  # H3
        return Code.NEED_CONNECTION
    if old.conn < _C.WF_REPORT_PARAMS and new.conn >= _C.CONNECTED:  # H4
        return Code.NEED_CONNECTION
    if _C.TIMEOUT <= old.conn <= _C.TEAR_DOWN and new.conn not in (  # H5
        _C.UNCONNECTED,
        _C.DISCONNECTING,
    ):
        return Code.IN_TRANSIENT_STATE
    if old.conn == _C.DISCONNECTING and new.conn != _C.STANDALONE:  # H6
        return Code.IN_TRANSIENT_STATE
    return Code.SUCCESS


VALIDITY: Final = (
    StateRule(
        "V1",
        Code.TWO_PRIMARIES,
        lambda s, f: (
            s.role == Role.PRIMARY and f.has_net and not f.two_primaries and s.peer == Role.PRIMARY
        ),
    ),
    StateRule(
        "V2",
        Code.O_VOL_PEER_PRI,
        lambda s, f: (
            s.role == Role.PRIMARY
            and f.has_net
            and not f.two_primaries
            and f.other_volume_peer_primary
        ),
    ),
    StateRule("V3", Code.DEVICE_IN_USE, lambda s, f: s.role == Role.SECONDARY and f.device_open),
    StateRule(
        "V4",
        Code.NO_UP_TO_DATE_DISK,
        lambda s, _: s.role == Role.PRIMARY and s.conn < _C.CONNECTED and s.disk < _D.UP_TO_DATE,
    ),
    StateRule(
        "V5",
        Code.PRIMARY_NOP,
        lambda s, f: (
            f.fencing_of(s) >= Fencing.RESOURCE_ONLY
            and s.role == Role.PRIMARY
            and s.conn < _C.CONNECTED
            and s.pdsk >= _D.DUNKNOWN
        ),
    ),
    StateRule(
        "V6",
        Code.NO_UP_TO_DATE_DISK,
        lambda s, _: (
            s.role == Role.PRIMARY and s.disk <= _D.INCONSISTENT and s.pdsk <= _D.INCONSISTENT
        ),
    ),
    StateRule(
        "V7", Code.NO_LOCAL_DISK, lambda s, _: s.conn > _C.CONNECTED and s.disk < _D.INCONSISTENT
    ),
    StateRule(
        "V8", Code.NO_REMOTE_DISK, lambda s, _: s.conn > _C.CONNECTED and s.pdsk < _D.INCONSISTENT
    ),
    StateRule(
        "V9",
        Code.NO_UP_TO_DATE_DISK,
        lambda s, _: s.conn > _C.CONNECTED and s.disk < _D.UP_TO_DATE and s.pdsk < _D.UP_TO_DATE,
    ),
    StateRule(
        "V10",
        Code.CONNECTED_OUTDATES,
        lambda s, _: s.conn in _OUTDATED_BARRED and s.disk == _D.OUTDATED and s.pdsk > _D.FAILED,
    ),
    StateRule("V11", Code.NO_VERIFY_ALG, lambda s, f: s.conn in VERIFYING and not f.verify_alg),
    StateRule("V12", Code.NOT_SUPPORTED, lambda s, f: s.conn in VERIFYING and f.apv < 88),
    StateRule(
        "V13",
        Code.NO_UP_TO_DATE_DISK,
        lambda s, _: s.role == Role.PRIMARY and s.disk < _D.UP_TO_DATE and s.pdsk < _D.UP_TO_DATE,
    ),
    StateRule(
        "V14", Code.NEED_CONNECTION, lambda s, _: s.conn in _STARTING and s.pdsk == _D.DUNKNOWN
    ),
    StateRule(
        "V15",
        Code.CONNECTED_OUTDATES,
        lambda s, _: s.conn >= _C.CONNECTED and s.pdsk == _D.DUNKNOWN,
    ),
)

SOFT_STEPS: Final = (
    StepRule(
        "T1", Code.RESYNC_RUNNING, lambda o, n, _: n.conn in _STARTING and o.conn > _C.CONNECTED
    ),
    StepRule(
        "T2",
        Code.ALREADY_STANDALONE,
        lambda o, n, _: n.conn == _C.DISCONNECTING and o.conn == _C.STANDALONE,
    ),
    StepRule(
        "T3", Code.IS_DISKLESS, lambda o, n, _: n.disk > _D.ATTACHING and o.disk == _D.DISKLESS
    ),
    StepRule(
        "T4",
        Code.NO_NET_CONFIG,
        lambda o, n, _: n.conn == _C.WF_CONNECTION and o.conn < _C.UNCONNECTED,
    ),
    StepRule(
        "T5",
        Code.LOWER_THAN_OUTDATED,
        lambda o, n, _: n.disk == _D.OUTDATED and o.disk < _D.OUTDATED and o.disk != _D.ATTACHING,
    ),
    StepRule(
        "T6",
        Code.IN_TRANSIENT_STATE,
        lambda o, n, _: n.conn == _C.DISCONNECTING and o.conn == _C.UNCONNECTED,
    ),
    StepRule(
        "T7",
        Code.IN_TRANSIENT_STATE,
        lambda o, n, f: (
            f.handshake_pending
            and not (o.conn == _C.WF_CONNECTION and n.conn == _C.WF_REPORT_PARAMS)
            and not (o.conn == _C.WF_REPORT_PARAMS and n.conn >= _C.CONNECTED)
        ),
    ),
    StepRule(
        "T8",
        Code.IN_TRANSIENT_STATE,
        lambda o, n, _: (
            o.role != Role.PRIMARY
            and n.role == Role.PRIMARY
            and n.pdsk == _D.UP_TO_DATE
            and n.disk not in (_D.UP_TO_DATE, _D.DISKLESS)
            and (n.conn <= _C.WF_SYNC_UUID or n.conn != o.conn)
        ),
    ),
    StepRule(
        "T9", Code.NEED_CONNECTION, lambda o, n, _: n.conn in VERIFYING and o.conn < _C.CONNECTED
    ),
    StepRule(
        "T10",
        Code.RESYNC_RUNNING,
        lambda o, n, _: n.conn in VERIFYING and n.conn != o.conn and o.conn > _C.CONNECTED,
    ),
    StepRule(
        "T11", Code.NEED_CONNECTION, lambda o, n, _: n.conn in _STARTING and o.conn < _C.CONNECTED
    ),
    StepRule(
        "T12",
        Code.NEED_CONNECTION,
        lambda o, n, _: n.conn in _SYNCING and o.conn < _C.WF_REPORT_PARAMS,
    ),
    StepRule(
        "T13",
        Code.OUTDATE_WO_CONN,
        lambda o, n, _: (
            n.conn == _C.DISCONNECTING
            and n.pdsk == _D.OUTDATED
            and o.conn < _C.CONNECTED
            and o.pdsk > _D.OUTDATED
        ),
    ),
)


def validity(state: State, facts: Facts) -> Code:
    """SUCCESS, or why no request may lead to *state* (rules V1 to V15)."""
    for rule in VALIDITY:
        if rule.bars(state, facts):
            return rule.code
    return Code.SUCCESS


def soft_step(old: State, new: State, facts: Facts) -> Code:
    """SUCCESS, or why a request may not take the step from *old* to *new* (rules T1 to T13)."""
    for rule in reversed(SOFT_STEPS):
        if rule.bars(old, new, facts):
            return rule.code
    return Code.SUCCESS
