"""The superblock: 4096 bytes that say what the data are, as a value; and when it is acceptable.

Big-endian. It has no checksum, so everything that can be cross-checked is: the magic, the bitmap
granule, the geometry of the activity log, the offsets against the size of the device present now,
and the last agreed size against the room there is.

    parse     is this a v08 superblock at all?               MetadataError 119 says what is there
    check     does it fit the device it was found on?        MetadataError 119
    decode    both
    check_applied   is the activity log applied, as attach demands?      MetadataError 165
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntFlag

from construct import Bytes, Int32sb, Int32ub, Int64ub, Padding, Struct

from replblk.meta.layout import (
    AL_STRIPE_SIZE_4K_DEFAULT,
    AL_STRIPES_DEFAULT,
    BLOCK_BYTES,
    DATA_SECTORS_PER_BITMAP_SECTOR,
    Layout,
)
from replblk.model.errors import MetadataError
from replblk.model.fixed_layout import FixedLayout
from replblk.model.generation import UuidSet
from replblk.model.state import State
from replblk.model.units import BIT_BYTES
from replblk.model.vocabulary import ConnState, DiskState, Role

MAGIC_V07 = 0x8374026A
MAGIC_CLEAN = 0x8374026B
"""v08 with the activity log applied: what tools leave behind and attach accepts."""
MAGIC_UNCLEAN = 0x8374026C
"""v08 as every running 8.4 node writes it: the activity log must be applied before attach."""
MAGIC_V09 = 0x8374026D
AL_EXTENTS_FRESH = 257
"""al_nr_extents as create-md stores it."""

ERR_MD_INVALID = 119
ERR_MD_UNCLEAN = 165

_MAGIC_OFFSET = 60
_MAGIC_OFFSET_V07 = 28
_SUPERBLOCK = FixedLayout(
    Struct(
        "la_size_sect" / Int64ub,
        "current" / Int64ub,
        "bitmap" / Int64ub,
        "history0" / Int64ub,
        "history1" / Int64ub,
        "device_uuid" / Int64ub,
        Padding(8),
        "flags" / Int32ub,
        "magic" / Int32ub,
        "md_size_sect" / Int32ub,
        "al_offset" / Int32sb,
        "al_nr_extents" / Int32ub,
        "bm_offset" / Int32sb,
        "bm_bytes_per_bit" / Int32ub,
        "la_peer_max_bio_size" / Int32ub,
        "al_stripes" / Int32ub,
        "al_stripe_size_4k" / Int32ub,
        "rest" / Bytes(BLOCK_BYTES - 96),
    )
)
_REST = bytes(BLOCK_BYTES - 96)


class MdFlag(IntFlag):
    """Flag bits of the superblock (MDF_*)."""

    CONSISTENT = 0x001  # the disk was above Inconsistent
    PRIMARY_IND = 0x002  # the node was Primary, or served a diskless Primary
    CONNECTED_IND = 0x004
    FULL_SYNC = 0x008  # every bit counts as set: the bitmap is being filled
    WAS_UP_TO_DATE = 0x010  # the disk was above Outdated
    PEER_OUT_DATED = 0x020
    CRASHED_PRIMARY = 0x040  # crashed while Primary and not in sync with its peer since
    AL_CLEAN = 0x080  # the activity log is applied
    AL_DISABLED = 0x100  # no activity log is kept: a crash needs a full sync


LayoutOf = Callable[[int, int], Layout]
"""(al_stripes, al_stripe_size_4k) -> where things must lie on the device present now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Superblock:
    """What a superblock says. Sizes in 512-byte sectors, offsets in sectors relative to itself."""

    la_size_sect: int = 0  # last agreed size; 0: never attached
    uuids: UuidSet = field(default_factory=UuidSet)
    device_uuid: int = 0
    flags: MdFlag = MdFlag.AL_CLEAN
    clean: bool = True  # which magic: False while a node runs, and after it crashed
    md_size_sect: int
    al_offset: int
    al_nr_extents: int = AL_EXTENTS_FRESH
    bm_offset: int
    bm_bytes_per_bit: int = BIT_BYTES
    la_peer_max_bio_size: int = 0  # bytes; 0: unknown
    al_stripes: int = AL_STRIPES_DEFAULT
    al_stripe_size_4k: int = AL_STRIPE_SIZE_4K_DEFAULT

    @classmethod
    def fresh(
        cls, layout: Layout, *, device_uuid: int = 0, la_peer_max_bio_size: int = 0
    ) -> Superblock:
        """What create-md writes: no data yet, current UUID 4."""
        return cls(
            device_uuid=device_uuid,
            md_size_sect=layout.md_size_sect,
            al_offset=layout.al_offset_sect,
            bm_offset=layout.bm_offset_sect,
            la_peer_max_bio_size=la_peer_max_bio_size,
            al_stripes=layout.al_stripes,
            al_stripe_size_4k=layout.al_stripe_size_4k,
        )

    def encode(self) -> bytes:
        """The 4096 bytes."""
        block = _SUPERBLOCK.build(
            {
                "la_size_sect": self.la_size_sect,
                "current": self.uuids.current,
                "bitmap": self.uuids.bitmap,
                "history0": self.uuids.history0,
                "history1": self.uuids.history1,
                "device_uuid": self.device_uuid,
                "flags": int(self.flags),
                "magic": MAGIC_CLEAN if self.clean else MAGIC_UNCLEAN,
                "md_size_sect": self.md_size_sect,
                "al_offset": self.al_offset,
                "al_nr_extents": self.al_nr_extents,
                "bm_offset": self.bm_offset,
                "bm_bytes_per_bit": self.bm_bytes_per_bit,
                "la_peer_max_bio_size": self.la_peer_max_bio_size,
                "al_stripes": self.al_stripes,
                "al_stripe_size_4k": self.al_stripe_size_4k,
                "rest": _REST,
            }
        )
        assert len(block) == BLOCK_BYTES
        return block

    @classmethod
    def parse(cls, block: bytes, offset_bytes: int | None = None) -> Superblock:
        """What a v08 superblock says, believed or not; MetadataError(119) if it is none.

        offset_bytes: where it was read, for the sentence.
        """
        assert len(block) == BLOCK_BYTES, f"a superblock has {BLOCK_BYTES} bytes, not {len(block)}"
        magic = int.from_bytes(block[_MAGIC_OFFSET : _MAGIC_OFFSET + 4], "big")
        if magic not in (MAGIC_CLEAN, MAGIC_UNCLEAN):
            raise MetadataError(_no_superblock(block, offset_bytes), ERR_MD_INVALID)
        raw = _SUPERBLOCK.parse(block)
        stripes, stripe_size = raw["al_stripes"], raw["al_stripe_size_4k"]
        if stripes == stripe_size == 0:  # written before stripes existed
            stripes, stripe_size = AL_STRIPES_DEFAULT, AL_STRIPE_SIZE_4K_DEFAULT
        return cls(
            la_size_sect=raw["la_size_sect"],
            uuids=UuidSet(raw["current"], raw["bitmap"], raw["history0"], raw["history1"]),
            device_uuid=raw["device_uuid"],
            flags=MdFlag(raw["flags"]),
            clean=magic == MAGIC_CLEAN,
            md_size_sect=raw["md_size_sect"],
            al_offset=raw["al_offset"],
            al_nr_extents=raw["al_nr_extents"],
            bm_offset=raw["bm_offset"],
            bm_bytes_per_bit=raw["bm_bytes_per_bit"],
            la_peer_max_bio_size=raw["la_peer_max_bio_size"],
            al_stripes=stripes,
            al_stripe_size_4k=stripe_size,
        )

    @classmethod
    def decode(cls, block: bytes, layout_of: LayoutOf) -> Superblock:
        """Parse and check; MetadataError says what was found and where. Unclean is accepted here.

        layout_of: e.g. ``functools.partial(Layout.internal, device_bytes)``.
        """
        where = layout_of(AL_STRIPES_DEFAULT, AL_STRIPE_SIZE_4K_DEFAULT).md_offset_bytes
        superblock = cls.parse(block, where)
        try:
            layout = layout_of(superblock.al_stripes, superblock.al_stripe_size_4k)
        except MetadataError as error:  # an activity log that can't be, or not on this device
            raise MetadataError(
                f"the metadata at byte offset {where} are damaged: {error}", ERR_MD_INVALID
            ) from error
        superblock.check(layout)
        return superblock

    def check(self, layout: Layout) -> None:
        """Refuse (119) a superblock that does not belong where it was found."""
        where = f"the metadata at byte offset {layout.md_offset_bytes}"
        if self.bm_bytes_per_bit != BIT_BYTES:
            raise MetadataError(
                f"{where} have {self.bm_bytes_per_bit} bytes per bitmap bit; only {BIT_BYTES} is"
                " supported",
                ERR_MD_INVALID,
            )
        _expect(where, "the activity log's stripes", self.al_stripes, layout.al_stripes)
        _expect(where, "its stripe size", self.al_stripe_size_4k, layout.al_stripe_size_4k)
        _expect(where, "the activity log at sector", self.al_offset, layout.al_offset_sect)
        _expect(where, "the bitmap at sector", self.bm_offset, layout.bm_offset_sect)
        room = (self.md_size_sect - layout.bm_offset_sect) * DATA_SECTORS_PER_BITMAP_SECTOR
        if layout.kind != "flex-external":
            _expect(where, "a size in sectors of", self.md_size_sect, layout.md_size_sect)
        elif self.la_size_sect > room:
            raise MetadataError(
                f"{where} claim {self.md_size_sect} sectors for themselves: too few for the bitmap"
                f" of {self.la_size_sect} sectors of data",
                ERR_MD_INVALID,
            )
        if self.la_size_sect > layout.usable_sectors:
            raise MetadataError(
                f"{where} name a last agreed size of {self.la_size_sect} sectors, but there is room"
                f" for {layout.usable_sectors} at most",
                ERR_MD_INVALID,
            )

    @property
    def needs_apply_al(self) -> bool:
        """Whether the activity log must be applied before these data may be used."""
        return not (self.clean and MdFlag.AL_CLEAN in self.flags)

    def check_applied(self) -> None:
        """Refuse (165) to attach before the activity log is applied."""
        if self.needs_apply_al:
            raise MetadataError(
                "the metadata are unclean: the activity log of the last run must be applied first"
                " (apply-al)",
                ERR_MD_UNCLEAN,
            )


