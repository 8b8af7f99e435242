"""``switchover``: the Primary role moves to the peer by one command, on either node.

Never are there two Primaries, and whoever waits in vain takes the role back."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from replblk.model.vocabulary import DiskState, Role
from tests.support.lab import BLOCK, Lab, Waiting

DATA = b"acknowledged" * 341 + b"!!!!"
LATER = DATA[::-1]


def ready(**options: object) -> Lab:
    """alpha is Primary and has a client; both are UpToDate."""
    lab = Lab(device_bytes=16 << 20, **options)
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, DATA)
    assert lab.open("alpha") is None
    return lab


def started(lab: Lab, on: str = "alpha", to: str = "beta", **options: object) -> Waiting:
    return lab.ask(on, "switchover", to_peer=to != on, **options)


def sent_away(lab: Lab, name: str = "alpha") -> None:
    """The node wants its clients to go, and the one there is goes."""
    lab.run_until(lambda: bool(lab[name].sent_away), what="clients are sent away")
    lab.close(name)


def roles(lab: Lab) -> tuple[Role, Role]:
    return lab.state("alpha").role, lab.state("beta").role


HERE, THERE = (Role.PRIMARY, Role.SECONDARY), (Role.SECONDARY, Role.PRIMARY)


@pytest.mark.parametrize("on", ["alpha", "beta"])
def test_one_command_on_either_node_moves_the_role(on: str) -> None:
    lab = ready()
    moving = started(lab, on)
    sent_away(lab)
    answer = lab.answered(moving)
    assert answer.exit_code == 0
    assert "beta is Primary after a pause of " in answer.text
    lab.run_until(lambda: roles(lab) == THERE)
    lab.run_until(lambda: not lab.alpha.sent_away and not lab.beta.sent_away)
    assert lab.read("beta", 0, BLOCK) == DATA
    lab.write("beta", 0, LATER)
    lab.in_sync()
    assert lab.differing_blocks() == []
    back = lab.answered(started(lab, on, to="alpha"))
    assert back.exit_code == 0, back.text
    lab.run_until(lambda: roles(lab) == HERE)


def test_requests_in_flight_are_answered_first() -> None:
    lab = ready()
    lab.hold("beta")
    write = lab.submit("alpha", "write", 0, BLOCK, data=LATER)
    moving = started(lab, timeout_s=90)
    sent_away(lab)
    lab.run_for(0.1)
    assert roles(lab) == HERE
    assert not write.done
    lab.release("beta")
    assert lab.answered(moving).exit_code == 0
    assert lab.done(write).errno == 0
    assert lab.read("beta", 0, BLOCK) == LATER


def test_nobody_is_let_in_any_more_once_clients_are_sent_away() -> None:
    lab = ready()
    moving = started(lab)
    lab.run_until(lambda: bool(lab.alpha.sent_away))
    assert lab.open("alpha") is not None
    lab.close("alpha")
    assert lab.answered(moving).exit_code == 0


@pytest.mark.parametrize("on", ["alpha", "beta"])
def test_where_the_role_is_already_there_is_nothing_to_do(on: str) -> None:
    lab = ready()
    answer = lab.answered(started(lab, on, to="alpha"))
    assert (answer.exit_code, answer.text) == (0, "alpha is Primary already")


# -- refused: clients notice nothing -----------------------------------------------------------


def disconnected(lab: Lab) -> None:
    lab.disconnect("beta")


def peer_without_disk(lab: Lab) -> None:
    assert lab.command("beta", "detach").exit_code == 0
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)


def without_disk(lab: Lab) -> None:
    assert lab.command("alpha", "detach").exit_code == 0


def suspended(lab: Lab) -> None:
    assert lab.command("alpha", "suspend-io").exit_code == 0


REFUSED: dict[str, tuple[Callable[[Lab], None], str]] = {
    "disconnected": (disconnected, "the nodes are not connected"),
    "the peer has no disk": (peer_without_disk, "the peer's disk is Diskless, not UpToDate"),
    "no disk here": (without_disk, "this node has no disk"),
    "suspended": (suspended, "I/O is suspended"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_can_not_be_is_refused_and_clients_stay(why: str) -> None:
    lab = ready()
    prepare, sentence = REFUSED[why]
    prepare(lab)
    answer = lab.answered(started(lab))
    assert answer.exit_code == 11
    assert sentence in answer.text
    assert not lab.alpha.sent_away
    assert lab.state("alpha").role is Role.PRIMARY
    assert lab.open("alpha") is None


def test_a_secondary_is_told_why_by_itself_or_by_its_peers_log() -> None:
    lab = ready()
    suspended(lab)
    answer = lab.answered(started(lab, on="beta"))
    assert answer.exit_code == 11
    assert "alpha does not hand over: its log says why" in answer.text
    assert lab.told("alpha", "I/O is suspended")


def test_nobody_is_primary_then_there_is_nothing_to_move() -> None:
    lab = ready()
    lab.close("alpha")
    lab.secondary("alpha")
    lab.reaches("beta", peer=Role.SECONDARY)
    for on in ("alpha", "beta"):
        answer = lab.answered(started(lab, on, to="beta"))
        assert answer.exit_code == 11
        assert "Primary" in answer.text
    assert roles(lab) == (Role.SECONDARY, Role.SECONDARY)


def test_a_block_device_of_the_machine_keeps_the_role_here() -> None:
    lab = ready()
    lab.alpha.keeps_clients = "r0/0 is a block device of alpha"
    for on in ("alpha", "beta"):
        answer = lab.answered(started(lab, on))
        assert answer.exit_code == 11
    assert lab.told("alpha", "r0/0 is a block device of alpha; this node stays Primary")
    assert lab.open("alpha") is None
    assert roles(lab) == HERE


@pytest.mark.parametrize("on", ["alpha", "beta"])
def test_a_peer_that_passes_over_the_flags_is_not_waited_for(on: str) -> None:
    """As DRBD in the kernel does: the clients of a Primary are served all the while."""
    lab = ready()
    other = lab["beta" if on == "alpha" else "alpha"].node
    assert other is not None
    other._handover.peer_said = lambda volume: None
    moving = started(lab, on)
    lab.run_for(1)
    assert not lab.alpha.sent_away
    lab.write("alpha", 0, LATER)
    answer = lab.answered(moving)
    assert answer.exit_code == 11
    assert "does not answer, as DRBD in the kernel" in answer.text
    assert roles(lab) == HERE
    assert lab.open("alpha") is None


@pytest.mark.parametrize("on", ["alpha", "beta"])
def test_who_wakes_up_late_does_not_begin_what_was_given_up(on: str) -> None:
    """The other process stood still until the command had been answered; then it reads both, that
    the role is to move and that it is not."""
    lab = ready()
    other = lab["beta" if on == "alpha" else "alpha"]
    other.pause()
    answer = lab.answered(started(lab, on))
    assert answer.exit_code == 11
    other.resume()
    lab.run_for(200)
    assert not lab.alpha.sent_away
    assert roles(lab) == HERE


# -- begun, and not come about -----------------------------------------------------------------


def test_clients_that_do_not_go_keep_the_role_here() -> None:
    lab = ready()
    moving = started(lab, timeout_s=2)
    answer = lab.answered(moving)
    assert answer.exit_code == 5
    assert "clients' requests did not end within 2 s; this node stays Primary" in answer.text
    assert roles(lab) == HERE
    assert lab.open("alpha") is None
    lab.close("alpha")
    lab.close("alpha")
    lab.secondary("alpha")
    lab.run_for(200)
    assert roles(lab) == (Role.SECONDARY, Role.SECONDARY), "the peer was not left ready"


def test_a_peer_that_can_not_make_it_durable_in_time_loses_the_chance() -> None:
    """beta's disk hangs: alpha takes the role back, and beta stays Secondary for good."""
    lab = ready(disk_of={"beta": {"disk_timeout": 0}})
    moving = started(lab, timeout_s=2)
    lab.hold("beta")
    sent_away(lab)
    answer = lab.answered(moving)
    primaries = [role for role in roles(lab) if role is Role.PRIMARY]
    assert len(primaries) == 1, answer.text
    lab.release("beta")
    lab.in_sync()
    lab.run_for(200)
    assert len([role for role in roles(lab) if role is Role.PRIMARY]) == 1


