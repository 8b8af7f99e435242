"""Equal generations, and yet something is marked: two such nodes resync it; a kernel leaves it."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab
from tests.support.scripted_peer import Rig

ROT = b"rot" * 1024 + bytes(1024)


def verified(*, rotten: str = "beta") -> Lab:
    """Both Secondary; a verify found block 7 of *rotten* to be another one, and block 9."""
    lab = Lab(net={"verify_alg": "sha256"})
    lab.up()
    lab.primary("alpha")
    for block in (7, 8, 9):
        lab.write("alpha", block * BLOCK, b"good" * 1024)
    lab.secondary("alpha")
    for block in (7, 9):
        lab.drive(rotten).store.preset(block * BLOCK, ROT)
    assert lab.command("alpha", "verify").exit_code == 0
    lab.run_until(lambda: lab.told("alpha", "Online verify found 2 4k block out of sync!"))
    lab.run_until(lambda: lab.out_of_sync_kib("beta") == 8)
    return lab


def test_what_a_verify_found_is_resynced_at_the_next_connection() -> None:
    lab = verified()
    before = lab.uuids("alpha").current
    lab.cut()
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.told("alpha", "Equal generations, but 2 bits here and 2 bits at the peer")
    assert lab.uuids("alpha").current == lab.uuids("beta").current == before


@pytest.mark.parametrize("marked", ["alpha", "beta"])
def test_the_only_node_with_marks_is_the_source(marked: str) -> None:
    """The other one hears of it by a flag, and says by one that it does so, too."""
    lab = verified(rotten="beta" if marked == "alpha" else "alpha")
    unmarked = "beta" if marked == "alpha" else "alpha"
    node = lab[unmarked].node
    assert node is not None
    node.volumes[0].bitmap.clear_all()
    lab.cut()
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk(unmarked, 7 * BLOCK, BLOCK) == b"good" * 1024
    assert lab.on_disk(unmarked, 9 * BLOCK, BLOCK) == b"good" * 1024


@pytest.mark.parametrize("marked", ["alpha", "beta"])
@pytest.mark.parametrize("after_us", range(0, 2000, 100))
def test_a_connection_lost_meanwhile_is_made_again(marked: str, after_us: int) -> None:
    lab = verified(rotten="beta" if marked == "alpha" else "alpha")
    node = lab["beta" if marked == "alpha" else "alpha"].node
    assert node is not None
    node.volumes[0].bitmap.clear_all()
    lab.cut()
    lab.connected()
    lab.run_for(after_us / 1_000_000)
    lab.network.cut()
    lab.run_for(0.1)
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_with_a_peer_that_does_not_know_the_flag_the_marks_stay() -> None:
    rig = Rig()
    rig.meet()
    node = rig.alpha.node
    assert node is not None
    node.volumes[0].mark_out_of_sync(0, 4096)
    rig.peer.hang_up()
    rig.breaks()
    rig.meet()
    rig.run_for(1)
    assert rig.shows("alpha", conn=ConnState.CONNECTED, disk=DiskState.UP_TO_DATE)
    assert rig.told("alpha", "No resync, but 1 bits in bitmap!")
    assert rig.out_of_sync_kib("alpha") == 4


def test_the_flag_is_sent_only_with_leftover_bits() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.partition()
    lab.write("alpha", 0, b"x" * BLOCK)
    lab.heal()
    lab.in_sync()
    for name in ("alpha", "beta"):
        node = lab[name].node
        assert node is not None
        assert node.volumes[0].peer_uuids.flags < 16
