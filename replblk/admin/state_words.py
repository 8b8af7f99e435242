"""The words for states: those of role, cstate and dstate, and the newer ones status uses."""

from __future__ import annotations

from replblk.model.state import State
from replblk.model.status import NodeStatus
from replblk.model.vocabulary import ConnState, DiskState, Role

UNCONFIGURED = "Unconfigured"


def is_unconfigured(state: State) -> bool:
    """Whether role, cstate and dstate say Unconfigured; they do not look at the role."""
    return state.conn is ConnState.STANDALONE and state.disk is DiskState.DISKLESS


def role_line(state: State) -> str:
    """``Primary/Secondary``: own role and the peer's."""
    return UNCONFIGURED if is_unconfigured(state) else f"{state.role}/{state.peer}"


def cstate_line(state: State) -> str:
    """``WFConnection``: connection or replication state."""
    return UNCONFIGURED if is_unconfigured(state) else str(state.conn)


def dstate_line(state: State) -> str:
    """``UpToDate/DUnknown``: own disk and the peer's."""
    return UNCONFIGURED if is_unconfigured(state) else f"{state.disk}/{state.pdsk}"


def connection_word(conn: ConnState) -> str:
    """The connection in the newer words: 8 is Connecting, everything above is Connected."""
    if conn < ConnState.WF_CONNECTION:
        return str(conn)
    return "Connecting" if conn is ConnState.WF_CONNECTION else "Connected"


def replication_word(conn: ConnState) -> str:
    """The replication in the newer words: Off while not connected, Established when idle."""
    if conn < ConnState.CONNECTED:
        return "Off"
    return "Established" if conn is ConnState.CONNECTED else str(conn)


def suspended_words(state: State) -> str:
    """Why I/O waits: ``no`` or some of ``user,no-data,fencing``."""
    return _joined(("user", state.susp), ("no-data", state.susp_nod), ("fencing", state.susp_fen))


def resync_suspended_words(state: State) -> str:
    """Why a resync waits: ``no`` or some of ``user,peer,dependency``."""
    return _joined(
        ("user", state.user_isp), ("peer", state.peer_isp), ("dependency", state.aftr_isp)
    )


def _joined(*reasons: tuple[str, bool]) -> str:
    return ",".join(word for word, on in reasons if on) or "no"


def write_ordering_word(letter: str) -> str:
    """``flush`` for f, and so on; the letters are those of /proc/drbd."""
    return {"n": "none", "d": "drain", "f": "flush", "b": "barrier"}.get(letter, letter)


def resource_state(status: NodeStatus) -> State:
    """What holds for the resource: the highest role, the furthest connection, every suspension."""
    states = [volume.state for volume in status.volumes]
    if not states:
        return State()
    return State(
        role=_highest([state.role for state in states]),
        peer=_highest([state.peer for state in states]),
        conn=max(state.conn for state in states),
        susp=any(state.susp for state in states),
        susp_nod=any(state.susp_nod for state in states),
        susp_fen=any(state.susp_fen for state in states),
    )


def _highest(roles: list[Role]) -> Role:
    return Role.PRIMARY if Role.PRIMARY in roles else max(roles)