def flags_of(state: State, crashed_primary: bool, old: MdFlag) -> MdFlag:
    """The flags to store when a volume with a local disk has come into *state*.

    Below Inconsistent (Failed, Diskless, ...) the old flags stay: a detach keeps what was true of
    the attached disk. FULL_SYNC, AL_DISABLED and bits we do not know are left alone; AL_CLEAN goes.
    """
    if state.disk < DiskState.INCONSISTENT:
        return old
    diskless_primary = state.pdsk < DiskState.INCONSISTENT and state.peer is Role.PRIMARY
    computed = {
        MdFlag.CRASHED_PRIMARY: crashed_primary,
        MdFlag.PRIMARY_IND: state.role is Role.PRIMARY or diskless_primary,
        MdFlag.CONNECTED_IND: state.conn >= ConnState.CONNECTED,
        MdFlag.CONSISTENT: state.disk > DiskState.INCONSISTENT,
        MdFlag.WAS_UP_TO_DATE: state.disk > DiskState.OUTDATED,
        MdFlag.PEER_OUT_DATED: DiskState.INCONSISTENT <= state.pdsk <= DiskState.OUTDATED,
        MdFlag.AL_CLEAN: False,
    }
    flags = int(old)
    for flag, on in computed.items():
        flags = flags | flag if on else flags & ~int(flag)
    return MdFlag(flags)


