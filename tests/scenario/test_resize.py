"""The device gets another size while it is in use: the backing devices first, then ``resize``."""

from __future__ import annotations

import pytest

from replblk.engine.ports import Answer
from replblk.meta.superblock import Superblock
from replblk.model.notices import SizeChanged
from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.machine import Machine
from replblk.sim.store import differing_pages
from tests.support.lab import BLOCK, Lab

SMALL, LARGE = 4 << 20, 6 << 20
NODES = ("alpha", "beta")


def size_of(lab: Lab, name: str) -> int:
    node = lab[name].node
    assert node is not None
    return node.size_bytes(0)


def pair(**more: object) -> Lab:
    """alpha is Primary, beta Secondary, in sync."""
    lab = Lab(device_bytes=SMALL, **more)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    return lab


def grow(lab: Lab, by: int = LARGE - SMALL, names: tuple[str, ...] = NODES) -> None:
    for name in names:
        lab.drive(name).grow(lab.drive(name).store.size_bytes + by)


def resized(lab: Lab, name: str = "alpha", **options: object) -> Answer:
    answer = lab.command(name, "resize", **options)
    assert answer.exit_code == 0, answer.text
    return answer


@pytest.mark.parametrize("name", NODES)
def test_both_devices_grew_and_resize_makes_the_room_usable(name: str) -> None:
    lab = pair()
    lab.write("alpha", size_of(lab, "alpha") - BLOCK, b"old!" * 1024)
    sizes: list[SizeChanged] = []
    lab["alpha"].on_size.append(lambda _, change: sizes.append(change))
    grow(lab)
    before = size_of(lab, "alpha")
    resized(lab, name)
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before + (LARGE - SMALL)
    assert [change.new_sectors * 512 for change in sizes] == [before + (LARGE - SMALL)]
    lab.in_sync()
    assert lab.told("beta", "Began resync as SyncTarget (will sync 2048 KB [512 bits set]).")
    assert lab.read("alpha", before - BLOCK, BLOCK) == b"old!" * 1024
    lab.write("alpha", size_of(lab, "alpha") - BLOCK, b"new!" * 1024)
    assert lab.on_disk("beta", size_of(lab, "beta") - BLOCK, BLOCK) == b"new!" * 1024
    assert lab.differing_blocks() == []


