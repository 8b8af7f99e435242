"""A diskless Primary whose peer loses its disk, too: only what was served last may be served.

One of the disks, or both, come back at any moment of the other's loss.
"""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.links import NetworkSpeed
from tests.support.lab import BLOCK, Lab

OLD, NEW = b"old." * 1024, b"new!" * 1024


def ready(**options: object) -> Lab:
    lab = Lab(**options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.run_for(0.1)
    return lab


@pytest.mark.parametrize("after_us", range(0, 400, 20))
def test_older_data_are_attached_while_the_word_of_the_peers_lost_disk_is_on_its_way(
    after_us: int,
) -> None:
    """As the attach began there was a peer to bring it up to date."""
    lab = ready()
    lab.command("alpha", "detach")
    lab.write("alpha", 0, NEW)
    attach = lab.ask("alpha", "attach")
    lab.world.run_for(after_us * 1000)
    lab.ask("beta", "detach", force=True)
    lab.answered(attach)
    lab.run_for(1)
    if lab.shows("alpha", disk=DiskState.UP_TO_DATE):
        assert lab.read("alpha", 0, BLOCK) == NEW
    for _ in range(6):
        for name in ("beta", "alpha"):
            if lab.shows(name, disk=DiskState.DISKLESS):
                lab.command(name, "attach")
        lab.run_for(0.5)
    lab.in_sync()
    assert lab.read("alpha", 0, BLOCK) == NEW
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == NEW
    assert not lab.told("alpha", "Split-Brain")


@pytest.mark.parametrize("after_us", range(0, 300, 20))
def test_the_peer_begins_a_generation_and_both_disks_come_back_at_once(after_us: int) -> None:
    """The word of the generation was lost: the Primary knows that there may be one."""
    lab = ready()
    request = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.ask("alpha", "detach", force=True)
    lab.world.run_for(after_us * 1000)
    lab.ask("beta", "detach", force=True)
    lab.run_until(lambda: request.done, what="the answer")
    lab.run_for(0.5)
    for name in ("beta", "alpha"):
        assert lab.shows(name, disk=DiskState.DISKLESS, conn=ConnState.CONNECTED)
    attaches = [lab.ask(name, "attach") for name in ("alpha", "beta")]
    for attach in attaches:
        lab.answered(attach)
    lab.run_for(0.5)
    if lab.shows("alpha", disk=DiskState.DISKLESS):  # it knew, and the peer had no disk yet
        lab.command("alpha", "attach")
    lab.in_sync()
    assert not lab.told("alpha", "Split-Brain") and not lab.told("beta", "Split-Brain")
    assert lab.differing_blocks() == []
    assert request.errno or lab.read("alpha", 0, BLOCK) == NEW


@pytest.mark.parametrize("seed", range(8))
def test_the_peer_begins_a_generation_before_the_disk_is_let_go(seed: int) -> None:
    """What was frozen is not on both: the detach is named at once. That name is what counts."""
    lab = ready(seed=seed, network=NetworkSpeed(latency_ns=20_000, jitter_ns=800_000))
    lab.command("alpha", "suspend-io")
    frozen = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.command("alpha", "detach")
    lab.run_for(0.01)
    assert lab.durable_uuids("beta").bitmap | 1 == lab.durable_uuids("alpha").current | 1
    lab.command("beta", "disconnect", force=True)
    lab.reaches("alpha", conn=ConnState.WF_CONNECTION)
    assert lab.command("alpha", "attach").exit_code == 10
    lab.connect("beta")
    lab.reaches("alpha", conn=ConnState.CONNECTED)
    lab.command("alpha", "resume-io")
    lab.command("alpha", "attach")
    lab.in_sync()
    assert lab.done(frozen).errno == 0
    assert not lab.told("alpha", "Split-Brain")
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == NEW


def test_a_generation_that_never_reached_the_disk_is_not_asked_for() -> None:
    """Nothing was acknowledged in it: the disk has all that clients were told."""
    lab = ready()
    lab.fail("alpha", "superblock", "write", times=1)
    lab.command("beta", "detach", force=True)
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    assert lab.told("alpha", "new current UUID")
    lab.drive("alpha").heal()
    for name in ("alpha", "beta"):
        assert lab.command(name, "attach").exit_code == 0
        lab.run_for(0.5)
    lab.in_sync()
    lab.write("alpha", 0, NEW)
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == NEW


def test_a_generation_that_reached_the_disk_is_the_one_to_attach() -> None:
    lab = ready()
    lab.command("beta", "detach", force=True)
    lab.write("alpha", 0, NEW)
    lab.command("alpha", "detach", force=True)
    assert "other data than was served last" in lab.command("beta", "attach").text
    assert lab.command("alpha", "attach").exit_code == 0
    lab.run_for(0.5)
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert lab.read("alpha", 0, BLOCK) == NEW


@pytest.mark.parametrize("after_us", range(0, 400, 20))
def test_both_disks_are_attached_within_the_time_that_one_attach_takes(after_us: int) -> None:
    """The one is told of the other while it still reads its metadata."""
    lab = ready()
    for name in ("beta", "alpha"):
        lab.command(name, "detach", force=True)
    lab.run_for(0.1)
    waiting = [lab.ask("alpha", "attach")]
    lab.world.run_for(after_us * 1000)
    waiting.append(lab.ask("beta", "attach"))
    for attach in waiting:
        lab.answered(attach)
    lab.run_for(0.5)
    assert lab.state("alpha").disk is not DiskState.NEGOTIATING
    assert lab.state("beta").disk is not DiskState.NEGOTIATING
    if lab.shows("beta", disk=DiskState.DISKLESS):
        lab.command("beta", "attach")
    lab.in_sync()
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("after_us", range(0, 1200, 40))
def test_the_target_is_done_when_its_disk_was_given_up_already(after_us: int) -> None:
    """Its late word that it is UpToDate is not one of another generation that is served."""
    lab = ready()
    lab.partition()
    lab.write("alpha", 0, NEW)
    lab.heal()
    lab.passes("beta", ConnState.SYNC_TARGET)
    lab.world.run_for(after_us * 1000)
    detach = lab.ask("beta", "detach")
    lab.world.run_for(100_000)
    lab.ask("alpha", "detach", force=True)
    lab.answered(detach)
    lab.run_for(0.5)
    assert lab.command("alpha", "attach").exit_code == 0
    lab.run_for(0.5)
    if lab.shows("beta", disk=DiskState.DISKLESS):
        lab.command("beta", "attach")
    lab.in_sync()
    assert lab.read("alpha", 0, BLOCK) == NEW


def test_the_peers_disk_alone_comes_back_in_the_generation_of_both() -> None:
    """Its first write begins a generation: the Primary's own disk bears the same one still."""
    lab = ready()
    for name in ("alpha", "beta"):
        lab.fail(name, "superblock", "write", times=1)  # so that neither begins one before
        lab.ask(name, "detach", force=True)
    lab.run_for(0.1)
    for name in ("alpha", "beta"):
        assert lab.shows(name, disk=DiskState.DISKLESS)
        lab.drive(name).heal()
    assert lab.durable_uuids("alpha").current | 1 == lab.durable_uuids("beta").current | 1
    lab.command("beta", "attach")
    lab.reaches("alpha", pdsk=DiskState.UP_TO_DATE)
    lab.write("alpha", 0, NEW)
    assert lab.durable_uuids("beta").bitmap | 1 == lab.durable_uuids("alpha").current | 1
    lab.lose_power()
    lab.in_sync()
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == NEW
