"""The bitmap exchange: both nodes end up with the union of what either marked.

    source (WFBitMapS)   sends its bitmap ─────────────────► target (WFBitMapT) merges it
    source merges it ◄──────────────── target sends the merged one, becomes WFSyncUUID
    source: bitmap and sync UUID durable ─► SyncSource, P_SYNC_UUID
    target: P_SYNC_UUID ─► Inconsistent, generation and bitmap durable ─► SyncTarget

A full sync sets all bits first, durably. Source: protocol, bitmap exchange and start of a resync.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bitarray import bitarray

from replblk.engine.resync_progress import ResyncProgress
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.model.vocabulary import SOURCE_STATES, ConnState, DiskState
from replblk.wire.bitmap_code import BitmapDecoder, encode_bitmap
from replblk.wire.packets import SPECS, Cmd, SyncUuid

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.ports import Buffer
    from replblk.engine.volume import Volume
    from replblk.model.state import State

_WAITING = (ConnState.WF_BITMAP_S, ConnState.WF_BITMAP_T)
_AWAITS_UUID = (ConnState.WF_SYNC_UUID, ConnState.BEHIND)
_TARGET = (ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T)
_EARLY = (ConnState.CONNECTED, ConnState.STARTING_SYNC_T)
_SOURCE_GOES_ON = 3
"""An exit status of before-resync-source that forbids nothing."""


class ResyncBitmap:
    """Begins every resync; one exchange per volume at a time."""

    def __init__(
        self,
        ctx: Context,
        target_ready: Callable[[Volume], None],
        stand_alone: Callable[[str], None],
        asked_to_sync: Callable[[Volume], bool],
    ) -> None:
        """asked_to_sync: whether the peer was asked to make us a sync target, and has not
        answered."""
        self._ctx = ctx
        self._asked_to_sync = asked_to_sync
        self._target_ready = target_ready
        self._stand_alone = stand_alone
        self._decoders: dict[int, tuple[BitmapDecoder, bitarray]] = {}
        self._receiving: int | None = None
        """Volume in the middle of a transfer: nothing else may come on the data socket."""
        self._early: dict[int, SyncUuid] = {}
        """P_SYNC_UUID of a source that marked everything faster than we do (invalidate)."""

    def begin(self, volume: Volume, *, all_bits: bool) -> None:
        """The handshake chose a direction; the state is WFBitMapS or WFBitMapT now."""
        assert volume.bitmap is not None and volume.meta is not None
        self._decoders.pop(volume.number, None)
        session = self._ctx.peer.data
        source = volume.state.conn is ConnState.WF_BITMAP_S

        def ready(ok: bool) -> None:
            if ok and source and self._still(volume, session, ConnState.WF_BITMAP_S):
                self._send(volume)

        if all_bits:
            volume.meta.set_all(ready)
        else:
            ready(True)

    def _still(self, volume: Volume, session: int | None, conn: ConnState) -> bool:
        return self._ctx.peer.data == session and volume.state.conn is conn

    def _send(self, volume: Volume) -> None:
        assert volume.bitmap is not None
        peer = self._ctx.peer
        use_rle = self._ctx.net.use_rle
        for cmd, payload in encode_bitmap(volume.bitmap.bits, apv=peer.apv, use_rle=use_rle):
            peer.send_raw(cmd, volume.number, payload)

    # -- packets ------------------------------------------------------------------------------

    def expects_only_bitmap(self, cmd: Cmd, volume: int) -> None:
        """Raise PeerError for anything on the data socket but the rest of a begun transfer."""
        if self._receiving is None or SPECS[cmd].socket != "data":
            return
        if cmd not in (Cmd.P_BITMAP, Cmd.P_COMPRESSED_BITMAP) or volume != self._receiving:
            raise PeerError(f"{cmd.name} in the middle of a bitmap transfer")

    def on_bitmap(self, volume: Volume, cmd: Cmd, payload: Buffer) -> None:
        """P_BITMAP or P_COMPRESSED_BITMAP: one piece of the peer's bitmap."""
        if volume.state.conn not in _WAITING or volume.bitmap is None:
            raise PeerError(f"{cmd.name} in state {volume.state.conn}: no bitmap is expected")
        decoder, received = self._decoders.get(volume.number) or self._new_decoder(volume)
        self._receiving = volume.number
        decoder.feed(cmd, bytes(payload), received)
        if not decoder.complete:
            return
        self._receiving = None
        del self._decoders[volume.number]
        volume.bitmap.merge(received)
        if volume.state.conn is ConnState.WF_BITMAP_T:
            self._send(volume)
            self._ctx.states.force(volume, "bitmap exchanged", conn=ConnState.WF_SYNC_UUID)
        else:
            self.start_source(volume)

    def _new_decoder(self, volume: Volume) -> tuple[BitmapDecoder, bitarray]:
        assert volume.bitmap is not None
        bits = bitarray(len(volume.bitmap), endian="little")
        bits.setall(0)
        fresh = (BitmapDecoder(len(volume.bitmap), self._ctx.peer.apv), bits)
        self._decoders[volume.number] = fresh
        return fresh

    # -- start --------------------------------------------------------------------------------

    def start_source(self, volume: Volume) -> None:
        """Ask the handler before-resync-source, then become SyncSource."""
        self._unless_vetoed(volume, "before-resync-source", self._become_source)

    def _unless_vetoed(self, volume: Volume, handler: str, then: Callable[[Volume], None]) -> None:
        """A handler may forbid the resync by its exit status: the connection ends for good."""
        session, conn = self._ctx.peer.data, volume.state.conn

        def answered(exit_code: int) -> None:
            if not self._still(volume, session, conn):
                return
            tolerated = (0, _SOURCE_GOES_ON) if handler == "before-resync-source" else (0,)
            if exit_code in tolerated:
                then(volume)
            else:
                self._stand_alone(
                    f"{handler} handler returned {exit_code}, dropping connection: the resync of "
                    f"volume {volume.number} was not begun; connect again when the handler agrees"
                )

        self._ctx.handlers.call(handler, volume, answered)

    def _become_source(self, volume: Volume) -> None:
        """Everything about it durable, then P_SYNC_UUID, then writes go on."""
        assert volume.bitmap is not None and volume.meta is not None
        meta, session = volume.meta, self._ctx.peer.data
        volume.sync_uuid_pending = True
        volume.hold_replies()  # if the target goes now, its generation tells ours from its data
        volume.uuids = volume.uuids.sync_started(self._ctx.random_u64(), volume.peer_current)
        self._ctx.tell(Level.INFO, f"updated sync UUID {volume.uuids}", volume.number)
        self._began(volume, "SyncSource")
        self._ctx.states.force(
            volume,
            "bitmaps exchanged",
            conn=ConnState.SYNC_SOURCE,
            pdsk=DiskState.INCONSISTENT,
        )

        def bitmap_durable(ok: bool) -> None:
            if ok:
                meta.sync(durable)
            else:
                durable(False)

        def durable(ok: bool) -> None:
            volume.release_replies(ok)
            if not ok or session != self._ctx.peer.data:
                return
            if volume.state.conn not in SOURCE_STATES:
                return
            self._ctx.peer.send(Cmd.P_SYNC_UUID, SyncUuid(volume.uuids.bitmap), volume.number)
            volume.sync_uuid_pending = False
            volume.release_held()

        meta.write_bitmap(bitmap_durable)

    def on_sync_uuid(self, volume: Volume, packet: SyncUuid) -> None:
        """P_SYNC_UUID: the source is ready; become SyncTarget, durably Inconsistent first."""
        if volume.state.disk < DiskState.NEGOTIATING:
            self._ctx.tell(Level.WARNING, "ignoring P_SYNC_UUID: no disk", volume.number)
            return
        # It may even overtake the consent to our wish to be invalidated: that has its own socket.
        wished = volume.state.conn is ConnState.CONNECTED and self._asked_to_sync(volume)
        begins = wished or volume.state.conn is ConnState.STARTING_SYNC_T
        if begins and volume.number not in self._early:
            self._early[volume.number] = packet
            volume.sync_uuid_pending = True  # what the source writes now waits, too
            return
        if volume.state.conn not in (ConnState.WF_SYNC_UUID, ConnState.BEHIND):
            raise PeerError(f"P_SYNC_UUID in state {volume.state.conn}")
        volume.sync_uuid_pending = True  # what the source writes now waits for the handler, too
        self._unless_vetoed(
            volume, "before-resync-target", lambda volume: self._become_target(volume, packet)
        )

    def _become_target(self, volume: Volume, packet: SyncUuid) -> None:
        assert volume.meta is not None
        meta, session = volume.meta, self._ctx.peer.data
        volume.uuids = volume.uuids.sync_received(packet.uuid, primary=volume.primary)
        self._ctx.tell(Level.INFO, f"updated sync uuid {volume.uuids}", volume.number)
        self._began(volume, "SyncTarget")
        self._ctx.states.force(
            volume, "received sync UUID", conn=ConnState.SYNC_TARGET, disk=DiskState.INCONSISTENT
        )

        def bitmap_durable(ok: bool) -> None:
            if ok:
                meta.sync(durable)

        def durable(ok: bool) -> None:
            if not ok or session != self._ctx.peer.data:
                return
            volume.sync_uuid_pending = False
            volume.release_held()
            self._target_ready(volume)

        meta.write_bitmap(bitmap_durable)

    def _began(self, volume: Volume, side: str) -> None:
        assert volume.bitmap is not None
        volume.resync = ResyncProgress(volume.bitmap.count, self._ctx.now_ns())
        self._ctx.tell(
            Level.INFO,
            f"Began resync as {side} (will sync {volume.bitmap.count * 4} KB "
            f"[{volume.bitmap.count} bits set]).",
            volume.number,
        )

    # -- states -------------------------------------------------------------------------------

    def on_state(self, volume: Volume, old: State, new: State) -> None:
        """Leaving the exchange for anything but the resync ends it."""
        if volume.number in self._early and new.conn not in _EARLY:
            early = self._early.pop(volume.number)
            volume.sync_uuid_pending = False
            if new.conn is ConnState.WF_SYNC_UUID:
                self.on_sync_uuid(volume, early)
        if old.conn in _AWAITS_UUID and new.conn not in (*_AWAITS_UUID, *_TARGET):
            volume.sync_uuid_pending = False  # the handler's answer comes too late
        if old.conn in _WAITING and new.conn not in _WAITING:
            self._decoders.pop(volume.number, None)
            if self._receiving == volume.number:
                self._receiving = None
