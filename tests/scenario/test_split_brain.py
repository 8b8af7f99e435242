"""Both sides wrote alone: detected, nothing merged, said by log and status, healed by hand."""

from __future__ import annotations

from typing import Any

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Policy, Role
from tests.support.lab import BLOCK, Lab

OTHER = {"alpha": "beta", "beta": "alpha"}
MINE = {"alpha": b"alpha's " * 512, "beta": b"beta's !" * 512}


def torn(*, primaries: tuple[str, ...] = ("alpha", "beta"), **options: Any) -> Lab:
    """Both were Primary during a partition; only *primaries* still are when the net is mended."""
    lab = Lab(**options)
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.partition()
    lab.primary("beta")
    for number, name in enumerate(("alpha", "beta")):
        lab.write(name, 0, MINE[name])
        lab.write(name, (10 + number) * BLOCK, MINE[name])
    for name in ("alpha", "beta"):
        if name not in primaries:
            lab.secondary(name)
    lab.heal()
    return lab


def both_alone(lab: Lab) -> None:
    lab.run_until(
        lambda: all(m.connection is ConnState.STANDALONE for m in lab.network.machines),
        what="both StandAlone",
    )


@pytest.mark.parametrize("primaries", [(), ("alpha",), ("beta",), ("alpha", "beta")])
def test_detected_whoever_is_primary_and_nothing_is_merged(primaries: tuple[str, ...]) -> None:
    lab = torn(primaries=primaries)
    both_alone(lab)
    for number, name in enumerate(("alpha", "beta")):
        assert lab.told(name, "Split-Brain detected but unresolved, dropping connection!")
        node = lab[name].node
        assert node is not None
        assert node.status().split_brain
        assert lab.on_disk(name, 0, BLOCK) == MINE[name]
        assert lab.on_disk(name, (10 + number) * BLOCK, BLOCK) == MINE[name]
        assert lab.state(name).disk is DiskState.UP_TO_DATE


def test_primaries_go_on_serving_alone() -> None:
    lab = torn()
    both_alone(lab)
    for name in ("alpha", "beta"):
        assert lab.read(name, 0, BLOCK) == MINE[name]
        lab.write(name, 20 * BLOCK, MINE[name])


def test_connecting_again_detects_it_again() -> None:
    lab = torn(primaries=())
    both_alone(lab)
    lab.connect("alpha")
    lab.connect("beta")
    both_alone(lab)


@pytest.mark.parametrize("victim", ["alpha", "beta"])
@pytest.mark.parametrize("first", ["victim", "survivor"])
def test_one_side_discards_its_data_by_hand(victim: str, first: str) -> None:
    lab = torn(primaries=(OTHER[victim],))
    both_alone(lab)
    survivor = OTHER[victim]
    if first == "victim":
        lab.connect(victim, discard_my_data=True)
        lab.run_for(0.5)
        lab.connect(survivor)
    else:
        lab.connect(survivor)
        lab.run_for(0.5)
        lab.connect(victim, discard_my_data=True)
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk(victim, 0, BLOCK) == MINE[survivor]
    assert lab.told(victim, "Split-Brain detected, manually solved. Sync from peer node")
    for name in ("alpha", "beta"):
        node = lab[name].node
        assert node is not None
        assert not node.status().split_brain


def test_both_discarding_is_refused() -> None:
    lab = torn(primaries=())
    both_alone(lab)
    lab.connect("alpha", discard_my_data=True)
    lab.connect("beta", discard_my_data=True)
    both_alone(lab)
    assert lab.on_disk("alpha", 0, BLOCK) == MINE["alpha"]
    assert lab.on_disk("beta", 0, BLOCK) == MINE["beta"]


def test_the_wish_to_discard_is_forgotten_after_one_use() -> None:
    """Connected once with discard-my-data; the next split brain is not solved by it."""
    lab = torn(primaries=("alpha",))
    both_alone(lab)
    lab.connect("beta", discard_my_data=True)
    lab.connect("alpha")
    lab.in_sync()
    lab.partition()
    lab.primary("beta")
    lab.write("beta", 0, MINE["beta"])
    lab.write("alpha", 0, MINE["alpha"])
    lab.secondary("beta")
    lab.heal()
    both_alone(lab)
    assert lab.on_disk("beta", 0, BLOCK) == MINE["beta"]


def test_promotion_forgets_the_wish_to_discard() -> None:
    lab = torn(primaries=())
    both_alone(lab)
    lab.connect("beta", discard_my_data=True)
    lab.primary("beta")
    lab.secondary("beta")
    lab.connect("alpha")
    both_alone(lab)
    assert lab.on_disk("beta", 0, BLOCK) == MINE["beta"]


def test_two_primaries_that_share_a_generation_do_not_connect_either() -> None:
    """Nothing was written on either side, but both are Primary."""
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.partition()
    lab.primary("beta")
    lab.heal()
    lab.run_until(
        lambda: any(m.connection is ConnState.STANDALONE for m in lab.network.machines),
        what="somebody StandAlone",
    )
    assert all(lab.state(name).role is Role.PRIMARY for name in ("alpha", "beta"))


# -- call-pri-lost-after-sb ---------------------------------------------------------------------

GIVES_UP = {
    "net": {"after_sb_1pri": Policy.CALL_HELPER, "after_sb_2pri": Policy.CALL_HELPER},
    "net_of": {
        "alpha": {"after_sb_0pri": Policy.DISCARD_LOCAL},
        "beta": {"after_sb_0pri": Policy.DISCARD_REMOTE},
    },
}


def test_a_primary_victim_that_nobody_uses_gives_up_its_role() -> None:
    lab = torn(primaries=("alpha",), **GIVES_UP)
    lab.in_sync()
    assert lab.told("alpha", "Successfully gave up primary role.")
    assert lab.shows("alpha", role=Role.SECONDARY, peer=Role.SECONDARY)
    assert lab.shows("beta", role=Role.SECONDARY, peer=Role.SECONDARY)
    assert lab.differing_blocks() == []
    assert lab.on_disk("alpha", 0, BLOCK) == MINE["beta"]
    assert not lab.uuids("alpha").current & 1


def test_a_primary_victim_in_use_stays_primary_and_alone() -> None:
    lab = Lab(**GIVES_UP)
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.partition()
    lab.primary("beta")
    for name in ("alpha", "beta"):
        lab.write(name, 0, MINE[name])
    lab.secondary("beta")
    assert lab.open("alpha") is None
    lab.heal()
    lab.run_until(lambda: lab.alpha.connection is ConnState.STANDALONE)
    lab.run_for(2)
    assert lab.shows("alpha", role=Role.PRIMARY)
    assert lab.beta.connection is ConnState.WF_CONNECTION
    assert lab.on_disk("alpha", 0, BLOCK) == MINE["alpha"]
    assert lab.on_disk("beta", 0, BLOCK) == MINE["beta"]


def test_of_two_primaries_the_victim_gives_up_and_the_survivor_goes_on() -> None:
    lab = torn(**GIVES_UP)
    lab.in_sync()
    assert lab.shows("alpha", role=Role.SECONDARY)
    assert lab.shows("beta", role=Role.PRIMARY)
    assert lab.differing_blocks() == []
    assert lab.read("beta", 0, BLOCK) == MINE["beta"]
