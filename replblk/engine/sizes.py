"""The size of the device: what the peer's P_SIZES and the command ``resize`` make of it.

    resize ─► size from both disks and --size ─► durable here ─► P_UUIDS, P_SIZES (c_size 0)
    P_SIZES ─► the same at the peer ─► P_SIZES with its sizes ─► here maybe more ─► answered
    both: the new part is out of sync; the Primary copies it (P_SYNC_UUID, no bitmap exchange)

While a size is being made durable no further packet of the data socket is handled: what follows
relies on it. A backing device is measured again only by ``resize``, the administrator's here or the
peer's: so a pair never grows by itself. A Secondary shrinks after its Primary, whose clients may
still write behind the new end. Source: protocol, sizes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS
from replblk.engine.handshake import send_sizes, send_uuids
from replblk.engine.ports import Answer
from replblk.engine.resizing import set_capacity
from replblk.meta.activity_log import clamp_extents
from replblk.meta.layout import AL_BLOCKS_MAX, AL_BLOCKS_MIN, Layout
from replblk.model.errors import MetadataError
from replblk.model.generation import JUST_CREATED, same_generation
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState
from replblk.rules.resizing import awaits_primary, may_have_size, may_resize, new_part_source
from replblk.rules.sizes import agreed_size, diskless_size, effective_user_size, peer_too_small
from replblk.wire.commands import DDSF_FORCED, DDSF_NO_RESYNC

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.ports import Command
    from replblk.engine.resizing import Resizing
    from replblk.engine.volume import Volume
    from replblk.wire.packets import Sizes

Then = Callable[[Answer], None]
ANSWER_NS = 30 * SECOND_NS
"""How long ``resize`` waits for the peer's sizes before it says so."""

REQUESTS_NS = 10 * SECOND_NS
"""How long the target of a new part may take to ask for any of it."""


@dataclass(slots=True)
class _Asked:
    """Our ``resize``, of which the peer knows and has not answered. user_before: the size that was
    wished for before, while nothing is changed here; None when this node has the new size."""

    session: int | None
    user_before: int | None
    grew: bool
    note: str
    then: Then


