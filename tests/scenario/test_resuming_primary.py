"""A Primary's process ends and begins again: Primary by itself where nobody else can have been, and
only there. The command "resume" is what a daemon with ``resume_primary`` gives itself."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.lab import BLOCK, EXTENT, Lab, Waiting

DATA = b"acknowledged" * 341 + b"!!!!"
LATER = DATA[::-1]


def ready() -> Lab:
    """alpha is Primary with hot extents, both are UpToDate."""
    lab = Lab(device_bytes=16 << 20)
    lab.up()
    lab.primary("alpha")
    for extent in range(3):
        lab.write("alpha", extent * EXTENT, DATA)
    return lab


def died(lab: Lab, how: str = "kill") -> None:
    lab.alpha.kill() if how == "kill" else lab.alpha.power_off()
    lab.run_until(lambda: lab.state("beta").conn < ConnState.CONNECTED)


def back(lab: Lab) -> Waiting:
    """The next process: up, and wishing to be what it was."""
    lab.boot("alpha")
    return lab.ask("alpha", "resume", 0)


def role(lab: Lab) -> Role:
    return lab.state("alpha").role


@pytest.mark.parametrize("how", ["kill", "power"])
def test_it_is_primary_again_once_the_peer_agrees(how: str) -> None:
    lab = ready()
    died(lab, how)
    resumed = back(lab)
    assert role(lab) is Role.SECONDARY, "not before it has heard the peer"
    assert lab.answered(resumed).exit_code == 0
    assert role(lab) is Role.PRIMARY
    for extent in range(3):
        assert lab.read("alpha", extent * EXTENT, BLOCK) == DATA
    lab.write("alpha", 0, LATER)
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_it_waits_for_a_peer_that_is_away_however_long() -> None:
    """The other may have been promoted meanwhile: who was Primary knows nothing of that."""
    lab = ready()
    lab.partition()
    lab.alpha.kill()
    resumed = back(lab)
    lab.run_for(120)
    assert resumed.answers == []
    assert role(lab) is Role.SECONDARY
    lab.heal()
    assert lab.answered(resumed).exit_code == 0
    assert role(lab) is Role.PRIMARY


@pytest.mark.parametrize("stays", [True, False], ids=["stays Primary", "was Primary"])
def test_a_peer_that_took_over_keeps_the_role_and_its_data(stays: bool) -> None:
    lab = ready()
    died(lab)
    lab.primary("beta")
    lab.write("beta", 0, LATER)
    if not stays:
        lab.secondary("beta")
    answer = lab.answered(back(lab))
    assert answer.exit_code == 11
    assert "was Primary and stays Secondary" in answer.text
    lab.in_sync()
    assert role(lab) is Role.SECONDARY
    assert lab.on_disk("alpha", 0, BLOCK) == LATER


def test_a_split_brain_is_not_made_worse() -> None:
    lab = ready()
    lab.partition()
    lab.write("alpha", 0, DATA)
    lab.primary("beta")
    lab.write("beta", 0, LATER)
    lab.alpha.kill()
    lab.heal()
    answer = lab.answered(back(lab))
    assert answer.exit_code == 11
    assert role(lab) is Role.SECONDARY
    assert lab.on_disk("beta", 0, BLOCK) == LATER


def test_an_administrators_command_comes_first() -> None:
    lab = ready()
    lab.partition()
    lab.alpha.kill()
    resumed = back(lab)
    assert lab.command("alpha", "secondary").exit_code == 0
    answer = lab.answered(resumed)
    assert answer.exit_code == 11
    assert "an administrator's command came first" in answer.text
    lab.heal()
    lab.in_sync()
    assert role(lab) is Role.SECONDARY


def test_while_it_waits_the_administrator_may_promote_it_alone() -> None:
    lab = ready()
    lab.partition()
    lab.alpha.kill()
    resumed = back(lab)
    lab.primary("alpha")
    assert role(lab) is Role.PRIMARY
    assert lab.answered(resumed).exit_code == 11


def test_a_peer_whose_resync_may_have_ended_unseen_is_not_known_to_be_outdated() -> None:
    """The disk says Outdated of it until the end of the resync is durable here; by then it may
    have been promoted."""
    lab = ready()
    lab.partition()
    lab.write("alpha", 0, LATER)
    lab.heal()
    lab.reaches("alpha", conn=ConnState.SYNC_SOURCE)
    lab.reaches("beta", conn=ConnState.CONNECTED, disk=DiskState.UP_TO_DATE)
    lab.run_until(lambda: not lab.durable_uuids("beta").bitmap)
    lab.alpha.power_off()
    lab.reaches("beta", conn=ConnState.WF_CONNECTION)
    lab.primary("beta")
    lab.network.block(lab.alpha, lab.beta)
    lab.network.block(lab.beta, lab.alpha)
    resumed = back(lab)
    lab.run_for(5)
    assert resumed.answers == []
    assert lab.shows("alpha", role=Role.SECONDARY, pdsk=DiskState.DUNKNOWN)
    lab.heal()
    assert lab.answered(resumed).exit_code == 11
    assert lab.state("beta").role is Role.PRIMARY
    lab.in_sync()
