"""When a new data generation begins, and what is durable before anything is written in it."""

from __future__ import annotations

import pytest

from replblk.model.notices import StateChanged
from replblk.model.vocabulary import ConnState, DiskState, OnNoData
from replblk.sim.machine import Machine
from tests.support.lab import BLOCK, Lab


def ready() -> Lab:
    lab = Lab()
    lab.up()
    return lab


def test_promotion_while_connected_begins_none() -> None:
    lab = ready()
    before = lab.uuids("alpha").current
    lab.primary("alpha")
    assert lab.uuids("alpha").current == before | 1
    assert lab.uuids("alpha").bitmap == 0


def test_the_role_bit_follows_the_role() -> None:
    lab = ready()
    lab.primary("alpha")
    assert lab.durable_uuids("alpha").current & 1
    lab.secondary("alpha")
    assert not lab.uuids("alpha").current & 1
    assert not lab.durable_uuids("alpha").current & 1


def test_promotion_without_the_peer_begins_one_durably() -> None:
    lab = ready()
    lab.beta.kill()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    before = lab.uuids("alpha")
    lab.primary("alpha")
    after = lab.durable_uuids("alpha")
    assert after.current | 1 != before.current | 1
    assert after.bitmap | 1 == before.current | 1


def test_a_primary_that_loses_its_peer_begins_one_before_it_acknowledges_anything() -> None:
    lab = ready()
    lab.primary("alpha")
    lab.write("alpha", 0, b"1" * BLOCK)
    before = lab.durable_uuids("alpha")
    request = lab.submit("alpha", "write", 0, BLOCK, data=b"2" * BLOCK)
    lab.beta.kill()
    lab.run_until(lambda: request.done)
    if lab.state("alpha").pdsk is not DiskState.UP_TO_DATE:
        assert lab.durable_uuids("alpha").bitmap | 1 == before.current | 1
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    lab.write("alpha", 0, b"3" * BLOCK)
    after = lab.durable_uuids("alpha")
    assert after.bitmap | 1 == before.current | 1
    assert after.current | 1 != before.current | 1


def test_only_one_however_often_the_peer_comes_and_goes_without_writes() -> None:
    lab = ready()
    lab.primary("alpha")
    lab.partition()
    lab.run_for(1)
    first = lab.uuids("alpha")
    lab.heal()
    lab.in_sync()
    assert lab.uuids("beta").current | 1 == first.current | 1
    assert lab.uuids("alpha").bitmap == 0


def test_two_secondaries_that_part_begin_none() -> None:
    lab = ready()
    before = lab.uuids("alpha"), lab.uuids("beta")
    lab.partition()
    lab.run_for(3)
    assert (lab.uuids("alpha"), lab.uuids("beta")) == before
    lab.heal()
    lab.in_sync()


def test_forced_promotion_always_begins_one() -> None:
    lab = Lab(fresh=True, device_bytes=1 << 20)
    lab.boot("alpha")
    lab.primary("alpha", force=True)
    uuids = lab.durable_uuids("alpha")
    assert uuids.current | 1 != 5
    assert uuids.bitmap == 4


def test_a_primary_without_its_disk_writes_and_follows_the_one_that_its_peer_begins() -> None:
    lab = ready()
    lab.primary("alpha")
    before = lab.uuids("beta").current
    assert lab.command("alpha", "detach").exit_code == 0
    assert lab.durable_uuids("beta").current == before
    lab.write("alpha", 0, b"3" * BLOCK)
    lab.run_for(0.1)
    after = lab.durable_uuids("beta")
    assert after.current | 1 != before | 1
    node = lab.alpha.node
    assert node is not None
    assert node.volumes[0].exposed_uuid | 1 == after.current | 1


def test_after_a_resync_both_share_it_and_the_old_one_is_history() -> None:
    lab = ready()
    lab.primary("alpha")
    lab.disconnect("beta")
    lab.write("alpha", 0, b"4" * BLOCK)
    lab.connect("beta")
    lab.in_sync()
    lab.run_for(0.1)
    alpha, beta = lab.durable_uuids("alpha"), lab.durable_uuids("beta")
    assert alpha.current | 1 == beta.current | 1
    assert alpha.bitmap == beta.bitmap == 0
    assert alpha.history0 | 1 == beta.history0 | 1


@pytest.mark.parametrize("on_no_data", list(OnNoData))
def test_a_primary_that_gets_its_disk_back_alone_begins_a_generation(on_no_data: OnNoData) -> None:
    """Else the peer, promoted, would take what was written alone for old (simulator, seed 7065)."""
    lab = Lab(resource={"on_no_data_accessible": on_no_data})
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, b"old." * 1024)
    lab.run_for(0.1)
    lab.partition()
    for command in ("disconnect", "detach"):
        assert lab.command("alpha", command, force=True).exit_code == 0
    held = lab.submit("alpha", "write", BLOCK, data=b"held" * 1024)
    lab.run_for(0.1)
    assert lab.command("alpha", "attach").exit_code == 0
    lab.write("alpha", 0, b"new!" * 1024)
    assert lab.done(held).errno == (5 if on_no_data is OnNoData.IO_ERROR else 0)
    assert lab.durable_uuids("alpha").bitmap != 0
    lab.primary("beta")
    lab.write("beta", 0, b"else" * 1024)
    lab.secondary("alpha")
    lab.heal()
    lab.connect("alpha")
    lab.run_until(lambda: lab.told("alpha", "Split-Brain detected but unresolved"))


def test_a_write_that_waited_for_the_start_of_a_resync_is_answered_once_the_data_have_a_name() -> (
    None
):
    """The target goes while the sync UUID is on its way to the disk: the write is done here alone,
    and without that name it would be in the generation of both (simulator, wide 70001715)."""
    lab = ready()
    lab.primary("alpha")
    lab.write("alpha", 0, b"old." * 1024)

    def slow_disk(machine: Machine, change: StateChanged) -> None:
        if change.new.conn is ConnState.SYNC_SOURCE and change.old.conn is not change.new.conn:
            lab.hold("alpha")

    lab.alpha.on_state.append(slow_disk)
    lab.ask("beta", "invalidate")
    lab.reaches("alpha", conn=ConnState.STARTING_SYNC_S)
    late = lab.submit("alpha", "write", 0, BLOCK, data=b"new!" * 1024)
    lab.reaches("alpha", conn=ConnState.SYNC_SOURCE)
    lab.release("alpha")
    lab.partition()
    lab.reaches("alpha", conn=ConnState.WF_CONNECTION)
    lab.run_for(0.1)
    assert lab.on_disk("alpha", 0, BLOCK) == b"new!" * 1024
    assert not late.done
    assert not lab.durable_uuids("alpha").bitmap
    lab.run_until(lambda: late.done, what="the answer")
    assert late.errno == 0
    assert lab.durable_uuids("alpha").bitmap
