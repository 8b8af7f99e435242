"""Handlers are called when DRBD calls them, told what it is about, and heard where DRBD listens."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, OnIoError, OnNoData, Policy
from replblk.sim.handlers import HandlerEnds
from tests.scenario.test_split_brain import MINE, both_alone
from tests.support.lab import BLOCK, Lab

EVERY = (
    *("before-resync-source", "before-resync-target", "after-resync-target", "out-of-sync"),
    *("split-brain", "initial-split-brain", "pri-lost", "pri-lost-after-sb", "pri-on-incon-degr"),
    *("local-io-error", "fence-peer", "unfence-peer"),
)
COMMANDS = {name: f"/etc/on-{name}; echo b > /x" for name in EVERY}


def lab_with(**options: object) -> Lab:
    """Every handler is configured on both nodes."""
    return Lab(resource={"handlers": COMMANDS, "config_file": "/etc/drbd.conf"}, **options)  # type: ignore[arg-type]


def called(lab: Lab, name: str) -> list[str]:
    """Names of the handlers called so far on a node."""
    return [call.name for call in lab[name].handler_calls]


def resynced(lab: Lab) -> None:
    """alpha, Primary, writes while beta is away."""
    lab.up()
    lab.primary("alpha")
    lab.beta.power_off()
    lab.reaches("alpha", peer=0)
    lab.write("alpha", 0, b"x" * BLOCK)
    lab.boot("beta")


def test_a_resync_calls_its_handlers_on_the_right_side_and_in_order() -> None:
    lab = lab_with()
    resynced(lab)
    lab.in_sync()
    lab.run_for(0.1)
    assert called(lab, "alpha") == ["before-resync-source"]
    assert called(lab, "beta") == ["before-resync-target", "after-resync-target"]


def test_a_handler_finds_in_its_environment_what_it_is_about() -> None:
    lab = lab_with()
    resynced(lab)
    lab.in_sync()
    call = lab.beta.handler_calls[0]
    assert call.command == "/etc/on-before-resync-target; echo b > /x"
    assert dict(call.environment) == {
        "DRBD_RESOURCE": "r0",
        "DRBD_CONF": "/etc/drbd.conf",
        "DRBD_PEER_AF": "ipv4",
        "DRBD_PEER_ADDRESS": "127.0.0.1",
        "DRBD_PEER": "alpha",
        "DRBD_PEERS": "alpha",
        "DRBD_MINOR": "0",
        "DRBD_VOLUME": "0",
        "DRBD_LL_DISK": "/sim/beta/0",
    }


def test_the_target_is_up_to_date_on_disk_when_after_resync_target_is_called() -> None:
    lab = lab_with()
    resynced(lab)
    lab.run_until(lambda: "after-resync-target" in called(lab, "beta"))
    lab.beta.power_off()
    lab.beta.boot()
    lab.command("beta", "up")
    lab.run_until(lambda: lab.state("beta").disk is DiskState.UP_TO_DATE)


@pytest.mark.parametrize(
    ("node", "handler", "exit_code"),
    [("beta", "before-resync-target", 1), ("alpha", "before-resync-source", 1)],
)
def test_a_resync_is_forbidden_by_the_exit_status_of_its_handler(
    node: str, handler: str, exit_code: int
) -> None:
    lab = lab_with()
    lab[node].handlers[handler] = HandlerEnds(exit_code)
    resynced(lab)
    lab.run_until(lambda: lab[node].connection is ConnState.STANDALONE)
    assert lab.told(node, f"{handler} handler returned {exit_code}, dropping connection")
    assert lab.state("beta").disk is not DiskState.UP_TO_DATE
    assert lab.read("alpha", 0, BLOCK) == b"x" * BLOCK
    lab[node].handlers.clear()
    lab.connect(node)
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_status_3_of_before_resync_source_forbids_nothing() -> None:
    lab = lab_with()
    lab.alpha.handlers["before-resync-source"] = HandlerEnds(3)
    resynced(lab)
    lab.in_sync()


@pytest.mark.parametrize(
    ("node", "handler"), [("beta", "before-resync-target"), ("alpha", "before-resync-source")]
)
def test_writes_during_a_slow_handler_arrive(node: str, handler: str) -> None:
    lab = lab_with()
    lab[node].handlers[handler] = HandlerEnds(after_ns=2_000_000_000)
    resynced(lab)
    lab.run_until(lambda: handler in called(lab, node))
    requests = [
        lab.submit("alpha", "write", n * BLOCK, data=bytes([n]) * BLOCK) for n in range(3, 9)
    ]
    lab.run_until(lambda: all(request.done and not request.errno for request in requests))
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", 5 * BLOCK, BLOCK) == b"\5" * BLOCK


@pytest.mark.parametrize(
    ("node", "handler"), [("beta", "before-resync-target"), ("alpha", "before-resync-source")]
)
def test_a_connection_lost_during_a_handler_is_made_again(node: str, handler: str) -> None:
    lab = lab_with()
    lab[node].handlers[handler] = HandlerEnds(after_ns=500_000_000)
    resynced(lab)
    lab.run_until(lambda: handler in called(lab, node))
    lab.cut()
    lab.in_sync()
    assert called(lab, node).count(handler) == 2
    assert lab.differing_blocks() == []


@pytest.mark.parametrize(
    ("ends", "said"),
    [
        (HandlerEnds(never=True), "it did not end within 600 s and was killed"),
        (HandlerEnds(-1, trouble="it was killed by signal 9"), "it was killed by signal 9"),
        (HandlerEnds(-1, trouble="it could not be started: no sh"), "it could not be started"),
    ],
)
def test_a_handler_that_does_not_end_by_itself_counts_as_failed_and_is_told(
    ends: HandlerEnds, said: str
) -> None:
    lab = lab_with()
    lab.beta.handlers["before-resync-target"] = ends
    resynced(lab)
    lab.run_until(lambda: lab.beta.connection is ConnState.STANDALONE, limit_ns=700 * 10**9)
    assert lab.told("beta", f"before-resync-target minor-0: {said}")


def split(lab: Lab, *, primary: str | None = None) -> None:
    """Both wrote alone; afterwards only *primary* is Primary."""
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.partition()
    lab.primary("beta")
    for name in ("alpha", "beta"):
        lab.write(name, 0, MINE[name])
        if name != primary:
            lab.secondary(name)
    lab.heal()


def test_a_split_brain_calls_both_handlers_on_both_nodes() -> None:
    lab = lab_with()
    split(lab)
    both_alone(lab)
    lab.run_for(0.1)
    for name in ("alpha", "beta"):
        assert called(lab, name) == ["initial-split-brain", "split-brain"]


def test_a_split_brain_that_a_policy_solves_calls_only_the_first() -> None:
    lab = lab_with(net={"after_sb_0pri": Policy.DISCARD_LEAST_CHG})
    split(lab)
    lab.in_sync()
    for name in ("alpha", "beta"):
        assert called(lab, name)[0] == "initial-split-brain"
        assert "split-brain" not in called(lab, name)


def test_a_primary_that_should_become_target_calls_pri_lost() -> None:
    lab = lab_with(
        net={
            "after_sb_1pri": Policy.VIOLENTLY,
            "rr_conflict": Policy.CALL_HELPER,
        },
        net_of={
            "alpha": {"after_sb_0pri": Policy.DISCARD_LOCAL},
            "beta": {"after_sb_0pri": Policy.DISCARD_REMOTE},
        },
    )
    split(lab, primary="alpha")
    lab.run_until(lambda: lab.alpha.connection is ConnState.STANDALONE)
    lab.run_for(0.1)
    assert called(lab, "alpha") == ["initial-split-brain", "pri-lost"]


def test_a_local_io_error_calls_its_handler_if_the_policy_says_so() -> None:
    for policy, calls in ((OnIoError.CALL_LOCAL_IO_ERROR, 1), (OnIoError.DETACH, 0)):
        lab = lab_with(disk={"on_io_error": policy})
        lab.up()
        lab.primary("alpha")
        lab.fail("alpha", "data", "write")
        lab.write("alpha", 0, b"y" * BLOCK)
        lab.reaches("alpha", disk=DiskState.DISKLESS)
        lab.run_for(0.1)
        assert called(lab, "alpha").count("local-io-error") == calls


def test_a_detach_by_command_is_no_io_error() -> None:
    lab = lab_with(disk={"on_io_error": OnIoError.CALL_LOCAL_IO_ERROR})
    lab.up()
    assert lab.command("alpha", "detach").exit_code == 0
    lab.run_for(0.1)
    assert called(lab, "alpha") == []


@pytest.mark.parametrize("on_no_data", list(OnNoData))
def test_a_lone_primary_without_data_calls_pri_on_incon_degr_first(on_no_data: OnNoData) -> None:
    lab = Lab(
        disk={"on_io_error": OnIoError.CALL_LOCAL_IO_ERROR},
        resource={"handlers": COMMANDS, "on_no_data_accessible": on_no_data},
    )
    lab.up()
    lab.primary("alpha")
    lab.partition()
    lab.fail("alpha", "data", "write")
    lab.submit("alpha", "write", 0, data=b"z" * BLOCK)
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.run_for(0.1)
    assert called(lab, "alpha") == ["pri-on-incon-degr", "local-io-error"]


def test_a_verify_that_finds_something_calls_out_of_sync_on_both_nodes() -> None:
    lab = lab_with(net={"verify_alg": "sha256"})
    lab.up()
    lab.drive("beta").store.preset(7 * BLOCK, b"rot" + bytes(BLOCK - 3))
    assert lab.command("alpha", "verify").exit_code == 0
    lab.run_until(lambda: lab.told("alpha", "Online verify found 1 4k block out of sync!"))
    lab.run_for(0.5)
    assert called(lab, "alpha") == called(lab, "beta") == ["out-of-sync"]


def test_a_handler_that_is_not_configured_costs_nothing() -> None:
    lab = Lab()
    resynced(lab)
    lab.in_sync()
    assert not called(lab, "alpha")
    assert not called(lab, "beta")
