"""Disks come and go while the nodes are connected."""

from __future__ import annotations

import pytest

from replblk.engine import write_way
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.image import synced_drive
from tests.support.lab import BLOCK, EXTENT, Lab

DATA = b"attached" * 512


class WithoutNegotiating:
    """For ``write_way``: a node that, like a kernel, lets clients write in this moment."""

    UP_TO_DATE, INCONSISTENT = DiskState.UP_TO_DATE, DiskState.INCONSISTENT
    NEGOTIATING = None


def ready(**options: object) -> Lab:
    lab = Lab(**options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, DATA)
    lab.run_for(0.1)
    return lab


def test_a_secondary_detaches_and_comes_back_by_bitmap() -> None:
    lab = ready()
    assert lab.command("beta", "detach").exit_code == 0
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    lab.write("alpha", 5 * BLOCK, DATA)
    assert lab.out_of_sync_kib("alpha") == 4
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert lab.on_disk("beta", 5 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []


def test_attaching_while_connected_goes_through_negotiating() -> None:
    lab = ready()
    assert lab.command("beta", "detach").exit_code == 0
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    states: list[DiskState] = []
    lab.beta.on_state.append(lambda _, change: states.append(change.new.disk))
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert DiskState.NEGOTIATING in states
    assert states[-1] is DiskState.UP_TO_DATE


def test_a_primary_detaches_serves_from_the_peer_and_comes_back() -> None:
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.write("alpha", 6 * BLOCK, DATA)
    lab.write("alpha", 7 * BLOCK, DATA)
    assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.on_disk("alpha", 6 * BLOCK, BLOCK) == DATA
    assert lab.differing_blocks() == []


def test_the_peer_goes_while_a_primary_attaches_data_that_are_older() -> None:
    """Together the peer's data would have been copied; alone the old ones must not be served."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.write("alpha", 0, DATA[::-1])
    lab.run_for(0.1)
    waiting = lab.ask("alpha", "attach")
    lab.run_until(lambda: lab.alpha.node.volumes[0].meta is not None, what="all was read")
    lab.hold("alpha")
    lab.partition()
    lab.reaches("alpha", pdsk=DiskState.DUNKNOWN)
    lab.release("alpha")
    answer = lab.answered(waiting)
    assert answer.exit_code == 10
    assert "Can only attach to data with current UUID=" in answer.text
    assert lab.shows("alpha", disk=DiskState.DISKLESS)
    lab.heal()
    lab.connected()
    assert lab.read("alpha", 0, BLOCK) == DATA[::-1]
    assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_the_peer_goes_while_a_secondary_attaches_data_that_it_knows_to_be_older() -> None:
    """Connected without its disk it has seen a newer generation: alone it may not be promoted."""
    lab = ready()
    lab.partition()
    lab.reaches("alpha", pdsk=DiskState.DUNKNOWN)
    lab.write("alpha", 0, DATA[::-1])
    assert lab.command("beta", "detach").exit_code == 0
    lab.heal()
    lab.reaches("beta", conn=ConnState.CONNECTED, disk=DiskState.DISKLESS)
    lab.network.block(lab.alpha, lab.beta)
    assert lab.command("beta", "attach").exit_code == 0
    assert lab.shows("beta", disk=DiskState.NEGOTIATING)
    lab.partition()
    lab.reaches("beta", conn=ConnState.WF_CONNECTION)
    assert lab.shows("beta", disk=DiskState.DISKLESS)
    assert lab.command("beta", "primary").exit_code == 17
    lab.heal()
    lab.connected()
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_what_a_diskless_primary_writes_before_it_hears_of_the_resync_is_copied_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The source has told its bitmap by then; the disk being attached does not get the write, and
    its activity log does not name it. A kernel lets its clients write in this moment."""
    monkeypatch.setattr(write_way, "DiskState", WithoutNegotiating)
    lab = ready(device_bytes=3 * EXTENT)
    assert lab.command("alpha", "detach").exit_code == 0
    lab.write("alpha", BLOCK, DATA)
    lab.network.block(lab.beta, lab.alpha)
    assert lab.command("alpha", "attach").exit_code == 0
    lab.reaches("beta", conn=ConnState.WF_BITMAP_S)
    assert lab.shows("alpha", disk=DiskState.NEGOTIATING)
    late = lab.submit("alpha", "write", EXTENT, data=DATA[::-1])
    lab.run_for(0.01)
    assert lab.on_disk("beta", EXTENT, BLOCK) == DATA[::-1]
    assert EXTENT // BLOCK in lab.durable_bits("beta")
    lab.network.unblock(lab.beta, lab.alpha)
    assert lab.done(late).errno == 0
    lab.in_sync()
    assert lab.on_disk("alpha", EXTENT, BLOCK) == DATA[::-1]
    assert lab.differing_blocks() == []


def test_what_was_on_its_way_to_a_disk_that_is_already_being_attached_again_is_copied() -> None:
    """The peer refuses it; when the Primary hears of that the bitmap has been told (simulator,
    wide 71002351: the target was done, and the source waited for the rest for ever)."""
    lab = ready()
    lab.network.block(lab.alpha, lab.beta)
    late = [lab.submit("alpha", "write", block * BLOCK, data=DATA[::-1]) for block in (2, 5)]
    lab.run_for(0.01)
    assert lab.command("beta", "detach", force=True).exit_code == 0
    assert lab.command("beta", "attach").exit_code == 0
    lab.reaches("alpha", conn=ConnState.WF_BITMAP_S)
    lab.network.unblock(lab.alpha, lab.beta)
    assert [lab.done(write).errno for write in late] == [0, 0]
    lab.in_sync()
    assert lab.on_disk("beta", 2 * BLOCK, BLOCK) == DATA[::-1]
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("kind", ["write", "zero", "trim"])
def test_a_write_that_comes_while_a_primary_attaches_waits_for_whose_data_are_newer(
    kind: str,
) -> None:
    """It turns out that ours are: sent to the peer alone, behind our generation, the write would
    have been overwritten there, and was told EIO (simulator, wide 70001049)."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.network.block(lab.alpha, lab.beta)
    lab.network.block(lab.beta, lab.alpha)
    assert lab.command("alpha", "attach").exit_code == 0
    assert lab.shows("alpha", disk=DiskState.NEGOTIATING)
    data = DATA[::-1] if kind == "write" else None
    late = lab.submit("alpha", kind, 0, BLOCK, data=data)
    read = lab.submit("alpha", "read", BLOCK, BLOCK)
    lab.run_for(0.01)
    assert not late.done
    lab.network.unblock(lab.alpha, lab.beta)
    lab.network.unblock(lab.beta, lab.alpha)
    assert lab.done(late).errno == 0
    assert lab.done(read).errno == 0
    lab.in_sync()
    expected = data or bytes(BLOCK)
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == expected
    assert lab.differing_blocks() == []


def test_a_primary_is_not_demoted_before_what_waits_for_an_attach_is_done() -> None:
    """Its client is gone already; as a Secondary it must not write."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.network.block(lab.alpha, lab.beta)
    assert lab.command("alpha", "attach").exit_code == 0
    late = lab.submit("alpha", "write", 0, BLOCK, data=DATA[::-1])
    lab.run_for(0.01)
    demotion = lab.ask("alpha", "secondary")
    lab.run_for(0.1)
    assert lab.state("alpha").role is Role.PRIMARY
    lab.network.unblock(lab.alpha, lab.beta)
    assert lab.answered(demotion).exit_code == 0
    assert late.done
    assert late.errno == 0
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == DATA[::-1]


def test_what_the_peer_said_before_it_heard_of_an_attach_is_no_verdict() -> None:
    """Its P_STATE, for another reason, made old data UpToDate beside the new ones."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.write("alpha", 0, DATA[::-1])
    lab.network.block(lab.beta, lab.alpha)
    assert lab.command("beta", "pause-sync").exit_code == 0
    assert lab.command("alpha", "attach").exit_code == 0
    lab.network.unblock(lab.beta, lab.alpha)
    lab.reaches("alpha", conn=ConnState.PAUSED_SYNC_T)
    assert lab.command("beta", "resume-sync").exit_code == 0
    lab.in_sync()
    assert lab.read("alpha", 0, BLOCK) == DATA[::-1]
    assert lab.differing_blocks() == []


def test_what_waited_for_resume_io_waits_for_the_verdict_too() -> None:
    """It was written to the peer, answered, and overwritten by the resync from here."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    assert lab.command("alpha", "suspend-io").exit_code == 0
    late = lab.submit("alpha", "write", 0, BLOCK, data=DATA[::-1])
    lab.network.block(lab.alpha, lab.beta)
    lab.network.block(lab.beta, lab.alpha)
    assert lab.command("alpha", "attach").exit_code == 0
    assert lab.shows("alpha", disk=DiskState.NEGOTIATING)
    resumed = lab.ask("alpha", "resume-io")
    lab.run_for(0.01)
    lab.network.unblock(lab.alpha, lab.beta)
    lab.network.unblock(lab.beta, lab.alpha)
    assert lab.answered(resumed).exit_code == 0
    assert lab.done(late).errno == 0
    lab.in_sync()
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == DATA[::-1]


def test_the_peer_goes_while_requests_wait_for_an_attach() -> None:
    """They are answered then: the disk that nobody could compare is given up."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.network.block(lab.alpha, lab.beta)
    assert lab.command("alpha", "attach").exit_code == 0
    late = lab.submit("alpha", "write", 0, BLOCK, data=DATA[::-1])
    lab.run_for(0.01)
    assert not late.done
    lab.partition()
    lab.run_until(lambda: late.done, what="the answer")
    held_here = lab.shows("alpha", disk=DiskState.UP_TO_DATE)
    assert (late.errno == 0) == held_here
    lab.heal()


def test_forced_detach_of_a_primary_with_io_under_way() -> None:
    lab = ready()
    requests = [
        lab.submit("alpha", "write", block * BLOCK, BLOCK, data=DATA) for block in range(20)
    ]
    answer = lab.command("alpha", "detach", force=True)
    assert answer.exit_code == 0
    for request in requests:
        assert lab.done(request).errno == 0
    for block in range(20):
        assert lab.on_disk("beta", block * BLOCK, BLOCK) == DATA
    assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_disk_comes_back_beside_a_peer_that_has_none() -> None:
    """Both lost theirs in one generation: what is written now names itself."""
    lab = ready()
    before = lab.uuids("alpha").current
    assert lab.command("alpha", "detach").exit_code == 0
    lab.fail("beta", "data", "read", times=1)
    lab.submit("alpha", "read", 0, BLOCK)
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    assert lab.command("alpha", "attach").exit_code == 0
    lab.reaches("alpha", disk=DiskState.UP_TO_DATE)
    lab.write("alpha", 5 * BLOCK, DATA)
    told = lab.durable_uuids("alpha")
    assert told.current | 1 != before | 1
    assert told.bitmap | 1 == before | 1
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_both_diskless_and_the_old_data_only_comes_back() -> None:
    """alpha Primary and diskless keeps to the generation its clients saw."""
    lab = ready()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.write("alpha", 0, DATA[::-1])
    lab.run_for(0.1)
    lab.beta.kill()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    answer = lab.command("alpha", "attach")
    assert answer.exit_code != 0
    assert lab.state("alpha").disk is DiskState.DISKLESS
    lab.boot("beta")
    lab.reaches("alpha", pdsk=DiskState.UP_TO_DATE)
    assert lab.read("alpha", 0, BLOCK) == DATA[::-1]


def test_unrelated_data_is_not_attached_under_a_running_pair() -> None:
    lab = ready()
    assert lab.command("beta", "detach").exit_code == 0
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    size = lab.options.device_bytes
    stranger = synced_drive(lab.beta, 0, size, 0x1234_5678_9ABC_DEF0)
    stranger.speed = lab.options.drives
    lab.beta.drives[0] = stranger
    lab.command("beta", "attach")
    lab.run_for(3)
    assert lab.state("beta").disk is DiskState.DISKLESS
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE
    assert lab.state("alpha").conn is ConnState.CONNECTED
    lab.write("alpha", 0, DATA)


def test_a_fresh_disk_is_attached_and_copied_whole() -> None:
    lab = ready()
    assert lab.command("beta", "detach").exit_code == 0
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    lab.new_drive("beta", lab.options.device_bytes)
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert lab.on_disk("beta", 0, BLOCK) == DATA
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("delay_us", [0, 50, 150, 400, 1000, 100_000, 499_900, 500_300, 500_600])
def test_attaching_in_the_middle_of_connecting(delay_us: int) -> None:
    """Whatever the handshake has told of the disk already, both end in sync."""
    lab = ready()
    assert lab.command("beta", "detach").exit_code == 0
    lab.disconnect("beta")
    lab.write("alpha", 9 * BLOCK, DATA)
    lab.connect("beta")
    lab.run_for(delay_us / 1e6)
    answer = lab.answered(lab.ask("beta", "attach"))
    assert answer.exit_code == 0, answer.text
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_detaching_in_the_middle_of_a_resync_ends_it() -> None:
    lab = Lab(disk={"c_plan_ahead": 0, "resync_rate": 40})
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in range(0, 200, 2):
        lab.write("alpha", block * BLOCK, DATA)
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    assert lab.command("beta", "detach").exit_code == 0
    assert lab.state("beta").disk is DiskState.DISKLESS
    lab.reaches("alpha", conn=ConnState.CONNECTED, pdsk=DiskState.DISKLESS)
    lab.write("alpha", 300 * BLOCK, DATA)
    assert lab.command("beta", "attach").exit_code == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


@pytest.mark.parametrize("at_us", range(0, 700, 35))
def test_the_primarys_disk_fails_while_the_secondary_attaches_older_data(at_us: int) -> None:
    """They are not what it served, and it refuses them; a generation begun for them was a split
    brain when its own disk came back."""
    lab = ready()
    assert lab.command("beta", "detach").exit_code == 0
    lab.write("alpha", 0, DATA[::-1])
    lab.fail("alpha", "data", "write", times=1)
    lab.ask("beta", "attach")
    lab.run_for(at_us / 1e6)
    lab.submit("alpha", "write", BLOCK, data=DATA)
    lab.run_for(2)
    for name in ("alpha", "beta"):
        if lab.shows(name, conn=ConnState.STANDALONE):
            lab.connect(name)
    lab.run_for(3)
    for name in ("alpha", "beta"):
        if lab.shows(name, disk=DiskState.DISKLESS):
            lab.command(name, "attach")
            lab.run_for(1)
    if lab.shows("alpha", conn=ConnState.STANDALONE):
        lab.connect("alpha")
    lab.in_sync()
    assert not any(lab.told(name, "Split-Brain") for name in ("alpha", "beta"))
    assert lab.on_disk("beta", 0, BLOCK) == DATA[::-1]
    assert lab.differing_blocks() == []
