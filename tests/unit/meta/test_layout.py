"""Where metadata lie on devices of all sizes and kinds."""

from __future__ import annotations

import pytest

from replblk.meta.layout import Layout, bm_bytes
from replblk.model.errors import MetadataError

MIB = 1 << 20


@pytest.mark.parametrize(
    ("mib", "md_offset", "md_size", "al_byte", "bm_byte", "usable"),
    [
        (16, 16773120, 80, 16740352, 16736256, 32688),
        (32, 33550336, 80, 33517568, 33513472, 65456),
        (64, 67104768, 80, 67072000, 67067904, 130992),
        (512, 536866816, 104, 536834048, 536817664, 1048472),
        (1024, 1073737728, 136, 1073704960, 1073672192, 2097016),
    ],
)
def test_internal_metadata_lie_at_the_end(
    mib: int, md_offset: int, md_size: int, al_byte: int, bm_byte: int, usable: int
) -> None:
    layout = Layout.internal(mib * MIB)
    assert layout.md_offset_bytes == md_offset
    assert layout.md_size_sect == md_size
    assert layout.al_offset_bytes == al_byte
    assert layout.bm_offset_bytes == bm_byte
    assert layout.usable_sectors == usable
    assert layout.bm_area_bytes == bm_bytes(mib * MIB // 4096)


def test_superblock_is_the_last_whole_block_of_an_odd_device() -> None:
    layout = Layout.internal(16 * MIB + 4095)
    assert layout.md_offset_bytes == 16 * MIB - 4096
    assert Layout.internal(16 * MIB + 4096).md_offset_bytes == 16 * MIB


def test_indexed_slots_are_128_mib_apart() -> None:
    layout = Layout.indexed(1, 256 * MIB)
    assert (layout.md_offset_bytes, layout.md_size_sect) == (128 * MIB, 262144)
    assert (layout.al_offset_sect, layout.bm_offset_sect) == (8, 72)
    assert layout.usable_sectors == (262144 - 72) * 32768


def test_flexible_metadata_use_their_whole_device() -> None:
    layout = Layout.flexible(4 * MIB)
    assert (layout.md_offset_bytes, layout.md_size_sect) == (0, 8192)
    assert (layout.al_offset_bytes, layout.bm_offset_bytes) == (4096, 36864)
    assert layout.usable_sectors == (8192 - 72) * 32768


def test_no_device_is_given_more_than_a_pebibyte() -> None:
    assert Layout.internal(1 << 52).usable_sectors < 1 << 51
    assert Layout.internal(1 << 61).usable_sectors == 1 << 51


@pytest.mark.parametrize(
    "make",
    [
        lambda: Layout.internal(0),
        lambda: Layout.internal(68 * 1024 - 1),
        lambda: Layout.internal(1 * MIB, al_stripes=1, al_stripe_size_4k=1024),
        lambda: Layout.flexible(40960),
        lambda: Layout.indexed(1, 256 * MIB - 1),
        lambda: Layout.internal(1 * MIB - 4096).check_attachable(),
    ],
)
def test_too_small_a_device_is_refused_with_112(make: object) -> None:
    with pytest.raises(
        MetadataError, match=r"has only \d+ bytes; .* needs at least \d+"
    ) as refused:
        make()  # type: ignore[operator]
    assert refused.value.number == 112


def test_smallest_device_has_room_for_data() -> None:
    assert Layout.internal(68 * 1024).usable_sectors == 56


@pytest.mark.parametrize(("stripes", "size"), [(0, 8), (1, 0), (1, 7), (1 << 20, 8), (3, 2)])
def test_impossible_activity_logs_are_refused_with_119(stripes: int, size: int) -> None:
    with pytest.raises(MetadataError, match="activity log") as refused:
        Layout.internal(1 << 40, stripes, size)
    assert refused.value.number == 119


def test_indexed_metadata_have_no_stripes() -> None:
    with pytest.raises(MetadataError, match="indexed"):
        Layout.indexed(0, 256 * MIB, 4, 16)


def test_consecutive_transactions_go_to_consecutive_stripes_and_round_the_ring() -> None:
    layout = Layout.internal(64 * MIB, al_stripes=4, al_stripe_size_4k=16)
    blocks = [
        (layout.al_block_offset(number) - layout.al_offset_bytes) // 4096 for number in range(64)
    ]
    assert blocks[:6] == [0, 16, 32, 48, 1, 17]
    assert sorted(blocks) == list(range(64))
    assert layout.al_block_offset(64 + 5) == layout.al_block_offset(5)


def test_bitmap_takes_whole_pages() -> None:
    assert [bm_bytes(bits) for bits in (0, 1, 32768, 32769)] == [0, 4096, 4096, 8192]
