"""Fencing: what a Primary without its peer may do, and when, by the exit status of fence-peer."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState, Fencing, Role
from replblk.sim.handlers import HandlerEnds
from tests.support.lab import BLOCK, Lab
from tests.support.pair import Request

RESOURCE_ONLY, STONITH = Fencing.RESOURCE_ONLY, Fencing.RESOURCE_AND_STONITH
HANDLERS = {"fence-peer": "/fence", "unfence-peer": "/unfence"}
SLOW_NS = 3_000_000_000
NEW = b"new data" * 512
OTHER = {"alpha": "beta", "beta": "alpha"}


def fenced_lab(
    policy: Fencing,
    exit_code: int | None = 4,
    after_ns: int = 1_000_000,
    more: dict[str, str] | None = None,
    **options: object,
) -> Lab:
    """alpha is Primary; exit_code None: there is no handler; more: what else there is."""
    handlers = {**HANDLERS, **(more or {})} if exit_code is not None else {}
    lab = Lab(
        disk={"fencing": policy},
        resource={"handlers": handlers},
        **options,  # type: ignore[arg-type]
    )
    for machine in lab.network.machines:
        machine.handlers["fence-peer"] = HandlerEnds(exit_code or 0, after_ns)
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, b"old data" * 512)
    lab.run_for(0.1)
    return lab


def calls(lab: Lab, node: str) -> list[str]:
    return [call.name for call in lab[node].handler_calls]


def write(lab: Lab, block: int) -> Request:
    return lab.submit("alpha", "write", block * BLOCK, data=NEW)


# -- a Primary loses its peer ------------------------------------------------------------------


def test_dont_care_calls_nobody() -> None:
    lab = fenced_lab(Fencing.DONT_CARE)
    lab.partition()
    lab.run_for(1)
    assert calls(lab, "alpha") == []


def test_resource_only_fences_beside_going_on() -> None:
    lab = fenced_lab(RESOURCE_ONLY, after_ns=SLOW_NS)
    lab.partition()
    lab.write("alpha", BLOCK, NEW)
    assert calls(lab, "alpha") == ["fence-peer"]
    assert lab.shows("alpha", pdsk=DiskState.DUNKNOWN)
    lab.reaches("alpha", pdsk=DiskState.OUTDATED)
    assert lab.told("alpha", "fence-peer helper returned 4 (peer was fenced)")


def test_stonith_freezes_io_until_the_peer_is_fenced() -> None:
    lab = fenced_lab(STONITH, exit_code=7, after_ns=SLOW_NS)
    before = lab.uuids("alpha")
    lab.partition()
    assert lab.shows("alpha", susp_fen=True)
    write_request = write(lab, 1)
    read_request = lab.submit("alpha", "read", 0, BLOCK)
    lab.run_for(2)
    assert not write_request.done
    assert not read_request.done
    assert lab.uuids("alpha") == before
    lab.reaches("alpha", susp_fen=False)
    lab.run_until(lambda: write_request.done and read_request.done)
    assert (write_request.errno, read_request.errno) == (0, 0)
    assert lab.state("alpha").pdsk is DiskState.OUTDATED
    assert lab.uuids("alpha").bitmap | 1 == before.current | 1


def test_a_write_under_way_is_frozen_and_answered_under_the_new_generation() -> None:
    lab = fenced_lab(STONITH, after_ns=SLOW_NS)
    lab.network.block(lab.beta, lab.alpha)
    under_way = write(lab, 1)
    lab.partition()
    lab.run_for(1)
    assert lab.on_disk("alpha", BLOCK, BLOCK) == NEW
    assert not under_way.done
    before = lab.durable_uuids("alpha")
    lab.run_until(lambda: under_way.done)
    assert under_way.errno == 0
    assert lab.durable_uuids("alpha").bitmap | 1 == before.current | 1
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_the_peer_back_first_means_no_new_generation_and_no_resync() -> None:
    lab = fenced_lab(STONITH, exit_code=7, after_ns=SLOW_NS)
    before = lab.uuids("alpha")
    lab.network.block(lab.beta, lab.alpha)
    under_way = [write(lab, n) for n in range(1, 4)]
    lab.partition()
    lab.heal()
    lab.run_until(lambda: all(request.done for request in under_way))
    assert not any(request.errno for request in under_way)
    lab.run_for(5)
    assert lab.told("alpha", "Ignoring fence-peer exit code")
    assert lab.uuids("alpha") == before
    assert lab.out_of_sync_kib("alpha") == lab.out_of_sync_kib("beta") == 0
    assert not lab.told("alpha", "Began resync")
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", 2 * BLOCK, BLOCK) == NEW


def test_acknowledged_writes_short_of_their_barrier_are_sent_again_in_their_order() -> None:
    """The peer acknowledged, lost power before it flushed what is only an epoch's to flush."""
    lab = fenced_lab(STONITH, exit_code=1, settings={"durability": "kernel"})
    for value in range(1, 6):
        lab.write("alpha", BLOCK, bytes([value]) * BLOCK)
    lab.network.cut()
    lab.reaches("alpha", susp_fen=True)
    lab.reaches("alpha", conn=ConnState.CONNECTED)
    lab.in_sync()
    lab.write("alpha", 2 * BLOCK, NEW)
    assert lab.on_disk("beta", BLOCK, BLOCK) == b"\5" * BLOCK
    assert lab.differing_blocks() == []


