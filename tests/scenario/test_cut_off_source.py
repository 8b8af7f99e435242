"""A Primary loses its target in the middle of a resync, or just as that has finished."""

from __future__ import annotations

from collections.abc import Callable

from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.lab import BLOCK, Lab

SLOW = {"c_plan_ahead": 0, "resync_rate": 400}
BLOCKS = range(0, 240, 2)
DATA = b"while it was away" * 240 + b"  " * 8


def resyncing() -> Lab:
    lab = Lab(disk=SLOW)
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.disconnect("beta")
    for block in BLOCKS:
        lab.write("alpha", block * BLOCK, DATA[:BLOCK])
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    return lab


def cut_when(lab: Lab, condition: Callable[[], bool]) -> None:
    lab.world.run_until(condition, 10**10)
    assert condition()
    lab.partition()
    lab.reaches("alpha", conn=ConnState.WF_CONNECTION)


def test_half_way_the_generation_stays_and_the_rest_is_resynced() -> None:
    lab = resyncing()
    before = lab.uuids("alpha")
    cut_when(lab, lambda: lab.out_of_sync_kib("alpha") < 300)
    left = lab.out_of_sync_kib("alpha")
    assert 0 < left < 400
    assert lab.uuids("alpha") == before
    lab.heal()
    lab.in_sync()
    assert lab.told("alpha", f"Began resync as SyncSource (will sync {left} KB [{left // 4} bits")
    assert lab.differing_blocks() == []


def test_what_is_written_while_it_is_half_way_changes_nothing_about_that() -> None:
    lab = resyncing()
    lab.world.run_until(lambda: lab.out_of_sync_kib("alpha") < 300, 10**10)
    before = lab.uuids("alpha")
    lab.hold("beta")
    for block in (1, 3, 230):
        lab.submit("alpha", "write", block * BLOCK, data=DATA[:BLOCK])
    cut_when(lab, lambda: True)
    assert lab.uuids("alpha") == before
    lab.release("beta")
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_when_the_target_may_be_done_what_follows_has_a_name_of_its_own() -> None:
    """beta finishes, alpha does not hear of it; both go on alone: never merged in silence."""
    lab = resyncing()
    before = lab.uuids("alpha")
    cut_when(lab, lambda: lab.shows("beta", disk=DiskState.UP_TO_DATE))
    after = lab.uuids("alpha")
    assert after.current != before.current
    assert after.bitmap == before.bitmap
    lab.write("alpha", 0, b"A" * BLOCK)
    lab.primary("beta")
    lab.write("beta", 8 * BLOCK, b"B" * BLOCK)
    lab.heal()
    lab.reaches("alpha", conn=ConnState.STANDALONE)
    assert lab.state("alpha").role is Role.PRIMARY
    assert lab.told("alpha", "uuid_compare()=-100") or lab.told("alpha", "Unrelated data")


def test_a_source_whose_disk_fails_when_the_target_is_done_goes_on_with_the_targets_data() -> None:
    """The target said so, and the source has yet to finish: it must not call it Inconsistent."""
    lab = resyncing()
    node = lab["alpha"].node
    assert node is not None
    lab.world.run_until(lambda: bool(node.volumes[0].target_done), 10**10)
    lab.command("alpha", "detach", force=True)
    assert lab.state("alpha").pdsk is DiskState.UP_TO_DATE
    lab.write("alpha", 0, b"N" * BLOCK)
    assert lab.read("alpha", 0, BLOCK) == b"N" * BLOCK
