"""Rules H, V and T, the pipeline of a change, and which changes the peer has a say in."""

from __future__ import annotations

from typing import Any

import pytest

from replblk.model.state import State
from replblk.model.vocabulary import Code, Fencing, Role
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.rules.permits import SOFT_STEPS, VALIDITY
from replblk.rules.transitions import (
    Accepted,
    Facts,
    Refused,
    change,
    forbidden_step,
    is_cluster_wide,
    soft_step,
    validity,
)

GOOD = State(
    role=Role.SECONDARY, peer=Role.SECONDARY, conn=C.CONNECTED, disk=D.UP_TO_DATE, pdsk=D.UP_TO_DATE
)
PRIMARY = GOOD.but(role=Role.PRIMARY)
ALONE = State(conn=C.WF_CONNECTION, disk=D.UP_TO_DATE)
VERIFY_READY = Facts(verify_alg="sha256")


@pytest.mark.parametrize(
    ("rule", "old", "new", "code"),
    [
        ("H1", C.STANDALONE, C.STANDALONE, Code.SUCCESS),
        ("H2", C.STANDALONE, C.DISCONNECTING, Code.ALREADY_STANDALONE),
        ("H3", C.STANDALONE, C.WF_CONNECTION, Code.NEED_CONNECTION),
        ("H3", C.STANDALONE, C.UNCONNECTED, Code.SUCCESS),
        ("H4", C.WF_CONNECTION, C.CONNECTED, Code.NEED_CONNECTION),
        ("H4", C.TIMEOUT, C.SYNC_SOURCE, Code.NEED_CONNECTION),
        ("H4", C.WF_REPORT_PARAMS, C.WF_BITMAP_S, Code.SUCCESS),
        *(
            ("H5", failed, C.WF_CONNECTION, Code.IN_TRANSIENT_STATE)
            for failed in C
            if C.TIMEOUT <= failed <= C.TEAR_DOWN
        ),
        ("H5", C.BROKEN_PIPE, C.UNCONNECTED, Code.SUCCESS),
        ("H5", C.BROKEN_PIPE, C.DISCONNECTING, Code.SUCCESS),
        ("H6", C.DISCONNECTING, C.UNCONNECTED, Code.IN_TRANSIENT_STATE),
        ("H6", C.DISCONNECTING, C.STANDALONE, Code.SUCCESS),
    ],
)
def test_hard_steps(rule: str, old: C, new: C, code: Code) -> None:
    assert forbidden_step(State(conn=old), State(conn=new)) == code
    answer = change(ALONE.but(conn=old), ALONE.but(conn=new), Facts(), hard=True)
    assert isinstance(answer, Accepted if code >= Code.SUCCESS else Refused)


def test_h7_no_disk_can_not_fail_whatever_the_connection_does() -> None:
    assert forbidden_step(State(), State(disk=D.FAILED)) == Code.IS_DISKLESS
    assert forbidden_step(State(), State(conn=C.WF_CONNECTION, disk=D.FAILED)) == Code.IS_DISKLESS


VALIDITY_CASES: list[tuple[str, State, dict[str, Any]]] = [
    ("V1", PRIMARY.but(peer=Role.PRIMARY), {}),
    ("V2", PRIMARY, {"other_volume_peer_primary": True}),
    ("V3", GOOD, {"device_open": True}),
    ("V4", State(role=Role.PRIMARY, conn=C.WF_CONNECTION, disk=D.CONSISTENT), {}),
    (
        "V5",
        State(role=Role.PRIMARY, conn=C.WF_CONNECTION, disk=D.UP_TO_DATE),
        {"fencing": Fencing.RESOURCE_ONLY},
    ),
    ("V6", PRIMARY.but(disk=D.INCONSISTENT, pdsk=D.INCONSISTENT), {}),
    ("V7", GOOD.but(conn=C.SYNC_SOURCE, disk=D.FAILED), {}),
    ("V8", GOOD.but(conn=C.SYNC_SOURCE, pdsk=D.DISKLESS), {}),
    ("V9", GOOD.but(conn=C.SYNC_SOURCE, disk=D.CONSISTENT, pdsk=D.INCONSISTENT), {}),
    ("V10", GOOD.but(disk=D.OUTDATED), {}),
    ("V11", GOOD.but(conn=C.VERIFY_S), {}),
    ("V12", GOOD.but(conn=C.VERIFY_T), {"verify_alg": "md5", "apv": 87}),
    ("V13", PRIMARY.but(disk=D.INCONSISTENT, pdsk=D.CONSISTENT), {}),
    ("V14", GOOD.but(conn=C.STARTING_SYNC_S, pdsk=D.DUNKNOWN), {}),
    ("V15", GOOD.but(pdsk=D.DUNKNOWN), {}),
]
CODES = {
    **dict(
        zip((f"V{n}" for n in range(1, 16)), (-1, -20, -12, -2, -7, -2, -4, -5, -2), strict=False)
    ),
    **dict(zip((f"V{n}" for n in range(10, 16)), (-6, -14, -17, -2, -15, -6), strict=True)),
}


