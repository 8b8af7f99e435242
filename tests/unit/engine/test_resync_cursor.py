"""What the target asks for next: runs of dirty blocks, cut where extents and granules end."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from replblk.engine.resync_cursor import Target, thin_granule_bytes
from replblk.engine.resync_pace import Pace
from replblk.engine.volume import Volume
from replblk.meta.bitmap import Bitmap
from replblk.model.config import DiskOptions, VolumeConfig
from replblk.wire.packets import FF_THIN_RESYNC

KIB = 1024
MIB = 1 << 20


def target_of(bits: int, *dirty: tuple[int, int], granule: int = 0) -> tuple[Volume, Target]:
    options = DiskOptions(rs_discard_granularity=granule)
    volume = Volume(VolumeConfig(number=0, minor=0, device="d", disk="/no", options=options))
    volume.bitmap = Bitmap(bits)
    volume.capacity_sectors = bits * 8
    for first, end in dirty:
        volume.bitmap.set(first, end)
    return volume, Target(Pace(volume, 0.5, 0))


def runs(volume: Volume, target: Target, granule: int = 0) -> list[tuple[int, int]]:
    found = []
    while (run := target.next_run(volume, MIB, granule)) is not None:
        found.append((run[0] * 512 // KIB, run[1] // KIB))
    return found


def test_neighbouring_blocks_are_asked_for_together_up_to_a_mebibyte() -> None:
    volume, target = target_of(1000, (3, 5), (100, 700))
    assert runs(volume, target) == [(12, 8), (400, 1024), (1424, 1024), (2448, 352)]


def test_a_request_stays_within_one_resync_extent() -> None:
    volume, target = target_of(8192, (4000, 4200))
    assert runs(volume, target) == [(16000, 384), (16384, 416)]


def test_granules_are_not_crossed() -> None:
    volume, target = target_of(256, (10, 100))
    assert runs(volume, target, 128 * KIB) == [(40, 88), (128, 128), (256, 128), (384, 16)]


def test_looking_moves_nothing() -> None:
    volume, target = target_of(100, (7, 9))
    assert target.next_run(volume, 0) == (56, 4096)
    assert runs(volume, target) == [(28, 8)]
    assert target.next_run(volume, 0) is None


def test_the_last_block_ends_with_the_device() -> None:
    volume, target = target_of(10, (9, 10))
    volume.capacity_sectors -= 3
    assert target.next_run(volume, MIB) == (72, 5 * 512)


@pytest.mark.parametrize(
    ("granule", "features", "found"),
    [
        (0, FF_THIN_RESYNC, 0),
        (64 * KIB, FF_THIN_RESYNC, 64 * KIB),
        (64 * KIB, 0, 0),
        (6 * KIB, FF_THIN_RESYNC, 0),
        (2 * MIB, FF_THIN_RESYNC, 0),
    ],
)
def test_thin_requests_need_a_peer_that_knows_them(granule: int, features: int, found: int) -> None:
    volume, _ = target_of(10, granule=granule)
    peer = cast(Any, SimpleNamespace(features=features, request_bytes_max=MIB))
    assert thin_granule_bytes(volume, peer) == found