def _expect(where: str, what: str, found: int, expected: int) -> None:
    if found != expected:
        raise MetadataError(
            f"{where} have {what} {found}, but on this device it must be {expected}: they were made"
            " for another size or kind of metadata, or are damaged",
            ERR_MD_INVALID,
        )


def foreign_version(block: bytes) -> str | None:
    """The version, v07 or v09, of a superblock that this program can't use; else None."""
    magic = int.from_bytes(block[_MAGIC_OFFSET : _MAGIC_OFFSET + 4], "big")
    old = int.from_bytes(block[_MAGIC_OFFSET_V07 : _MAGIC_OFFSET_V07 + 4], "big")
    if magic == MAGIC_V09:
        return "v09"
    return "v07" if MAGIC_V07 in (magic, old) else None


def _no_superblock(block: bytes, offset_bytes: int | None) -> str:
    """A sentence on what is in the place of a v08 superblock."""
    place = "the metadata block" if offset_bytes is None else f"byte offset {offset_bytes}"
    advice = "create-md makes new metadata"
    version = foreign_version(block)
    if version == "v09":
        return f"{place} holds metadata of DRBD 9 (v09), which can't be used as v08"
    if version == "v07":
        return f"{place} holds metadata of DRBD 8.0 or older (v07), which can't be used as v08"
    if not any(block):
        return f"no metadata found: {place} is all zeroes; {advice}"
    start = block[:16].hex(" ", 4)
    return (
        f"no metadata found: {place} holds something else (it starts with {start}, and has"
        f" {block[_MAGIC_OFFSET : _MAGIC_OFFSET + 4].hex()} where the signature"
        f" {MAGIC_CLEAN:08x} should be); {advice}"
    )