def test_lost_while_clients_leave_nothing_has_happened() -> None:
    lab = ready()
    moving = started(lab)
    lab.run_until(lambda: bool(lab.alpha.sent_away))
    lab.partition()
    answer = lab.answered(moving)
    assert answer.exit_code == 11
    assert "the connection was lost; this node stays Primary" in answer.text
    assert roles(lab) == HERE


def test_lost_after_the_demotion_the_role_comes_back_when_the_nodes_meet() -> None:
    """alpha knows only then that beta was not promoted; until then nobody is Primary."""
    lab = ready()
    moving = started(lab)
    lab.run_until(lambda: bool(lab.alpha.sent_away))
    lab.network.block(lab.alpha, lab.beta)  # beta hears no more, before it is told
    lab.close("alpha")
    answer = lab.answered(moving)
    assert answer.exit_code == 11
    lab.run_for(100)
    assert Role.PRIMARY not in roles(lab)
    lab.heal()
    lab.run_until(lambda: roles(lab) == HERE, what="alpha is Primary again")
    lab.write("alpha", 0, LATER)
    lab.in_sync()


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_in_the_middle_there_are_never_two_primaries(seed: int) -> None:
    """A cut, a partition, a killed or stopped node or a hanging disk, at any moment of it."""
    rng = random.Random(seed)
    lab = ready(seed=seed + 1)
    moving = started(lab, rng.choice(["alpha", "beta"]), timeout_s=rng.choice([1, 5, 30]))
    victim = rng.choice(["alpha", "beta"])
    moment = rng.random() * rng.choice([0.001, 0.01, 0.1])
    goes_at = rng.random() * 0.005
    two = False

    def watch(machine: object, change: object) -> None:
        nonlocal two
        two = two or roles(lab) == (Role.PRIMARY, Role.PRIMARY)

    for machine in lab.network.machines:
        machine.on_state.append(watch)
    lab.run_for(goes_at)
    lab.close("alpha")
    lab.run_for(moment)
    what = rng.choice(["cut", "partition", "kill", "one way", "disk", "stop", "nothing"])
    if what == "cut":
        lab.network.cut()
    elif what == "partition":
        lab.network.block(lab.alpha, lab.beta)
        lab.network.block(lab.beta, lab.alpha)
    elif what == "one way":
        lab.network.block(lab[victim], lab.alpha if victim == "beta" else lab.beta)
    elif what == "kill":
        lab[victim].kill()
    elif what == "stop":
        lab[victim].pause()
    elif what == "disk":
        lab.hold(victim)
    lab.run_for(40)
    lab.heal()
    for name in ("alpha", "beta"):
        lab.release(name)
        lab[name].resume()
        if not lab[name].alive:
            lab.boot(name)
    lab.connected()
    lab.in_sync()
    lab.run_for(140)
    assert not two
    assert not (moving.answers == [] and what != "kill"), "the command was never answered"
    primaries = [m.name for m in lab.network.machines if m.states[0].role is Role.PRIMARY]
    if what != "kill":
        assert len(primaries) == 1, (what, moving.answers)
    if len(primaries) == 1:
        assert lab.read(primaries[0], 0, BLOCK) == DATA
    if moving.answers and moving.answers[0].exit_code == 0 and what != "kill":
        assert primaries == ["beta"]