@pytest.mark.parametrize(("name", "state", "facts"), VALIDITY_CASES)
def test_validity_rule(name: str, state: State, facts: dict[str, Any]) -> None:
    judged = Facts(**facts)
    assert validity(state, judged) == CODES[name]
    matching = [rule.name for rule in VALIDITY if rule.bars(state, judged)]
    assert matching[0] == name, matching


def test_every_validity_rule_has_its_code_and_its_case() -> None:
    assert {rule.name: int(rule.code) for rule in VALIDITY} == CODES
    assert [case[0] for case in VALIDITY_CASES] == [rule.name for rule in VALIDITY]


def test_validity_lets_the_good_pass() -> None:
    assert validity(GOOD, Facts()) == Code.SUCCESS
    assert validity(PRIMARY, Facts(device_open=True)) == Code.SUCCESS
    both = PRIMARY.but(peer=Role.PRIMARY)
    assert validity(both, Facts(two_primaries=True)) == Code.SUCCESS
    assert validity(both, Facts(has_net=False)) == Code.SUCCESS
    assert validity(GOOD.but(conn=C.VERIFY_S), VERIFY_READY) == Code.SUCCESS
    fenced = State(role=Role.PRIMARY, conn=C.WF_CONNECTION, disk=D.UP_TO_DATE, pdsk=D.OUTDATED)
    assert validity(fenced, Facts(fencing=Fencing.RESOURCE_ONLY)) == Code.SUCCESS


STEP_CASES: list[tuple[str, State, State, dict[str, Any]]] = [
    ("T1", GOOD.but(conn=C.SYNC_SOURCE), GOOD.but(conn=C.STARTING_SYNC_S), {}),
    ("T2", State(), State(conn=C.DISCONNECTING), {}),
    ("T3", State(), State(disk=D.UP_TO_DATE), {}),
    ("T4", State(), State(conn=C.WF_CONNECTION), {}),
    ("T5", ALONE.but(disk=D.INCONSISTENT), ALONE.but(disk=D.OUTDATED), {}),
    ("T6", State(conn=C.UNCONNECTED), State(conn=C.DISCONNECTING), {}),
    ("T7", ALONE, ALONE.but(role=Role.PRIMARY), {"handshake_pending": True}),
    ("T8", GOOD.but(disk=D.INCONSISTENT), PRIMARY.but(disk=D.INCONSISTENT), {}),
    ("T9", ALONE, ALONE.but(conn=C.VERIFY_S), {}),
    ("T10", GOOD.but(conn=C.SYNC_SOURCE), GOOD.but(conn=C.VERIFY_S), {}),
    ("T11", ALONE, ALONE.but(conn=C.STARTING_SYNC_T), {}),
    ("T12", ALONE, ALONE.but(conn=C.SYNC_TARGET), {}),
    (
        "T13",
        ALONE.but(pdsk=D.DUNKNOWN),
        ALONE.but(conn=C.DISCONNECTING, pdsk=D.OUTDATED),
        {},
    ),
]
STEP_CODES = dict(
    zip(
        (f"T{n}" for n in range(1, 14)),
        (-8, -9, -11, -13, -16, -18, -18, -18, -15, -8, -15, -15, -21),
        strict=True,
    )
)


@pytest.mark.parametrize(("name", "old", "new", "facts"), STEP_CASES)
def test_soft_step_rule(name: str, old: State, new: State, facts: dict[str, Any]) -> None:
    judged = Facts(**facts)
    assert soft_step(old, new, judged) == STEP_CODES[name]
    matching = [rule.name for rule in SOFT_STEPS if rule.bars(old, new, judged)]
    assert matching[-1] == name, matching


def test_every_soft_rule_has_its_code_and_its_case() -> None:
    assert {rule.name: int(rule.code) for rule in SOFT_STEPS} == STEP_CODES
    assert [case[0] for case in STEP_CASES] == [rule.name for rule in SOFT_STEPS]


def test_the_last_soft_rule_decides() -> None:
    """A StandAlone node that disconnects and outdates its peer breaks T2 and T13."""
    alone = State(disk=D.UP_TO_DATE)
    both = alone.but(conn=C.DISCONNECTING, pdsk=D.OUTDATED)
    assert soft_step(alone, both, Facts()) == Code.OUTDATE_WO_CONN


def test_t7_lets_the_handshake_itself_pass() -> None:
    pending = Facts(handshake_pending=True)
    reporting = ALONE.but(conn=C.WF_REPORT_PARAMS)
    assert soft_step(ALONE, reporting, pending) == Code.SUCCESS
    assert soft_step(reporting, GOOD, pending) == Code.SUCCESS


