"""May the Primary role of a volume move to the connected peer now, and if not, why not?

``hinders_giving`` is asked by the Primary before anything happens, ``hinders_taking`` by its peer.
Both see the volume's state from their own side and answer with a sentence, "" if nothing hinders.
"""

from __future__ import annotations

from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role


def hinders_giving(state: State) -> str:
    """Why a Primary can't hand its role over now."""
    if state.role is not Role.PRIMARY:
        return "this node is not Primary"
    if why := _hinders(state):
        return why
    if state.peer is not Role.SECONDARY:
        return f"the peer is {state.peer}, not Secondary"
    if state.disk < DiskState.INCONSISTENT:
        return (
            f"this node has no disk ({state.disk}) and can't prepare its peer: attach it; or take "
            "the clients off, then 'replblk secondary' here and 'replblk primary' there"
        )
    if state.pdsk is not DiskState.UP_TO_DATE:
        return f"the peer's disk is {state.pdsk}, not UpToDate: wait until it is (wait-sync)"
    return ""


def hinders_taking(state: State) -> str:
    """Why a Secondary can't take its Primary's role over now."""
    if state.role is not Role.SECONDARY:
        return "this node is Primary"
    if why := _hinders(state):
        return why
    if state.peer is not Role.PRIMARY:
        return f"the peer is {state.peer}, not Primary: 'replblk primary' makes this node Primary"
    if state.disk is not DiskState.UP_TO_DATE:
        return f"the disk here is {state.disk}, not UpToDate: wait until it is (wait-sync)"
    return ""


def _hinders(state: State) -> str:
    if state.conn < ConnState.CONNECTED:
        return f"the nodes are not connected ({state.conn})"
    if state.conn is not ConnState.CONNECTED:
        return f"{state.conn} is under way: wait until the nodes are Connected (wait-sync)"
    if state.suspended:
        return "I/O is suspended: 'replblk resume-io' first, or wait until the reason is gone"
    return ""