class DeviceSize:
    """Agrees on the sizes of all volumes."""

    def __init__(
        self,
        ctx: Context,
        resizing: Resizing,
        *,
        stand_alone: Callable[[str], None],
        start_source: Callable[[Volume], None],
    ) -> None:
        self._ctx = ctx
        self._resizing = resizing
        self._stand_alone = stand_alone
        self._start_source = start_source
        self._asked: dict[int, _Asked] = {}

    # -- the peer's sizes ---------------------------------------------------------------------

    def on_sizes(self, volume: Volume, sizes: Sizes) -> None:
        """P_SIZES: agree on the size of the device."""
        if self._resizing.busy(volume):
            release, session = self._ctx.peer.hold_data(), self._ctx.peer.data

            def again() -> None:
                if session == self._ctx.peer.data:
                    self.on_sizes(volume, sizes)
                release()

            self._resizing.when_idle(volume, again)
            return
        volume.peer_max_sectors = sizes.d_size
        volume.peer_max_bio_bytes = sizes.max_bio_size
        volume.peer_size_sectors = sizes.c_size or volume.peer_size_sectors
        if volume.state.disk < DiskState.INCONSISTENT and volume.kept_disk is None:
            self._diskless(volume, sizes)
            return
        layout, conn = volume.layout, volume.state.conn
        if layout is None:
            return  # given up at this moment
        connected = conn > ConnState.WF_REPORT_PARAMS
        if conn is ConnState.CONNECTED and volume.has_disk and not sizes.c_size:
            layout = self._measured(volume)
        user = (
            sizes.u_size
            if connected
            else effective_user_size(volume.user_size_sectors, sizes.u_size)
        )
        new, warning = agreed_size(
            layout.usable_sectors,
            sizes.d_size,
            volume.capacity_sectors,
            user,
            connected=connected,
            assume_peer_has_space=bool(sizes.dds_flags & DDSF_FORCED),
        )
        if connected and sizes.c_size and volume.number not in self._asked:
            # Nobody resizes: a disk was attached. A pair grows by command, or as its peer did.
            new = min(new, max(volume.capacity_sectors, sizes.c_size))
        if warning:
            self._ctx.tell(Level.WARNING, warning, volume.number)
        disk = volume.kept_disk if volume.kept_disk is not None else volume.state.disk
        if peer_too_small(new, volume.capacity_sectors, disk, connected, volume.state.pdsk):
            self._stand_alone(
                f"The peer's disk size is too small! ({new} < {volume.capacity_sectors} sectors): "
                "give the peer a backing device at least as large as this one's data, "
                "then connect again; or, if the device was made smaller there on purpose, do the "
                f"same here: resize --size={new >> 1}k, then connect"
            )
            return
        if new != volume.capacity_sectors and conn > ConnState.CONNECTED:
            self._ctx.peer.give_up(
                ConnState.PROTOCOL_ERROR, f"P_SIZES in state {conn} would change the size"
            )
            return
        volume.user_size_sectors = user
        grows, moves = new > volume.capacity_sectors, layout != volume.layout
        if new == volume.capacity_sectors and not moves:
            self._settled(volume, sizes, "", grew=False, moved=False)
            return
        release = self._ctx.peer.hold_data()
        session = self._ctx.peer.data

        def changed(why: str) -> None:
            if session == self._ctx.peer.data:
                self._settled(volume, sizes, why, grew=grows, moved=moves)
            release()

        fill = 0 if sizes.dds_flags & DDSF_NO_RESYNC else 1
        self._resizing.change(volume, layout, new, fill=fill, told=changed)

    def _settled(self, volume: Volume, sizes: Sizes, why: str, *, grew: bool, moved: bool) -> None:
        """The size is in force and durable: tell the peer, copy the new part."""
        conn = volume.state.conn
        asked = self._asked.pop(volume.number, None)
        if why:
            self._ctx.tell(Level.ERROR, f"the size can't be changed: {why}", volume.number)
            if volume.has_disk or volume.kept_disk is not None:
                self._ctx.peer.give_up(ConnState.PROTOCOL_ERROR, f"resize failed: {why}")
        elif conn > ConnState.WF_REPORT_PARAMS:
            if sizes.c_size != volume.capacity_sectors or moved:
                send_sizes(self._ctx, volume, dds_flags=sizes.dds_flags)
            due = grew or (asked is not None and asked.grew)
            if due and conn is ConnState.CONNECTED and not sizes.dds_flags & DDSF_NO_RESYNC:
                self._copy_new_part(volume)
        elif grew and not same_generation(volume.uuids.current, JUST_CREATED):
            # What we told of our blocks is not true any more, and no new part is copied in a
            # handshake that began without it.
            self._ctx.peer.give_up(
                ConnState.PROTOCOL_ERROR, "the device has grown: once more, with the new part"
            )
        if asked is not None:
            self._answer(volume, asked, why)

    def _copy_new_part(self, volume: Volume) -> None:
        source = new_part_source(volume.state, resolves_conflicts=self._ctx.peer.resolves_conflicts)
        if source is None:
            return
        self._ctx.tell(Level.INFO, "Resync of new storage after online grow", volume.number)
        if source:
            self._start_source(volume)
            self._expect_requests(volume)
        else:
            self._ctx.states.force(volume, "online grow", conn=ConnState.WF_SYNC_UUID)

    def _expect_requests(self, volume: Volume) -> None:
        """A peer that had grown before, unsaid (DRBD does so while connecting), never asks for the
        new part, and waits for a state that does not come: only another connection helps it.
        """
        session, sent = self._ctx.peer.data, volume.sent_sectors
        left = volume.dirty_bits

        def look() -> None:
            idle = volume.sent_sectors == sent and volume.dirty_bits >= left > 0
            resyncs = volume.state.conn is ConnState.SYNC_SOURCE
            if session == self._ctx.peer.data and resyncs and idle:
                self._ctx.peer.give_up(
                    ConnState.PROTOCOL_ERROR, "the peer does not ask for the new part"
                )

        self._ctx.timers.set(("new-part", volume.number), REQUESTS_NS, look)

    def _diskless(self, volume: Volume, sizes: Sizes) -> None:
        verdict = diskless_size(
            sizes.c_size,
            sizes.u_size,
            sizes.d_size,
            current=volume.capacity_sectors,
            primary=volume.primary,
        )
        if verdict.warning:
            self._ctx.tell(Level.WARNING, verdict.warning, volume.number)
        if verdict.drop:
            self._stand_alone(verdict.warning or "the peer's device is too small")
        else:
            set_capacity(self._ctx, volume, verdict.size)

    def _measured(self, volume: Volume) -> Layout:
        """Where the metadata belong on the device as it is now.

        Where they are, if there would be no room for the data as they are.
        """
        backing, layout = volume.backing, volume.layout
        assert backing is not None and layout is not None
        try:
            there = Layout.internal(backing.measure(), layout.al_stripes, layout.al_stripe_size_4k)
        except MetadataError as error:
            self._ctx.tell(Level.ERROR, f"backing device: {error}", volume.number)
            return layout
        return there if there.usable_sectors >= volume.capacity_sectors else layout

    # -- the administrator's ------------------------------------------------------------------

    def resize(self, volume: Volume, command: Command, then: Then) -> None:
        """Take what the backing devices have to give, or what --size says."""
        self._resizing.when_idle(volume, lambda: self._judge(volume, command, then))

    def _judge(self, volume: Volume, command: Command, then: Then) -> None:
        options, state = command.options, volume.state
        clean, forced = bool(options.get("assume_clean")), bool(options.get("assume_peer"))
        layout = volume.layout
        wanted_log = _log_geometry(options, layout)
        refused = may_resize(
            state,
            apv=self._ctx.peer.apv,
            assume_clean=clean,
            moves_log=wanted_log is not None,
            assume_peer_has_space=forced,
        )
        if refused is not None:
            then(Answer(10, refused.text, refused.number))
            return
        backing = volume.backing
        if layout is None or backing is None or volume.al_gate is None:
            then(Answer(10, "Device does not have a disk-config: it is being attached", 138))
            return
        stripes = wanted_log or (layout.al_stripes, layout.al_stripe_size_4k)
        if (problem := _log_problem(stripes, volume)) is not None:
            then(problem)
            return
        try:
            place = Layout.internal(backing.measure(), *stripes)
        except MetadataError as error:
            then(Answer(10, f"{volume.config.disk}: {error}", error.number))
            return
        self._resize(volume, place, options, then)

    def _resize(
        self, volume: Volume, layout: Layout, options: dict[str, object], then: Then
    ) -> None:
        clean, forced = bool(options.get("assume_clean")), bool(options.get("assume_peer"))
        given = options.get("size_sectors")
        assert given is None or isinstance(given, int)
        user = volume.config.options.size_sectors if given is None else given
        current, state = volume.capacity_sectors, volume.state
        connected = state.conn >= ConnState.CONNECTED
        new, warning = agreed_size(
            layout.usable_sectors,
            volume.peer_max_sectors,
            current,
            user,
            connected=connected,
            assume_peer_has_space=forced,
        )
        log_changes = volume.layout is not None and (
            (layout.al_stripes, layout.al_stripe_size_4k)
            != (volume.layout.al_stripes, volume.layout.al_stripe_size_4k)
        )
        refused = may_have_size(
            new,
            current,
            usable=layout.usable_sectors,
            wanted=user,
            changes_log=log_changes,
        )
        if refused is not None:
            then(Answer(10, refused.text, refused.number))
            return
        if warning:
            self._ctx.tell(Level.WARNING, warning, volume.number)
        if new < current and connected and state.pdsk < DiskState.INCONSISTENT:
            then(
                Answer(
                    10,
                    "the peer has no disk and would lose its device if that became smaller: "
                    "attach its disk, or disconnect it first",
                    0,
                )
            )
            return
        waits = awaits_primary(state, new, current)
        user_before = volume.user_size_sectors if waits else None
        volume.user_size_sectors = user
        flags = (DDSF_FORCED if forced else 0) | (DDSF_NO_RESYNC if clean else 0)
        session, note = self._ctx.peer.data, warning or ""
        grows = new > current

        def changed(why: str) -> None:
            if why:
                then(Answer(10, f"the size could not be changed: {why}", 0))
            elif session is None or session != self._ctx.peer.data or not connected:
                then(Answer(0, note))
            elif volume.state.pdsk < DiskState.INCONSISTENT:
                send_sizes(self._ctx, volume, dds_flags=flags, asks=True)  # not answered
                then(Answer(0, note))
            else:
                self._ask(volume, _Asked(session, user_before, grows, note, then), flags)

        if waits:
            changed("")
        else:
            self._resizing.change(volume, layout, new, fill=0 if clean else 1, told=changed)

    def _ask(self, volume: Volume, asked: _Asked, flags: int) -> None:
        """Tell the peer what we have and want; its sizes are the answer."""
        number = volume.number
        self._asked[number] = asked
        send_uuids(self._ctx, volume)
        send_sizes(self._ctx, volume, dds_flags=flags, asks=True)
        name = ("resize", number)

        def over(why: str) -> bool:
            if self._asked.get(number) is asked:
                del self._asked[number]
                if asked.user_before is not None:
                    # Kept, the wish would make this node too small for the peer to connect to.
                    volume.user_size_sectors = asked.user_before
                self._answer(volume, asked, why)
            self._ctx.timers.cancel(name)
            return True

        def lost() -> bool:
            if self._asked.get(number) is asked and asked.session == self._ctx.peer.data:
                return False
            return over("the connection was lost before the peer answered")

        def late() -> None:
            over("the peer does not answer")

        self._ctx.timers.set(name, ANSWER_NS, late)
        self._ctx.when(lost)

    def _answer(self, volume: Volume, asked: _Asked, why: str) -> None:
        size = f"the device has {volume.capacity_sectors >> 1} KiB"
        if why:
            text = f"{why}: {size}; when the nodes are connected again, resize once more"
            asked.then(Answer(10, text, 0))
        else:
            asked.then(Answer(0, asked.note))


