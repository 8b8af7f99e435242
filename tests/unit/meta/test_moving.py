"""Where metadata may be written before the old ones stop to count."""

from __future__ import annotations

import pytest

from replblk.meta.layout import Layout
from replblk.meta.moving import Step, area, plan

MIB = 1 << 20
FROM = Layout.internal(64 * MIB)


@pytest.mark.parametrize("by", [40960, 45056, MIB, 1 << 30])
def test_with_room_the_new_superblock_comes_last_and_nothing_warns(by: int) -> None:
    found = plan(FROM, Layout.internal(64 * MIB + by))
    assert found.steps[:3] == (Step.BITMAP, Step.ACTIVITY_LOG, Step.SUPERBLOCK)
    assert found.counts_after is Step.SUPERBLOCK


@pytest.mark.parametrize("by", [4096, 8192, 36864])
def test_where_old_and_new_overlap_a_warning_comes_first(by: int) -> None:
    found = plan(FROM, Layout.internal(64 * MIB + by))
    assert found.steps[:2] == (Step.WARN, Step.REMEMBER)
    assert found.steps[2:5] == (Step.ACTIVITY_LOG, Step.BITMAP, Step.SUPERBLOCK)
    assert found.counts_after is Step.WARN


def test_metadata_that_were_cut_off_are_written_anew_with_a_warning_first() -> None:
    found = plan(FROM, Layout.internal(48 * MIB))
    assert found.steps[0] is Step.WARN
    assert found.erase == ()


@pytest.mark.parametrize("by", [4096, 8192, 36864, 40960, MIB])
def test_just_what_was_metadata_and_is_no_more_is_erased(by: int) -> None:
    new = Layout.internal(64 * MIB + by)
    erased = {
        at for start, size in plan(FROM, new).erase for at in range(start, start + size, 4096)
    }
    assert erased == set(area(FROM)[::4096]) - set(area(new)[::4096])


@pytest.mark.parametrize("by", [4096, 40960, MIB])
def test_the_old_metadata_are_whole_until_the_new_ones_count(by: int) -> None:
    """Unless the warning stands, which needs nothing but the superblock's own block."""
    new = Layout.internal(64 * MIB + by)
    touched = {
        Step.WARN: range(new.md_offset_bytes, new.md_offset_bytes + 4096),
        Step.BITMAP: range(new.bm_offset_bytes, new.al_offset_bytes),
        Step.ACTIVITY_LOG: range(new.al_offset_bytes, new.md_offset_bytes),
        Step.SUPERBLOCK: range(new.md_offset_bytes, new.md_offset_bytes + 4096),
    }
    found = plan(FROM, new)
    for step in found.steps:
        places = set(touched[step]) & set(area(FROM)) if step in touched else set()
        assert not places, step
        if step is found.counts_after:
            break
