"""A disk fails: the state DRBD takes, the client's answer, and nothing acknowledged goes away.

Rows of the table of the I/O error policy, on a Primary and on a Secondary, connected and alone.
"""

from __future__ import annotations

import errno

import pytest

from replblk.model.vocabulary import ConnState, DiskState, OnIoError
from tests.support.lab import BLOCK, EXTENT, Lab

OTHER = {"alpha": "beta", "beta": "alpha"}
OLD = b"old data" * 512
NEW = b"new data" * 512
DETACH = {"on_io_error": OnIoError.DETACH}
PASS_ON = {"on_io_error": OnIoError.PASS_ON}


def ready(disk: dict[str, OnIoError], *, alone: bool = False, **options: object) -> Lab:
    """alpha is Primary; block 0 holds OLD; alone: beta is gone."""
    lab = Lab(disk=disk, **options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.run_for(0.1)
    if alone:
        lab.beta.power_off()
        lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
        lab.write("alpha", BLOCK, OLD)
        lab.run_for(0.1)
    return lab


def mended(lab: Lab, name: str) -> None:
    """The drive is repaired and the daemon restarted: the pair is whole again, blocks are equal."""
    lab.drive(name).heal()
    lab[name].kill()
    lab.boot(name)
    if not lab[OTHER[name]].alive:
        lab.boot(OTHER[name])
    for side in (lab.alpha, lab.beta):
        if side.connection is ConnState.STANDALONE:
            lab.connect(side.name)
    lab.in_sync()
    assert lab.differing_blocks() == []


# -- activity log, Primary, connected ---------------------------------------------------------


def test_what_only_the_peer_got_is_marked_there_though_the_connection_is_gone_by_then() -> None:
    """No activity log names it, so nothing but the peer's bitmap knows where the disks differ."""
    lab = ready(DETACH, device_bytes=3 * EXTENT)
    lab.fail("alpha", "al", "write")
    lab.hold("beta")
    request = lab.submit("alpha", "write", EXTENT, data=NEW)
    lab.run_until(lambda: lab.state("beta").pdsk < DiskState.INCONSISTENT, what="beta hearing")
    lab.run_for(0.01)
    lab.partition()
    lab.release("beta")
    lab.run_for(20)
    assert request.done
    assert lab.on_disk("beta", EXTENT, BLOCK) == NEW, "it was on its way already"
    assert EXTENT // BLOCK in lab.durable_bits("beta")
    lab.heal()
    mended(lab, "alpha")
    assert lab.on_disk("alpha", EXTENT, BLOCK) == NEW


def test_what_only_the_peer_got_is_marked_there_though_we_are_disconnecting() -> None:
    """The peer has agreed to part, and hears then that the disk is gone whose data it gets."""
    lab = ready(DETACH)
    lab.hold("beta")
    lab.submit("alpha", "write", 6 * BLOCK, data=NEW)
    lab.run_for(0.01)
    lab.network.block(lab.beta, lab.alpha)
    lab.fail("alpha", "data", "read")
    waiting = lab.ask("alpha", "disconnect")
    lab.submit("alpha", "read", 0, BLOCK)
    lab.run_until(lambda: lab.state("alpha").disk <= DiskState.FAILED, what="a failed disk")
    lab.submit("alpha", "write", 7 * BLOCK, data=NEW)
    lab.run_for(0.01)
    assert lab.shows("beta", conn=ConnState.TEAR_DOWN), "it waits for its disk"
    lab.release("beta")
    lab.run_for(20)
    assert lab.on_disk("beta", 7 * BLOCK, BLOCK) == NEW
    assert 7 in lab.durable_bits("beta")
    lab.network.unblock(lab.beta, lab.alpha)
    lab.answered(waiting)
    mended(lab, "alpha")
    assert lab.on_disk("alpha", 7 * BLOCK, BLOCK) == NEW


# -- data, Primary, connected -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "flush"])
def test_a_failed_write_of_a_connected_primary_is_saved_by_the_peer(kind: str) -> None:
    lab = ready(DETACH)
    lab.fail("alpha", "data", kind)
    lab.write("alpha", 0, NEW)
    assert lab.on_disk("beta", 0, BLOCK) == NEW
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.reaches("beta", pdsk=DiskState.DISKLESS)
    assert lab.told("alpha", "Local IO failed. Detaching...")
    assert lab.read("alpha", 0, BLOCK) == NEW
    mended(lab, "alpha")
    assert lab.on_disk("alpha", 0, BLOCK) == NEW


def test_passed_on_the_disk_stays_inconsistent_with_the_block_marked() -> None:
    lab = ready(PASS_ON)
    lab.fail("alpha", "data", "write", times=1)
    lab.write("alpha", 0, NEW)
    lab.reaches("alpha", disk=DiskState.INCONSISTENT, conn=ConnState.CONNECTED)
    lab.reaches("beta", pdsk=DiskState.INCONSISTENT)
    assert lab.out_of_sync_kib("alpha") == 4
    assert lab.read("alpha", 0, BLOCK) == NEW  # from the peer
    lab.write("alpha", 3 * BLOCK, NEW)
    mended(lab, "alpha")
    assert lab.on_disk("alpha", 0, BLOCK) == NEW


@pytest.mark.parametrize("policy", [DETACH, PASS_ON])
def test_a_failed_read_is_answered_by_the_peer(policy: dict[str, OnIoError]) -> None:
    lab = ready(policy)
    lab.fail("alpha", "data", "read", times=1)
    assert lab.read("alpha", 0, BLOCK) == OLD
    want = DiskState.DISKLESS if policy is DETACH else DiskState.INCONSISTENT
    lab.reaches("alpha", disk=want)
    if policy is PASS_ON:
        assert lab.out_of_sync_kib("alpha") == 4
    assert lab.read("alpha", 0, BLOCK) == OLD
    mended(lab, "alpha")


# -- data, Primary, alone ---------------------------------------------------------------------


def test_alone_a_failed_write_is_told_the_client() -> None:
    lab = ready(DETACH, alone=True)
    lab.fail("alpha", "data", "write")
    assert lab.done(lab.submit("alpha", "write", 0, BLOCK, data=NEW)).errno == errno.EIO
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    assert lab.done(lab.submit("alpha", "read", 0, BLOCK)).errno == errno.EIO
    assert lab.done(lab.submit("alpha", "flush", 0)).errno == errno.EIO
    mended(lab, "alpha")
    assert lab.on_disk("beta", BLOCK, BLOCK) == OLD


def test_alone_a_write_error_that_is_passed_on_costs_that_write_and_no_other() -> None:
    """The only good data there are stay in use; what was written alone survives the reunion."""
    lab = ready(PASS_ON, alone=True)
    lab.fail("alpha", "data", "write", times=1)
    assert lab.done(lab.submit("alpha", "write", 0, BLOCK, data=NEW)).errno == errno.EIO
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE
    assert lab.told("alpha", "the error is passed on; the disk stays UpToDate")
    lab.write("alpha", 2 * BLOCK, NEW)
    assert lab.read("alpha", BLOCK, BLOCK) == OLD
    lab.drive("alpha").heal()
    lab.boot("beta")
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", BLOCK, 2 * BLOCK) == OLD + NEW


def test_alone_a_read_error_that_is_passed_on_leaves_the_block_to_the_peer() -> None:
    lab = ready(PASS_ON, alone=True)
    lab.fail("alpha", "data", "read", times=1)
    assert lab.done(lab.submit("alpha", "read", 0, BLOCK)).errno == errno.EIO
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE
    assert lab.out_of_sync_kib("alpha") == 4  # block 1, written alone; not block 0
    lab.boot("beta")
    lab.in_sync()
    assert lab.on_disk("beta", 0, BLOCK) == OLD


def test_a_secondary_that_is_inconsistent_is_told_at_once_why_it_can_not_be_primary() -> None:
    lab = ready(PASS_ON)
    lab.fail("beta", "data", "write", times=1)
    lab.write("alpha", 0, NEW)
    lab.reaches("beta", disk=DiskState.INCONSISTENT)
    lab.secondary("alpha")
    waiting = lab.ask("beta", "primary")
    lab.run_for(1)
    (answer,) = waiting.answers
    assert (answer.exit_code, answer.code) == (11, -18)
    assert "nothing is under way: the local disk is Inconsistent" in answer.text
    assert lab.command("beta", "invalidate").exit_code == 0
    lab.in_sync()
    lab.primary("beta")


def test_alone_a_failed_read_is_told_the_client() -> None:
    lab = ready(DETACH, alone=True)
    lab.fail("alpha", "data", "read", times=1)
    assert lab.done(lab.submit("alpha", "read", 0, BLOCK)).errno == errno.EIO
    mended(lab, "alpha")


def test_alone_a_failed_flush_is_told_the_client_and_ends_the_disk() -> None:
    lab = ready(PASS_ON, alone=True, settings={"durability": "kernel"})
    lab.fail("alpha", "any", "flush", times=1)
    assert lab.done(lab.submit("alpha", "flush", 0)).errno == errno.EIO
    lab.reaches("alpha", disk=DiskState.DISKLESS)


# -- data, Secondary --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["write", "flush"])
def test_a_failed_write_of_the_secondary_costs_its_disk_and_nothing_else(kind: str) -> None:
    lab = ready(DETACH)
    before = lab.uuids("alpha").current
    lab.fail("beta", "data", kind)
    lab.write("alpha", 0, NEW)
    lab.reaches("beta", disk=DiskState.DISKLESS)
    lab.reaches("alpha", pdsk=DiskState.DISKLESS, conn=ConnState.CONNECTED)
    lab.run_for(0.1)
    assert lab.out_of_sync_kib("alpha") == 4
    assert lab.durable_uuids("alpha").current | 1 != before | 1
    lab.write("alpha", BLOCK, NEW)
    mended(lab, "beta")
    assert lab.on_disk("beta", 0, 2 * BLOCK) == NEW + NEW


def test_a_failed_write_of_the_secondary_passed_on_marks_the_block_on_both() -> None:
    lab = ready(PASS_ON)
    before = lab.uuids("alpha").current
    lab.fail("beta", "data", "write", times=1)
    lab.write("alpha", 0, NEW)
    assert lab.durable_uuids("alpha").current | 1 != before | 1, "acknowledged in the old one"
    lab.reaches("beta", disk=DiskState.INCONSISTENT)
    lab.reaches("alpha", pdsk=DiskState.INCONSISTENT)
    assert lab.out_of_sync_kib("alpha") == 4
    assert lab.out_of_sync_kib("beta") == 4
    lab.write("alpha", BLOCK, NEW)
    mended(lab, "beta")


def test_the_secondary_flush_at_a_barrier_fails() -> None:
    lab = ready(DETACH, settings={"durability": "kernel"})
    lab.fail("beta", "any", "flush", times=1)
    lab.write("alpha", 0, NEW)
    lab.flush("alpha")
    assert lab.drive("alpha").store.read_durable(0, BLOCK) == NEW
    lab.run_for(3)
    assert lab.state("beta").disk is DiskState.DISKLESS
    assert lab.out_of_sync_kib("alpha") > 0
    mended(lab, "beta")


def test_what_a_failed_disk_of_the_secondary_kept_in_its_cache_is_not_promised() -> None:
    """Two writes of one epoch: one was acknowledged and not flushed yet when the other failed."""
    lab = ready(DETACH, settings={"durability": "kernel"})
    lab.fail("beta", "data", "write", skip=1, times=1)
    both = [lab.submit("alpha", "write", block * BLOCK, data=NEW) for block in (5, 9)]
    for request in both:
        assert lab.done(request).errno == 0
    lab.run_for(3)
    assert {5, 9} <= lab.durable_bits("alpha")
    lab.beta.power_off()
    assert lab.on_disk("beta", 5 * BLOCK, BLOCK) != NEW, "its cache is gone"
    lab.drive("beta").heal()
    lab.boot("beta")
    lab.in_sync()
    assert lab.on_disk("beta", 5 * BLOCK, BLOCK) == NEW
    assert lab.differing_blocks() == []


# -- metadata ---------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [DETACH, PASS_ON])
def test_the_activity_log_of_a_connected_primary_fails(policy: dict[str, OnIoError]) -> None:
    lab = ready(policy, device_bytes=16 << 20)
    lab.fail("alpha", "al", "write")
    lab.write("alpha", 2 * EXTENT, NEW)
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    assert lab.on_disk("beta", 2 * EXTENT, BLOCK) == NEW
    mended(lab, "alpha")


def test_the_activity_log_of_a_lone_primary_fails() -> None:
    lab = ready(DETACH, alone=True, device_bytes=16 << 20)
    lab.fail("alpha", "al", "write")
    request = lab.done(lab.submit("alpha", "write", 2 * EXTENT, BLOCK, data=NEW))
    assert request.errno == errno.EIO
    assert lab.on_disk("alpha", 2 * EXTENT, BLOCK) == bytes(BLOCK)
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    mended(lab, "alpha")


def test_the_bitmap_fails_when_an_extent_is_evicted() -> None:
    lab = ready(DETACH, alone=True, device_bytes=400 << 20)
    lab.fail("alpha", "bitmap", "write")
    ended = []
    for extent in range(80):
        request = lab.done(lab.submit("alpha", "write", extent * EXTENT, BLOCK, data=NEW))
        ended.append(request.errno)
    assert errno.EIO in ended
    good = ended.index(errno.EIO)
    assert not any(ended[:good])
    assert all(ended[good:])
    lab.drive("alpha").heal()
    lab.alpha.power_off()
    lab.boot("alpha")
    for extent in range(good):
        assert lab.on_disk("alpha", extent * EXTENT, BLOCK) == NEW
        assert lab.out_of_sync_kib("alpha") >= good * 4
    lab.boot("beta")
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_the_superblock_fails_when_the_peer_is_lost() -> None:
    """The new generation can't be made durable: nothing is acknowledged under the old one."""
    lab = ready(DETACH)
    lab.fail("alpha", "superblock", "write")
    lab.beta.power_off()
    requests = [lab.submit("alpha", "write", block * BLOCK, BLOCK, data=NEW) for block in range(4)]
    for request in requests:
        assert lab.done(request).errno == errno.EIO
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    mended(lab, "alpha")


@pytest.mark.parametrize("alone", [False, True])
def test_the_superblock_fails_at_promotion(alone: bool) -> None:
    lab = Lab()
    lab.up()
    if alone:
        lab.beta.kill()
        lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    lab.fail("alpha", "superblock", "write")
    answer = lab.command("alpha", "primary")
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    if alone:
        assert answer.exit_code != 0
        assert lab.open("alpha") is not None or (
            lab.done(lab.submit("alpha", "read", 0, BLOCK)).errno == errno.EIO
        )
    else:
        again = lab.command("alpha", "primary")
        assert again.exit_code == 0
        assert lab.open("alpha") is None
        lab.write("alpha", 0, NEW)
        assert lab.read("alpha", 0, BLOCK) == NEW
        assert lab.on_disk("beta", 0, BLOCK) == NEW


def test_the_superblock_of_a_sync_target_fails_as_it_starts() -> None:
    lab = ready(DETACH)
    lab.disconnect("beta")
    lab.write("alpha", 0, NEW)
    lab.fail("beta", "superblock", "write")
    lab.connect("beta")
    lab.reaches("beta", disk=DiskState.DISKLESS)
    lab.write("alpha", BLOCK, NEW)
    mended(lab, "beta")


@pytest.mark.parametrize("zone", ["superblock", "bitmap", "al"])
@pytest.mark.parametrize("kind", ["read", "write"])
def test_at_attach_any_metadata_error_refuses_the_disk_with_a_sentence(
    zone: str, kind: str
) -> None:
    lab = ready(DETACH)
    lab.write("alpha", 8 * BLOCK, NEW)
    lab.alpha.power_off()  # unclean: log and bitmap are read and written
    lab.fail("alpha", zone, kind)
    answer = lab.boot("alpha")
    if answer.exit_code:
        assert (answer.exit_code, answer.code) == (10, 118), answer
        assert "/sim/alpha/0: IO error(s) occurred" in answer.text
        lab.run_for(0.1)
        assert lab.state("alpha").disk is DiskState.DISKLESS
    else:
        assert (zone, kind) == ("bitmap", "write")  # nothing in it was to be written
    mended(lab, "alpha")


# -- resync -----------------------------------------------------------------------------------


def out_of_sync(policy: dict[str, OnIoError]) -> Lab:
    lab = ready({**policy, "c_plan_ahead": 0, "resync_rate": 400})  # type: ignore[dict-item]
    lab.disconnect("beta")
    for block in range(0, 100, 2):
        lab.write("alpha", block * BLOCK, NEW)
    return lab


@pytest.mark.parametrize("policy", [DETACH, PASS_ON])
def test_the_target_can_not_write(policy: dict[str, OnIoError]) -> None:
    lab = out_of_sync(policy)
    lab.fail("beta", "data", "write", skip=5, times=1)
    lab.connect("beta")
    if policy is DETACH:
        lab.reaches("beta", disk=DiskState.DISKLESS)
        lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    else:
        lab.passes("beta", ConnState.CONNECTED)
        assert lab.state("beta").disk is DiskState.INCONSISTENT
        assert lab.told("beta", "1 failed blocks")
    lab.run_for(2)
    lab.write("alpha", 200 * BLOCK, NEW)
    mended(lab, "beta")


def test_the_source_can_not_read_and_gives_its_disk_up() -> None:
    lab = out_of_sync(DETACH)
    lab.fail("alpha", "data", "read", skip=5, times=1)
    lab.connect("beta")
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.run_for(5)
    assert lab.state("beta").disk < DiskState.UP_TO_DATE
    mended(lab, "alpha")


def test_the_source_can_not_read_and_passes_it_on() -> None:
    """That block does not get to the target, which stays Inconsistent; the source serves on."""
    lab = out_of_sync(PASS_ON)
    lab.fail("alpha", "data", "read", skip=5, times=1)
    lab.connect("beta")
    lab.passes("beta", ConnState.CONNECTED)
    lab.run_for(5)
    assert lab.state("beta").disk is DiskState.INCONSISTENT
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE
    lab.write("alpha", 0, NEW)
    assert lab.read("alpha", 2 * BLOCK, BLOCK) == NEW
    lab.cut()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_both_disks_refuse_a_write_and_the_client_hears_of_it_at_once() -> None:
    """Nothing has to be named first: nobody has it."""
    lab = ready(DETACH)
    lab.fail("alpha", "data", "write", times=1)
    lab.fail("beta", "data", "write", times=1)
    request = lab.submit("alpha", "write", 0, data=NEW)
    lab.run_for(1)
    assert request.done
    assert request.errno == errno.EIO


def failed_beside_a_target() -> Lab:
    """A write fails on the source while the target writes all it was sent; then the resync ends."""
    lab = ready(PASS_ON, alone=True)
    lab.alpha.command("pause-sync", lambda answer: None)
    lab.boot("beta")
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_T)
    lab.run_for(0.1)
    lab.hold("beta")
    lab.alpha.command("resume-sync", lambda answer: None)
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    lab.run_for(0.1)
    lab.fail("alpha", "data", "write", times=1)
    request = lab.submit("alpha", "write", BLOCK, data=NEW)
    lab.run_for(0.1)
    lab.release("beta")
    assert lab.done(request).errno == errno.EIO
    lab.reaches("alpha", conn=ConnState.CONNECTED, pdsk=DiskState.UP_TO_DATE)
    lab.run_for(0.1)
    return lab


def test_what_fails_here_while_the_resync_is_on_its_way_to_the_peer_stays_marked() -> None:
    """The target wrote what it had been sent: that says nothing of a write that came after."""
    lab = failed_beside_a_target()
    assert lab.differing_blocks() == [1]
    assert lab.out_of_sync_kib("alpha") == 4
    mended(lab, "alpha")


def test_a_source_that_could_not_write_is_inconsistent_once_the_target_is_better() -> None:
    """Else both would be UpToDate and differ: what is read here would change when the other node
    is promoted (simulator, policies 73002452)."""
    lab = failed_beside_a_target()
    assert lab.shows("alpha", disk=DiskState.INCONSISTENT)
    assert lab.told("alpha", "1 blocks could not be written here")
    before = lab.read("alpha", BLOCK, BLOCK)
    assert before == lab.on_disk("beta", BLOCK, BLOCK)
    lab.secondary("alpha")
    lab.primary("beta")
    assert lab.read("beta", BLOCK, BLOCK) == before
    mended(lab, "alpha")