@pytest.mark.parametrize(
    ("exit_code", "pdsk"),
    [
        (3, DiskState.INCONSISTENT),
        (4, DiskState.OUTDATED),
        (5, DiskState.OUTDATED),
        (7, DiskState.OUTDATED),
    ],
)
def test_exit_codes_that_let_io_go_on(exit_code: int, pdsk: DiskState) -> None:
    lab = fenced_lab(STONITH, exit_code)
    lab.partition()
    lab.reaches("alpha", susp_fen=False, pdsk=pdsk)
    lab.write("alpha", BLOCK, NEW)


@pytest.mark.parametrize(
    ("exit_code", "said"),
    [
        (6, "fence-peer helper returned 6 (peer is active)"),
        (0, "fence-peer helper broken, returned 0"),
        (1, "fence-peer helper broken, returned 1"),
        (42, "fence-peer helper broken, returned 42"),
        (None, "no handler fence-peer is configured"),
    ],
)
def test_exit_codes_that_leave_io_frozen_say_so(exit_code: int | None, said: str) -> None:
    lab = fenced_lab(STONITH, exit_code)
    lab.partition()
    request = write(lab, 1)
    lab.run_for(2)
    assert lab.told("alpha", said)
    assert lab.told("alpha", "I/O stays frozen")
    assert not request.done
    assert lab.shows("alpha", susp_fen=True, disk=DiskState.UP_TO_DATE)
    assert lab.command("alpha", "resume-io").exit_code == 0
    assert lab.done(request).errno == 0
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_handler_that_hangs_leaves_io_frozen_and_is_told() -> None:
    lab = fenced_lab(STONITH)
    lab.alpha.handlers["fence-peer"] = HandlerEnds(never=True)
    lab.partition()
    lab.run_for(700)
    assert lab.told("alpha", "fence-peer r0: it did not end within 600 s and was killed")
    assert lab.shows("alpha", susp_fen=True)
    lab.heal()
    lab.in_sync()
    assert lab.shows("alpha", susp_fen=False)


def test_status_7_without_stonith_counts_but_is_an_error() -> None:
    lab = fenced_lab(RESOURCE_ONLY, 7)
    lab.partition()
    lab.reaches("alpha", pdsk=DiskState.OUTDATED)
    assert lab.told("alpha", "although fencing is not stonith")


def test_secondary_is_refused_while_io_is_frozen_and_blocks_nothing() -> None:
    lab = fenced_lab(STONITH, 1)
    lab.partition()
    request = write(lab, 1)
    lab.run_for(0.5)
    refused = lab.command("alpha", "secondary")
    assert (refused.exit_code, refused.code) == (11, -12)
    assert lab.command("alpha", "resume-io").exit_code == 0
    assert lab.done(request).errno == 0
    lab.secondary("alpha")


