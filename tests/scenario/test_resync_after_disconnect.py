"""Disconnected, written, connected again: exactly the changed blocks travel."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.lab import BLOCK, Lab

DATA = b"changed!" * 512


def ready() -> Lab:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, DATA)
    lab.run_for(0.1)
    return lab


def received_kib(lab: Lab, name: str) -> int:
    node = lab[name].node
    assert node is not None
    return node.status().volumes[0].received_kib


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_only_what_was_written_meanwhile_is_resynced(who: str) -> None:
    lab = ready()
    lab.disconnect(who)
    lab.run_until(lambda: lab.state("alpha").pdsk is DiskState.DUNKNOWN)
    for block in (3, 4, 90):
        lab.write("alpha", block * BLOCK, DATA)
    assert lab.out_of_sync_kib("alpha") == 12
    before = received_kib(lab, "beta") if who == "alpha" else 0  # counted since connect
    lab.connect(who)
    lab.in_sync()
    assert received_kib(lab, "beta") - before == 12
    assert lab.differing_blocks() == []
    assert lab.told("alpha", "Began resync as SyncSource (will sync 12 KB [3 bits set])")


def test_nothing_written_nothing_sent() -> None:
    lab = ready()
    lab.disconnect("beta")
    lab.run_for(1)
    lab.connect("beta")
    lab.in_sync()
    assert received_kib(lab, "beta") == 0


def test_two_secondaries_part_and_meet_without_any_resync() -> None:
    lab = Lab()
    lab.up()
    before = lab.uuids("alpha")
    lab.cut()
    lab.in_sync()
    assert lab.uuids("alpha") == before == lab.uuids("beta")
    assert not lab.told("alpha", "Began resync")


def test_the_other_direction_after_a_switchover() -> None:
    lab = ready()
    lab.secondary("alpha")
    lab.primary("beta")
    lab.disconnect("alpha")
    lab.run_until(lambda: lab.state("beta").pdsk is DiskState.DUNKNOWN)
    lab.write("beta", 7 * BLOCK, DATA)
    lab.connect("alpha")
    lab.in_sync()
    assert lab.on_disk("alpha", 7 * BLOCK, BLOCK) == DATA
    assert lab.state("alpha").role is Role.SECONDARY


def test_an_unacknowledged_write_is_in_the_bitmap_after_the_loss_and_still_answered() -> None:
    lab = ready()
    lab.hold("beta")
    request = lab.submit("alpha", "write", 9 * BLOCK, BLOCK, data=DATA)
    lab.run_for(0.01)
    lab.cut()
    assert lab.done(request).errno == 0
    assert lab.out_of_sync_kib("alpha") == 4
    lab.release("beta")
    lab.in_sync()
    assert lab.on_disk("beta", 9 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []


def test_writes_during_the_resync_travel_once() -> None:
    lab = Lab(disk={"c_plan_ahead": 0, "resync_rate": 400})
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in range(0, 200, 2):
        lab.write("alpha", block * BLOCK, bytes([block + 1]) * BLOCK)
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    for block in range(198, 98, -2):
        lab.write("alpha", block * BLOCK, DATA)
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert received_kib(lab, "beta") <= (100 + 10) * 4


def test_a_resync_that_is_cut_goes_on_where_it_was() -> None:
    lab = Lab(disk={"c_plan_ahead": 0, "resync_rate": 400})
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in range(0, 400, 2):
        lab.write("alpha", block * BLOCK, DATA)
    lab.connect("beta")
    lab.run_until(lambda: 0 < lab.out_of_sync_kib("beta") < 500)
    lab.cut()
    left, before = lab.out_of_sync_kib("alpha"), received_kib(lab, "beta")
    assert 0 < left < 800
    lab.in_sync()
    assert received_kib(lab, "beta") - before <= left
    assert lab.differing_blocks() == []


def test_bits_of_a_disconnected_primary_survive_its_power_cut() -> None:
    lab = ready()
    lab.disconnect("beta")
    lab.run_until(lambda: lab.state("alpha").pdsk is DiskState.DUNKNOWN)
    lab.write("alpha", 50 * BLOCK, DATA)
    lab.alpha.power_off()
    lab.boot("alpha")
    assert lab.out_of_sync_kib("alpha") >= 4
    lab.connect("beta")
    lab.in_sync()
    assert lab.on_disk("beta", 50 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []
