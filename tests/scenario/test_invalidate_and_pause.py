"""Declaring a side worthless, either way round; holding a resync up and letting it go."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.lab import BLOCK, Lab

OTHER = {"alpha": "beta", "beta": "alpha"}
DATA = b"original" * 512


def spoilt(name: str) -> Lab:
    """In sync by all accounts, but the disk of *name* holds something else in block 30."""
    lab = Lab(device_bytes=1 << 20)
    for machine in lab.network.machines:
        content = b"spoilt.." * 512 if machine.name == name else DATA
        lab.drive(machine.name).store.preset(30 * BLOCK, content)
    lab.up()
    return lab


def whole_kib(lab: Lab) -> int:
    node = lab.alpha.node
    assert node is not None
    return -(-node.size_bytes(0) // BLOCK) * 4


@pytest.mark.parametrize("name", ["alpha", "beta"])
@pytest.mark.parametrize("primary", ["alpha", "beta", ""])
def test_invalidate_copies_everything_from_the_peer(name: str, primary: str) -> None:
    lab = spoilt(name)
    if primary:
        lab.primary(primary)
    assert lab.command(name, "invalidate").exit_code == 0
    lab.in_sync()
    assert lab.on_disk(name, 30 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []
    node = lab[name].node
    assert node is not None
    assert node.status().volumes[0].received_kib >= whole_kib(lab) - 4
    if primary:
        assert lab.state(primary).role is Role.PRIMARY


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_invalidate_remote_copies_everything_to_the_peer(name: str) -> None:
    lab = spoilt(OTHER[name])
    lab.primary("alpha")
    assert lab.command(name, "invalidate-remote").exit_code == 0
    lab.in_sync()
    assert lab.on_disk(OTHER[name], 30 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("slow", ["alpha", "beta"])
@pytest.mark.parametrize("verb", ["invalidate", "invalidate-remote"])
def test_one_node_needs_longer_to_mark_everything(slow: str, verb: str) -> None:
    """The fast node is done and says so while the slow one still writes its bitmap."""
    lab = spoilt("beta" if verb == "invalidate" else "alpha")
    lab.drive(slow).slowness = 400
    assert lab.command("beta", verb).exit_code == 0
    lab.passes("beta", ConnState.CONNECTED)
    lab.drive(slow).slowness = 1
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("alpha", 30 * BLOCK, BLOCK) == DATA
    for name in ("alpha", "beta"):
        assert not lab.told(name, "ProtocolError"), "the connection broke"


def test_an_invalidated_node_alone_is_inconsistent_and_durably_so() -> None:
    lab = Lab()
    lab.up()
    lab.disconnect("beta")
    assert lab.command("beta", "invalidate").exit_code == 0
    assert lab.state("beta").disk is DiskState.INCONSISTENT
    lab.beta.power_off()
    lab.alpha.kill()
    lab.boot("beta")
    assert lab.state("beta").disk is DiskState.INCONSISTENT
    assert lab.command("beta", "primary").exit_code == 17
    lab.boot("alpha")
    lab.in_sync()


def test_interrupted_by_a_power_cut_of_the_target_it_begins_again() -> None:
    lab = spoilt("beta")
    lab.command("beta", "invalidate")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    lab.beta.power_off()
    lab.boot("beta")
    lab.in_sync()
    assert lab.on_disk("beta", 30 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []


def resyncing(who_pauses: str) -> Lab:
    lab = Lab(disk={"c_plan_ahead": 0, "resync_rate": 400})
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in range(0, 400, 2):
        lab.write("alpha", block * BLOCK, DATA)
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    assert lab.command(who_pauses, "pause-sync").exit_code == 0
    return lab


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_a_paused_resync_stands_still_and_goes_on(who: str) -> None:
    lab = resyncing(who)
    lab.reaches("alpha", conn=ConnState.PAUSED_SYNC_S)
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_T)
    lab.run_for(1)
    left = lab.out_of_sync_kib("beta")
    assert left > 0
    lab.run_for(5)
    assert lab.out_of_sync_kib("beta") == left
    assert lab.shows(who, user_isp=True)
    assert lab.shows(OTHER[who], peer_isp=True)
    lab.write("alpha", 1000 * BLOCK - 100 * BLOCK, DATA)  # writes go on
    assert lab.command(who, "resume-sync").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_paused_when_everything_is_copied_it_ends_after_the_pause(who: str) -> None:
    """The target asks the source whether it has heard of all; the answer finds it paused."""
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    lab.write("alpha", 0, DATA)
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    lab.run_until(lambda: lab.out_of_sync_kib("beta") == 0, what="all copied")
    lab.network.block(lab.beta, lab.alpha)
    assert lab.command(who, "pause-sync").exit_code == 0
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_T)
    lab.network.unblock(lab.beta, lab.alpha)
    lab.run_for(1)
    assert lab.command(who, "resume-sync").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_paused_by_both_it_needs_both() -> None:
    lab = resyncing("alpha")
    assert lab.command("beta", "pause-sync").exit_code == 0
    assert lab.command("alpha", "resume-sync").exit_code == 0
    lab.run_for(3)
    assert lab.shows("beta", conn=ConnState.PAUSED_SYNC_T)
    assert lab.command("beta", "resume-sync").exit_code == 0
    lab.in_sync()


def test_a_pause_before_connecting_holds() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    lab.write("alpha", 0, DATA)
    assert lab.command("beta", "pause-sync").exit_code == 0
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_T)
    lab.run_for(3)
    assert lab.out_of_sync_kib("beta") == 4
    assert lab.command("beta", "resume-sync").exit_code == 0
    lab.in_sync()