def _log_geometry(options: dict[str, object], layout: Layout | None) -> tuple[int, int] | None:
    """(stripes, 4 KiB blocks of each) if another activity log is wanted; None if not."""
    stripes, size_kib = options.get("al_stripes"), options.get("al_stripe_size_kib")
    if layout is None or (stripes is None and size_kib is None):
        return None
    assert stripes is None or isinstance(stripes, int)
    assert size_kib is None or isinstance(size_kib, int)
    wanted = (
        stripes or layout.al_stripes,
        size_kib // 4 if size_kib else layout.al_stripe_size_4k,
    )
    return None if wanted == (layout.al_stripes, layout.al_stripe_size_4k) else wanted


def _log_problem(stripes: tuple[int, int], volume: Volume) -> Answer | None:
    """Why an activity log of that geometry can't be."""
    blocks = stripes[0] * stripes[1]
    if blocks > AL_BLOCKS_MAX:
        return Answer(
            10, f"Resulting AL area too big: {blocks * 4} KiB, at most 16 GiB are possible", 167
        )
    assert volume.al_gate is not None
    slots = volume.al_gate.log.slots
    if blocks < AL_BLOCKS_MIN or clamp_extents(slots, blocks) < slots:
        return Answer(
            10,
            f"Resulting AL are too small: {blocks * 4} KiB; at least 32 KiB are needed, and room "
            f"for {slots} extents",
            168,
        )
    return None