def test_io_that_freezes_while_a_demotion_waits_ends_the_demotion() -> None:
    lab = fenced_lab(STONITH, 1)
    lab.network.block(lab.beta, lab.alpha)
    write(lab, 1)
    waiting = lab.ask("alpha", "secondary")
    lab.partition()
    assert lab.answered(waiting).code == -12
    assert lab.shows("alpha", role=Role.PRIMARY)


def test_a_crash_with_frozen_io_costs_a_resync_of_the_hot_extents() -> None:
    lab = fenced_lab(STONITH, 1)
    lab.network.block(lab.beta, lab.alpha)
    write(lab, 1)
    lab.partition()
    lab.run_for(0.5)
    lab.alpha.power_off()
    lab.heal()
    lab.boot("alpha")
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_frozen_primary_does_not_thaw_on_a_peer_that_restarted() -> None:
    lab = fenced_lab(STONITH, 1)
    before = lab.uuids("alpha")
    lab.beta.power_off()
    lab.reaches("alpha", susp_fen=True)
    request = write(lab, 1)
    lab.boot("beta")
    assert lab.done(request).errno == 0
    assert lab.told("alpha", "can not thaw IO with an only Consistent peer")
    assert lab.uuids("alpha").current | 1 != before.current | 1
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_frozen_primary_stays_frozen_if_the_peer_that_restarted_is_gone_again() -> None:
    """Nobody fenced that peer: it may be promoted once the Primary is dead."""
    lab = fenced_lab(STONITH, 1)
    before = lab.uuids("alpha")
    lab.beta.power_off()
    lab.reaches("alpha", susp_fen=True)
    lab.run_for(0.1)
    asked = len(calls(lab, "alpha"))
    request = write(lab, 1)
    lab.boot("beta")
    lab.run_until(lambda: lab.told("alpha", "can not thaw IO with an only Consistent peer"))
    lab.partition()
    assert lab.uuids("alpha").current | 1 != before.current | 1
    lab.run_for(5)
    assert not request.done
    assert lab.shows("alpha", susp_fen=True)
    assert len(calls(lab, "alpha")) > asked
    lab.alpha.handlers["fence-peer"] = HandlerEnds(7)
    lab.heal()
    assert lab.done(request).errno == 0
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_volumes_are_fenced_by_one_call() -> None:
    lab = fenced_lab(STONITH, 4, volumes=2)
    assert lab.command("alpha", "primary").exit_code == 0
    lab.partition()
    lab.run_until(lambda: not any(s.susp_fen for s in lab.alpha.states.values()))
    assert calls(lab, "alpha") == ["fence-peer"]
    assert dict(lab.alpha.handler_calls[0].environment)["DRBD_MINOR"] == "0 1"


# -- promotion ---------------------------------------------------------------------------------


def secondary_alone(policy: Fencing, exit_code: int | None) -> Lab:
    lab = fenced_lab(policy, exit_code)
    lab.alpha.power_off()
    lab.run_until(lambda: lab.beta.connection < ConnState.CONNECTED)
    return lab


def test_promotion_waits_for_fencing() -> None:
    lab = secondary_alone(RESOURCE_ONLY, 4)
    lab.beta.handlers["fence-peer"] = HandlerEnds(4, SLOW_NS)
    waiting = lab.ask("beta", "primary")
    lab.run_for(2)
    assert not waiting.answers
    assert lab.shows("beta", role=Role.SECONDARY)
    assert lab.answered(waiting).exit_code == 0
    assert lab.shows("beta", role=Role.PRIMARY, pdsk=DiskState.OUTDATED)
    assert not lab.state("beta").suspended
    lab.write("beta", BLOCK, NEW)


