"""Changes that need the peer's consent: asked over the wire, granted or refused.

    ours:   judged here ─► P_STATE_CHG_REQ ─► P_STATE_CHG_REPLY ─► judged again, committed
    theirs: P_STATE_CHG_REQ ─► mirrored, judged, committed ─► P_STATE_CHG_REPLY
            the disk of a quiet Primary: judged ─► P_STATE_CHG_REPLY "nothing done"; its P_STATE
            says when the disk is gone (``detaching``)
    leaving: P_CONN_ST_CHG_REQ / _REPLY, for all volumes at once

One request of ours at a time. When both nodes ask at once, the one that resolves conflicts refuses
the other (-19). Source: protocol, cluster-wide changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS, TENTH_NS
from replblk.model.errors import PeerError
from replblk.model.generation import same_generation
from replblk.model.notices import Level
from replblk.model.state import State
from replblk.model.vocabulary import CODE_TEXT, Code, ConnState, DiskState, Role
from replblk.rules.detaching import may_wait_for_a_write
from replblk.rules.transitions import (
    DETACH,
    Accepted,
    StateRequest,
    allowed_remote_request,
    apply_mask,
    is_cluster_wide,
    mirror,
)
from replblk.wire.packets import UUID_FLAG_DETACHES, Cmd, StateChange, StateReply

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume

Then = Callable[[Code], None]


def stays_inconsistent(ctx: Context, volume: Volume) -> bool:
    """Whether the disk is Inconsistent beside a good one with nothing under way to change that.

    So it is after an I/O error that was passed on, or a resync with failed blocks.
    """
    state = volume.state
    return (
        state.conn is ConnState.CONNECTED
        and state.disk is DiskState.INCONSISTENT
        and state.pdsk is DiskState.UP_TO_DATE
        and not any(other.handshaking for other in ctx.volumes.values())
    )


PEER_DETACHES = mirror(*DETACH)
TRANSIENT_TRIES_NS = 60 * SECOND_NS
"""How long a change refused as transient (-18) is tried again."""


class StateRequests:
    """Requests in both directions. tear_down: the peer leaves and was answered."""

    def __init__(self, ctx: Context, tear_down: Callable[[str], None]) -> None:
        self._ctx = ctx
        self._tear_down = tear_down
        self._asked: tuple[Volume, StateRequest, Then, bool] | None = None
        self._leaving: Callable[[Code], None] | None = None

    # -- ours ---------------------------------------------------------------------------------

    def request(
        self, volume: Volume, wish: StateRequest, then: Then, *, with_peer: bool = False
    ) -> None:
        """Carry a change out, with the peer's consent where it is needed.

        with_peer: never without it, also if the peer is lost while it is asked.
        """
        wanted = apply_mask(volume.state, wish.mask, wish.val)
        verdict = self._ctx.states.judge(volume, wanted)
        if not isinstance(verdict, Accepted):
            then(verdict)
        elif verdict.state == volume.state:
            then(Code.NOTHING_TO_DO)
        elif not is_cluster_wide(volume.state, verdict.state):
            if with_peer:
                then(Code.NEED_CONNECTION)
                return
            then(self._ctx.states.propose(volume, wanted, "administrator"))
        elif self._asked is not None or self._leaving is not None:
            then(Code.CONCURRENT_ST_CHG)
        else:
            self._asked = (volume, wish, then, with_peer)
            self._await_answer()
            self._ctx.peer.send(
                Cmd.P_STATE_CHG_REQ, StateChange(wish.mask, wish.val), volume.number
            )

    def asks_to_sync(self, volume: Volume) -> bool:
        """Whether the peer was asked to make this disk a sync target, and has not answered."""
        if self._asked is None or self._asked[0] is not volume:
            return False
        wish = self._asked[1]
        wanted = apply_mask(volume.state, wish.mask, wish.val)
        return wanted.conn is ConnState.STARTING_SYNC_T

    def _await_answer(self) -> None:
        """A peer that answers pings and no request must not hold up the administrator for ever.

        It has as long as for a write; DRBD itself waits without limit.
        """
        net = self._ctx.net
        tenths = net.timeout * max(net.ko_count, 1)

        def late() -> None:
            self._ctx.peer.give_up(
                ConnState.TIMEOUT,
                f"the peer did not answer a state change request within {tenths / 10:g} s",
            )

        self._ctx.timers.set("state-request", tenths * TENTH_NS, late)

    def retrying(
        self, volume: Volume, wish: StateRequest, then: Then, *, with_peer: bool = False
    ) -> None:
        """Request a change; while it is refused as transient, try again after the state moved."""
        give_up_ns = self._ctx.now_ns() + TRANSIENT_TRIES_NS

        def answered(code: Code) -> None:
            late = self._ctx.now_ns() > give_up_ns
            if code is not Code.IN_TRANSIENT_STATE or late or stays_inconsistent(self._ctx, volume):
                then(code)
                return
            seen = volume.state
            name = ("transient", volume.number)

            def again() -> bool:
                late = not self._ctx.timers.pending(name)
                if volume.state == seen and not volume.handshaking and not late:
                    return False
                if volume.handshaking and not late:
                    return False
                self._ctx.timers.cancel(name)
                self.request(volume, wish, answered, with_peer=with_peer)
                return True

            self._ctx.timers.set(name, SECOND_NS, lambda: None)
            self._ctx.when(again)

        self.request(volume, wish, answered, with_peer=with_peer)

    def on_reply(self, volume: Volume, reply: StateReply) -> None:
        """P_STATE_CHG_REPLY: the peer's consent or refusal."""
        if self._asked is None or self._asked[0] is not volume:
            return  # an answer to nothing satisfies nothing
        _, wish, then, _ = self._asked
        self._asked = None
        self._ctx.timers.cancel("state-request")
        if reply.retcode < Code.SUCCESS:
            self._told_no(reply.retcode, volume)
            then(Code.CW_FAILED_BY_PEER)
            return
        unnamed = wish == DETACH and reply.retcode == Code.NOTHING_TO_DO
        if unnamed and volume.state.conn is not ConnState.CONNECTED:
            then(Code.IN_TRANSIENT_STATE)  # it asked for our data meanwhile, and knows of no detach
            return
        wanted = apply_mask(volume.state, wish.mask, wish.val)
        volume.detaches_unnamed = unnamed
        code = self._ctx.states.propose(volume, wanted, "administrator, peer agrees")
        volume.detaches_unnamed = False
        then(code)

    def _told_no(self, retcode: int, volume: Volume | None) -> None:
        try:
            text = CODE_TEXT.get(Code(retcode), "")
        except ValueError:
            text = ""
        self._ctx.tell(
            Level.WARNING,
            f"Requested state change failed by peer: {text} ({retcode})",
            volume.number if volume is not None else None,
        )

    def leave(self, wish: StateRequest, then: Then) -> None:
        """Ask for a graceful disconnect of the whole connection."""
        if self._asked is not None or self._leaving is not None:
            then(Code.CONCURRENT_ST_CHG)
            return
        self._leaving = then
        self._await_answer()
        self._ctx.peer.send(Cmd.P_CONN_ST_CHG_REQ, StateChange(wish.mask, wish.val))

    def on_conn_reply(self, reply: StateReply) -> None:
        """P_CONN_ST_CHG_REPLY: the peer's answer to our leaving."""
        if self._leaving is None:
            return
        then, self._leaving = self._leaving, None
        self._ctx.timers.cancel("state-request")
        if reply.retcode < Code.SUCCESS:
            self._told_no(reply.retcode, None)
            then(Code.CW_FAILED_BY_PEER)
        else:
            then(Code.SUCCESS)

    def connection_lost(self) -> None:
        """Nobody is left to ask: the change is made alone if it still may be."""
        self._ctx.timers.cancel("state-request")
        if self._asked is not None:
            volume, wish, then, with_peer = self._asked
            self._asked = None
            self._ctx.defer(lambda: self.request(volume, wish, then, with_peer=with_peer))
        if self._leaving is not None:
            leaving, self._leaving = self._leaving, None
            self._ctx.defer(lambda: leaving(Code.NEED_CONNECTION))

    # -- theirs -------------------------------------------------------------------------------

    def on_request(self, volume: Volume, packet: StateChange) -> None:
        """P_STATE_CHG_REQ: the peer wants to change; answered exactly once, on the meta socket."""
        code = self._judge_theirs(volume, packet)
        self._ctx.peer.send(Cmd.P_STATE_CHG_REPLY, StateReply(int(code)), volume.number)

    def _judge_theirs(self, volume: Volume, packet: StateChange) -> Code:
        wish = mirror(packet.mask, packet.val)
        if not allowed_remote_request(wish.mask, wish.val):
            return Code.NOT_SUPPORTED
        if self._asked is not None and self._ctx.peer.resolves_conflicts:
            return Code.CONCURRENT_ST_CHG
        old = volume.state
        wanted = apply_mask(old, wish.mask, wish.val)
        if wish == PEER_DETACHES and self._may_detach_unnamed(volume):
            verdict = self._ctx.states.judge(volume, wanted)
            volume.peer_detaches = isinstance(verdict, Accepted)
            return Code.NOTHING_TO_DO if isinstance(verdict, Accepted) else verdict
        if self._forced_promotion(old, wanted):
            volume.consider_resync = True
        code = self._ctx.states.propose(volume, wanted, "peer's request")
        if code < Code.SUCCESS:
            volume.consider_resync = False
        return code

    @staticmethod
    def _may_detach_unnamed(volume: Volume) -> bool:
        """Whether nothing differs, or will, before the first write that only our disk gets."""
        theirs, own = volume.peer_uuids, volume.uuids
        return (
            theirs is not None
            and bool(theirs.flags & UUID_FLAG_DETACHES)
            and same_generation(theirs.current, own.current)
            and own.bitmap == 0
            and not volume.primary
            and may_wait_for_a_write(volume.state)
        )

    @staticmethod
    def _forced_promotion(old: State, wanted: State) -> bool:
        """Both disks were Inconsistent and the peer now declares its own UpToDate."""
        return (
            old.disk is DiskState.INCONSISTENT
            and old.pdsk is DiskState.INCONSISTENT
            and old.peer is Role.SECONDARY
            and wanted.peer is Role.PRIMARY
            and wanted.pdsk is DiskState.UP_TO_DATE
        )

    def on_conn_request(self, packet: StateChange) -> None:
        """P_CONN_ST_CHG_REQ: the peer leaves; afterwards we look for it again."""
        wish = mirror(packet.mask, packet.val)
        if not allowed_remote_request(wish.mask, wish.val):
            raise PeerError(f"P_CONN_ST_CHG_REQ for something else than a disconnect: {packet}")
        code = Code.CONCURRENT_ST_CHG
        if self._leaving is None or not self._ctx.peer.resolves_conflicts:
            code = self._may_leave(wish)
        if code < Code.SUCCESS:
            self._ctx.peer.send(Cmd.P_CONN_ST_CHG_REPLY, StateReply(int(code)))
            return
        # What the request says about our disk (to be Outdated) is durable before the answer.
        session, left = self._ctx.peer.data, 0

        def durable(_: bool) -> None:
            nonlocal left
            left -= 1
            if left == 0 and session == self._ctx.peer.data:
                self._ctx.peer.send(Cmd.P_CONN_ST_CHG_REPLY, StateReply(int(code)))
                self._tear_down("peer disconnected")

        metas = []
        for volume in self._ctx.volumes.values():
            wanted = self._leaving_state(volume, wish)
            self._ctx.states.propose(volume, wanted, "peer disconnects", hard=True)
            if volume.meta is not None and volume.has_disk:
                metas.append(volume.meta)
        left = len(metas) or 1
        for meta in metas:
            meta.sync(durable)
        if not metas:
            durable(True)

    @staticmethod
    def _leaving_state(volume: Volume, wish: StateRequest) -> State:
        wanted = apply_mask(volume.state, wish.mask, wish.val).but(conn=ConnState.TEAR_DOWN)
        if wanted.disk is DiskState.OUTDATED and volume.state.disk < DiskState.OUTDATED:
            wanted = wanted.but(disk=volume.state.disk)
        return wanted

    def _may_leave(self, wish: StateRequest) -> Code:
        for volume in self._ctx.volumes.values():
            verdict = self._ctx.states.judge(volume, self._leaving_state(volume, wish))
            if not isinstance(verdict, Accepted):
                return verdict
        return Code.SUCCESS
