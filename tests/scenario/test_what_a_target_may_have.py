"""A source that forgot what its target has: killed, it goes on alone, and the two meet again."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab

OLD, NEW, OTHER = (bytes([letter]) * BLOCK for letter in b"one")
SLOW = {"c_plan_ahead": 0, "resync_rate": 4000}


def killed(lab: Lab, name: str) -> None:
    """It knows only what its disk says, and the network does not work meanwhile."""
    lab.partition()
    lab[name].kill()
    lab.boot(name)


def test_a_target_that_never_got_the_sync_uuid_of_a_full_sync() -> None:
    """Its generation is none that the source's bitmap UUID names: only the history knows it."""
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    had = lab.uuids("beta").current
    lab.disconnect("alpha")
    lab.command("alpha", "new-current-uuid")
    lab.write("alpha", 0, NEW)
    lab.connect("alpha")
    lab.passes("alpha", ConnState.SYNC_SOURCE)
    lab.run_until(lambda: lab.durable_uuids("alpha").history0 | 1 == had | 1)
    killed(lab, "alpha")
    assert lab.uuids("beta").current | 1 == had | 1
    lab.primary("alpha")
    assert lab.told("alpha", "new current UUID")
    lab.write("alpha", BLOCK, NEW)
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", 0, 2 * BLOCK) == 2 * NEW


def test_a_target_that_ended_the_resync_after_a_crash_unseen_is_not_merged() -> None:
    """There was no bitmap UUID to make its sync UUID of: it is known for one all the same."""
    lab = Lab(disk=SLOW)
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.alpha.kill()
    lab.boot("alpha")
    lab.reaches("alpha", conn=ConnState.SYNC_SOURCE)
    assert lab.told("alpha", "uuid_compare()=1 by rule 40")
    lab.world.run_until(lambda: lab.shows("beta", disk=DiskState.UP_TO_DATE), 10**10)
    assert lab.shows("alpha", conn=ConnState.SYNC_SOURCE)
    killed(lab, "alpha")
    lab.primary("alpha")
    lab.write("alpha", 0, NEW)
    lab.secondary("alpha")
    lab.primary("beta")
    lab.write("beta", 0, OTHER)
    lab.heal()
    lab.reaches("alpha", conn=ConnState.STANDALONE)
    assert lab.told("alpha", "Split-Brain detected")
    assert (lab.on_disk("alpha", 0, BLOCK), lab.on_disk("beta", 0, BLOCK)) == (NEW, OTHER)


def alpha_is_target() -> Lab:
    """Of a short resync that has just begun; both are Secondary."""
    lab = Lab()
    lab.up()
    lab.primary("beta")
    lab.partition()
    for block in range(3):
        lab.write("beta", block * BLOCK, OLD)
    lab.secondary("beta")
    lab.heal()
    lab.reaches("beta", conn=ConnState.SYNC_SOURCE)
    return lab


@pytest.mark.parametrize("writes", [False, True])
@pytest.mark.parametrize("at_us", range(0, 1500, 25))
def test_a_target_lets_its_disk_go_as_its_resync_ends_unseen(at_us: int, writes: bool) -> None:
    """Its disk bears the generation of the source. What it then writes there as a diskless Primary
    begins a new one; and when it attaches again both compare the same (simulator, wide 74001355:
    both became the source)."""
    lab = alpha_is_target()
    lab.run_for(at_us / 1e6)
    gone = lab.command("alpha", "detach").exit_code == 0
    lab.primary("alpha")
    if writes:
        lab.write("alpha", 0, NEW)
    if gone:
        assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []
    expected = NEW if writes else OLD
    assert lab.read("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == expected


@pytest.mark.parametrize("at_us", range(0, 1500, 50))
def test_a_primary_loses_its_disk_as_its_resync_ends_unseen(at_us: int) -> None:
    """What it writes then is in no generation that its own disk may bear, whatever that has."""
    lab = alpha_is_target()
    lab.primary("alpha")
    lab.run_for(at_us / 1e6)
    assert lab.command("alpha", "detach", force=True).exit_code == 0
    request = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.run_for(1)
    assert request.done
    assert request.errno == 0
    assert lab.durable_uuids("alpha").current | 1 != lab.durable_uuids("beta").current | 1
    assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.on_disk("alpha", 0, BLOCK) == NEW
    assert lab.differing_blocks() == []