def test_writes_go_on_while_the_device_grows() -> None:
    lab = pair()
    grow(lab)
    answers: list[Answer] = []
    lab.alpha.command("resize", answers.append, 0)
    for block in range(200):
        lab.write("alpha", block * BLOCK, bytes([block]) * BLOCK)
    assert [answer.exit_code for answer in answers] == [0]
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_nobody_sees_a_size_that_is_not_on_disk_with_the_bits_of_the_new_part() -> None:
    lab = pair()
    first = size_of(lab, "alpha") // BLOCK + 1
    seen: list[str] = []

    def resizes(machine: Machine, change: SizeChanged) -> None:
        drive = lab.drive(machine.name)
        layout = drive.found_layout()
        superblock = Superblock.parse(drive.store.read_durable(layout.md_offset_bytes, BLOCK))
        assert superblock.la_size_sect == change.new_sectors
        bits = drive.store.read_durable(layout.bm_offset_bytes, layout.bm_bytes(first + 8))
        assert bits[first // 8] >> first % 8 & 1
        seen.append(machine.name)

    for name in NODES:
        lab[name].on_size.append(resizes)
        lab.drive(name).slowness = 20
    grow(lab)
    resized(lab)
    assert sorted(seen) == ["alpha", "beta"]


def test_the_rest_of_a_block_in_which_the_old_size_ended_is_new() -> None:
    lab = pair()
    end = 512 * 8 + 3
    resized(lab, size_sectors=end)
    lab.in_sync()
    lab.drive("beta").store.preset((end + 1) * 512, b"else" * 128)
    resized(lab)
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_what_was_metadata_is_zeroes_when_it_becomes_data() -> None:
    lab = pair()
    end = size_of(lab, "alpha")
    grow(lab)
    resized(lab)
    lab.in_sync()
    assert lab.read("alpha", end, SMALL - end) == bytes(SMALL - end)


def test_the_new_size_outlives_both_nodes() -> None:
    lab = pair()
    grow(lab)
    resized(lab)
    lab.in_sync()
    new = size_of(lab, "alpha")
    lab.alpha.power_off()
    lab.beta.power_off()
    lab.up()
    assert size_of(lab, "alpha") == size_of(lab, "beta") == new
    lab.in_sync()


@pytest.mark.parametrize("by", [512, 4096, 8192, 36864, 40960, 45056])
def test_a_device_may_grow_by_less_than_its_metadata_take(by: int) -> None:
    """Then old and new metadata overlap: nobody must take the ruins of the old ones for good."""
    lab = pair()
    lab.write("alpha", size_of(lab, "alpha") - BLOCK, b"last" * 1024)
    before = size_of(lab, "alpha")
    grow(lab, by)
    resized(lab)
    lab.in_sync()
    assert size_of(lab, "alpha") == before + by // 4096 * 4096
    lab.alpha.power_off()
    lab.beta.power_off()
    lab.up()
    lab.in_sync()
    lab.primary("alpha")
    assert lab.read("alpha", before - BLOCK, BLOCK) == b"last" * 1024


def test_only_one_device_grew_so_the_size_stays_until_the_other_does() -> None:
    lab = pair()
    before = size_of(lab, "alpha")
    grow(lab, names=("alpha",))
    resized(lab)
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before
    grow(lab, names=("beta",))
    resized(lab, "beta")
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before + (LARGE - SMALL)
    lab.in_sync()


def test_assume_clean_copies_nothing() -> None:
    lab = pair()
    grow(lab)
    resized(lab, assume_clean=True)
    lab.run_for(1)
    assert size_of(lab, "alpha") == size_of(lab, "beta") > SMALL
    assert lab.state("alpha").conn is ConnState.CONNECTED
    assert lab.state("beta").disk is DiskState.UP_TO_DATE
    assert not lab.told("beta", "Began resync")
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_named_size_smaller_than_the_devices_is_what_both_get() -> None:
    lab = pair()
    grow(lab)
    wanted = size_of(lab, "alpha") + (1 << 20)
    resized(lab, size_sectors=wanted // 512)
    assert size_of(lab, "alpha") == size_of(lab, "beta") == wanted
    lab.in_sync()
    answer = resized(lab, size_sectors=(1 << 30) // 512)
    assert answer.text.startswith("Requested disk size is too big (1048576 > ")


@pytest.mark.parametrize("name", NODES)
def test_by_name_it_may_become_smaller(name: str) -> None:
    lab = pair()
    lab.write("alpha", 0, b"kept" * 1024)
    wanted = 2 << 20
    resized(lab, name, size_sectors=wanted // 512)
    assert size_of(lab, "alpha") == size_of(lab, "beta") == wanted
    behind = lab.submit("alpha", "write", wanted, BLOCK, data=bytes(BLOCK))
    lab.run_until(lambda: behind.done)
    assert behind.errno
    lab.alpha.power_off()
    lab.beta.power_off()
    lab.boot("alpha")
    assert size_of(lab, "alpha") == wanted
    lab.boot("beta")  # the configuration names no size: together they take what their disks have
    lab.in_sync()
    lab.primary("alpha")
    assert size_of(lab, "alpha") == size_of(lab, "beta") > wanted
    assert lab.read("alpha", 0, BLOCK) == b"kept" * 1024
    assert lab.differing_blocks() == []


def test_a_write_under_way_behind_the_new_end_costs_nothing_but_itself() -> None:
    lab = pair()
    lab.hold("beta")
    late = lab.submit("alpha", "write", 3 << 20, BLOCK, data=b"late" * 1024)
    lab.run_for(0.001)
    answers: list[Answer] = []
    lab.beta.command("resize", answers.append, 0, size_sectors=(2 << 20) // 512)
    lab.run_for(0.01)
    lab.release("beta")
    lab.run_until(lambda: late.done and bool(answers))
    assert [answer.exit_code for answer in answers] == [0]
    assert lab.state("alpha").conn >= ConnState.CONNECTED
    assert size_of(lab, "alpha") == size_of(lab, "beta") == 2 << 20


REFUSALS = {
    "both are Secondary": (131, "Need one Primary node to resize."),
    "a resync runs": (130, "Resize not allowed during resync."),
    "there is no disk": (138, "Device does not have a disk-config"),
    "an activity log too large": (167, "Resulting AL area too big"),
    "an activity log too small": (168, "Resulting AL are too small"),
    "no room for the activity log": (169, "Resulting AL does not fit into available meta data"),
    "alone with another activity log": (166, "DRBD need to be connected for online MD layout"),
    "the device became smaller": (170, "Implicit device shrinking not allowed."),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refused_with_drbds_number_and_sentence(case: str) -> None:
    lab = pair(disk={"c_plan_ahead": 0, "resync_rate": 40})
    before = size_of(lab, "alpha")
    options: dict[str, object] = {}
    if case == "both are Secondary":
        lab.secondary("alpha")
    elif case == "a resync runs":
        assert lab.command("beta", "invalidate").exit_code == 0
        lab.reaches("alpha", conn=ConnState.SYNC_SOURCE)
    elif case == "there is no disk":
        assert lab.command("alpha", "detach").exit_code == 0
    elif case == "alone with another activity log":
        lab.disconnect("alpha")
        options = {"al_stripes": 2}
    elif case == "the device became smaller":
        lab.drive("alpha").store.size_bytes -= 1 << 20
    elif case == "an activity log too large":
        options = {"al_stripes": 1 << 20, "al_stripe_size_kib": 32}
    elif case == "an activity log too small":
        options = {"al_stripe_size_kib": 16}
    else:
        options = {"al_stripes": 8}
    answer = lab.command("alpha", "resize", **options)
    number, words = REFUSALS[case]
    assert (answer.exit_code, answer.code) == (10, number)
    assert answer.text.startswith(words)
    assert size_of(lab, "alpha") == before


def test_alone_only_with_the_assumption_that_the_peer_has_space() -> None:
    lab = pair()
    before = size_of(lab, "alpha")
    lab.disconnect("alpha")
    grow(lab)
    resized(lab)
    assert size_of(lab, "alpha") == before
    resized(lab, assume_peer=True)
    assert lab.told("alpha", "Resize while not connected was forced by the user!")
    assert size_of(lab, "alpha") == before + (LARGE - SMALL)
    lab.write("alpha", before, b"more" * 1024)
    lab.connect("alpha")
    lab.reaches("alpha", conn=ConnState.STANDALONE)
    assert lab.told("alpha", "The peer's disk size is too small!")
    lab.beta.kill()
    lab.boot("beta")  # it looks at its device, and finds its metadata
    lab.connect("alpha")
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_the_peer_is_lost_before_it_answers() -> None:
    lab = pair()
    before = size_of(lab, "alpha")
    grow(lab)
    lab.beta.power_off()
    answers: list[Answer] = []
    lab.alpha.command("resize", answers.append, 0)
    lab.run_until(lambda: bool(answers))
    assert answers[0].exit_code == 10
    assert "when the nodes are connected again, resize once more" in answers[0].text
    lab.boot("beta")
    lab.in_sync()
    resized(lab)
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before + (LARGE - SMALL)
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_secondary_that_asked_for_less_and_lost_its_primary_connects_to_it_again() -> None:
    """Nothing was made smaller: the size that was wished for must not keep the nodes apart."""
    lab = pair()
    before = size_of(lab, "alpha")
    waiting = lab.ask("beta", "resize", size_sectors=before // 1024)
    lab.cut()
    answer = lab.answered(waiting)
    assert answer.exit_code == 10
    assert "when the nodes are connected again, resize once more" in answer.text
    lab.in_sync()
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before
    resized(lab, "beta", size_sectors=before // 1024)
    lab.in_sync()
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before // 1024 * 512


def test_a_diskless_primary_keeps_its_size_when_its_peers_disk_grows() -> None:
    """The peer has not grown, and what is written behind its end would cost the connection."""
    lab = pair()
    before = size_of(lab, "alpha")
    assert lab.command("alpha", "detach").exit_code == 0
    grow(lab)
    resized(lab, "beta")
    lab.run_for(0.1)
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before
    lab.write("alpha", before - BLOCK, b"tail" * 1024)
    assert lab.command("alpha", "attach").exit_code == 0
    lab.in_sync()
    resized(lab)
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before + (LARGE - SMALL)
    lab.in_sync()


def test_another_activity_log_is_a_move_like_any_other() -> None:
    lab = pair()
    grow(lab)
    resized(lab, al_stripes=2)
    for block in range(64):
        lab.write("alpha", block * 64 * 1024, bytes([block + 1]) * BLOCK)
    lab.in_sync()
    assert size_of(lab, "alpha") == LARGE - 40 * 1024 - 32 * 1024
    lab.alpha.power_off()
    lab.run_for(1)
    lab.boot("alpha")
    lab.in_sync()
    end = size_of(lab, "alpha")
    stores = [lab.drive(name).store.pages for name in NODES]
    assert differing_pages(*stores, end) == []


def test_no_room_for_the_new_metadata_and_the_old_ones_stay() -> None:
    lab = pair()
    before = size_of(lab, "alpha")
    grow(lab)
    lab.fail("alpha", "bitmap", "write", times=1)
    answer = lab.command("alpha", "resize")
    assert answer.exit_code == 10
    assert "writing the bitmap at the new place failed (errno 5)" in answer.text
    assert lab.state("alpha").disk is DiskState.UP_TO_DATE
    assert size_of(lab, "alpha") == before
    for block in range(64):
        lab.write("alpha", block * 16384, bytes([block + 1]) * BLOCK)
    lab.alpha.power_off()
    lab.run_until(lambda: lab.state("beta").conn < ConnState.CONNECTED)
    lab.boot("alpha")
    lab.in_sync()
    lab.primary("alpha")
    resized(lab)
    lab.in_sync()
    assert size_of(lab, "alpha") == before + (LARGE - SMALL)
    assert lab.differing_blocks() == []


def test_both_nodes_resize_at_once_while_the_devices_go_on_growing() -> None:
    """What was decided before one change must not be carried out after it: on an older size."""
    lab = pair()
    before = size_of(lab, "alpha")
    for delay in (0.0, 0.0002, 0.0005, 0.001):
        answers: list[Answer] = []
        grow(lab, 16384)
        lab.alpha.command("resize", answers.append, 0)
        lab.run_for(delay)
        grow(lab, 65536)
        lab.beta.command("resize", answers.append, 0)
        lab.run_until(lambda answers=answers: len(answers) == 2)  # type: ignore[misc]
        lab.in_sync()
    resized(lab)
    lab.in_sync()
    assert size_of(lab, "alpha") == size_of(lab, "beta") == before + 4 * (16384 + 65536)
    for name in NODES:
        assert lab.drive(name).found_layout().device_bytes == lab.drive(name).store.size_bytes
    assert lab.differing_blocks() == []