@pytest.mark.parametrize("exit_code", [0, 1, 42])
def test_promotion_is_refused_when_the_peer_can_not_be_fenced(exit_code: int) -> None:
    lab = secondary_alone(RESOURCE_ONLY, exit_code)
    answer = lab.command("beta", "primary")
    assert (answer.exit_code, answer.code) == (11, -7)
    assert "Refusing to be Primary while peer is not outdated" in answer.text
    assert calls(lab, "beta") == ["fence-peer"] * 4
    assert lab.shows("beta", role=Role.SECONDARY)


def test_promotion_without_a_handler_is_refused_with_the_reason() -> None:
    lab = secondary_alone(RESOURCE_ONLY, None)
    assert lab.command("beta", "primary").code == -7
    assert lab.told("beta", "no handler fence-peer is configured")


def test_the_peer_is_active_so_our_data_are_outdated() -> None:
    lab = secondary_alone(RESOURCE_ONLY, 6)
    assert lab.command("beta", "primary").exit_code == 17
    assert lab.shows("beta", disk=DiskState.OUTDATED, role=Role.SECONDARY)


def test_force_promotes_into_a_possible_split_brain_and_says_so() -> None:
    lab = secondary_alone(STONITH, 1)
    lab.primary("beta", force=True)
    assert lab.told("beta", "Forced into split brain situation!")
    assert lab.shows("beta", role=Role.PRIMARY, pdsk=DiskState.OUTDATED)
    lab.write("beta", BLOCK, NEW)


@pytest.mark.parametrize("exit_code", [4, 5, 7, 1])
def test_a_node_that_starts_alone_is_consistent_and_has_to_fence(exit_code: int) -> None:
    lab = secondary_alone(RESOURCE_ONLY, exit_code)
    lab.beta.kill()
    lab.boot("beta")
    assert lab.shows("beta", disk=DiskState.CONSISTENT)
    answer = lab.command("beta", "primary")
    if exit_code in (4, 7):
        assert answer.exit_code == 0
        assert lab.shows("beta", role=Role.PRIMARY, disk=DiskState.UP_TO_DATE)
        lab.write("beta", BLOCK, NEW)
    else:  # 5: a node that is not UpToDate itself may not conclude that the peer is dead
        assert answer.exit_code == 17
        assert lab.shows("beta", role=Role.SECONDARY, disk=DiskState.CONSISTENT)


def test_a_peer_that_comes_back_while_it_is_being_fenced_is_asked_instead() -> None:
    lab = fenced_lab(RESOURCE_ONLY, 4)
    lab.secondary("alpha")
    lab.partition()
    lab.beta.handlers["fence-peer"] = HandlerEnds(1, SLOW_NS)
    waiting = lab.ask("beta", "primary")
    lab.run_for(0.5)
    lab.heal()
    assert lab.answered(waiting).exit_code == 0
    assert lab.shows("beta", role=Role.PRIMARY, pdsk=DiskState.UP_TO_DATE)


def test_no_stale_service_after_a_partition_with_fencing() -> None:
    """The Primary dies having fenced its peer: that peer can't be promoted with its old data."""
    lab = fenced_lab(RESOURCE_ONLY, 4)
    lab.partition()
    lab.reaches("alpha", pdsk=DiskState.OUTDATED)
    assert lab.command("beta", "outdate").exit_code == 0  # what the handler does over there
    lab.write("alpha", BLOCK, NEW)
    lab.alpha.power_off()
    assert lab.command("beta", "primary").exit_code == 17
    lab.boot("alpha")
    lab.heal()
    lab.in_sync()
    assert lab.on_disk("beta", BLOCK, BLOCK) == NEW


# -- unfencing and leaving ---------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(Fencing))
def test_the_source_of_a_finished_resync_unfences_its_peer(policy: Fencing) -> None:
    lab = fenced_lab(policy, 4)
    lab.partition()
    lab.run_for(0.5)
    lab.write("alpha", BLOCK, NEW)
    lab.heal()
    lab.in_sync()
    lab.run_for(0.5)
    wanted = [] if policy is Fencing.DONT_CARE else ["fence-peer", "unfence-peer"]
    assert calls(lab, "alpha") == wanted
    assert calls(lab, "beta") == []


