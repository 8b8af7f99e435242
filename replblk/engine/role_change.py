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
from replblk.engine.state_change import stays_inconsistent
from replblk.model.notices import Level
from replblk.model.vocabulary import CODE_TEXT, Code, ConnState, DiskState, Role, exit_code
from replblk.rules.generations import rotated, rotation_at_promotion
from replblk.rules.transitions import PEER_OUTDATED, PROMOTE, PROMOTE_UPTODATE, StateRequest

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.fencing import PeerFencing
    from replblk.engine.state_change import StateRequests
    from replblk.engine.volume import Volume
    from replblk.engine.write_origin import WriteOrigin

Then = Callable[[Answer], None]
INCONSISTENT = Answer(
    exit_code(Code.IN_TRANSIENT_STATE),
    f"State change failed: ({int(Code.IN_TRANSIENT_STATE)}) "
    f"{CODE_TEXT[Code.IN_TRANSIENT_STATE]}: but nothing is under way: the local disk is "
    "Inconsistent since an I/O error was passed on or a resync ended with failed blocks. Repair "
    "it from the peer with invalidate, or detach it: a diskless node can become Primary",
    int(Code.IN_TRANSIENT_STATE),
)
FENCE_TRIES = 4
"""How often fence-peer is called for one promotion."""


class RoleChange:
    """Promotes and demotes."""

    def __init__(
        self, ctx: Context, requests: StateRequests, writes: WriteOrigin, fencing: PeerFencing
    ) -> None:
        self._ctx = ctx
        self._requests = requests
        self._writes = writes
        self._fencing = fencing

    def primary(self, volume: Volume, command: Command, then: Then) -> None:
        """Become Primary; force: declare the local data good, and the peer's old if need be;
        with_peer: never without the consent of a connected peer."""
        if volume.primary:
            then(Answer())
            return
        if volume.state.conn >= ConnState.CONNECTED:
            self._ctx.peer.ping()
        promotion = _Promotion(
            *(self._ctx, self._requests, self._fencing, volume),
            force=bool(command.options.get("force")),
            with_peer=bool(command.options.get("with_peer")),
        )

        def ended(code: Code) -> None:
            if code is Code.IN_TRANSIENT_STATE and stays_inconsistent(self._ctx, volume):
                then(INCONSISTENT)
            elif code < Code.SUCCESS:
                then(refusal(code))
            else:
                self._promoted(volume, promotion.forced, then)

        promotion.run(ended)

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
        uuids = rotated(before, rotation, fresh, primary=True, target=volume.peer_current)
        volume.begin_generation(uuids.with_role(primary=True))
        volume.generation_planned = None  # of an earlier time as Primary: it has begun now
        renewed = (before.current | 1) != (volume.uuids.current | 1)
        if renewed:
            self._ctx.tell(Level.INFO, f"new current UUID {volume.uuids}", volume.number)

        def durable(ok: bool) -> None:
            if ok:
                volume.generation_is_durable(uuids.current)
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
            if self._writes.idle(volume):
                self._demote(volume, then)
            elif volume.state.suspended:
                # What is frozen ends only when I/O goes on; resume-io must not wait behind us.
                volume.serving = volume.primary
                then(refusal(Code.DEVICE_IN_USE))
            else:
                return False
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


class _Promotion:
    """One ``primary`` on its way: what was asked so far, and what the refusal leads to.

    forced: the local data were declared UpToDate because the administrator says so.
    """

    def __init__(
        self,
        ctx: Context,
        requests: StateRequests,
        fencing: PeerFencing,
        volume: Volume,
        *,
        force: bool,
        with_peer: bool,
    ) -> None:
        self._ctx = ctx
        self._with_peer = with_peer
        self._requests = requests
        self._fencing = fencing
        self._volume = volume
        self._force = force
        self.forced = False
        self._wish = PROMOTE
        self._fence_tries = FENCE_TRIES if ctx.handlers.configured("fence-peer") else 1
        self._fenced = False
        self._waited = False
        self._ended: Callable[[Code], None]

    def run(self, ended: Callable[[Code], None]) -> None:
        """Try until it is granted or refused for good."""
        self._ended = ended
        self._attempt(self._wish)

    def _attempt(self, wish: StateRequest) -> None:
        self._wish = wish
        self._requests.retrying(self._volume, wish, self._answered, with_peer=self._with_peer)

    def _answered(self, code: Code) -> None:
        disk, wish = self._volume.state.disk, self._wish
        asks_disk = bool(wish.mask & PROMOTE_UPTODATE.mask & ~PROMOTE.mask)
        no_data = code is Code.NO_UP_TO_DATE_DISK and not asks_disk
        if no_data and self._force and DiskState.INCONSISTENT <= disk < DiskState.UP_TO_DATE:
            self.forced = True
            self._attempt(wish.and_also(PROMOTE_UPTODATE))
        elif no_data and disk is DiskState.CONSISTENT and not self._fenced:
            self._fence(code, wish.and_also(PROMOTE_UPTODATE))
        elif code is Code.PRIMARY_NOP and self._fence_tries:
            self._fence(code, wish)
        elif code is Code.PRIMARY_NOP and self._force and not wish.mask & PEER_OUTDATED.mask:
            self._ctx.tell(Level.WARNING, "Forced into split brain situation!", self._volume.number)
            self._attempt(wish.and_also(PEER_OUTDATED))
        elif code is Code.CW_FAILED_BY_PEER and wish.mask & PEER_OUTDATED.mask:
            self._attempt(PROMOTE_UPTODATE if asks_disk else PROMOTE)  # it is back: no assumption
        elif code is Code.TWO_PRIMARIES and not self._waited:
            # The peer may be about to be found dead.
            self._waited = True
            wait = self._ctx.net.ping_timeout * TENTH_NS + TENTH_NS
            name = ("promote", self._volume.number)
            self._ctx.timers.set(name, wait, lambda: self._attempt(wish))
        else:
            self._ended(code)

    def _fence(self, code: Code, wish: StateRequest) -> None:
        """Have the peer fenced, then ask for *wish*; *code* stands if that does not work."""
        self._fence_tries = 0 if self._force else max(self._fence_tries - 1, 0)

        def fenced(ok: bool) -> None:
            connected = self._ctx.states.connection >= ConnState.WF_REPORT_PARAMS
            if ok:
                self._fenced = True
                self._attempt(wish)
            elif code is Code.PRIMARY_NOP or connected:
                self._fenced = connected or self._fenced
                self._attempt(self._wish)
            else:
                self._ended(code)

        self._fencing.outdate_peer(fenced)
