"""Where superblock, activity log (AL) and bitmap lie on a metadata device.

Offsets named ``_bytes`` count from the start of the device; those named ``_sect`` are 512-byte
sectors relative to the superblock (negative for internal metadata). Sizes say their unit.

    internal        data | bitmap | activity log | superblock       the end of the backing device
    flex-external   superblock | activity log | bitmap              all of a device of its own
    indexed         superblock | activity log | bitmap              128 MiB of a shared device
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from replblk.model.errors import MetadataError
from replblk.model.units import (
    BIT_SECTORS,
    CAPACITY_SECTORS_MAX,
    SECTOR_BYTES,
)

Kind = Literal["internal", "flex-external", "indexed"]

BLOCK_BYTES = 4096
BLOCK_SECTORS = BLOCK_BYTES // SECTOR_BYTES
MD_SIZE_SECT_MAX = (1 << 32) - BLOCK_SECTORS
"""md_size_sect has 32 bits: what lies beyond on a larger device is not used."""
AL_STRIPES_DEFAULT = 1
AL_STRIPE_SIZE_4K_DEFAULT = 8
AL_BLOCKS_MIN = 8
"""An activity log has at least 32 KiB."""
AL_BLOCKS_MAX = (16 << 30) // BLOCK_BYTES
"""An activity log has at most 16 GiB."""
INDEXED_SLOT_SECTORS = 262144
"""128 MiB: the fixed share of one index on an external metadata device."""
DEVICE_BYTES_MIN = 68 * 1024
"""Below this no metadata is made (drbdmeta)."""
ATTACH_BYTES_MIN = 1 << 20
"""Below this a node attaches no metadata device (ERR_MD_DISK_TOO_SMALL)."""
DATA_SECTORS_PER_BITMAP_SECTOR = SECTOR_BYTES * 8 * BIT_SECTORS
INDEX_MAX = 255

ERR_MD_DISK_TOO_SMALL = 112
ERR_MD_INVALID = 119


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def bm_bytes(bits: int) -> int:
    """Bytes that a bitmap of *bits* takes on disk: whole 64-bit words, then whole 4 KiB pages."""
    return _round_up(_round_up(bits, 64) // 8, BLOCK_BYTES)


def bm_sectors(data_sectors: int) -> int:
    """Sectors that the bitmap of a data area takes on disk."""
    return bm_bytes(-(-data_sectors // BIT_SECTORS)) // SECTOR_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Placement of one volume's metadata. Made by ``internal``, ``flexible`` or ``indexed``."""

    kind: Kind
    device_bytes: int  # of the metadata device; internal: of the backing device
    md_offset_bytes: int
    md_size_sect: int
    al_offset_sect: int
    bm_offset_sect: int
    al_stripes: int
    al_stripe_size_4k: int
    usable_sectors: int
    """Most data sectors these metadata can serve. External: the backing device may have fewer."""

    @classmethod
    def internal(
        cls,
        device_bytes: int,
        al_stripes: int = AL_STRIPES_DEFAULT,
        al_stripe_size_4k: int = AL_STRIPE_SIZE_4K_DEFAULT,
    ) -> Layout:
        """Metadata at the end of the backing device itself: the data area starts at sector 0."""
        al_sect = _al_sectors(al_stripes, al_stripe_size_4k)
        if device_bytes < DEVICE_BYTES_MIN:
            raise _too_small(device_bytes, DEVICE_BYTES_MIN, "internal metadata")
        md_offset = (device_bytes - BLOCK_BYTES) // BLOCK_BYTES * BLOCK_BYTES
        md_size = bm_sectors(device_bytes // SECTOR_BYTES) + BLOCK_SECTORS + al_sect
        bm_offset = -md_size + BLOCK_SECTORS
        usable = md_offset // SECTOR_BYTES + bm_offset
        if usable <= 0:
            need = (md_size + BLOCK_SECTORS) * SECTOR_BYTES
            raise _too_small(device_bytes, need, f"an activity log of {al_sect // 2} KiB and data")
        return cls(
            kind="internal",
            device_bytes=device_bytes,
            md_offset_bytes=md_offset,
            md_size_sect=md_size,
            al_offset_sect=-al_sect,
            bm_offset_sect=bm_offset,
            al_stripes=al_stripes,
            al_stripe_size_4k=al_stripe_size_4k,
            usable_sectors=min(usable, CAPACITY_SECTORS_MAX),
        )

    @classmethod
    def flexible(
        cls,
        device_bytes: int,
        al_stripes: int = AL_STRIPES_DEFAULT,
        al_stripe_size_4k: int = AL_STRIPE_SIZE_4K_DEFAULT,
    ) -> Layout:
        """Metadata alone on a device of their own, all of which they may use."""
        al_sect = _al_sectors(al_stripes, al_stripe_size_4k)
        need = max(DEVICE_BYTES_MIN, (BLOCK_SECTORS + al_sect + BLOCK_SECTORS) * SECTOR_BYTES)
        if device_bytes < need:
            raise _too_small(device_bytes, need, "external metadata")
        return cls._external(
            "flex-external",
            device_bytes,
            0,
            min(device_bytes // SECTOR_BYTES, MD_SIZE_SECT_MAX),
            (al_stripes, al_stripe_size_4k),
        )

    @classmethod
    def indexed(
        cls,
        index: int,
        device_bytes: int,
        al_stripes: int = AL_STRIPES_DEFAULT,
        al_stripe_size_4k: int = AL_STRIPE_SIZE_4K_DEFAULT,
    ) -> Layout:
        """Metadata in slot *index* (0..255) of a device that several volumes share."""
        assert 0 <= index <= INDEX_MAX, f"metadata index {index} is not in 0..{INDEX_MAX}"
        if (al_stripes, al_stripe_size_4k) != (AL_STRIPES_DEFAULT, AL_STRIPE_SIZE_4K_DEFAULT):
            raise MetadataError(
                f"indexed metadata have one activity log stripe of 8 blocks, not {al_stripes} of"
                f" {al_stripe_size_4k}",
                ERR_MD_INVALID,
            )
        slot_bytes = INDEXED_SLOT_SECTORS * SECTOR_BYTES
        if device_bytes < slot_bytes * (index + 1):
            raise _too_small(device_bytes, slot_bytes * (index + 1), f"metadata index {index}")
        return cls._external(
            "indexed",
            device_bytes,
            index * slot_bytes,
            INDEXED_SLOT_SECTORS,
            (al_stripes, al_stripe_size_4k),
        )

    @classmethod
    def _external(
        cls, kind: Kind, device_bytes: int, md_offset: int, md_size: int, stripes: tuple[int, int]
    ) -> Layout:
        bm_offset = BLOCK_SECTORS + _al_sectors(*stripes)
        usable = (md_size - bm_offset) * DATA_SECTORS_PER_BITMAP_SECTOR
        return cls(
            kind=kind,
            device_bytes=device_bytes,
            md_offset_bytes=md_offset,
            md_size_sect=md_size,
            al_offset_sect=BLOCK_SECTORS,
            bm_offset_sect=bm_offset,
            al_stripes=stripes[0],
            al_stripe_size_4k=stripes[1],
            usable_sectors=min(usable, CAPACITY_SECTORS_MAX),
        )

    @property
    def al_offset_bytes(self) -> int:
        """Start of the activity log."""
        return self.md_offset_bytes + self.al_offset_sect * SECTOR_BYTES

    @property
    def bm_offset_bytes(self) -> int:
        """Start of the bitmap."""
        return self.md_offset_bytes + self.bm_offset_sect * SECTOR_BYTES

    @property
    def al_blocks(self) -> int:
        """Blocks of 4 KiB in the activity log's ring."""
        return self.al_stripes * self.al_stripe_size_4k

    @property
    def bm_area_bytes(self) -> int:
        """Room for the bitmap."""
        if self.kind == "internal":
            return (self.al_offset_sect - self.bm_offset_sect) * SECTOR_BYTES
        area = (self.md_size_sect - self.bm_offset_sect) * SECTOR_BYTES
        return area // BLOCK_BYTES * BLOCK_BYTES

    @staticmethod
    def bm_bytes(bits: int) -> int:
        """Bytes that a bitmap of *bits* takes on disk, a multiple of 4096."""
        return bm_bytes(bits)

    def al_block_offset(self, transaction_number: int) -> int:
        """Byte offset of the block that holds this activity log transaction.

        Consecutive transactions go to consecutive stripes, so that they reach different disks.
        """
        turn = transaction_number % self.al_blocks
        stripe, row = turn % self.al_stripes, turn // self.al_stripes
        return self.al_offset_bytes + (stripe * self.al_stripe_size_4k + row) * BLOCK_BYTES

    def check_attachable(self) -> None:
        """Refuse (112) what a node does not attach though tools can read it: less than 1 MiB."""
        if self.device_bytes < ATTACH_BYTES_MIN:
            raise _too_small(self.device_bytes, ATTACH_BYTES_MIN, "a metadata device")


def _al_sectors(al_stripes: int, al_stripe_size_4k: int) -> int:
    """Sectors of the activity log; refuses (119) what no node accepts."""
    if al_stripes <= 0 or al_stripe_size_4k <= 0:
        raise MetadataError(
            f"an activity log of {al_stripes} stripes of {al_stripe_size_4k} blocks makes no sense:"
            " both must be at least 1",
            ERR_MD_INVALID,
        )
    blocks = al_stripes * al_stripe_size_4k
    if not AL_BLOCKS_MIN <= blocks <= AL_BLOCKS_MAX:
        raise MetadataError(
            f"an activity log has 32 KiB to 16 GiB, not {blocks * 4} KiB ({al_stripes} stripes of"
            f" {al_stripe_size_4k * 4} KiB)",
            ERR_MD_INVALID,
        )
    return blocks * BLOCK_SECTORS


def _too_small(have_bytes: int, need_bytes: int, what: str) -> MetadataError:
    return MetadataError(
        f"the device has only {have_bytes} bytes; {what} needs at least {need_bytes}",
        ERR_MD_DISK_TOO_SMALL,
    )