def test_a_secondary_that_leaves_its_primary_is_outdated_and_both_know() -> None:
    lab = fenced_lab(STONITH, 4)
    lab.disconnect("beta")
    assert lab.shows("beta", disk=DiskState.OUTDATED)
    lab.reaches("alpha", pdsk=DiskState.OUTDATED)
    assert not lab.state("alpha").suspended
    lab.run_for(0.5)
    assert calls(lab, "alpha") == []
    lab.write("alpha", BLOCK, NEW)
    assert lab.command("beta", "primary").exit_code == 17
    lab.connect("beta")
    lab.in_sync()


def test_a_primary_that_leaves_outdates_its_peer() -> None:
    lab = fenced_lab(STONITH, 4)
    lab.disconnect("alpha")
    assert lab.shows("alpha", pdsk=DiskState.OUTDATED)
    assert not lab.state("alpha").suspended
    lab.reaches("beta", disk=DiskState.OUTDATED)
    lab.write("alpha", BLOCK, NEW)
    assert calls(lab, "alpha") == []


def test_the_outdated_mark_survives_a_power_cut() -> None:
    lab = fenced_lab(STONITH, 4)
    lab.disconnect("beta")
    lab.beta.power_off()
    lab.alpha.power_off()
    lab.boot("beta")
    assert lab.shows("beta", disk=DiskState.OUTDATED)
    assert lab.command("beta", "primary").exit_code == 17


def test_secondaries_leave_each_other_as_they_are() -> None:
    lab = fenced_lab(STONITH, 4)
    lab.secondary("alpha")
    lab.disconnect("alpha")
    assert lab.shows("alpha", disk=DiskState.UP_TO_DATE)
    assert lab.shows("beta", disk=DiskState.UP_TO_DATE)


def test_a_primary_that_leaves_by_force_has_its_peer_fenced() -> None:
    lab = fenced_lab(STONITH, 4)
    lab.disconnect("alpha", force=True)
    lab.reaches("alpha", pdsk=DiskState.OUTDATED, susp_fen=False)
    assert calls(lab, "alpha") == ["fence-peer"]


def test_the_connection_lost_in_the_middle_of_leaving_outdates_nobody_unasked() -> None:
    lab = fenced_lab(STONITH, 1)
    lab.network.block(lab.beta, lab.alpha)
    waiting = lab.ask("alpha", "disconnect")
    lab.run_for(0.1)
    lab.network.cut()
    assert lab.answered(waiting).exit_code == 0
    assert lab.shows("alpha", pdsk=DiskState.DUNKNOWN, susp_fen=True)


# -- writes that the peer never got ------------------------------------------------------------


@pytest.mark.parametrize("back", [True, False])
def test_a_write_of_a_source_without_its_resync_is_frozen_with_the_rest(*, back: bool) -> None:
    """before-resync-source runs: writes stay here, marked. The peer is lost before one is done."""
    lab = fenced_lab(STONITH, 4, more={"before-resync-source": "/before"})
    lab.partition()
    lab.reaches("alpha", susp_fen=False)
    lab.write("alpha", BLOCK, NEW)
    lab.alpha.handlers["before-resync-source"] = HandlerEnds(0, SLOW_NS)
    lab.alpha.handlers["fence-peer"] = HandlerEnds(1)
    lab.heal()
    lab.reaches("alpha", conn=ConnState.WF_BITMAP_S)
    lab.run_for(0.01)
    lab.hold("alpha")
    request = write(lab, 2)
    lab.run_for(0.01)
    lab.partition()
    lab.release("alpha")
    assert lab.shows("alpha", susp_fen=True)
    lab.run_until(lambda: lab.on_disk("alpha", 2 * BLOCK, BLOCK) == NEW)
    lab.run_for(1)
    assert not request.done
    if back:
        lab.heal()
    else:
        assert lab.command("alpha", "resume-io").exit_code == 0
    assert lab.done(request).errno == 0
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", 2 * BLOCK, BLOCK) == NEW
