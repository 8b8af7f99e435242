"""What already lives on a device that is to be given metadata, so that no data are lost to it.

A guess from the first 68 KiB, in the places and sizes documented for each format. Known content
that would be cut off or overwritten is refused whatever the administrator says; anything else needs
a confirmation; all zeroes need none.
"""

from __future__ import annotations

from dataclasses import dataclass

from replblk.meta.layout import Layout
from replblk.model.units import kib

HEAD_BYTES = 68 * 1024
"""How much of the start of a device is looked at."""

_EXT_AT, _EXT_MAGIC = 1024, b"\x53\xef"
_EXT_HAS_JOURNAL, _EXT_64BIT = 0x4, 0x80
_JFS_AT = 32768
_REISER_AT = 65536
_REISER_MAGICS = (b"ReIsErFs", b"ReIsEr2Fs", b"ReIsEr3Fs")
_SWAP_PAGES = (4096, 8192, 16384, 32768, 65536)
_SWAP_MAGICS = (b"SWAPSPACE2", b"SWAP-SPACE")
_LVM_SECTORS = (0, 512, 1024, 1536)

SWAP = "swap space signature"
LVM = "LVM2 physical volume signature"
UNKNOWN = "some data"


@dataclass(frozen=True, slots=True)
class Found:
    """What was found. used_kib: how much of the device it uses; None: not told by its start."""

    what: str
    used_kib: int | None = None


@dataclass(frozen=True, slots=True)
class Judgement:
    """What to tell about existing data. refused: no metadata here; else it is to be confirmed."""

    text: str
    refused: bool


def existing_data(head: bytes, device_bytes: int) -> Found | None:
    """What the first 68 KiB of a device show; None: nothing but zeroes.

    device_bytes: a file system that claims to be larger than the device is still that file system.
    """
    head = head[:HEAD_BYTES].ljust(HEAD_BYTES, b"\0")
    assert device_bytes >= 0
    if not any(head):
        return None
    return (
        _ext(head) or _xfs(head) or _jfs(head) or _reiser(head) or _swap(head) or _lvm(head)
    ) or Found(UNKNOWN)


def judge(found: Found, layout: Layout) -> Judgement:
    """Whether metadata may be made beside (or over) *found*, in drbdmeta's words."""
    lines = [
        f"md_offset {layout.md_offset_bytes}",
        f"al_offset {layout.al_offset_bytes}",
        f"bm_offset {layout.bm_offset_bytes}",
        "",
        f"Found {found.what}",
    ]
    zero_out = [
        "If you want me to do this, you need to zero out the first part",
        "of the device (destroy the content).",
        "You should be very sure that you mean it.",
        "Operation refused.",
    ]
    truncated = [
        "Device size would be truncated, which",
        "would corrupt data and result in",
        "'access beyond end of device' errors.",
    ]
    usable_kib = kib(layout.usable_sectors)
    left = f"{usable_kib:12d} kB left usable by current configuration"
    if found.what == UNKNOWN:
        lines += ["", " ==> This might destroy existing data! <=="]
        return Judgement("\n".join(lines), refused=False)
    if layout.kind != "internal":
        lines += ["", "This would corrupt existing data.", *zero_out]
    elif found.what == SWAP:
        lines += [left, *truncated, *zero_out]
    elif found.used_kib is None:
        lines += [left, "Could not determine the size of the actually used data area.", ""]
        lines += [*truncated, *zero_out]
    else:
        lines += [f"{found.used_kib:12d} kB data area apparently used", left, ""]
        if found.used_kib <= usable_kib:
            lines += [
                "Even though it looks like this would place the new meta data into",
                "unused space, you still need to confirm, as this is only a guess.",
            ]
            return Judgement("\n".join(lines), refused=False)
        lines += [
            *truncated,
            "You need to either",
            "   * use external meta data (recommended)",
            "   * shrink that filesystem first",
            "   * zero out the device (destroy the filesystem)",
            "Operation refused.",
        ]
    return Judgement("\n".join(lines), refused=True)


def _le(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[at : at + size], "little")


def _be(head: bytes, at: int, size: int) -> int:
    return int.from_bytes(head[at : at + size], "big")


def _ext(head: bytes) -> Found | None:
    """ext2/3/4: superblock at 1 KiB, little-endian; ext4 is called ext3, as by drbdmeta."""
    at = _EXT_AT
    if head[at + 56 : at + 58] != _EXT_MAGIC:
        return None
    blocks, log_block_size = _le(head, at + 4, 4), _le(head, at + 24, 4)
    if _le(head, at + 96, 4) & _EXT_64BIT:
        blocks |= _le(head, at + 336, 4) << 32
    journal = _le(head, at + 92, 4) & _EXT_HAS_JOURNAL
    what = "ext3 filesystem" if journal else "ext2 filesystem"
    # A block size no ext file system has: the rest of the superblock is not to be trusted either.
    return Found(what, blocks << log_block_size if log_block_size <= 6 else None)


def _xfs(head: bytes) -> Found | None:
    """XFS: superblock at the start, big-endian: magic, block size, blocks."""
    if head[:4] != b"XFSB":
        return None
    return Found("xfs filesystem", _be(head, 4, 4) * _be(head, 8, 8) >> 10)


def _jfs(head: bytes) -> Found | None:
    """JFS: superblock at 32 KiB, little-endian; its size counts hardware blocks."""
    at = _JFS_AT
    if head[at : at + 4] != b"JFS1":
        return None
    return Found("JFS filesystem", _le(head, at + 8, 8) * _le(head, at + 24, 4) >> 10)


def _reiser(head: bytes) -> Found | None:
    """ReiserFS 3: superblock at 64 KiB, little-endian."""
    at = _REISER_AT
    if not head.startswith(_REISER_MAGICS, at + 52):
        return None
    return Found("reiser filesystem", _le(head, at, 4) * _le(head, at + 44, 2) >> 10)


def _swap(head: bytes) -> Found | None:
    """Swap: a signature at the end of the first page, whatever the page size."""
    found = any(head.startswith(_SWAP_MAGICS, page - 10) for page in _SWAP_PAGES)
    return Found(SWAP) if found else None


def _lvm(head: bytes) -> Found | None:
    """LVM2: a label in one of the first four sectors."""
    found = any(
        head.startswith(b"LABELONE", at) and head.startswith(b"LVM2 001", at + 24)
        for at in _LVM_SECTORS
    )
    return Found(LVM) if found else None
