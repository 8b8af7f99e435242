"""Power cuts at each disk operation of a resize: old or new metadata, differences marked."""

from __future__ import annotations

import pytest

from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab

SIZE = 4 << 20
LITTLE, MUCH = 8192, 2 << 20
"""Less than the metadata take, so that old and new ones overlap; and more."""


def growing(by: int, victim: str, stage: int, how: str) -> tuple[Lab, bool]:
    """alpha is Primary and has blocks that beta lacks; *victim* dies in the resize.

    True if it died before the command ended.
    """
    lab = Lab(device_bytes=SIZE, disk={"c_plan_ahead": 0, "resync_rate": 4000})
    lab.up()
    lab.primary("alpha")
    for block in range(8):
        lab.write("alpha", block * 512 * 1024, bytes([block + 1]) * BLOCK)
    for name in ("alpha", "beta"):
        lab.drive(name).grow(SIZE + by)
    answered: list[object] = []
    done = 0

    def submitted(zone: str, kind: str) -> None:
        nonlocal done
        done += 1

    lab.drive(victim).on_submit = submitted
    lab.alpha.command("resize", answered.append, 0)
    under_way = lab.submit("alpha", "write", 16 * BLOCK, BLOCK, data=b"busy" * 1024)
    lab.world.run_until(lambda: done >= stage or (bool(answered) and under_way.done), 10**10)
    lab.drive(victim).on_submit = None
    early = done >= stage
    lab[victim].kill() if how == "kill" else lab[victim].power_off()
    return lab, early


def valid(lab: Lab, name: str) -> Superblock:
    """The superblock that an attach would find; MetadataError if there is none."""
    drive = lab.drive(name)
    layout = drive.found_layout()
    block = drive.store.read(layout.md_offset_bytes, BLOCK)
    superblock = Superblock.parse(block)
    superblock.check(layout)
    return superblock


@pytest.mark.parametrize("how", ["kill", "power"])
@pytest.mark.parametrize("victim", ["alpha", "beta"])
@pytest.mark.parametrize("by", [LITTLE, MUCH])
def test_killed_at_every_disk_operation_of_a_resize(by: int, victim: str, how: str) -> None:
    stages = warned = 0
    for stage in range(1, 40):
        lab, early = growing(by, victim, stage, how)
        if not early:
            break
        stages += 1
        other = "beta" if victim == "alpha" else "alpha"
        found = valid(lab, victim)
        warned += MdFlag.FULL_SYNC in found.flags
        assert found.la_size_sect in (size_before(), size_before() + by // 512), f"stage {stage}"
        lab.run_until(lambda lab=lab, other=other: lab.state(other).conn < ConnState.CONNECTED)  # type: ignore[misc]
        if victim == "beta":
            lab.write("alpha", 3 << 20, b"alone" + bytes(BLOCK - 5))
        lab.boot(victim)
        lab.in_sync()
        assert lab.differing_blocks() == [], f"stage {stage}"
        if victim == "alpha":
            lab.primary("alpha")
        assert lab.command("alpha", "resize").exit_code == 0, f"stage {stage}"
        lab.in_sync()
        sizes = [lab[name].node.size_bytes(0) for name in ("alpha", "beta")]  # type: ignore[union-attr]
        assert sizes == [size_before() * 512 + by] * 2, f"stage {stage}"
        assert lab.differing_blocks() == []
    assert stages > 5
    assert warned or by != LITTLE, "no cut found the metadata in the middle of a move"
    assert not warned or by == LITTLE, "a full sync, where the old metadata could have stayed"


def size_before() -> int:
    """Sectors of the device before it grows."""
    return Layout.internal(SIZE).usable_sectors


@pytest.mark.parametrize("by", [LITTLE, MUCH])
@pytest.mark.parametrize("crashed", [False, True])
def test_a_device_that_grew_while_it_was_down_is_found_and_moved(by: int, crashed: bool) -> None:
    lab = Lab(device_bytes=SIZE)
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 5 * BLOCK, b"here" * 1024)
    for name in ("beta", "alpha"):
        if crashed:
            lab[name].power_off()
        else:
            lab.command(name, "down")
            lab[name].kill()
        lab.drive(name).grow(SIZE + by)
    assert lab.boot("alpha").exit_code == 0
    assert lab.told("alpha", "Moving the internal meta data to its proper location")
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE
    assert lab.boot("beta").exit_code == 0
    lab.in_sync()
    lab.primary("alpha")
    assert lab.read("alpha", 5 * BLOCK, BLOCK) == b"here" * 1024
    node = lab.alpha.node
    assert node is not None
    assert node.size_bytes(0) == size_before() * 512 + by
    assert lab.differing_blocks() == []


def test_killed_at_every_disk_operation_of_an_attach_that_moves() -> None:
    for by in (LITTLE, MUCH):
        stages = 0
        for stage in range(1, 30):
            lab = Lab(device_bytes=SIZE)
            lab.up()
            lab.primary("alpha")
            for block in range(4):
                lab.write("alpha", block << 20, b"data" * 1024)
            lab.alpha.power_off()
            lab.drive("alpha").grow(SIZE + by)
            seen: list[str] = []
            lab.drive("alpha").on_submit = lambda zone, kind, seen=seen: seen.append(zone)  # type: ignore[misc]
            lab.alpha.boot()
            answers: list[object] = []
            lab.alpha.command("up", answers.append)
            lab.world.run_until(
                lambda seen=seen, stage=stage, answers=answers: len(seen) >= stage or bool(answers),  # type: ignore[misc]
                10**10,
            )
            lab.drive("alpha").on_submit = None
            if answers:
                break
            stages += 1
            lab.alpha.power_off()
            assert lab.boot("alpha").exit_code == 0, f"stage {stage}"
            lab.in_sync()
            assert lab.differing_blocks() == [], f"stage {stage}"
        assert stages > 5


def test_a_device_of_which_nothing_is_known_is_refused() -> None:
    lab = Lab(device_bytes=SIZE)
    drive = lab.drive("alpha")
    drive.known = (0, 0)
    drive.grow(SIZE + MUCH)
    answer = lab.boot("alpha")
    assert answer.code == 119
    assert "no metadata found" in answer.text


def test_a_device_that_became_smaller_while_down_is_refused_by_name() -> None:
    lab = Lab(device_bytes=SIZE)
    drive = lab.drive("alpha")
    drive.store.size_bytes -= 1 << 20
    answer = lab.boot("alpha")
    assert answer.code == 119
    assert f"The device had {SIZE} bytes when its metadata were written last" in answer.text
