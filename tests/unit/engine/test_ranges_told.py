"""What clients may be told of ranges: the out-of-sync blocks, in bytes."""

from __future__ import annotations

from replblk.engine.ranges_told import all_here, out_of_sync
from replblk.engine.volume import Volume
from replblk.meta.bitmap import Bitmap
from replblk.model.config import VolumeConfig
from replblk.model.vocabulary import DiskState

KIB4 = 4096


def volume(*dirty: int) -> Volume:
    made = Volume(VolumeConfig(number=0, minor=0, device="/dev/drbd0", disk="/none"))
    made.bitmap = Bitmap(100)
    for bit in dirty:
        made.bitmap.set(bit, bit + 1)
    return made


def test_runs_of_bits_become_ranges_of_bytes() -> None:
    found = out_of_sync(volume(2, 3, 50), 0, 100 * KIB4, 10)
    assert found == [
        (2 * KIB4, False),
        (2 * KIB4, True),
        (46 * KIB4, False),
        (KIB4, True),
        (49 * KIB4, False),
    ]


def test_a_range_that_begins_and_ends_inside_blocks_is_described_exactly() -> None:
    assert out_of_sync(volume(1), 512, 8192, 10) == [
        (KIB4 - 512, False),
        (KIB4, True),
        (512, False),
    ]


def test_it_stops_after_so_many_ranges() -> None:
    assert out_of_sync(volume(2, 4, 6), 0, 100 * KIB4, 2) == [(2 * KIB4, False), (KIB4, True)]


def test_without_a_bitmap_the_peer_may_lack_everything() -> None:
    diskless = volume()
    diskless.bitmap = None
    assert out_of_sync(diskless, 0, KIB4, 10) == [(KIB4, True)]


def test_only_an_up_to_date_disk_answers_every_read() -> None:
    it = volume()
    for disk in DiskState:
        it.state = it.state.but(disk=disk)
        assert all_here(it) == (disk is DiskState.UP_TO_DATE)
    it.state = it.state.but(disk=DiskState.UP_TO_DATE, susp=True)
    assert not all_here(it)
