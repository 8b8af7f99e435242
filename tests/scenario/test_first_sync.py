"""First sync: two fresh disks, one declared good by force, everything copied to the other."""

from __future__ import annotations

import pytest

from replblk.meta.superblock import MdFlag
from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.lab import BLOCK, Lab

OTHER = {"alpha": "beta", "beta": "alpha"}
SIZE = 1 << 20


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_the_forced_node_is_copied_whole_to_the_other(name: str) -> None:
    lab = Lab(fresh=True, device_bytes=SIZE)
    lab.drive(name).store.preset(40 * BLOCK, b"mine" * 1024)
    lab.drive(OTHER[name]).store.preset(50 * BLOCK, b"rubbish!" * 512)
    lab.up()
    lab.primary(name, force=True)
    lab.in_sync()
    assert lab.on_disk(OTHER[name], 40 * BLOCK, BLOCK) == b"mine" * 1024
    assert lab.differing_blocks() == []
    assert lab.told(name, "Forced to consider local data as UpToDate!")
    assert lab.state(name).role is Role.PRIMARY
    assert lab.state(OTHER[name]).role is Role.SECONDARY


def test_forced_before_the_peer_is_there() -> None:
    lab = Lab(fresh=True, device_bytes=SIZE)
    lab.boot("alpha")
    lab.primary("alpha", force=True)
    lab.write("alpha", 0, b"early" * 1024 + bytes(512 - 5120 % 512))
    lab.boot("beta")
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_both_copies_get_one_generation_and_the_target_is_marked_good_durably() -> None:
    lab = Lab(fresh=True, device_bytes=SIZE)
    lab.up()
    lab.primary("alpha", force=True)
    lab.in_sync()
    lab.run_for(0.1)
    alpha, beta = lab.durable_uuids("alpha"), lab.durable_uuids("beta")
    assert alpha.current | 1 == beta.current | 1
    assert (alpha.bitmap, beta.bitmap) == (0, 0)
    assert MdFlag.WAS_UP_TO_DATE in lab.durable_flags("beta")
    assert lab.durable_bits("beta") == set()


def test_without_force_nobody_becomes_primary() -> None:
    lab = Lab(fresh=True, device_bytes=SIZE)
    lab.up()
    for name in ("alpha", "beta"):
        answer = lab.command(name, "primary")
        assert (answer.exit_code, answer.code) == (17, -2)
        assert "Need access to UpToDate data" in answer.text
        assert "--force" in answer.text


def test_writes_during_the_first_sync_reach_both() -> None:
    lab = Lab(fresh=True, device_bytes=SIZE)
    lab.up()
    lab.hold("beta")
    lab.primary("alpha", force=True)
    lab.reaches("alpha", conn=ConnState.SYNC_SOURCE)
    lab.release("beta")
    for number in range(0, 200, 7):
        lab.write("alpha", number * BLOCK, bytes([number]) * BLOCK)
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", 7 * BLOCK, BLOCK) == bytes([7]) * BLOCK


def test_both_volumes_of_a_resource_are_copied() -> None:
    lab = Lab(fresh=True, device_bytes=SIZE, volumes=2)
    for volume in (0, 1):
        lab.drive("alpha", volume).store.preset(0, bytes([volume + 1]) * BLOCK)
    lab.up()
    lab.primary("alpha", force=True)
    lab.in_sync()
    for volume in (0, 1):
        assert lab.on_disk("beta", 0, BLOCK, volume) == bytes([volume + 1]) * BLOCK
        assert lab.differing_blocks(volume) == []


def test_progress_is_told_while_it_runs() -> None:
    lab = Lab(fresh=True, device_bytes=SIZE, disk={"c_plan_ahead": 0, "resync_rate": 1000})
    lab.up()
    lab.primary("alpha", force=True)
    lab.reaches("beta", conn=ConnState.SYNC_TARGET, disk=DiskState.INCONSISTENT)
    lab.run_for(0.35)
    for name in ("alpha", "beta"):
        node = lab[name].node
        assert node is not None
        resync = node.status().volumes[0].resync
        assert resync is not None
        assert 0 < resync.percent_done < 100
        assert 0 < resync.left_kib < resync.total_kib
    lab.in_sync()
    assert lab.told("beta", "Resync done")
