"""A disk that hangs, on either side: nobody waits for ever, nothing acknowledged goes away."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, OnIoError, OnNoData, Role
from tests.support.lab import BLOCK, Lab

NEW = b"new data" * 512
OLD = b"old data" * 512
OTHER = {"alpha": "beta", "beta": "alpha"}
TIMEOUT = {"disk_timeout": 10}  # 1 s


def ready(node: str = "alpha", **options: object) -> Lab:
    """alpha is Primary and in sync; then the disk of *node* hangs."""
    lab = Lab(**options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.run_for(0.1)
    lab.hold(node)
    return lab


def mended(lab: Lab, name: str) -> None:
    lab.release(name)
    lab[name].kill()
    lab.boot(name)
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_primary_whose_disk_hangs_goes_on_with_the_peers_after_disk_timeout() -> None:
    lab = ready(disk=TIMEOUT)
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    read = lab.submit("alpha", "read", 0, BLOCK)
    lab.run_for(0.9)
    assert not request.done
    lab.run_for(0.3)
    assert request.done and read.done
    assert (request.errno, read.errno, read.data) == (0, 0, OLD)
    assert lab.told("alpha", "Local backing device failed to meet the disk-timeout")
    assert lab.shows("alpha", disk=DiskState.FAILED)
    assert lab.on_disk("beta", BLOCK, BLOCK) == NEW
    lab.write("alpha", 2 * BLOCK, NEW)
    lab.reaches("alpha", disk=DiskState.DISKLESS)  # the device let go of its operations at last
    mended(lab, "alpha")


def test_a_secondary_whose_disk_hangs_is_given_up_and_the_primary_goes_on() -> None:
    lab = ready("beta", disk=TIMEOUT)
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_until(lambda: request.done, 2 * 10**9)
    assert request.errno == 0
    lab.reaches("alpha", pdsk=DiskState.FAILED, conn=ConnState.CONNECTED)
    lab.write("alpha", 2 * BLOCK, NEW)
    mended(lab, "beta")
    assert lab.on_disk("beta", BLOCK, 2 * BLOCK) == NEW + NEW


@pytest.mark.parametrize("on_no_data", list(OnNoData))
def test_a_lone_primary_whose_disk_hangs(on_no_data: OnNoData) -> None:
    lab = ready(disk=TIMEOUT, resource={"on_no_data_accessible": on_no_data})
    lab.release("alpha")
    lab.partition()
    lab.hold("alpha")
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(1.5)
    if on_no_data is OnNoData.IO_ERROR:
        assert request.errno == 5
        return
    assert not request.done
    lab.release("alpha")
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    assert lab.command("alpha", "attach").exit_code == 0
    assert lab.done(request).errno == 0
    assert lab.on_disk("alpha", BLOCK, BLOCK) == NEW


def test_disk_timeout_calls_local_io_error_if_the_policy_says_so() -> None:
    lab = ready(
        disk={**TIMEOUT, "on_io_error": OnIoError.CALL_LOCAL_IO_ERROR},
        resource={"handlers": {"local-io-error": "/x"}},
    )
    lab.write("alpha", BLOCK, NEW)
    assert [call.name for call in lab.alpha.handler_calls] == ["local-io-error"]


def test_no_disk_timeout_means_waiting_for_the_own_disk() -> None:
    lab = ready()
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(0.5)
    assert not request.done
    lab.run_until(lambda: request.done, 60 * 10**9)
    assert request.errno == 0
    assert lab.shows("alpha", disk=DiskState.UP_TO_DATE)


def test_a_peer_whose_disk_hangs_is_dropped_by_ko_count() -> None:
    """It answers pings all the time; what it lacks is resynced when its disk goes on."""
    lab = ready("beta", net={"timeout": 5, "ko_count": 2})
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_until(lambda: request.done, 2 * 10**9)
    assert request.errno == 0
    assert lab.told("alpha", "Remote failed to finish a request within ko-count (2)")
    lab.write("alpha", 2 * BLOCK, NEW)
    lab.release("beta")
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_ko_count_0_waits_for_the_peer() -> None:
    lab = ready("beta", net={"timeout": 5, "ko_count": 0})
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(1.2)
    assert not request.done
    assert lab.shows("alpha", conn=ConnState.CONNECTED)
    lab.run_until(lambda: request.done, 60 * 10**9)
    assert request.errno == 0


def test_slow_but_within_its_time_is_nobodys_business() -> None:
    lab = ready("beta", net={"timeout": 60, "ko_count": 7}, disk={"disk_timeout": 6000})
    lab.write("alpha", BLOCK, NEW)
    assert lab.shows("alpha", conn=ConnState.CONNECTED, pdsk=DiskState.UP_TO_DATE)
    assert lab.shows("beta", disk=DiskState.UP_TO_DATE, peer=Role.PRIMARY)


def test_detach_force_does_not_wait_for_a_disk_that_hangs() -> None:
    lab = ready()
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(0.1)
    answer = lab.command("alpha", "detach", force=True)
    assert answer.exit_code == 0
    assert "operations that do not end" in answer.text
    assert lab.done(request).errno == 0
    refused = lab.command("alpha", "attach")
    assert refused.code == 124
    lab.release("alpha")
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    mended(lab, "alpha")


@pytest.mark.parametrize("node", ["alpha", "beta"])
def test_a_resync_on_a_disk_that_hangs(node: str) -> None:
    """Source or target: with disk-timeout the disk goes, the other side stays as it is."""
    lab = Lab(disk=TIMEOUT)
    lab.up()
    lab.primary("alpha")
    lab.beta.power_off()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    for block in range(0, 400, 2):
        lab.write("alpha", block * BLOCK, NEW)
    lab.boot("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    lab.hold(node)
    lab.run_until(lambda: lab.state(node).disk <= DiskState.FAILED, 20 * 10**9)
    assert lab.state("beta").disk is not DiskState.UP_TO_DATE
    mended(lab, node)
