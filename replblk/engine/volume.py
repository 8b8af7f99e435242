"""One volume of a node: its state, its data generation, its structures, what is in flight.

Invariants: ``bitmap``, ``al``, ``layout`` and ``backing`` are there together (disk >= Negotiating,
or Failed and draining) or not at all. ``capacity_sectors`` is what clients see.
"""

from __future__ import annotations

import errno as errnos
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from replblk.engine.admission import Ranges
from replblk.model.config import VolumeConfig
from replblk.model.generation import JUST_CREATED, UuidSet, same_generation
from replblk.model.state import State
from replblk.model.units import bits_covered, bits_touched
from replblk.model.vocabulary import SOURCE_STATES, ConnState, DiskState, Role

if TYPE_CHECKING:
    from replblk.engine.al_gate import AlGate
    from replblk.engine.meta_store import MetaStore
    from replblk.engine.ports import Disk
    from replblk.engine.resync_progress import ResyncProgress
    from replblk.engine.write_way import WriteWay
    from replblk.meta.bitmap import Bitmap
    from replblk.meta.layout import Layout
    from replblk.rules.generations import Rotation
    from replblk.wire.packets import Uuids

_RESYNC = SOURCE_STATES | {ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T}


class Volume:
    """Everything a node knows of one volume. Counters are what /proc shows, in sectors."""

    def __init__(self, config: VolumeConfig) -> None:
        self.number = config.number
        self.config = config
        self.state = State()
        self.uuids = UuidSet()
        self.compared_uuids: UuidSet | None = None
        """While we follow from a disk that the peer attached: ours as they were compared with its.
        The comparison may have corrected them, and the peer has to compare the same."""
        self.exposed_uuid = 0
        """Generation whose data our clients were last given (0: none yet)."""
        self.offered: Uuids | None = None
        """What the peer's disk holds that was told last; it may still be refused there."""
        self.exposed_before: set[int] = set()
        """Generations our disk may bear instead: that one was begun and is not durable yet, so
        nothing was acknowledged in it. A peer's disk is not taken for it: ours may bear the new."""
        self.written_elsewhere = False
        """Writes went to the peer alone since that generation was told: it begins a new one with
        the first of them, and the word of it may be lost with the connection."""

        self.peer_begins = False
        """Our disk failed beside a good peer, which begins a generation for that: as above."""

        # the disk
        self.backing: Disk | None = None
        self.layout: Layout | None = None
        self.bitmap: Bitmap | None = None
        self.al_gate: AlGate | None = None
        self.meta: MetaStore | None = None
        self.marks_withdrawn = 0
        """How often blocks were marked in sync: their data may have to be flushed yet."""
        self.in_flight = 0
        self.when_drained: Callable[[], None] | None = None
        self.degraded = False
        """It was Primary without its peer when it stopped: degr-wfc-timeout applies."""
        self.io_failed = False
        """An I/O error gave the disk up: on-io-error may call for a handler."""
        self.crashed_primary = False
        self.kept_disk: DiskState | None = None
        """While Negotiating: the disk state the metadata gives, decided with the peer."""
        self.kept_pdsk: DiskState | None = None
        self.own_max_sectors = 0
        """Usable size of the backing device (0: diskless)."""
        self.capacity_sectors = 0
        self.user_size_sectors = config.options.size_sectors

        # the peer
        self.peer_uuids: Uuids | None = None
        self.peer_max_sectors = 0
        self.peer_size_sectors = 0
        """The size of the peer's device, as it told it last (0: not known)."""
        self.peer_max_bio_bytes = 0
        self.packet_seq = 0
        self.peer_seq = 0
        self.handshaking = False
        """Our parameters were sent on this connection and the peer's state is not in yet."""
        self.peer_is_connected = False
        """The peer's last P_STATE was said as Connected or further."""
        self.resyncs_leftover_bits = False
        """The peer said on this connection that it does so, too."""
        self.consider_resync = False
        self.handover_flags = 0
        """What every P_UUIDS says while the Primary role moves: UUID_FLAG_HANDS_OVER, ..."""
        self.discard_my_data = False
        self.changes_sent = 0
        """Out-of-sync bits told in our last P_UUIDS (the "changes" of a split brain)."""

        # clients and requests
        self.open_count = 0
        self.serving = False
        """The Primary mark is durable: clients may be served."""
        self.way: WriteWay | None = None
        """What the state means for writes, as ``way_of`` judged it last."""
        self.ranges = Ranges()
        self.held: deque[Callable[[], None]] = deque()
        """Application requests that wait for the state to let them go on."""
        self.paused: deque[Callable[[], None]] | None = None
        """Application requests that wait until it is decided whether the disk is let go."""
        self.replies_held = 0
        """> 0: a new generation is being made durable; no write is acknowledged before."""
        self.held_replies: list[Callable[[bool], None]] = []
        self.generation_failed = False
        self.awaits_peer_generation = False
        """Our disk failed: nothing is acknowledged before the peer began a new generation."""
        self.detaches_unnamed = False
        """While our disk is let go with nothing in flight: nothing waits for a generation."""
        self.awaits_peer_disk = False
        """The peer refused a write, and its P_STATE has not told yet what became of its disk."""
        self.generation_planned: Rotation | None = None
        """The peer was lost while I/O is suspended: what begins before I/O goes on without it."""
        self.diskless_link: int | None = None
        """The peer disconnects, and on this link it has told since that its disk is gone."""
        self.generation_due = False
        """A diskless Primary uses our disk: its first write begins a new generation."""
        self.detaching = 0
        """Commands that ask the peer's consent to let our disk go: its generation may have begun
        for that already, so none begins here before a write calls for it."""
        self.peer_detaches = False
        """A Primary with nothing in flight may detach, and its P_STATE is not in yet: what it then
        writes begins a new generation, not the loss of its disk."""
        self.sync_uuid_pending = False
        """Source: P_SYNC_UUID is not sent yet; target: it is not durable yet. Writes wait."""
        self.resync: ResyncProgress | None = None
        self.marked_anew: set[int] = set()
        """While a resync runs: blocks that were marked since it read them, or since the last write
        to them was sent. What is on its way to the peer says nothing of them, nor does a target's
        word that it is done. They are few: what could not be written or read."""
        self.failed_anew: set[int] = set()
        """While a resync runs: blocks whose write failed here. The peer may have them."""
        self.target_done = False
        """Source: the target says that the resync is done; our side of its end is under way."""
        self.target_unfinished = False
        """Source: the connection was lost with blocks never sent; the target can't be done."""

        # counters
        self.sent_sectors = 0
        self.received_sectors = 0
        self.written_sectors = 0
        self.read_sectors = 0
        self.al_writes = 0
        self.bm_writes = 0
        self.app_pending = 0
        self.peer_pending = 0
        self.unacked = 0
        self.peer_reads = 0
        """Of ``unacked``: reads for the peer. A lost connection need not wait for them."""

    # -- shape ------------------------------------------------------------------------------

    @property
    def tag(self) -> str:
        """How log lines call the volume."""
        return f"drbd{self.config.minor}"

    @property
    def has_disk(self) -> bool:
        """Whether application writes go to the local disk."""
        return self.state.disk >= DiskState.INCONSISTENT

    @property
    def primary(self) -> bool:
        """Whether this node is Primary."""
        return self.state.role is Role.PRIMARY

    @property
    def dirty_bits(self) -> int:
        """Blocks out of sync; 0 without a bitmap."""
        return self.bitmap.count if self.bitmap is not None else 0

    def begin_generation(self, uuids: UuidSet) -> None:
        """From now on these are our UUIDs; ``generation_is_durable`` once the disk bears them."""
        if not same_generation(uuids.current, self.uuids.current):
            self.exposed_before.add(self.uuids.current | 1)
        self.uuids = uuids
        self.exposed_uuid = uuids.current

    def generation_is_durable(self, current_uuid: int) -> None:
        """Nothing older counts from now on, unless another one has begun meanwhile."""
        if same_generation(current_uuid, self.exposed_uuid):
            self.exposed_before.clear()

    def serves_since(self, current_uuid: int) -> None:
        """Clients are given that generation, and no other; all that was written is in it."""
        self.exposed_uuid = current_uuid
        self.exposed_before.clear()
        self.written_elsewhere = self.peer_begins = False

    def was_exposed(self, current_uuid: int) -> bool:
        """Whether data of that generation have all that clients were told."""
        return any(same_generation(current_uuid, exposed) for exposed in self.exposed)

    @property
    def exposed(self) -> tuple[int, ...]:
        """The generations that have all that clients were told; none if they were told nothing."""
        return (self.exposed_uuid, *self.exposed_before) if self.exposed_uuid else ()

    @property
    def may_follow(self) -> bool:
        """Whether the peer may have begun a generation for us, without our having heard of it."""
        return self.written_elsewhere or self.peer_begins

    @property
    def has_leftover_bits(self) -> bool:
        """Whether good data are marked out of sync although no generation tells why.

        So it is after an online verify that found something, if no Primary was there since.
        """
        uuids = self.uuids
        return (
            self.dirty_bits > 0
            and self.state.disk in (DiskState.CONSISTENT, DiskState.UP_TO_DATE)
            and uuids.bitmap == 0
            and not same_generation(uuids.current, JUST_CREATED)
            and not self.crashed_primary
        )

    @property
    def peer_current(self) -> int:
        """The peer's current UUID, as it told it last (0: not known)."""
        return self.peer_uuids.current if self.peer_uuids is not None else 0

    def adopt_own_generation_for_peer(self) -> None:
        """After a resync both nodes have the same generation: so does our copy of the peer's."""
        if self.peer_uuids is not None:
            own = self.uuids
            self.peer_uuids = replace(
                self.peer_uuids,
                current=own.current,
                bitmap=own.bitmap,
                history0=own.history0,
                history1=own.history1,
                dirty_bits=0,
            )

    def refusal(self, sector: int, size_bytes: int) -> int:
        """Why nothing may be written there now, as an errno; 0 if it may.

        The device may have become smaller since the request was judged.
        """
        if not self.primary:
            return errnos.EPERM
        return errnos.EIO if sector + (size_bytes >> 9) > self.capacity_sectors else 0

    # -- out of sync --------------------------------------------------------------------------

    def mark_out_of_sync(self, sector: int, size_bytes: int) -> int:
        """Set every touched bit; returns how many were newly set. No bitmap: nothing to mark."""
        if self.bitmap is None:
            return 0
        touched, end = bits_touched(sector, size_bytes), len(self.bitmap)
        if self.state.conn in _RESYNC:
            self.marked_anew.update(touched)
        return self.bitmap.set(min(touched.start, end), min(touched.stop, end))

    def mark_failed(self, sector: int, size_bytes: int) -> None:
        """The same for a client's write that this disk refused."""
        self.mark_out_of_sync(sector, size_bytes)
        if self.state.conn in _RESYNC:
            self.failed_anew.update(bits_touched(sector, size_bytes))

    def mark_in_sync(self, sector: int, size_bytes: int) -> int:
        """Clear the fully covered bits; returns how many were newly cleared."""
        if self.bitmap is None:
            return 0
        covered = bits_covered(sector, size_bytes, self.capacity_sectors)
        self.marks_withdrawn += 1
        return self.bitmap.clear(covered.start, min(covered.stop, len(self.bitmap)))

    def mark_older_in_sync(self, sector: int, size_bytes: int) -> None:
        """As ``mark_in_sync``, by word of the past: what was marked anew since stays marked."""
        anew = self.marked_anew.intersection(bits_touched(sector, size_bytes))
        self.mark_in_sync(sector, size_bytes)
        if anew and self.bitmap is not None:
            for bit in anew:
                self.bitmap.set(bit, bit + 1)

    def sent_anew(self, sector: int, size_bytes: int) -> None:
        """A write goes to both disks: what was marked before it, its acknowledgement settles."""
        if self.marked_anew:
            self.marked_anew.difference_update(
                bits_covered(sector, size_bytes, self.capacity_sectors)
            )

    def is_in_sync(self, sector: int, size_bytes: int) -> bool:
        """Whether no touched bit is set; False without a bitmap."""
        if self.bitmap is None:
            return False
        touched = bits_touched(sector, size_bytes)
        return not self.bitmap.any(touched.start, touched.stop)

    # -- sequence numbers ---------------------------------------------------------------------

    def next_seq(self) -> int:
        """The number of the next P_DATA or block acknowledgement here (32 bits, wraps)."""
        self.packet_seq = self.packet_seq + 1 & 0xFFFFFFFF
        return self.packet_seq

    def saw_seq(self, seq: int) -> None:
        """Remember the highest number the peer used (signed 32-bit comparison)."""
        if (seq - self.peer_seq) & 0xFFFFFFFF < 0x80000000:
            self.peer_seq = seq

    # -- the peer's requests ------------------------------------------------------------------

    def began_peer_read(self) -> None:
        """The peer asked for a block; pairs with ``ended_peer_read``."""
        self.unacked += 1
        self.peer_reads += 1

    def ended_peer_read(self) -> None:
        """It was read, or will not be."""
        self.unacked -= 1
        self.peer_reads -= 1

    # -- replies ------------------------------------------------------------------------------

    def reply_when_durable(self, reply: Callable[[bool], None]) -> None:
        """Reply now, or once the generation that the write belongs to is durable.

        reply(True): as things are; reply(False): the generation could not be made durable.
        """
        if self.replies_held:
            self.held_replies.append(reply)
        else:
            reply(True)

    def hold_replies(self) -> None:
        """From now on writes are not acknowledged; pairs with ``release_replies``."""
        self.replies_held += 1

    def release_replies(self, ok: bool) -> None:
        """The reason to hold is gone; the last one lets the replies out, in order."""
        self.replies_held -= 1
        assert self.replies_held >= 0
        if not ok:
            self.generation_failed = True
        if not self.replies_held:
            replies, self.held_replies = self.held_replies, []
            good, self.generation_failed = not self.generation_failed, False
            for reply in replies:
                reply(good)

    def pause(self) -> None:
        """Clients' requests that come from now on wait for ``go_on``."""
        assert self.paused is None
        self.paused = deque()

    def go_on(self) -> None:
        """What came while the disk was about to be let go begins now."""
        assert self.paused is not None
        waiting, self.paused = self.paused, None
        for action in waiting:
            action()

    def release_held(self) -> None:
        """Let the requests that waited for a state try again, in their order."""
        waiting, self.held = self.held, deque()
        for action in waiting:
            action()
