"""What the peer tells of a volume: generation and state; and the sync handshake they lead to.

Source: protocol, processing of P_UUIDS and P_STATE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from replblk.engine.handshake import send_state, send_uuids
from replblk.engine.states import disk_of_report
from replblk.model.errors import PeerError
from replblk.model.generation import JUST_CREATED, UuidSet, same_generation
from replblk.model.notices import Level
from replblk.model.state import State
from replblk.model.vocabulary import CODE_TEXT, Code, ConnState, DiskState, Policy, Role
from replblk.rules.attach_state import may_attach
from replblk.rules.split_brain import Policies
from replblk.rules.sync_handshake import Decision, HandshakeFacts, decide
from replblk.rules.uuid_compare import Side
from replblk.wire.packets import (
    FF_WSAME,
    UUID_FLAG_CRASHED_PRIMARY,
    UUID_FLAG_DISCARD_MY_DATA,
    UUID_FLAG_INCONSISTENT,
    UUID_FLAG_LEFTOVER_BITS,
    UUID_FLAG_SKIP_INITIAL_SYNC,
    StateWord,
    Uuids,
)

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume

_PREPARING = range(ConnState.STARTING_SYNC_S, ConnState.WF_SYNC_UUID + 1)


class PeerState:
    """Processes the peer's parameters and states. The callables are the next stations."""

    def __init__(
        self,
        ctx: Context,
        *,
        stand_alone: Callable[[str], None],
        begin_exchange: Callable[[Volume, bool], None],
        target_done: Callable[[Volume], None],
        verify_done: Callable[[Volume], None],
        uuids_changed: Callable[[Volume], None],
        peer_restarted: Callable[[Volume], None],
        idle: Callable[[Volume], bool],
    ) -> None:
        self._ctx = ctx
        self._stand_alone = stand_alone
        self._begin_exchange = begin_exchange
        self._target_done = target_done
        self._verify_done = verify_done
        self._uuids_changed = uuids_changed
        self._peer_restarted = peer_restarted
        self._idle = idle

    # -- generation ---------------------------------------------------------------------------

    def on_uuids(self, volume: Volume, uuids: Uuids) -> None:
        """P_UUIDS: remember them; a diskless Primary may only go on with the data it had."""
        state = volume.state
        first = state.conn < ConnState.CONNECTED or state.pdsk is DiskState.DISKLESS
        if first and self._refuses(volume, uuids):
            return
        if uuids.flags & UUID_FLAG_SKIP_INITIAL_SYNC and self._skip_initial_sync(volume, uuids):
            return
        volume.peer_uuids = uuids
        self._uuids_changed(volume)
        if first:
            volume.offered = uuids
        elif state.pdsk is DiskState.UP_TO_DATE:
            self._peer_serves(volume, uuids)

    def _refuses(self, volume: Volume, uuids: Uuids) -> bool:
        """Whether a diskless Primary leaves a peer that has other data than it has been serving."""
        if (
            volume.state.disk >= DiskState.INCONSISTENT
            or not volume.primary
            or not volume.exposed_uuid
            or same_generation(volume.exposed_uuid, uuids.current)
            or (volume.may_follow and self._began_from(uuids, volume.exposed_uuid))
        ):
            return False
        self._stand_alone(
            f"Can only connect to data with current UUID={volume.exposed_uuid:016X}: the peer "
            f"has {uuids.current:016X}, other data than this diskless Primary has been serving"
        )
        return True

    @staticmethod
    def _began_from(uuids: Uuids, exposed_uuid: int) -> bool:
        """Whether that generation follows at once on the one that was served."""
        before = uuids.history0 if uuids.bitmap else 0  # a resync was under way
        return any(same_generation(exposed_uuid, uuid) for uuid in (uuids.bitmap, before))

    @staticmethod
    def _peer_serves(volume: Volume, uuids: Uuids) -> None:
        """What clients are given without a disk of ours is that generation."""
        if volume.state.disk < DiskState.INCONSISTENT:
            if same_generation(volume.exposed_uuid, uuids.current):
                volume.exposed_before.clear()
            else:
                volume.serves_since(uuids.current)

    def _skip_initial_sync(self, volume: Volume, uuids: Uuids) -> bool:
        """Both disks are fresh and the peer's administrator said they are equal."""
        if (
            volume.state.conn is not ConnState.CONNECTED
            or volume.uuids.current != JUST_CREATED
            or volume.bitmap is None
            or volume.meta is None
        ):
            return False
        self._ctx.tell(Level.INFO, "Accepted new current UUID, preparing to skip initial sync")
        volume.bitmap.clear_all()
        volume.uuids = UuidSet(uuids.current & ~1, 0, volume.uuids.history0, volume.uuids.history1)
        volume.peer_uuids = replace(uuids, bitmap=0, dirty_bits=0)
        meta = volume.meta
        meta.write_bitmap(lambda ok: meta.sync() if ok else None)
        self._ctx.states.force(
            volume, "initial sync skipped", disk=DiskState.UP_TO_DATE, pdsk=DiskState.UP_TO_DATE
        )
        return True

    # -- state --------------------------------------------------------------------------------

    def on_state(self, volume: Volume, packet: StateWord) -> None:
        """P_STATE: the peer's view; while connecting it decides about the resync."""
        self._judge_state(volume, packet)
        volume.peer_detaches = False  # its disk is gone, or it keeps it

    def _judge_state(self, volume: Volume, packet: StateWord) -> None:
        told = State.unpack(packet.word)
        old = volume.state
        if old.conn <= ConnState.TEAR_DOWN:
            if told.role is Role.PRIMARY and told.disk < DiskState.INCONSISTENT:
                volume.diskless_link = self._ctx.peer.data
            return
        new_there = old.conn < ConnState.CONNECTED or old.pdsk is DiskState.DISKLESS
        if (
            volume.offered is not None
            and new_there
            and told.disk > DiskState.FAILED
            and self._refuses(volume, volume.offered)
        ):
            return  # our disk was there when its generation came in, and failed since
        if told.disk is DiskState.NEGOTIATING and volume.peer_uuids is None:
            raise PeerError("P_STATE Negotiating before P_UUIDS")
        flags = volume.peer_uuids.flags if volume.peer_uuids is not None else 0
        real = disk_of_report(told, bool(flags & UUID_FLAG_INCONSISTENT))
        if (
            old.pdsk in (DiskState.INCONSISTENT, DiskState.CONSISTENT)
            and real is DiskState.UP_TO_DATE
            and old.conn > ConnState.CONNECTED
            and old.disk is DiskState.UP_TO_DATE
        ):
            if told.conn in _PREPARING:
                real = DiskState.INCONSISTENT
            elif old.conn >= ConnState.SYNC_SOURCE and told.conn is ConnState.CONNECTED:
                self._target_done(volume)
                return
        if (
            old.conn is ConnState.VERIFY_T
            and old.disk is DiskState.UP_TO_DATE
            and told.conn is ConnState.CONNECTED
            and real is DiskState.UP_TO_DATE
        ):
            self._verify_done(volume)
            return
        if (
            old.pdsk is DiskState.UP_TO_DATE
            and real is DiskState.INCONSISTENT
            and old.conn is ConnState.CONNECTED
            and told.conn > ConnState.SYNC_SOURCE
        ):
            real = DiskState.UP_TO_DATE  # said before our last common change
        conn: ConnState = old.conn
        if conn is ConnState.WF_REPORT_PARAMS:
            conn = ConnState.CONNECTED
        decision: Decision | None = None
        if self._handshake_due(volume, told):
            decision = self._decide(volume, told, real)
            if decision.conn is None:
                outcome = self._no_decision(volume, told, decision)
                if outcome is None:
                    return
                real, decision = outcome, None
                conn = ConnState.CONNECTED
            else:
                conn = decision.conn
                self._ctx.split_brain = False
        elif self._lacks_what_was_served(volume, told):
            current, exposed = volume.uuids.current, volume.exposed_uuid
            why = (
                f"the peer lost its disk with the data that were served last ({exposed:016X}): "
                f"this disk holds {current:016X}"
            )
            self._ctx.states.force(volume, why, disk=DiskState.FAILED)
        self._apply(volume, told, real, conn, decision)
        volume.compared_uuids = None

    @staticmethod
    def _lacks_what_was_served(volume: Volume, told: State) -> bool:
        """When the attach began the peer had a disk to bring ours up to date, and has none now."""
        negotiates = volume.state.disk is DiskState.NEGOTIATING
        return (
            negotiates
            and told.disk < DiskState.NEGOTIATING
            and not may_attach(
                *(volume.uuids.current, volume.exposed),
                role=volume.state.role,
                peer=told.role,
                pdsk=told.disk,
                written_elsewhere=volume.written_elsewhere,
            )
        )

    def _handshake_due(self, volume: Volume, told: State) -> bool:
        state = volume.state
        if (
            state.disk < DiskState.NEGOTIATING
            or told.disk < DiskState.NEGOTIATING
            or volume.peer_uuids is None
        ):
            return False
        connected = state.conn is ConnState.CONNECTED
        return (
            state.conn < ConnState.CONNECTED
            or (connected and DiskState.NEGOTIATING in (told.disk, state.disk))
            or (connected and volume.consider_resync)
            or (connected and ConnState.STARTING_SYNC_S <= told.conn <= ConnState.WF_BITMAP_T)
        )

    def _decide(self, volume: Volume, told: State, real: DiskState) -> Decision:
        state, theirs, peer = volume.state, volume.peer_uuids, self._ctx.peer
        assert theirs is not None
        net = self._ctx.net
        own_disk = state.disk
        if own_disk is DiskState.NEGOTIATING:
            assert volume.kept_disk is not None
            own_disk = volume.kept_disk
        peer_set = UuidSet(theirs.current, theirs.bitmap, theirs.history0, theirs.history1)
        decision = decide(
            HandshakeFacts(
                own=Side(volume.uuids, volume.crashed_primary, volume.primary),
                peer=Side(
                    peer_set,
                    bool(theirs.flags & UUID_FLAG_CRASHED_PRIMARY),
                    told.role is Role.PRIMARY,
                ),
                own_disk=own_disk,
                peer_disk=real,
                own_role=state.role,
                peer_role=told.role,
                own_current_disk=state.disk,
                resolves_conflicts=peer.resolves_conflicts,
                apv=peer.apv,
                wsame=bool(peer.features & FF_WSAME),
                own_discard=volume.discard_my_data,
                peer_discard=bool(theirs.flags & UUID_FLAG_DISCARD_MY_DATA),
                own_changes=volume.changes_sent,
                peer_changes=theirs.dirty_bits,
                policies=Policies(
                    zero=net.after_sb_0pri, one=net.after_sb_1pri, two=net.after_sb_2pri
                ),
                always_asbp=net.always_asbp,
                rr_conflict=net.rr_conflict,
                peer_resyncs_leftover=bool(theirs.flags & UUID_FLAG_LEFTOVER_BITS),
                can_demote=not volume.open_count and self._idle(volume),
            )
        )
        for level, text in decision.log:
            self._ctx.tell(level, text, volume.number)
        for handler in decision.handlers:
            self._ctx.handlers.call(handler, volume)
        if decision.conn is not None:
            if state.conn >= ConnState.CONNECTED:
                volume.compared_uuids = volume.uuids
            volume.uuids = decision.verdict.own
            corrected = decision.verdict.peer
            volume.peer_uuids = replace(
                theirs,
                bitmap=corrected.bitmap,
                history0=corrected.history0,
                history1=corrected.history1,
            )
        return decision

    def _no_decision(self, volume: Volume, told: State, decision: Decision) -> DiskState | None:
        """Give up the attach in progress, or the connection. The peer's disk to assume, or None."""
        if volume.state.disk is DiskState.NEGOTIATING:
            self._ctx.states.force(volume, decision.reason, disk=DiskState.FAILED)
            return told.disk
        if told.disk is DiskState.NEGOTIATING:
            self._ctx.tell(Level.ERROR, "Disk attach process on the peer node was aborted.")
            # It negotiates until it hears of our generation: then it comes to the same end.
            send_uuids(self._ctx, volume)
            send_state(self._ctx, volume)
            return DiskState.DISKLESS
        if decision.split_brain:
            self._ctx.split_brain = True
        self._stand_alone(decision.reason)
        return None

    def _apply(
        self,
        volume: Volume,
        told: State,
        real: DiskState,
        conn: ConnState,
        decision: Decision | None,
    ) -> None:
        old = volume.state
        wanted = old.but(
            conn=conn, peer=told.role, pdsk=real, peer_isp=told.aftr_isp or told.user_isp
        )
        decides = volume.peer_uuids is not None or told.disk < DiskState.NEGOTIATING
        if (
            old.disk is DiskState.NEGOTIATING
            and decides  # else it was said before the peer had heard of our disk
            and conn in (ConnState.CONNECTED, ConnState.WF_BITMAP_S)
        ):
            assert volume.kept_disk is not None
            wanted = wanted.but(disk=volume.kept_disk)
        if decision is not None and decision.demote:
            wanted = wanted.but(role=Role.SECONDARY)
        if decision is not None and decision.leftover and not volume.has_leftover_bits:
            # The peer, which has them, does not know yet that we do so, too: before our state.
            volume.resyncs_leftover_bits = True
            send_uuids(self._ctx, volume)
        connecting = old.conn < ConnState.CONNECTED <= conn
        volume.consider_resync = False
        only_consistent = told.disk is DiskState.CONSISTENT and conn is ConnState.CONNECTED
        if only_consistent and old.susp_fen and volume.generation_planned is not None:
            # It restarted, and may lack what it acknowledged: that has to be resynced.
            self._ctx.tell(
                Level.WARNING, "Aborting Connect, can not thaw IO with an only Consistent peer"
            )
            self._peer_restarted(volume)
            self._ctx.peer.give_up(ConnState.PROTOCOL_ERROR, "the peer is only Consistent")
            return
        code = self._ctx.states.propose(volume, wanted, "peer's state", hard=not connecting)
        if code is Code.TWO_PRIMARIES and decision is not None and self._peer_gives_up(decision):
            self._ctx.peer.give_up(
                ConnState.PROTOCOL_ERROR, "the peer is about to give up its role: once more"
            )
            return
        if code < Code.SUCCESS:
            self._stand_alone(
                f"the states of both nodes do not go together: {CODE_TEXT.get(code, str(code))} "
                f"(here {old}, wanted {wanted})"
            )
            return
        if told.disk is not DiskState.NEGOTIATING:
            offered, volume.offered = volume.offered, None
            if offered is not None and told.disk is DiskState.UP_TO_DATE:
                self._peer_serves(volume, offered)
        volume.handshaking = False
        volume.peer_is_connected = told.conn >= ConnState.CONNECTED
        new = volume.state
        if decision is not None and decision.demote:
            volume.uuids = volume.uuids.with_role(primary=False)
        if (
            old.conn > ConnState.WF_REPORT_PARAMS
            and new.conn > ConnState.CONNECTED
            and told.conn <= ConnState.CONNECTED
            and told.disk is not DiskState.NEGOTIATING
        ):
            # We want to resync and the peer does not know yet.
            send_uuids(self._ctx, volume)
            send_state(self._ctx, volume)
        volume.discard_my_data = False
        if new.conn in (ConnState.WF_BITMAP_S, ConnState.WF_BITMAP_T) and old.conn is not new.conn:
            self._begin_exchange(volume, decision is not None and decision.set_all_bits)

    def _peer_gives_up(self, decision: Decision) -> bool:
        """Whether both are Primary and the peer, by the same policy, becomes Secondary now."""
        survivor = decision.conn is ConnState.WF_BITMAP_S
        return survivor and self._ctx.net.after_sb_2pri is Policy.CALL_HELPER
