"""The Primary dies with hot extents: whoever comes back first, nothing acknowledged is lost."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.lab import BLOCK, EXTENT, Lab

DATA = b"acknowledged" * 341 + b"!!!!"


def crash(how: str, lab: Lab, name: str) -> None:
    lab[name].kill() if how == "kill" else lab[name].power_off()


def ready() -> Lab:
    """alpha Primary, three hot extents, some writes in flight when it ends."""
    lab = Lab(device_bytes=16 << 20)
    lab.up()
    lab.primary("alpha")
    for extent in range(3):
        lab.write("alpha", extent * EXTENT, DATA)
    return lab


@pytest.mark.parametrize("how", ["kill", "power"])
def test_the_primary_returns_while_the_other_stays_secondary(how: str) -> None:
    lab = ready()
    in_flight = [
        lab.submit("alpha", "write", extent * EXTENT + BLOCK, BLOCK, data=DATA)
        for extent in range(3)
    ]
    lab.run_for(0.00005)
    assert not all(request.done for request in in_flight)
    crash(how, lab, "alpha")
    lab.run_until(lambda: lab.state("beta").conn < ConnState.CONNECTED)
    assert lab.state("beta").disk is DiskState.UP_TO_DATE
    lab.boot("alpha")
    assert lab.told("alpha", "out-of-sync based on AL")
    lab.in_sync()
    assert lab.differing_blocks() == []
    for extent in range(3):
        assert lab.on_disk("beta", extent * EXTENT, BLOCK) == DATA


@pytest.mark.parametrize("how", ["kill", "power"])
def test_the_other_takes_over_and_the_crashed_one_returns_as_target(how: str) -> None:
    lab = ready()
    crash(how, lab, "alpha")
    lab.run_until(lambda: lab.state("beta").conn < ConnState.CONNECTED)
    lab.primary("beta")
    for extent in range(3):
        assert lab.read("beta", extent * EXTENT, BLOCK) == DATA
    lab.write("beta", 8 * BLOCK, DATA)
    lab.boot("alpha")
    lab.in_sync()
    assert lab.state("alpha").role is Role.SECONDARY
    assert lab.on_disk("alpha", 8 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("order", [("alpha", "beta"), ("beta", "alpha")])
@pytest.mark.parametrize("how", ["kill", "power"])
def test_both_die_and_return_in_either_order(how: str, order: tuple[str, str]) -> None:
    lab = ready()
    crash(how, lab, "alpha")
    crash(how, lab, "beta")
    for name in order:
        lab.boot(name)
        lab.run_for(2)
    lab.in_sync()
    assert lab.differing_blocks() == []
    lab.primary("beta")
    for extent in range(3):
        assert lab.read("beta", extent * EXTENT, BLOCK) == DATA


def test_both_die_and_the_former_secondary_is_promoted_alone() -> None:
    """It has everything that was acknowledged; the crashed Primary comes back as its target."""
    lab = ready()
    lab.alpha.power_off()
    lab.beta.power_off()
    lab.boot("beta")
    lab.primary("beta")
    for extent in range(3):
        assert lab.read("beta", extent * EXTENT, BLOCK) == DATA
    lab.write("beta", 0, DATA[::-1])
    lab.boot("alpha")
    lab.in_sync()
    assert lab.on_disk("alpha", 0, BLOCK) == DATA[::-1]
    assert lab.differing_blocks() == []


def test_after_a_secondary_crash_only_what_it_missed_is_resynced() -> None:
    lab = ready()
    lab.beta.power_off()
    lab.write("alpha", 5 * BLOCK, DATA)
    lab.write("alpha", 6 * BLOCK, DATA)
    lab.boot("beta")
    lab.in_sync()
    node = lab.beta.node
    assert node is not None
    assert node.status().volumes[0].received_kib <= 20
    assert lab.differing_blocks() == []


def test_a_crashed_primary_alone_comes_back_with_its_own_acknowledged_data() -> None:
    lab = ready()
    lab.beta.kill()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    lab.write("alpha", 40 * BLOCK, DATA)
    lab.alpha.power_off()
    lab.boot("alpha")
    lab.primary("alpha")
    assert lab.read("alpha", 40 * BLOCK, BLOCK) == DATA
    lab.boot("beta")
    lab.in_sync()
    assert lab.on_disk("beta", 40 * BLOCK, BLOCK) == DATA


def test_a_primary_that_stopped_without_its_peer_was_degraded() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.beta.power_off()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    lab.run_for(0.1)
    lab.alpha.power_off()
    for name, degraded in (("alpha", True), ("beta", False)):
        lab.boot(name)
        node = lab[name].node
        assert node is not None
        assert node.status().volumes[0].degraded is degraded
