"""What one node alone has for good, and whether its generation says so."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.generation import JUST_CREATED, UuidSet
from replblk.sim.disk import Drive
from replblk.sim.generation_audit import judge_acknowledged
from replblk.sim.metadata_audit import durable_superblock
from replblk.sim.options import Options
from replblk.sim.setup import build_pair
from replblk.sim.world import SimulationError, World
from tests.support.recorder_node import RecorderNode

DATA = b"data" * 1024
SAME, NEWER = 0xAAAA_0000, 0xBBBB_0000


def pair() -> tuple[Drive, Drive]:
    """Two drives in sync."""
    network = build_pair(World(3), Options(seed=3, fresh=False), RecorderNode)
    first, second = (machine.drives[0] for machine in network.machines)
    for drive in (first, second):
        rename(drive, UuidSet(SAME))
    return first, second


def rename(drive: Drive, uuids: UuidSet, *, durable: bool = True, **fields: MdFlag) -> None:
    """The superblock of a drive says that; not durable: it may be lost with the power."""
    superblock: Superblock = replace(durable_superblock(drive), uuids=uuids, **fields)
    at = drive.layout.md_offset_bytes
    drive.store.write(at, superblock.encode(), 4096, durable=durable)


def test_what_both_have_needs_no_name() -> None:
    drives = pair()
    for drive in drives:
        drive.store.write(0, DATA, len(DATA), durable=True)
    judge_acknowledged(drives, 0, DATA)


@pytest.mark.parametrize("holder", [0, 1])
def test_what_one_has_in_the_generation_of_both_is_a_violation(holder: int) -> None:
    drives = pair()
    drives[holder].store.write(0, DATA, len(DATA), durable=True)
    with pytest.raises(SimulationError, match=r"I8: a write at byte 0 .* NONE by rule 40"):
        judge_acknowledged(drives, 0, DATA)


def test_what_is_not_durable_on_a_node_it_does_not_have() -> None:
    drives = pair()
    drives[0].store.write(0, DATA, len(DATA), durable=True)
    drives[1].store.write(0, DATA, len(DATA), durable=False)
    with pytest.raises(SimulationError, match="I8"):
        judge_acknowledged(drives, 0, DATA)


def test_a_newer_generation_counts_once_it_is_durable() -> None:
    drives = pair()
    drives[0].store.write(0, DATA, len(DATA), durable=True)
    rename(drives[0], UuidSet(NEWER, SAME), durable=False)
    with pytest.raises(SimulationError, match="I8"):
        judge_acknowledged(drives, 0, DATA)
    drives[0].store.flushed(drives[0].store.write_count())
    judge_acknowledged(drives, 0, DATA)


def test_the_newer_generation_belongs_to_the_other() -> None:
    drives = pair()
    drives[0].store.write(0, DATA, len(DATA), durable=True)
    rename(drives[1], UuidSet(NEWER, SAME))
    with pytest.raises(SimulationError, match="TARGET_BITMAP by rule 50"):
        judge_acknowledged(drives, 0, DATA)


def test_a_disk_that_is_not_whole_or_not_used_yet_is_no_rival() -> None:
    drives = pair()
    drives[0].store.write(0, DATA, len(DATA), durable=True)
    rename(drives[1], UuidSet(SAME), flags=MdFlag(0))
    judge_acknowledged(drives, 0, DATA)
    rename(drives[1], UuidSet(JUST_CREATED))
    judge_acknowledged(drives, 0, DATA)


def test_the_only_disk_that_has_it_is_itself_not_whole() -> None:
    drives = pair()
    drives[0].store.write(0, DATA, len(DATA), durable=True)
    rename(drives[0], UuidSet(NEWER, SAME), flags=MdFlag(0))
    with pytest.raises(SimulationError, match="Inconsistent beside"):
        judge_acknowledged(drives, 0, DATA)
