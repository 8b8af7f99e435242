"""Attaching a disk: open, read the metadata, apply the activity log, decide what the data is worth.

    open, lock ─► flush ─► superblock ─► [unclean: activity log] ─► bitmap ─► bits of hot extents
    durable ─► activity log initialised ─► superblock durable ─► disk state, or Negotiating

Nothing is written before everything was read and judged; whatever is wrong refuses the attach with
its reason. A device that grew while nobody had it open has no metadata at its end: they are looked
for where they were last known to be, attached there, and moved to the end. Detaching goes the other
way: Failed, everything in flight ends, Diskless, closed. Source: metadata, attach.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from replblk.engine.al_gate import AlGate
from replblk.engine.meta_store import MetaStore
from replblk.engine.ports import Answer, Buffer, OpenFailed
from replblk.engine.resizing import set_capacity
from replblk.meta.activity_log import ActivityLog, clamp_extents
from replblk.meta.al_transaction import Replay, replay
from replblk.meta.bitmap import Bitmap
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.errors import MetadataError
from replblk.model.notices import Level
from replblk.model.units import AL_EXTENT_BITS, bits_of_capacity
from replblk.model.vocabulary import ConnState, DiskState
from replblk.rules.attach_state import initial_disk, may_attach
from replblk.rules.sizes import agreed_size

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.resizing import Resizing
    from replblk.engine.volume import Volume

BLOCK_BYTES = 4096
BITMAP_READ_BYTES = 1 << 20
ERR_IO_MD = 118
ERR_NO_METADATA = 119
ERR_SHRINK = 170
ERR_OTHER_DATA = 150
OTHER_DEVICE = "no metadata at the end, and those at the last known place are of another device"
Told = Callable[[Answer], None]


class Attach:
    """Attaches and detaches the disks of a node."""

    def __init__(self, ctx: Context, disk_failure: DiskFailure, resizing: Resizing) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._resizing = resizing

    def attach(self, volume: Volume, told: Told) -> None:
        """Attach the configured backing device; the answer says what became of it."""
        if volume.state.disk is not DiskState.DISKLESS or volume.backing is not None:
            told(Answer(10, "Device is attached to a disk (use detach first)", 124))
            return
        disk = self._ctx.ports.disks.open(volume.number)
        if isinstance(disk, OpenFailed):
            told(Answer(10, disk.text, disk.number))
            return
        volume.backing = disk
        volume.io_failed = False
        self._ctx.states.force(volume, "attach", disk=DiskState.ATTACHING)
        _Attachment(self._ctx, volume, self._disk_failure, self._resizing, told).begin()

    def detach(self, volume: Volume, then: Callable[[], None]) -> None:
        """The disk is Failed: wait for what is in flight, then let it go; *then* it is Diskless."""
        gate, meta = volume.al_gate, volume.meta
        volume.al_gate = None
        if gate is not None:
            gate.close()
        if meta is not None:
            meta.stop()

        def drained() -> None:
            backing, volume.backing = volume.backing, None
            assert backing is not None
            backing.close()
            volume.bitmap = volume.meta = volume.layout = None
            volume.kept_disk = volume.kept_pdsk = None
            volume.own_max_sectors = 0
            self._ctx.states.force(volume, "drained", disk=DiskState.DISKLESS)
            then()

        if volume.in_flight:
            volume.when_drained = drained
        else:
            self._ctx.defer(drained)


class _Attachment:
    """One attach in progress."""

    def __init__(
        self,
        ctx: Context,
        volume: Volume,
        disk_failure: DiskFailure,
        resizing: Resizing,
        told: Told,
    ) -> None:
        self._ctx = ctx
        self._volume = volume
        self._disk_failure = disk_failure
        self._resizing = resizing
        self._told = told
        self._at_last_known = False
        self._superblock: Superblock
        self._layout: Layout
        self._replay: Replay | None = None
        self._bitmap: Bitmap
        self._log: ActivityLog

    # -- reading ------------------------------------------------------------------------------

    def begin(self) -> None:
        """Read the superblock."""
        volume = self._volume
        assert volume.backing is not None
        try:
            layout = Layout.internal(volume.backing.size_bytes)
            layout.check_attachable()
        except MetadataError as error:
            self._refuse(str(error), error.number)
            return
        self._layout = layout
        # What a killed process wrote may be readable and yet not durable: nothing may be trusted,
        # and nothing copied to the peer, before it is.
        self._ctx.io.flush(volume, self._flushed)

    def _flushed(self, errno: int, _: Buffer | None) -> None:
        if errno:
            self._refuse(f"IO error(s) occurred flushing the device (errno {errno})", ERR_IO_MD)
            return
        self._ctx.io.read(
            self._volume, self._layout.md_offset_bytes, BLOCK_BYTES, self._got_superblock
        )

    def _got_superblock(self, errno: int, data: Buffer | None) -> None:
        if errno:
            self._refuse(f"IO error(s) occurred reading the superblock (errno {errno})", ERR_IO_MD)
            return
        assert data is not None
        layout_of = partial(Layout.internal, self._layout.device_bytes)
        try:
            superblock = Superblock.decode(bytes(data), layout_of)
            self._layout = layout_of(superblock.al_stripes, superblock.al_stripe_size_4k)
        except MetadataError as error:
            self._look_elsewhere(error)
            return
        if self._at_last_known and superblock.device_uuid != self._known()[1]:
            self._look_elsewhere(MetadataError(OTHER_DEVICE, ERR_NO_METADATA))
            return
        self._superblock = superblock
        if MdFlag.FULL_SYNC in superblock.flags:
            # Neither log nor bitmap have to say anything, and may be in the middle of a move.
            self._bitmap = Bitmap(bits_of_capacity(superblock.la_size_sect))
            self._judge()
        elif superblock.needs_apply_al:
            size = self._layout.al_blocks * BLOCK_BYTES
            self._ctx.io.read(self._volume, self._layout.al_offset_bytes, size, self._got_log)
        else:
            self._read_bitmap()

    def _known(self) -> tuple[int, int]:
        assert self._volume.backing is not None
        return self._volume.backing.last_known()

    def _look_elsewhere(self, why: MetadataError) -> None:
        """No metadata at the end: the device may have grown since they were written."""
        size, _ = self._known()
        assert self._volume.backing is not None
        now = self._volume.backing.size_bytes
        if self._at_last_known or not size or size == now:
            self._refuse(str(why), why.number)
        elif size > now:
            self._refuse(
                f"{why}. The device had {size} bytes when its metadata were written last, and has "
                f"{now} now: what was cut off held them",
                why.number,
            )
        else:
            self._at_last_known = True
            self._layout = Layout.internal(size)
            self._ctx.io.read(
                self._volume, self._layout.md_offset_bytes, BLOCK_BYTES, self._got_superblock
            )

    def _got_log(self, errno: int, data: Buffer | None) -> None:
        if errno:
            self._refuse(
                f"IO error(s) occurred reading the activity log (errno {errno})", ERR_IO_MD
            )
            return
        assert data is not None
        blocks = [bytes(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
        found = replay(blocks)
        if found.corrupt:
            self._ctx.tell(
                Level.WARNING,
                f"{found.corrupt} corrupt AL transactions found",
                self._volume.number,
            )
        if not found.usable and MdFlag.PRIMARY_IND in self._superblock.flags:
            self._refuse(
                "No usable activity log found, but this node was Primary when it stopped: what was "
                "being written can't be known. Do you need to create-md?",
                119,
            )
            return
        self._replay = found
        self._read_bitmap()

    def _read_bitmap(self) -> None:
        self._bitmap = Bitmap(bits_of_capacity(self._superblock.la_size_sect))
        self._read_bitmap_from(0)

    def _read_bitmap_from(self, at: int) -> None:
        total = Layout.bm_bytes(len(self._bitmap))
        if at >= total:
            self._judge()
            return
        length = min(BITMAP_READ_BYTES, total - at)

        def got(errno: int, data: Buffer | None) -> None:
            if errno:
                self._refuse(f"IO error(s) occurred reading the bitmap (errno {errno})", ERR_IO_MD)
                return
            assert data is not None
            self._bitmap.load(bytes(data), at // BLOCK_BYTES)
            self._read_bitmap_from(at + length)

        self._ctx.io.read(self._volume, self._layout.bm_offset_bytes + at, length, got)

    # -- judging ------------------------------------------------------------------------------

    def _judge(self) -> None:
        if self._holds_other_data():
            return
        volume, superblock, layout = self._volume, self._superblock, self._layout
        flags, state = superblock.flags, volume.state
        last = superblock.la_size_sect
        if MdFlag.CONSISTENT in flags and layout.usable_sectors < last:
            user = volume.config.options.size_sectors
            if user != layout.usable_sectors:
                self._refuse(
                    "Implicit device shrinking not allowed: the disk now has room for "
                    f"{layout.usable_sectors} sectors, its data needs {last}",
                    ERR_SHRINK,
                )
                return
        size, warning = agreed_size(
            layout.usable_sectors,
            volume.peer_max_sectors,
            last,
            volume.user_size_sectors,
            connected=state.conn >= ConnState.CONNECTED,
            assume_peer_has_space=False,
        )
        if warning:
            self._ctx.tell(Level.WARNING, warning, volume.number)
        if state.conn >= ConnState.CONNECTED and volume.peer_size_sectors:
            size = min(size, max(last, volume.peer_size_sectors))
        self._take_over(size)

    def _holds_other_data(self) -> bool:
        """Whether it is refused because it lacks what the device served last."""
        volume, state, current = self._volume, self._volume.state, self._superblock.uuids.current
        exposed, elsewhere = volume.exposed_uuid, volume.written_elsewhere
        if may_attach(
            *(current, volume.exposed),
            role=state.role,
            peer=state.peer,
            pdsk=state.pdsk,
            written_elsewhere=elsewhere,
        ):
            return False
        why = f"Can only attach to data with current UUID={exposed:016X}: this disk holds "
        if elsewhere and volume.was_exposed(current):
            why = "What was written last went to the peer alone: connect to it first; "
            why += "this disk holds "
        self._refuse(f"{why}{current:016X}, other data than was served last", ERR_OTHER_DATA)
        return True

    def _take_over(self, size: int) -> None:
        """Everything was read and is plausible: from here on the volume has these structures."""
        volume, superblock, layout = self._volume, self._superblock, self._layout
        flags, bitmap = superblock.flags, self._bitmap
        crashed = MdFlag.PRIMARY_IND in flags and self._replay is not None
        if crashed:
            assert self._replay is not None
            before = bitmap.count
            for extent in self._replay.extents:
                first = extent * AL_EXTENT_BITS
                bitmap.set(min(first, len(bitmap)), min(first + AL_EXTENT_BITS, len(bitmap)))
            marked = bitmap.count - before
            if marked:
                self._ctx.tell(
                    Level.INFO,
                    f"Marked additional {marked * 4} KB as out-of-sync based on AL.",
                    volume.number,
                )
        bitmap.resize(bits_of_capacity(size), 1)
        if MdFlag.FULL_SYNC in flags or (
            MdFlag.AL_DISABLED in flags and (crashed or MdFlag.CRASHED_PRIMARY in flags)
        ):
            self._ctx.tell(
                Level.WARNING,
                "Assuming that all blocks are out of sync (aka FullSync)",
                volume.number,
            )
            bitmap.set_all()
        volume.layout = layout
        volume.bitmap = bitmap
        set_capacity(self._ctx, volume, size)
        volume.own_max_sectors = layout.usable_sectors
        volume.crashed_primary = bool(flags & (MdFlag.CRASHED_PRIMARY | MdFlag.PRIMARY_IND))
        volume.degraded = (
            not volume.primary and MdFlag.PRIMARY_IND in flags and MdFlag.CONNECTED_IND not in flags
        )
        volume.uuids = superblock.uuids.with_role(primary=volume.primary)
        slots = clamp_extents(volume.config.options.al_extents, layout.al_blocks)
        self._log = ActivityLog(slots)
        base = replace(
            superblock,
            clean=False,
            flags=flags & ~(MdFlag.AL_CLEAN | MdFlag.AL_DISABLED),
            al_nr_extents=slots,
        )
        volume.meta = MetaStore(
            self._ctx,
            volume,
            base,
            lambda why: self._disk_failure.metadata_failed(volume, why),
        )
        volume.meta.full_sync = MdFlag.FULL_SYNC in flags
        self._ctx.tell(
            Level.INFO,
            f"{bitmap.count * 4} KB ({bitmap.count} bits) marked out-of-sync by on disk bit-map.",
            volume.number,
        )
        self._settle_place(volume.meta)

    def _settle_place(self, meta: MetaStore) -> None:
        """Found at the end, and last known elsewhere: a move was cut off when its superblock stood.

        Before anything is written over the old ones, the new one has to be there for certain, and
        its place noted: what was read may be left of a write that failed.
        """
        known, layout = self._known()[0], self._layout
        if self._at_last_known or known in (0, layout.device_bytes):
            meta.write_bitmap(self._bitmap_durable)
            return

        def written(errno: int, _: Buffer | None) -> None:
            if errno:
                self._refuse(
                    f"IO error(s) occurred writing the superblock (errno {errno})", ERR_IO_MD
                )
                return
            assert self._volume.backing is not None
            self._volume.backing.remember(layout.device_bytes, self._superblock.device_uuid)
            meta.write_bitmap(self._bitmap_durable)

        self._ctx.io.write(self._volume, layout.md_offset_bytes, self._superblock.encode(), written)

    # -- writing ------------------------------------------------------------------------------

    def _bitmap_durable(self, ok: bool) -> None:
        """What the log said is in the bitmap now: the log may be initialised."""
        if not ok:
            self._refuse("IO error(s) occurred writing the bitmap", ERR_IO_MD)
            return
        volume, layout = self._volume, self._layout
        assert volume.meta is not None
        volume.meta.full_sync = False
        if not self._superblock.la_size_sect:
            volume.al_writes = layout.al_blocks  # as DRBD counts the first initialisation
        ring = self._log.initial_blocks(layout.al_blocks)
        placed = bytearray(len(ring) * BLOCK_BYTES)
        for number, block in enumerate(ring):
            at = layout.al_block_offset(number) - layout.al_offset_bytes
            placed[at : at + BLOCK_BYTES] = block
        self._ctx.io.write(volume, layout.al_offset_bytes, bytes(placed), self._ring_durable)

    def _ring_durable(self, errno: int, _: Buffer | None) -> None:
        if errno:
            self._refuse(
                f"IO error(s) occurred writing the activity log (errno {errno})", ERR_IO_MD
            )
            return
        volume = self._volume
        volume.al_gate = AlGate(volume, self._log)
        if not self._at_last_known:
            self._in_place("")
            return
        assert volume.backing is not None
        superblock = self._superblock
        place = Layout.internal(
            volume.backing.size_bytes, superblock.al_stripes, superblock.al_stripe_size_4k
        )
        self._ctx.tell(
            Level.INFO, "Moving the internal meta data to its proper location", volume.number
        )
        self._resizing.when_idle(volume, lambda: self._move(place))

    def _move(self, place: Layout) -> None:
        volume = self._volume
        self._resizing.change(volume, place, volume.capacity_sectors, fill=1, told=self._in_place)

    def _in_place(self, why: str) -> None:
        """The metadata are where they belong, or stay where they were; say what the disk is."""
        volume, flags = self._volume, self._superblock.flags
        if volume.meta is None or volume.al_gate is None or volume.meta.dead:
            self._refuse(f"IO error(s) occurred moving the metadata: {why}", ERR_IO_MD)
            return
        if self._holds_other_data():
            return  # the peer, whose data it was to be compared with, went in the meantime
        if why:
            self._ctx.tell(Level.ERROR, f"the metadata stay where they were: {why}", volume.number)
        assert volume.backing is not None and volume.layout is not None
        volume.backing.remember(volume.layout.device_bytes, self._superblock.device_uuid)
        # A resync that had begun may have ended, unseen: then the peer is as good as we are.
        handed_out = self._superblock.uuids.handed_out
        disk, pdsk = initial_disk(
            MdFlag.CONSISTENT in flags,
            MdFlag.WAS_UP_TO_DATE in flags,
            MdFlag.PEER_OUT_DATED in flags and not handed_out,
            volume.config.options.fencing,
        )
        uuids = volume.uuids
        self._ctx.tell(Level.INFO, f"attached to UUIDs {uuids}", volume.number)
        if volume.state.conn >= ConnState.CONNECTED:
            volume.kept_disk, volume.kept_pdsk = disk, pdsk
            volume.peer_uuids = None
            self._ctx.states.force(volume, "attach", disk=DiskState.NEGOTIATING)
        else:
            volume.exposed_uuid = uuids.current
            self._ctx.states.force(volume, "attach", disk=disk, pdsk=pdsk)
        assert volume.meta is not None
        volume.meta.sync(self._attached)

    def _attached(self, ok: bool) -> None:
        volume = self._volume
        path = volume.config.disk
        if ok:
            self._told(Answer())
        elif volume.io_failed:
            text = f"{path}: IO error(s) occurred writing the superblock"
            self._told(Answer(10, text, ERR_IO_MD))
        else:
            text = f"{path}: let go while it was being attached; the reason is in the log"
            self._told(Answer(10, text, ERR_OTHER_DATA))

    def _refuse(self, why: str, number: int) -> None:
        """The attach fails: the device is let go, the volume is Diskless as before."""
        volume = self._volume
        config = volume.config
        path = config.disk
        self._ctx.tell(Level.ERROR, f"attach of {path} refused: {why}", volume.number)
        if volume.backing is not None and not volume.in_flight:
            volume.backing.close()
            volume.backing = None
        volume.bitmap = volume.meta = volume.layout = volume.al_gate = None
        volume.own_max_sectors = 0
        if volume.state.disk is DiskState.ATTACHING:
            self._ctx.states.force(volume, why, disk=DiskState.DISKLESS)
        self._told(Answer(10, f"{path}: {why}", number))
