"""I/O that is held: by command, or because a Primary reaches no good data. Nothing gets lost."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Fencing, OnIoError, OnNoData
from replblk.sim.handlers import HandlerEnds
from tests.support.lab import BLOCK, Lab

NEW = b"new data" * 512
OLD = b"old data" * 512


def lab_of(on_no_data: OnNoData = OnNoData.SUSPEND_IO, **options: object) -> Lab:
    lab = Lab(resource={"on_no_data_accessible": on_no_data}, **options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.run_for(0.1)
    return lab


def test_suspend_io_holds_requests_and_resume_io_lets_them_go() -> None:
    lab = lab_of()
    assert lab.command("alpha", "suspend-io").exit_code == 0
    assert lab.shows("alpha", susp=True)
    held = [
        lab.submit("alpha", "write", BLOCK, data=NEW),
        lab.submit("alpha", "read", 0, BLOCK),
        lab.submit("alpha", "flush", 0),
    ]
    lab.run_for(5)
    assert not any(request.done for request in held)
    assert lab.command("alpha", "resume-io").exit_code == 0
    lab.run_until(lambda: all(request.done for request in held))
    assert not any(request.errno for request in held)
    assert held[1].data == OLD
    assert lab.differing_blocks() == []


def test_a_peer_lost_while_suspended_starts_a_generation_only_when_io_goes_on() -> None:
    lab = lab_of()
    before = lab.uuids("alpha")
    lab.command("alpha", "suspend-io")
    lab.partition()
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(1)
    assert lab.uuids("alpha") == before
    lab.command("alpha", "resume-io")
    assert lab.done(request).errno == 0
    assert lab.durable_uuids("alpha").bitmap | 1 == before.current | 1
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_peer_lost_and_found_while_suspended_leaves_no_trace() -> None:
    lab = lab_of()
    before = lab.uuids("alpha")
    lab.network.block(lab.beta, lab.alpha)
    under_way = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(0.05)
    lab.command("alpha", "suspend-io")
    lab.partition()
    assert not under_way.done
    lab.heal()
    assert lab.done(under_way).errno == 0
    lab.in_sync()
    assert lab.uuids("alpha") == before
    assert not lab.told("alpha", "Began resync")
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("frozen_by", ["suspend-io", "fencing"])
def test_a_peer_that_comes_back_without_its_disk_misses_what_is_frozen(frozen_by: str) -> None:
    """It is answered under a generation that tells so: that disk may come back as good as ours."""
    policy = Fencing.RESOURCE_AND_STONITH if frozen_by == "fencing" else Fencing.DONT_CARE
    lab = Lab(resource={"handlers": {"fence-peer": "/fence"}}, disk={"fencing": policy})
    lab.alpha.handlers["fence-peer"] = HandlerEnds(never=True)
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    before = lab.uuids("alpha")
    lab.network.block(lab.beta, lab.alpha)
    under_way = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(0.05)
    if frozen_by == "suspend-io":
        lab.command("alpha", "suspend-io")
    lab.partition()
    assert lab.state("alpha").suspended
    assert lab.command("beta", "detach").exit_code == 0
    lab.heal()
    assert lab.done(under_way).errno == 0
    assert lab.durable_uuids("alpha").bitmap | 1 == before.current | 1
    lab.command("alpha", "resume-io")
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_diskless_primary_without_its_peer_waits_for_it() -> None:
    lab = lab_of()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.write("alpha", BLOCK, NEW)
    lab.network.block(lab.beta, lab.alpha)
    held = [
        lab.submit("alpha", "write", 2 * BLOCK, data=NEW),
        lab.submit("alpha", "read", 0, BLOCK),
    ]
    lab.run_for(0.05)
    lab.partition()
    assert lab.shows("alpha", susp_nod=True)
    held.append(lab.submit("alpha", "write", 3 * BLOCK, data=NEW))
    lab.run_for(5)
    assert not any(request.done for request in held)
    lab.heal()
    lab.run_until(lambda: all(request.done for request in held))
    assert not any(request.errno for request in held)
    assert held[1].data == OLD
    assert lab.shows("alpha", susp_nod=False)
    for block in (1, 2, 3):
        assert lab.on_disk("beta", block * BLOCK, BLOCK) == NEW


@pytest.mark.parametrize("on_no_data", list(OnNoData))
def test_the_last_disk_fails(on_no_data: OnNoData) -> None:
    """suspend-io: the write is held and done over when the peer is back; io-error: it fails."""
    lab = lab_of(on_no_data)
    lab.partition()
    lab.run_for(0.2)
    lab.fail("alpha", "data", "write")
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.run_for(0.5)
    assert request.done is (on_no_data is OnNoData.IO_ERROR)
    if on_no_data is OnNoData.IO_ERROR:
        assert request.errno == 5
        return
    lab.command("alpha", "resume-io")
    assert lab.done(request).errno == 5  # there is no data: this is what the administrator chose


def test_the_last_disk_fails_and_comes_back() -> None:
    lab = lab_of()
    lab.partition()
    lab.fail("alpha", "data", "write")
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.drive("alpha").heal()
    assert lab.command("alpha", "attach").exit_code == 0
    assert lab.done(request).errno == 0
    assert lab.on_disk("alpha", BLOCK, BLOCK) == NEW
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_an_error_that_is_passed_on_suspends_nothing() -> None:
    """There are good data, but for that block: its request fails, the others go on."""
    lab = lab_of(disk={"on_io_error": OnIoError.PASS_ON})
    lab.partition()
    lab.fail("alpha", "data", "write", times=1)
    assert lab.done(lab.submit("alpha", "write", BLOCK, data=NEW)).errno == 5
    assert not lab.state("alpha").suspended
    lab.write("alpha", 2 * BLOCK, NEW)


def test_down_of_a_suspended_primary_is_refused_and_does_not_hang() -> None:
    lab = lab_of()
    lab.command("alpha", "suspend-io")
    lab.submit("alpha", "write", BLOCK, data=NEW)
    answer = lab.command("alpha", "down")
    assert answer.exit_code == 11
    assert lab.command("alpha", "resume-io").exit_code == 0
    lab.run_for(0.1)
    assert lab.shows("alpha", conn=ConnState.CONNECTED)


def test_what_only_a_bad_disk_has_is_sent_when_the_peer_is_back() -> None:
    """The disk passed an error on, then the peer went: the write under way waits for it, and is
    not told an error in the moment in which it can be made good."""
    lab = lab_of(disk={"on_io_error": OnIoError.PASS_ON})
    lab.fail("alpha", "data", "write", times=1)
    lab.write("alpha", 4 * BLOCK, OLD)
    lab.reaches("alpha", disk=DiskState.INCONSISTENT)
    lab.hold("beta")
    under_way = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(0.05)
    lab.partition()
    lab.reaches("alpha", susp_nod=True)
    lab.run_for(1)
    assert not under_way.done
    lab.release("beta")
    lab.heal()
    assert lab.done(under_way).errno == 0
    lab.in_sync()
    assert lab.read("alpha", BLOCK, BLOCK) == NEW
    assert lab.differing_blocks() == []


def test_what_the_peers_disk_refuses_while_suspended_is_answered_under_the_new_generation() -> None:
    """The generation is only planned then; the write was under way and was answered in the old one
    (simulator, policies 72006005), or ten seconds later."""
    lab = lab_of()
    before = lab.uuids("alpha")
    lab.hold("beta")
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(0.01)
    lab.fail("beta", "data", "write")
    assert lab.command("alpha", "suspend-io").exit_code == 0
    lab.release("beta")
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    lab.run_for(25)
    assert lab.uuids("alpha") == before
    assert not request.done
    assert lab.command("alpha", "resume-io").exit_code == 0
    assert lab.done(request).errno == 0
    assert lab.durable_uuids("alpha").bitmap | 1 == before.current | 1
