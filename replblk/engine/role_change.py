"""Becoming Primary and becoming Secondary, one volume at a time.

    primary:   peer's consent ─► generation and Primary mark durable ─► clients are served, P_STATE
    secondary: no client, nothing in flight, all of it barrier-acknowledged ─► bitmap and mark
               durable ─► P_STATE

Source: states, roles; data generations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.answers import refusal
from replblk.engine.context import TENTH_NS
from replblk.engine.handshake import send_state, send_uuids
from replblk.engine.ports import Answer, Command
from replblk.model.notices import Level
from replblk.model.vocabulary import Code, ConnState, DiskState, Role
from replblk.rules.generations import rotated, rotation_at_promotion
from replblk.rules.transitions import PROMOTE, PROMOTE_UPTODATE, StateRequest

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.state_change import StateRequests
    from replblk.engine.volume import Volume
    from replblk.engine.write_origin import WriteOrigin

Then = Callable[[Answer], None]


class RoleChange:
    """Promotes and demotes."""

    def __init__(self, ctx: Context, requests: StateRequests, writes: WriteOrigin) -> None:
        self._ctx = ctx
        self._requests = requests
        self._writes = writes

    def primary(self, volume: Volume, command: Command, then: Then) -> None:
        """Become Primary; force: declare the local data good."""
        if volume.primary:
            then(Answer())
            return
        tries = {"two-primaries": 1}

        def attempt(wish: StateRequest) -> None:
            self._requests.retrying(volume, wish, lambda code: answered(wish, code))

        def answered(wish: StateRequest, code: Code) -> None:
            disk = volume.state.disk
            may_force = DiskState.INCONSISTENT <= disk < DiskState.UP_TO_DATE
            if (
                code is Code.NO_UP_TO_DATE_DISK
                and command.options.get("force")
                and may_force
                and wish is PROMOTE
            ):
                attempt(PROMOTE_UPTODATE)
            elif code is Code.TWO_PRIMARIES and tries.pop("two-primaries", 0):
                # The peer may be about to be found dead.
                wait = self._ctx.net.ping_timeout * TENTH_NS + TENTH_NS
                self._ctx.timers.set(("promote", volume.number), wait, lambda: attempt(wish))
            elif code < Code.SUCCESS:
                then(refusal(code))
            else:
                self._promoted(volume, wish is PROMOTE_UPTODATE, then)

        if volume.state.conn >= ConnState.CONNECTED:
            self._ctx.peer.ping()
        attempt(PROMOTE)

    def _promoted(self, volume: Volume, forced: bool, then: Then) -> None:
        """We are Primary: generation and mark durable, then clients are served."""
        if forced:
            self._ctx.tell(
                Level.WARNING, "Forced to consider local data as UpToDate!", volume.number
            )
        volume.discard_my_data = False
        self._ctx.discard_my_data = False
        if volume.meta is None:
            self._serve(volume, forced, then)
            return
        before = volume.uuids
        rotation = rotation_at_promotion(
            volume.state, before, forced=forced, target_unfinished=volume.target_unfinished
        )
        fresh = self._ctx.random_u64()
        volume.uuids = rotated(
            before, rotation, fresh, primary=True, target=volume.peer_current
        ).with_role(primary=True)
        volume.exposed_uuid = volume.uuids.current
        renewed = (before.current | 1) != (volume.uuids.current | 1)
        if renewed:
            self._ctx.tell(Level.INFO, f"new current UUID {volume.uuids}", volume.number)

        def durable(ok: bool) -> None:
            if ok:
                self._serve(volume, forced or renewed, then)
                return
            # The disk goes. We are Primary all the same, and serve what the peer's disk has.
            state = volume.state
            if state.conn >= ConnState.CONNECTED and state.pdsk is DiskState.UP_TO_DATE:
                self._serve(volume, False, then)
                return
            volume.serving = volume.primary
            then(
                Answer(
                    10,
                    "IO error(s) occurred writing the superblock: this node is Primary without "
                    "data; make it secondary, mend its disk, or connect it to its peer",
                    118,
                )
            )

        volume.meta.sync(durable)

    def _serve(self, volume: Volume, tell_uuids: bool, then: Then) -> None:
        volume.serving = volume.primary
        if self._ctx.peer.up and volume.state.conn >= ConnState.WF_REPORT_PARAMS:
            if tell_uuids:
                send_uuids(self._ctx, volume)
            send_state(self._ctx, volume)
        then(Answer())

    def secondary(self, volume: Volume, command: Command, then: Then) -> None:
        """Become Secondary: no client, nothing in flight, everything the peer has is for good."""
        if not volume.primary:
            then(Answer())
            return
        if volume.open_count:
            then(refusal(Code.DEVICE_IN_USE))
            return
        volume.serving = False

        def idle() -> bool:
            if not self._writes.idle(volume):
                return False
            self._demote(volume, then)
            return True

        self._ctx.when(idle)

    def _demote(self, volume: Volume, then: Then) -> None:
        code = self._ctx.states.propose(
            volume, volume.state.but(role=Role.SECONDARY), "administrator"
        )
        if code < Code.SUCCESS:
            volume.serving = volume.primary
            then(refusal(code))
            return
        volume.uuids = volume.uuids.with_role(primary=False)
        meta = volume.meta

        def durable(ok: bool) -> None:
            if volume.state.conn >= ConnState.CONNECTED:
                send_state(self._ctx, volume)
            then(Answer())

        if meta is None or not volume.has_disk:
            durable(True)
        else:
            meta.write_bitmap(lambda ok: meta.sync(durable))