def test_t8_a_sync_target_may_be_promoted_reading_from_its_peer() -> None:
    target = GOOD.but(conn=C.SYNC_TARGET, disk=D.INCONSISTENT)
    answer = change(target, target.but(role=Role.PRIMARY), Facts(), hard=False)
    assert answer == Accepted(target.but(role=Role.PRIMARY))


def test_nothing_to_do_is_accepted_even_when_the_state_is_invalid() -> None:
    assert change(GOOD, GOOD, Facts(device_open=True), hard=False) == Accepted(GOOD)


def test_outdating_a_connected_node_succeeds_without_effect() -> None:
    assert change(GOOD, GOOD.but(disk=D.OUTDATED), Facts(), hard=False) == Accepted(GOOD)


def test_a_state_already_invalid_for_the_same_reason_may_change() -> None:
    bad = PRIMARY.but(disk=D.INCONSISTENT, pdsk=D.INCONSISTENT)
    assert validity(bad, Facts()) == Code.NO_UP_TO_DATE_DISK
    assert isinstance(change(bad, bad.but(user_isp=True), Facts(), hard=False), Accepted)


@pytest.mark.parametrize(
    ("old", "wanted", "code"),
    [
        (
            GOOD.but(disk=D.INCONSISTENT, pdsk=D.INCONSISTENT),
            PRIMARY.but(disk=D.INCONSISTENT, pdsk=D.INCONSISTENT),
            Code.NO_UP_TO_DATE_DISK,
        ),
        (ALONE.but(role=Role.PRIMARY), ALONE.but(disk=D.OUTDATED, role=Role.PRIMARY), -2),
        (GOOD.but(peer=Role.PRIMARY), PRIMARY.but(peer=Role.PRIMARY), Code.TWO_PRIMARIES),
        (ALONE.but(disk=D.OUTDATED), ALONE.but(disk=D.OUTDATED, role=Role.PRIMARY), -2),
        (
            PRIMARY.but(pdsk=D.DISKLESS),
            PRIMARY.but(pdsk=D.DISKLESS, disk=D.FAILED),
            Code.NO_UP_TO_DATE_DISK,
        ),
        (
            PRIMARY.but(disk=D.DISKLESS),
            PRIMARY.but(disk=D.DISKLESS, conn=C.DISCONNECTING),
            Code.NO_UP_TO_DATE_DISK,
        ),
    ],
)
def test_requests_refused_as_drbd_refuses_them(old: State, wanted: State, code: Code) -> None:
    answer = change(old, wanted, Facts(), hard=False)
    assert isinstance(answer, Refused)
    assert answer.code == code
    assert answer.wanted is not None
    assert isinstance(change(old, wanted, Facts(), hard=True), Accepted)


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("side", ["disk", "pdsk"])
def test_verify_never_declares_a_bad_disk_good(side: str, hard: bool) -> None:
    bad = GOOD.but(**{side: D.INCONSISTENT})
    answer = change(bad, bad.but(conn=C.VERIFY_S), VERIFY_READY, hard=hard)
    assert isinstance(answer, Refused)
    assert answer.code == Code.NO_UP_TO_DATE_DISK
    assert isinstance(change(GOOD, GOOD.but(conn=C.VERIFY_S), VERIFY_READY, hard=hard), Accepted)


@pytest.mark.parametrize(
    ("old", "new", "asks"),
    [
        (GOOD, PRIMARY, True),
        (ALONE, ALONE.but(role=Role.PRIMARY), False),
        (PRIMARY, GOOD, False),
        (GOOD, GOOD.but(conn=C.STARTING_SYNC_S), True),
        (GOOD, GOOD.but(conn=C.STARTING_SYNC_T), True),
        (GOOD, GOOD.but(disk=D.FAILED), True),
        (GOOD.but(disk=D.FAILED), GOOD.but(disk=D.FAILED, user_isp=True), False),
        (GOOD, GOOD.but(conn=C.DISCONNECTING), True),
        (GOOD.but(conn=C.SYNC_SOURCE), GOOD.but(conn=C.DISCONNECTING), True),
        (ALONE, ALONE.but(conn=C.DISCONNECTING), False),
        (GOOD, GOOD.but(conn=C.VERIFY_S), True),
        (GOOD, GOOD.but(conn=C.VERIFY_T), False),
        (GOOD, GOOD.but(conn=C.WF_REPORT_PARAMS), True),
        (GOOD, GOOD.but(conn=C.BROKEN_PIPE), False),
        (GOOD, GOOD.but(user_isp=True), False),
    ],
)
def test_which_changes_the_peer_has_a_say_in(old: State, new: State, asks: bool) -> None:
    assert is_cluster_wide(old, new) is asks
