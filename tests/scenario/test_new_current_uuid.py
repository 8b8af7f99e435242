"""A generation begun by hand, and the first sync that is skipped."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import DiskState
from tests.support.lab import BLOCK, Lab

NEW = b"new data" * 512


def test_two_fresh_nodes_skip_the_first_sync() -> None:
    lab = Lab(fresh=True)
    lab.up()
    assert lab.command("alpha", "new-current-uuid", clear_bitmap=True).exit_code == 0
    lab.in_sync()
    assert not lab.told("alpha", "Began resync")
    assert lab.uuids("alpha") == lab.uuids("beta")
    assert lab.uuids("alpha").bitmap == 0
    lab.run_for(0.2)
    assert lab.durable_bits("alpha") == lab.durable_bits("beta") == set()
    lab.primary("beta")
    lab.write("beta", BLOCK, NEW)
    lab.cut()
    lab.in_sync()
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("dies", ["alpha", "beta"])
@pytest.mark.parametrize("after_ms", range(10))
def test_a_power_cut_while_the_first_sync_is_skipped(dies: str, after_ms: int) -> None:
    """The outcome is a resync or none; never two nodes that refuse each other."""
    lab = Lab(fresh=True)
    lab.up()
    lab.ask("alpha", "new-current-uuid", clear_bitmap=True)
    lab.run_for(after_ms / 10_000)
    lab[dies].power_off()
    lab.run_for(1)
    lab.boot(dies)
    lab.connected()
    if lab.state("alpha").disk is lab.state("beta").disk is DiskState.INCONSISTENT:
        assert lab.command("alpha", "new-current-uuid", clear_bitmap=True).exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_standing_alone_a_generation_begins_and_the_old_one_is_history() -> None:
    lab = Lab()
    lab.up()
    lab.disconnect("alpha")
    before = lab.uuids("alpha")
    assert lab.command("alpha", "new-current-uuid").exit_code == 0
    after = lab.durable_uuids("alpha")
    assert after.bitmap == before.current
    assert after.current not in (before.current, 0, 4)
    assert lab.command("alpha", "new-current-uuid").exit_code == 0
    assert lab.durable_uuids("alpha").history0 == before.current
    assert lab.durable_uuids("alpha").bitmap == after.current
    lab.connect("alpha")
    lab.in_sync()
    assert lab.uuids("beta").current == lab.uuids("alpha").current


def test_clear_bitmap_is_believed() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.disconnect("alpha")
    lab.write("alpha", BLOCK, NEW)
    assert lab.out_of_sync_kib("alpha") == 4
    assert lab.command("alpha", "new-current-uuid", clear_bitmap=True).exit_code == 0
    lab.run_for(0.1)
    assert lab.out_of_sync_kib("alpha") == 0
    assert lab.durable_bits("alpha") == set()


@pytest.mark.parametrize("clear", [False, True])
def test_a_connected_pair_with_data_is_refused(clear: bool) -> None:
    lab = Lab()
    lab.up()
    before = lab.uuids("alpha")
    refused = lab.command("alpha", "new-current-uuid", clear_bitmap=clear)
    assert (refused.exit_code, refused.code) == (10, 151)
    assert lab.uuids("alpha") == before


def test_while_looking_for_the_peer_it_is_refused() -> None:
    lab = Lab()
    lab.boot("alpha")
    assert lab.command("alpha", "new-current-uuid").code == 151


def test_without_a_disk_there_is_nothing_to_begin() -> None:
    lab = Lab()
    lab.up()
    assert lab.command("alpha", "detach").exit_code == 0
    assert lab.command("alpha", "new-current-uuid", clear_bitmap=True).code == 138


@pytest.mark.parametrize("begun_by", ["hand", "promotion"])
def test_what_was_planned_while_io_is_suspended_does_not_begin_twice(begun_by: str) -> None:
    """A second one would push the generation that the peer has out of the bitmap UUID."""
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    before = lab.uuids("alpha").current
    assert lab.command("alpha", "suspend-io").exit_code == 0
    lab.disconnect("alpha")
    if begun_by == "hand":
        assert lab.command("alpha", "new-current-uuid").exit_code == 0
    else:
        lab.secondary("alpha")
        lab.primary("alpha")
    assert lab.command("alpha", "resume-io").exit_code == 0
    lab.write("alpha", 0, b"x" * BLOCK)
    assert lab.uuids("alpha").bitmap | 1 == before | 1
    lab.connect("alpha")
    lab.in_sync()
    assert lab.differing_blocks() == []
