"""Superblocks: round trips, and hostile bytes that only ever cost a MetadataError."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import example, given

from replblk.meta.layout import AL_BLOCKS_MIN, Layout
from replblk.meta.superblock import MAGIC_CLEAN, LayoutOf, MdFlag, Superblock
from replblk.model.errors import MetadataError
from replblk.model.generation import UuidSet

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
GEOMETRIES = st.tuples(st.integers(1, 16), st.integers(1, 64)).filter(
    lambda geometry: geometry[0] * geometry[1] >= AL_BLOCKS_MIN
)
DEVICES = st.integers(8 << 20, 1 << 42).flatmap(
    lambda size: st.sampled_from([partial(Layout.internal, size), partial(Layout.flexible, size)])
)


@given(
    DEVICES,
    GEOMETRIES,
    st.tuples(U64, U64, U64, U64),
    st.tuples(U64, U32, U32, U32),
    st.booleans(),
    st.floats(0, 1),
)
@example(  # the last page of the bitmap is not whole on the device: its bits are there all the same
    partial(Layout.flexible, 15393280), (1, 8), (0, 0, 0, 0), (0, 0, 0, 0), False, 1.0
)
def test_superblock_survives_the_round_trip(
    layout_of: LayoutOf,
    geometry: tuple[int, int],
    uuids: tuple[int, int, int, int],
    numbers: tuple[int, int, int, int],
    clean: bool,
    size: float,
) -> None:
    layout = layout_of(*geometry)
    superblock = replace(
        Superblock.fresh(layout),
        la_size_sect=int(size * layout.usable_sectors),
        uuids=UuidSet(*uuids),
        device_uuid=numbers[0],
        flags=MdFlag(numbers[1]),
        clean=clean,
        al_nr_extents=numbers[2],
        la_peer_max_bio_size=numbers[3],
    )
    block = superblock.encode()
    assert Superblock.decode(block, layout_of) == superblock
    assert Superblock.decode(block, layout_of).encode() == block


@given(st.integers(68 * 1024, 1 << 44))
def test_internal_parts_do_not_overlap_each_other_or_the_data(size: int) -> None:
    layout = Layout.internal(size)
    assert 0 < layout.usable_sectors * 512 == layout.bm_offset_bytes
    assert layout.bm_bytes(-(-layout.usable_sectors // 8)) <= layout.bm_area_bytes
    assert layout.bm_offset_bytes + layout.bm_area_bytes == layout.al_offset_bytes
    assert layout.al_offset_bytes + layout.al_blocks * 4096 == layout.md_offset_bytes
    assert layout.md_offset_bytes + 4096 <= size


@given(st.binary(max_size=200), st.booleans())
def test_hostile_bytes_are_refused_with_a_sentence(data: bytes, magic: bool) -> None:
    block = bytearray(data.ljust(4096, b"\0"))
    if magic:
        block[60:64] = MAGIC_CLEAN.to_bytes(4, "big")
    with pytest.raises(MetadataError, match=r"byte offset 67104768") as refused:
        Superblock.decode(bytes(block), partial(Layout.internal, 64 << 20))
    assert refused.value.number == 119
