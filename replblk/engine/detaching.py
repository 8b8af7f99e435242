"""``detach``: the disk is let go, on a Primary at a moment in which nothing is in flight.

    requests wait ─► all writes done and barrier-acknowledged ─► P_UUIDS, flag DETACHES ─►
    P_STATE_CHG_REQ ─► "nothing done" ─► Failed, P_STATE ─► requests go on, to the peer

A peer that is replblk consents and changes nothing: neither before P_STATE says that the disk is
gone, nor before the first write that only it gets does it begin a generation. So the connection may
break at any moment: until then both disks have the same data under the same name. DRBD passes over
the flag, and begins one with its consent, as it always does. So does our peer if our disk hangs, or
if a flush is needed for it to hold what was acknowledged. Source: decision 20.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS
from replblk.engine.handshake import send_state, send_uuids
from replblk.model.vocabulary import Code, ConnState, DiskState
from replblk.rules.detaching import may_wait_for_a_write
from replblk.rules.transitions import DETACH
from replblk.wire.packets import UUID_FLAG_DETACHES

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.state_change import StateRequests
    from replblk.engine.volume import Volume
    from replblk.engine.write_origin import WriteOrigin

Then = Callable[[Code], None]

QUIET_NS = SECOND_NS
"""How long requests in flight may take to end. Clients wait meanwhile."""


class Detaching:
    """Asks for the consent to detach; what follows from it is the state's affair."""

    def __init__(self, ctx: Context, requests: StateRequests, writes: WriteOrigin) -> None:
        self._ctx = ctx
        self._requests = requests
        self._writes = writes

    def run(self, volume: Volume, then: Then) -> None:
        """Let the disk go, unless nobody else has the data."""
        volume.detaching += 1

        def done(code: Code) -> None:
            volume.detaching -= 1
            then(code)

        self._begin(volume, done)

    def _begin(self, volume: Volume, then: Then) -> None:
        if not self._may_wait(volume):
            self._requests.retrying(volume, DETACH, then)
            return
        volume.pause()
        name, over = ("quiet", volume.number), False

        def quiet() -> bool:
            nonlocal over
            late = not self._ctx.timers.pending(name)
            if not over and (late or self._writes.drained(volume)):
                over = True
                self._ctx.timers.cancel(name)
                self._ctx.defer(lambda: self._ask(volume, late, then))
            return over

        self._ctx.timers.set(name, QUIET_NS, lambda: None)
        self._ctx.when(quiet)

    def _may_wait(self, volume: Volume) -> bool:
        return volume.primary and self._ctx.persist and may_wait_for_a_write(volume.state)

    def _ask(self, volume: Volume, late: bool, then: Then) -> None:
        if volume.state.disk <= DiskState.FAILED:  # an error took it meanwhile
            volume.go_on()
            then(Code.SUCCESS)
            return
        if late and not volume.in_flight:
            # It is the peer that does not answer: it may hear of our wish when we are gone.
            volume.go_on()
            then(Code.IN_TRANSIENT_STATE)
            return
        if late or not self._may_wait(volume):
            volume.go_on()
            self._requests.retrying(volume, DETACH, then)
            return

        def answered(code: Code) -> None:
            if volume.state.disk <= DiskState.FAILED:
                code = Code.SUCCESS
            elif code < Code.SUCCESS and volume.state.conn >= ConnState.CONNECTED:
                # Taken back, before anything is in flight or the disk is lost otherwise.
                send_uuids(self._ctx, volume)
                send_state(self._ctx, volume)
            volume.go_on()
            if code in (Code.IN_TRANSIENT_STATE, Code.CONCURRENT_ST_CHG):
                self._requests.retrying(volume, DETACH, then)
            else:
                then(code)

        send_uuids(self._ctx, volume, UUID_FLAG_DETACHES)
        self._requests.request(volume, DETACH, answered)
