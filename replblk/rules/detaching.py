"""A Primary lets its disk go: does its peer have to begin a generation with its consent?

DRBD does so. If the connection breaks before the consent arrives, the Primary may not go on without
its disk, keeps it, and begins a generation, too: a split brain for nothing. Where nothing is in
flight both disks hold the same, and the peer may wait for the first write that only it gets, as
it does for a Primary that came without a disk. Source: decision 20.
"""

from __future__ import annotations

from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role


def may_wait_for_a_write(state: State) -> bool:
    """Whether the Primary's disk may go unnamed, if nothing is in flight; the same for both."""
    return (
        state.conn is ConnState.CONNECTED
        and {state.role, state.peer} == {Role.PRIMARY, Role.SECONDARY}
        and state.disk is state.pdsk is DiskState.UP_TO_DATE
        and not state.suspended
    )
