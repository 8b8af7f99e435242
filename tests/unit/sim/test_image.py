"""Drives of the simulator carry real metadata."""

from __future__ import annotations

from replblk.meta.al_transaction import replay
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.sim.disk import Drive
from replblk.sim.image import AL_BLOCKS
from replblk.sim.options import Options
from replblk.sim.setup import build_pair
from replblk.sim.world import World
from tests.support.recorder_node import RecorderNode


def _drives(*, fresh: bool) -> list[Drive]:
    network = build_pair(World(3), Options(seed=3, fresh=fresh), RecorderNode)
    return [machine.drives[0] for machine in network.machines]


def _superblock(drive: Drive) -> Superblock:
    block = drive.store.read(drive.layout.md_offset_bytes, 4096)
    return Superblock.decode(block, lambda *stripes: Layout.internal(4 << 20, *stripes))


def test_a_fresh_drive_is_as_create_md_leaves_it() -> None:
    for drive in _drives(fresh=True):
        superblock = _superblock(drive)
        superblock.check_applied()
        assert superblock.uuids.current == 4
        assert superblock.la_size_sect == 0


def test_a_pair_in_sync_shares_its_generation_and_has_nothing_marked() -> None:
    first, second = (_superblock(drive) for drive in _drives(fresh=False))
    assert first == second
    assert first.uuids.bitmap == 0
    assert first.la_size_sect == _drives(fresh=False)[0].layout.usable_sectors
    assert MdFlag(first.flags) & MdFlag.CONSISTENT
    assert MdFlag(first.flags) & MdFlag.WAS_UP_TO_DATE


def test_the_activity_log_is_initialised() -> None:
    drive = _drives(fresh=False)[0]
    offset = drive.layout.al_offset_bytes
    found = replay([drive.store.read(offset + n * 4096, 4096) for n in range(AL_BLOCKS)])
    assert found.any_magic
    assert found.corrupt == 0
    assert not found.extents
