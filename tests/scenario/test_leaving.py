"""Leaving in order: disconnect, down, and waiting for what may not come."""

from __future__ import annotations

import pytest

from replblk.meta.superblock import MdFlag
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.world import SECOND_NS
from tests.support.lab import BLOCK, Lab

OTHER = {"alpha": "beta", "beta": "alpha"}


def ready() -> Lab:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, b"x" * BLOCK)
    return lab


@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_a_graceful_disconnect_is_answered_and_the_peer_looks_for_us_again(name: str) -> None:
    lab = ready()
    lab.disconnect(name)
    assert lab.state(name).conn is ConnState.STANDALONE
    lab.reaches(OTHER[name], conn=ConnState.WF_CONNECTION)
    other = lab[OTHER[name]].node
    assert other is not None
    assert lab.told(OTHER[name], "peer disconnected")
    lab.connect(name)
    lab.in_sync()


def test_both_disconnect_at_once() -> None:
    lab = ready()
    waiting = [lab.ask(name, "disconnect") for name in ("alpha", "beta")]
    for one in waiting:
        assert lab.answered(one).exit_code == 0
    for name in ("alpha", "beta"):
        assert lab.state(name).conn is ConnState.STANDALONE


def test_disconnect_while_nobody_is_there() -> None:
    lab = Lab()
    lab.boot("alpha")
    lab.disconnect("alpha")
    assert lab.state("alpha").conn is ConnState.STANDALONE


def test_forced_disconnect_needs_no_answer() -> None:
    lab = ready()
    lab.beta.pause()
    lab.disconnect("alpha", force=True)
    assert lab.state("alpha").conn is ConnState.STANDALONE


def test_disconnect_with_a_frozen_peer_ends_when_the_ping_is_missed() -> None:
    lab = ready()
    lab.beta.pause()
    assert lab.command("alpha", "disconnect").exit_code == 0
    assert lab.state("alpha").conn is ConnState.STANDALONE


@pytest.mark.parametrize("after_us", [0, 100, 200, 500_100, 500_300, 500_500])
def test_disconnect_in_the_middle_of_connecting(after_us: int) -> None:
    lab = Lab()
    lab.boot("alpha")
    lab.boot("beta")
    lab.run_for(after_us / 1e6)
    lab.disconnect("alpha")
    lab.connect("alpha")
    lab.in_sync()


def test_down_leaves_clean_metadata_and_up_comes_back_in_sync() -> None:
    lab = ready()
    for name in ("alpha", "beta"):
        assert lab.shut_down(name).exit_code == 0
        flags = lab.durable_flags(name)
        assert MdFlag.PRIMARY_IND not in flags
        assert MdFlag.WAS_UP_TO_DATE in flags
    lab.up()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_down_with_a_client_is_refused_and_everything_goes_on() -> None:
    lab = ready()
    assert lab.open("alpha") is None
    answer = lab.command("alpha", "down")
    assert (answer.exit_code, answer.code) == (11, -12)
    assert "failed to demote" in answer.text
    assert lab.state("alpha").role is Role.PRIMARY
    lab.write("alpha", 0, b"y" * BLOCK)
    assert lab.on_disk("beta", 0, BLOCK) == b"y" * BLOCK
    lab.close("alpha")
    assert lab.shut_down("alpha").exit_code == 0


def test_down_with_writes_under_way_waits_for_them() -> None:
    lab = ready()
    requests = [
        lab.submit("alpha", "write", n * BLOCK, BLOCK, data=bytes([n]) * BLOCK) for n in range(30)
    ]
    assert lab.shut_down("alpha").exit_code == 0
    assert all(request.done and request.errno == 0 for request in requests)
    assert lab.on_disk("beta", 29 * BLOCK, BLOCK) == bytes([29]) * BLOCK


def test_wait_connect_is_answered_when_the_peer_comes() -> None:
    lab = Lab()
    lab.boot("alpha")
    waiting = lab.ask("alpha", "wait-connect", timeout_s=30)
    lab.run_for(1)
    assert not waiting.answers
    lab.boot("beta")
    assert lab.answered(waiting).exit_code == 0
    assert lab.state("alpha").conn is ConnState.CONNECTED


def test_wait_connect_runs_out_of_time_with_exit_5() -> None:
    lab = Lab()
    lab.boot("alpha")
    begun = lab.world.now_ns
    answer = lab.answered(lab.ask("alpha", "wait-connect", timeout_s=3))
    assert answer.exit_code == 5
    assert "timed out" in answer.text
    assert abs(lab.world.now_ns - begun - 3 * SECOND_NS) < SECOND_NS // 100


def test_wait_sync_waits_for_the_end_of_the_resync() -> None:
    lab = Lab(fresh=True, device_bytes=1 << 20, disk={"c_plan_ahead": 0, "resync_rate": 1000})
    lab.up()
    lab.primary("alpha", force=True)
    lab.reaches("alpha", conn=ConnState.SYNC_SOURCE)
    waiting = lab.ask("alpha", "wait-sync")
    assert lab.answered(waiting).exit_code == 0
    assert lab.state("alpha").pdsk is DiskState.UP_TO_DATE


def test_waiting_does_not_hold_up_other_commands() -> None:
    lab = Lab()
    lab.boot("alpha")
    waiting = lab.ask("alpha", "wait-connect", timeout_s=50)
    assert lab.command("alpha", "primary").exit_code == 0
    assert not waiting.answers


def test_a_wait_ends_when_the_node_gives_up() -> None:
    lab = Lab()
    lab.boot("alpha")
    waiting = lab.ask("alpha", "wait-connect")
    lab.disconnect("alpha")
    assert lab.answered(waiting) is not None


def test_secondary_then_primary_there_is_a_switchover() -> None:
    lab = ready()
    for _ in range(3):
        lab.secondary("alpha")
        lab.primary("beta")
        lab.write("beta", BLOCK, b"b" * BLOCK)
        lab.secondary("beta")
        lab.primary("alpha")
        lab.write("alpha", BLOCK, b"a" * BLOCK)
    assert lab.differing_blocks() == []


def test_both_ask_to_be_primary_at_once_and_one_is() -> None:
    lab = Lab()
    lab.up()
    waiting = {name: lab.ask(name, "primary") for name in ("alpha", "beta")}
    answers = {name: lab.answered(one) for name, one in waiting.items()}
    lab.run_for(1)
    primaries = [n for n in ("alpha", "beta") if lab.state(n).role is Role.PRIMARY]
    assert len(primaries) <= 1
    for name, answer in answers.items():
        assert (answer.exit_code == 0) == (name in primaries)


@pytest.mark.parametrize("at_us", range(0, 900, 45))
def test_a_diskless_primary_and_its_only_data_part_and_meet_again(at_us: int) -> None:
    """The Secondary may not leave; cut off while it asks, it offered to be Outdated, and was: then
    nobody had any data."""
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    assert lab.command("alpha", "detach").exit_code == 0
    lab.write("alpha", 0, b"only one" * 512)
    leaving = lab.ask("beta", "disconnect")
    lab.run_for(at_us / 1e6)
    assert lab.command("alpha", "disconnect", force=True).exit_code == 0
    lab.answered(leaving)
    assert lab.shows("beta", disk=DiskState.UP_TO_DATE)
    for name in ("alpha", "beta"):
        if lab.shows(name, conn=ConnState.STANDALONE):
            lab.connect(name)
    lab.reaches("alpha", conn=ConnState.CONNECTED, pdsk=DiskState.UP_TO_DATE)
    assert lab.read("alpha", 0, BLOCK) == b"only one" * 512
