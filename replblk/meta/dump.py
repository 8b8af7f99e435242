"""The texts that drbdmeta prints of metadata: dump-md, get-gi, show-gi, human sizes.

Exact to the blank, since scripts read them. One difference is meant: dump-md of drbd-utils 8.9 to
9.32 prints the flags as 0, here they are printed as they are (as 9.33 does).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bitarray import bitarray

from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock

_GI_FLAGS = (
    MdFlag.CONSISTENT,
    MdFlag.WAS_UP_TO_DATE,
    MdFlag.PRIMARY_IND,
    MdFlag.CONNECTED_IND,
    MdFlag.FULL_SYNC,
    MdFlag.PEER_OUT_DATED,
    MdFlag.CRASHED_PRIMARY,
)
_UNCLEAN = """\
This_is_an_unclean_meta_data_dump._Don't_trust_the_bitmap.
# You should "apply-al" first, if you plan to restore this.

"""
_SHOW_GI_ABOVE = """
       +--<  Current data generation UUID  >-
       |               +--<  Bitmap's base data generation UUID  >-
       |               |                 +--<  younger history UUID  >-
       |               |                 |         +-<  older history  >-
       V               V                 V         V
"""
_SHOW_GI_BELOW = """
                                                                    ^ ^ ^ ^ ^ ^ ^
                                      -<  Data consistency flag  >--+ | | | | | |
                             -<  Data was/is currently up-to-date  >--+ | | | | |
                                  -<  Node was/is currently primary  >--+ | | | |
                                  -<  Node was/is currently connected  >--+ | | |
         -<  Node was in the progress of setting all bits in the bitmap  >--+ | |
                        -<  The peer's disk was out-dated or inconsistent  >--+ |
      -<  This node was a crashed primary, and has not seen its peer since   >--+

"""
_UNITS = "KMGTPE"
_ROW_WORDS = 8
_COMMENT_WORDS = 64
_KIB_A_WORD = 128
_RUN_WORDS_MIN = 16
_SCAN_WORDS = 1024


def human_size(size_kib: int) -> str:
    """A size as drbdmeta prints it: ``60 MB`` for 61440 KiB; up to 9999 of a unit."""
    unit = 0
    while size_kib >= 10000:
        size_kib = (size_kib >> 10) + (size_kib >> 9 & 1)
        unit += 1
    return f"{size_kib} {_UNITS[unit]}B"


def gi_text(superblock: Superblock) -> str:
    """``get-gi``: four UUIDs and seven flags, no newline."""
    digits = (str(int(flag in superblock.flags)) for flag in _GI_FLAGS)
    return f"{superblock.uuids}:{':'.join(digits)}"


def show_gi_text(superblock: Superblock) -> str:
    """``show-gi``: the same with a picture and in words."""
    flags = superblock.flags
    if MdFlag.CONSISTENT not in flags:
        disk = "Inconsistent"
    else:
        disk = "UpToDate" if MdFlag.WAS_UP_TO_DATE in flags else "Outdated"
    words = (
        "flags:"
        + (" crashed" if MdFlag.CRASHED_PRIMARY in flags else "")
        + (" Primary" if MdFlag.PRIMARY_IND in flags else " Secondary")
        + (", Connected" if MdFlag.CONNECTED_IND in flags else ", StandAlone")
        + f", {disk}"
        + (", need full sync" if MdFlag.FULL_SYNC in flags else "")
        + (", peer Outdated" if MdFlag.PEER_OUT_DATED in flags else "")
    )
    al = "clean" if MdFlag.AL_CLEAN in flags else "need apply-al"
    size = "zero size device -- never seen peer yet?\n"
    if sectors := superblock.la_size_sect:
        size = (
            f"last agreed size: {human_size(sectors >> 1)} ({sectors} sectors)\n"
            f"last agreed max bio size: {superblock.la_peer_max_bio_size} Byte\n"
        )
    picture = _SHOW_GI_ABOVE + gi_text(superblock) + _SHOW_GI_BELOW
    return f"{picture}{words}\nmeta-data: {al}\n{size}"


def dump_text(
    superblock: Superblock, layout: Layout, bitmap_bytes: bytes, header_lines: Sequence[str]
) -> str:
    """``dump-md``: everything but the activity log, as text that restore-md reads.

    bitmap_bytes: the bitmap of la_size_sect as on disk (a multiple of 8 bytes).
    header_lines: the date and the command, without the leading ``# ``.
    """
    bits = bitarray(endian="little")
    bits.frombytes(bitmap_bytes)
    uuids = superblock.uuids
    header = "".join(f"# {line}\n" for line in ("DRBD meta data dump", *header_lines))
    return (
        f"{header}#\n\n"
        'version "v08";\n\n'
        f"{_UNCLEAN if superblock.needs_apply_al else ''}"
        f"# md_size_sect {layout.md_size_sect}\n"
        f"# md_offset {layout.md_offset_bytes}\n"
        f"# al_offset {layout.al_offset_bytes}\n"
        f"# bm_offset {layout.bm_offset_bytes}\n\n"
        "uuid {\n"
        f"    0x{uuids.current:016X}; 0x{uuids.bitmap:016X};"
        f" 0x{uuids.history0:016X}; 0x{uuids.history1:016X};\n"
        f"    flags 0x{int(superblock.flags):08X};\n"
        "}\n"
        f"# al-extents {superblock.al_nr_extents};\n"
        f"la-size-sect {superblock.la_size_sect};\n"
        f"bm-byte-per-bit {superblock.bm_bytes_per_bit};\n"
        f"device-uuid 0x{superblock.device_uuid:016X};\n"
        f"la-peer-max-bio-size {superblock.la_peer_max_bio_size};\n"
        f"al-stripes {superblock.al_stripes};\n"
        f"al-stripe-size-4k {superblock.al_stripe_size_4k};\n"
        f"# bm-bytes {len(bitmap_bytes)};\n"
        f"bm {{{''.join(_rows(bitmap_bytes))}\n}}\n"
        f"# bits-set {bits.count()};\n"
    )


def _rows(data: bytes) -> Iterator[str]:
    """The bitmap in cells of 64 bits, four a row; runs of equal 32-bit words are folded."""
    words = len(data) // 4
    at = 0
    while at < words:
        if at % _COMMENT_WORDS == 0:
            yield f"\n   # at {at * _KIB_A_WORD}kB"
        run = _run_length(data, at, words) // _ROW_WORDS * _ROW_WORDS
        if run >= _RUN_WORDS_MIN:
            word = int.from_bytes(data[4 * at : 4 * at + 4], "little")
            yield f"\n    {run // 2} times 0x{word:08X}{word:08X};"
            at += run
        else:
            cells = range(4 * at, min(4 * (at + _ROW_WORDS), len(data)), 8)
            row = (f" 0x{int.from_bytes(data[c : c + 8], 'little'):016X};" for c in cells)
            yield "\n   " + "".join(row)
            at += _ROW_WORDS


def _run_length(data: bytes, at: int, words: int) -> int:
    """How many 32-bit words from *at* on equal the first."""
    word = data[4 * at : 4 * at + 4]
    many = word * _SCAN_WORDS
    end = at + 1
    while data[4 * end : 4 * end + len(many)] == many:
        end += _SCAN_WORDS
    while end < words and data[4 * end : 4 * end + 4] == word:
        end += 1
    return end - at
