"""The whole decision at connect, step by step, with both nodes' views side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replblk.model.generation import JUST_CREATED, UuidSet
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Policy, Role
from replblk.rules.split_brain import Policies
from replblk.rules.sync_handshake import Decision, HandshakeFacts, decide
from replblk.rules.uuid_compare import Side

X, Y, Z, A, B = 0x1000, 0x2000, 0x3000, 0xA000, 0xB000
PRI, SEC = Role.PRIMARY, Role.SECONDARY


def _facts(
    own: UuidSet, peer: UuidSet, roles: tuple[Role, Role] = (SEC, SEC), **more: Any
) -> HandshakeFacts:
    facts = HandshakeFacts(
        own=Side(own, primary_now=roles[0] == PRI),
        peer=Side(peer, primary_now=roles[1] == PRI),
        own_disk=D.UP_TO_DATE,
        peer_disk=D.UP_TO_DATE,
        own_role=roles[0],
        peer_role=roles[1],
        own_current_disk=D.UP_TO_DATE,
        resolves_conflicts=True,
    )
    facts = replace(facts, **more)
    return replace(facts, own_current_disk=more.get("own_current_disk", facts.own_disk))


def _seen_from_the_peer(facts: HandshakeFacts) -> HandshakeFacts:
    swap = {
        Policy.DISCARD_LOCAL: Policy.DISCARD_REMOTE,
        Policy.DISCARD_REMOTE: Policy.DISCARD_LOCAL,
    }
    zero = facts.policies.zero
    return replace(
        facts,
        own=facts.peer,
        peer=facts.own,
        own_disk=facts.peer_disk,
        peer_disk=facts.own_disk,
        own_current_disk=facts.peer_disk,
        own_role=facts.peer_role,
        peer_role=facts.own_role,
        own_discard=facts.peer_discard,
        peer_discard=facts.own_discard,
        own_changes=facts.peer_changes,
        peer_changes=facts.own_changes,
        resolves_conflicts=not facts.resolves_conflicts,
        policies=replace(facts.policies, zero=swap.get(zero, zero)),
        can_demote=False,
    )


def _both(facts: HandshakeFacts) -> tuple[Decision, Decision]:
    return decide(facts), decide(_seen_from_the_peer(facts))


def _texts(decision: Decision) -> list[str]:
    return [text for _, text in decision.log]


SPLIT = (UuidSet(Y, X), UuidSet(Z, X))
AMBIGUOUS = (UuidSet(Y, A, X, B), UuidSet(Z, B, X))


def test_the_newer_generation_is_source_by_bitmap() -> None:
    here, there = _both(_facts(UuidSet(Y, X), UuidSet(X)))
    assert (here.conn, there.conn) == (C.WF_BITMAP_S, C.WF_BITMAP_T)
    assert not here.set_all_bits
    assert not there.set_all_bits
    assert "uuid_compare()=1 by rule 70" in _texts(here)
    assert "uuid_compare()=-1 by rule 50" in _texts(there)


def test_the_log_shows_both_sides_as_drbd_does() -> None:
    own = UuidSet(0x3F6112EBB01BB21C, 0x895F9E585AA88CE2)
    peer = UuidSet(0xD43F78523B9B6162, 0x895F9E585AA88CE2)
    texts = _texts(decide(_facts(own, peer, own_changes=2, peer_changes=1)))
    zero = "0" * 16
    assert texts[:4] == [
        "drbd_sync_handshake:",
        f"self 3F6112EBB01BB21C:895F9E585AA88CE2:{zero}:{zero} bits:2 flags:0",
        f"peer D43F78523B9B6162:895F9E585AA88CE2:{zero}:{zero} bits:1 flags:0",
        "uuid_compare()=100 by rule 90",
    ]


def test_equal_nodes_just_connect() -> None:
    for decision in _both(_facts(UuidSet(Y), UuidSet(Y))):
        assert decision.conn == C.CONNECTED
        assert not decision.handlers


def test_first_sync_after_primary_force_is_full() -> None:
    here, there = _both(
        _facts(UuidSet(X, JUST_CREATED), UuidSet(), (PRI, SEC), peer_disk=D.INCONSISTENT)
    )
    assert (here.conn, there.conn) == (C.WF_BITMAP_S, C.WF_BITMAP_T)
    assert here.set_all_bits
    assert there.set_all_bits
    wanted = "Writing the whole bitmap, full sync required after drbd_sync_handshake."
    assert wanted in _texts(here)
    assert "Becoming sync source due to disk states." in _texts(here)


def test_step_1_unrelated_data_are_refused() -> None:
    for decision in _both(_facts(UuidSet(Y, 0, A, B), UuidSet(Z, 0, X, 0xF000))):
        assert decision.conn is None
        assert "Unrelated data, aborting!" in _texts(decision)
        assert "create-md" in decision.reason
        assert not decision.split_brain


def test_step_1_a_peer_too_old_for_the_question_is_refused() -> None:
    crashed = Side(UuidSet(Y), crashed_primary=True)
    facts = _facts(UuidSet(Y), UuidSet(Y), (PRI, SEC), wsame=False)
    decision = decide(replace(facts, peer=crashed))
    assert decision.conn is None
    assert "WRITE_SAME" in decision.reason
    lost_end = decide(_facts(UuidSet(Y, X), UuidSet(Y), apv=90))
    assert lost_end.conn is None
    assert "protocol version 91" in lost_end.reason


def test_step_2_good_data_are_never_overwritten_by_an_inconsistent_claimer() -> None:
    """Even if its UUIDs say that it is newer, and even in a split brain."""
    for uuids in ((UuidSet(X), UuidSet(Y, X)), SPLIT, AMBIGUOUS, (UuidSet(X), UuidSet(X))):
        here, there = _both(_facts(*uuids, peer_disk=D.INCONSISTENT))
        assert (here.conn, there.conn) == (C.WF_BITMAP_S, C.WF_BITMAP_T)
        assert here.set_all_bits == (uuids is AMBIGUOUS)
        assert not here.handlers


def test_step_3_to_6_an_unresolved_split_brain_goes_standalone_on_both() -> None:
    for uuids in (SPLIT, AMBIGUOUS):
        for roles in ((SEC, SEC), (PRI, SEC), (PRI, PRI)):
            for decision in _both(_facts(*uuids, roles)):
                assert decision.conn is None
                assert decision.split_brain
                assert decision.handlers == ("initial-split-brain", "split-brain")
                assert "discard-my-data" in decision.reason


def test_step_4_an_ambiguous_split_brain_needs_always_asbp_and_a_full_sync() -> None:
    policies = Policies(zero=Policy.DISCARD_LOCAL)
    assert decide(_facts(*AMBIGUOUS, policies=policies)).conn is None
    here, there = _both(_facts(*AMBIGUOUS, policies=policies, always_asbp=True))
    assert (here.conn, there.conn) == (C.WF_BITMAP_T, C.WF_BITMAP_S)
    assert here.set_all_bits
    assert there.set_all_bits
    assert "Doing a full sync, since UUIDs where ambiguous." in _texts(here)


def test_step_5_discard_my_data_on_exactly_one_node() -> None:
    here, there = _both(_facts(*SPLIT, own_discard=True))
    assert (here.conn, there.conn) == (C.WF_BITMAP_T, C.WF_BITMAP_S)
    assert not here.set_all_bits
    assert "Split-Brain detected, manually solved. Sync from peer node" in _texts(here)
    assert "Split-Brain detected, manually solved. Sync from this node" in _texts(there)
    for decision in _both(_facts(*SPLIT, own_discard=True, peer_discard=True)):
        assert decision.conn is None


def test_step_5_solved_by_hand_but_ambiguous_is_a_full_sync() -> None:
    for decision in _both(_facts(*AMBIGUOUS, peer_discard=True)):
        assert decision.conn in (C.WF_BITMAP_S, C.WF_BITMAP_T)
        assert decision.set_all_bits


def test_step_7_an_inconsistent_node_is_no_source() -> None:
    bad = D.INCONSISTENT
    here, there = _both(_facts(UuidSet(Y, X), UuidSet(X), own_disk=bad, peer_disk=bad))
    assert here.conn is None
    assert "I shall become SyncSource, but I am inconsistent!" in _texts(here)
    assert "primary --force" in here.reason
    assert there.conn == C.WF_BITMAP_T


@pytest.mark.parametrize(
    ("rr_conflict", "handlers"), [(Policy.DISCONNECT, ()), (Policy.CALL_HELPER, ("pri-lost",))]
)
def test_step_8_a_primary_with_good_data_is_no_target(
    rr_conflict: Policy, handlers: tuple[str, ...]
) -> None:
    decision = decide(_facts(UuidSet(X), UuidSet(Y, X), (PRI, SEC), rr_conflict=rr_conflict))
    assert decision.conn is None
    assert decision.handlers == handlers
    assert "I shall become SyncTarget, but I am primary!" in _texts(decision)


def test_step_8_unless_violently_or_without_good_data() -> None:
    facts = _facts(UuidSet(X), UuidSet(Y, X), (PRI, SEC), rr_conflict=Policy.VIOLENTLY)
    assert decide(facts).conn == C.WF_BITMAP_T
    facts = _facts(UuidSet(X), UuidSet(Y, X), (PRI, SEC), own_current_disk=D.NEGOTIATING)
    assert decide(facts).conn == C.WF_BITMAP_T


def test_step_9_a_dry_run_only_tells() -> None:
    target = decide(_facts(UuidSet(), UuidSet(Y), dry_run=True))
    assert target.conn is None
    assert "dry-run connect: Would become SyncTarget, doing a full resync." in _texts(target)
    equal = decide(_facts(UuidSet(Y), UuidSet(Y), dry_run=True))
    assert "dry-run connect: No resync, would become Connected immediately." in _texts(equal)


def test_step_11_leftover_bits_are_named() -> None:
    decision = decide(_facts(UuidSet(Y), UuidSet(Y), own_changes=3))
    assert decision.conn == C.CONNECTED
    assert "No resync, but 3 bits in bitmap!" in _texts(decision)


@pytest.mark.parametrize(
    ("roles", "changes", "conns"),
    [
        ((PRI, SEC), (0, 5), (C.WF_BITMAP_S, C.WF_BITMAP_T)),
        ((SEC, PRI), (5, 0), (C.WF_BITMAP_T, C.WF_BITMAP_S)),
        ((SEC, SEC), (5, 0), (C.WF_BITMAP_S, C.WF_BITMAP_T)),
        ((SEC, SEC), (0, 5), (C.WF_BITMAP_T, C.WF_BITMAP_S)),
        ((SEC, SEC), (5, 9), (C.WF_BITMAP_T, C.WF_BITMAP_S)),
        ((PRI, PRI), (5, 9), (C.CONNECTED, C.CONNECTED)),
        ((SEC, SEC), (0, 0), (C.CONNECTED, C.CONNECTED)),
    ],
)
def test_leftover_bits_are_resynced_with_a_peer_that_does_so_too(
    roles: tuple[Role, Role], changes: tuple[int, int], conns: tuple[C, C]
) -> None:
    facts = _facts(
        UuidSet(Y),
        UuidSet(Y),
        roles,
        own_changes=changes[0],
        peer_changes=changes[1],
        peer_resyncs_leftover=True,
    )
    here, there = _both(facts)
    assert (here.conn, there.conn) == conns
    assert not here.set_all_bits


def test_leftover_bits_of_two_inconsistent_nodes_stay() -> None:
    facts = _facts(
        UuidSet(Y),
        UuidSet(Y),
        own_disk=D.INCONSISTENT,
        peer_disk=D.INCONSISTENT,
        own_changes=5,
        peer_resyncs_leftover=True,
    )
    assert [decision.conn for decision in _both(facts)] == [C.CONNECTED, C.CONNECTED]


def test_uuids_that_contradict_each_other_make_no_two_targets() -> None:
    for own, peer in ((UuidSet(X, Y), UuidSet(Y, X)), (UuidSet(0), UuidSet(0))):
        for decision in _both(_facts(own, peer)):
            assert decision.conn is None
            assert "contradict" in decision.reason


# What two kernels did: T target, S source, None no decision (StandAlone). Left has 1 block changed.
@pytest.mark.parametrize("rc", [True, False])
@pytest.mark.parametrize(
    ("left_role", "right_role", "policies", "changes", "left", "right"),
    [
        (SEC, SEC, Policies(), (1, 2), None, None),
        (PRI, SEC, Policies(), (1, 2), None, None),
        (PRI, PRI, Policies(), (1, 2), None, None),
        (SEC, SEC, Policies(zero=Policy.DISCARD_LEAST_CHG), (1, 2), "T", "S"),
        (SEC, SEC, Policies(zero=Policy.DISCARD_YOUNGER_PRI), (1, 2), "T", "S"),
        (SEC, SEC, Policies(zero=Policy.DISCARD_OLDER_PRI), (1, 2), "T", "S"),
        (SEC, SEC, Policies(zero=Policy.DISCARD_ZERO_CHG), (1, 2), None, None),
        (SEC, SEC, Policies(zero=Policy.DISCARD_ZERO_CHG), (0, 2), "T", "S"),
        (PRI, SEC, Policies(one=Policy.DISCARD_SECONDARY), (1, 2), "S", "T"),
        (
            PRI,
            SEC,
            Policies(zero=Policy.DISCARD_LEAST_CHG, one=Policy.CONSENSUS),
            (1, 2),
            None,
            None,
        ),
        (SEC, PRI, Policies(zero=Policy.DISCARD_LEAST_CHG, one=Policy.CONSENSUS), (1, 2), "T", "S"),
        (
            PRI,
            SEC,
            Policies(zero=Policy.DISCARD_LEAST_CHG, one=Policy.VIOLENTLY),
            (1, 2),
            None,
            "S",
        ),
        (
            PRI,
            SEC,
            Policies(zero=Policy.DISCARD_LEAST_CHG, one=Policy.CALL_HELPER),
            (1, 2),
            None,
            "S",
        ),
    ],
)
def test_observed_outcomes(
    left_role: Role,
    right_role: Role,
    policies: Policies,
    changes: tuple[int, int],
    left: str | None,
    right: str | None,
    rc: bool,
) -> None:
    facts = _facts(
        *SPLIT,
        (left_role, right_role),
        policies=policies,
        own_changes=changes[0],
        peer_changes=changes[1],
        resolves_conflicts=rc,
    )
    conns = {"S": C.WF_BITMAP_S, "T": C.WF_BITMAP_T, None: None}
    here, there = _both(facts)
    assert (here.conn, there.conn) == (conns[left], conns[right])
    if policies.one == Policy.VIOLENTLY:
        assert "I shall become SyncTarget, but I am primary!" in _texts(here)
    if policies.one == Policy.CALL_HELPER:
        assert "pri-lost-after-sb" in here.handlers


def test_a_primary_that_gives_up_its_role_becomes_target() -> None:
    policies = Policies(zero=Policy.DISCARD_LOCAL, one=Policy.CALL_HELPER)
    facts = _facts(*SPLIT, (PRI, SEC), policies=policies, can_demote=True)
    here, there = _both(facts)
    assert (here.conn, there.conn) == (C.WF_BITMAP_T, C.WF_BITMAP_S)
    assert here.demote
    assert not there.demote


def test_automatically_solved_says_how() -> None:
    decision = decide(_facts(*SPLIT, policies=Policies(zero=Policy.DISCARD_REMOTE)))
    assert "Split-Brain detected, 0 primaries, automatically solved. Sync from this node" in _texts(
        decision
    )
    assert not decision.split_brain
