"""The comparison of generation UUIDs, every rule by its number."""

from __future__ import annotations

import pytest

from replblk.model.generation import JUST_CREATED, SYNC_UUID_OFFSET, UuidSet
from replblk.rules.uuid_compare import Outcome, Side, Verdict, compare

X, Y, Z = 0x8701_0000_0000_1000, 0xCE6F_0000_0000_2000, 0x1234_0000_0000_3000
A, B, F = 0xA000, 0xB000, 0xF000
OFF = SYNC_UUID_OFFSET


def _u(current: int, bitmap: int = 0, history0: int = 0, history1: int = 0) -> UuidSet:
    return UuidSet(current, bitmap, history0, history1)


def _compare(own: UuidSet | Side, peer: UuidSet | Side, **more: object) -> Verdict:
    arguments = {"resolves_conflicts": True, "apv": 101, "wsame": True, **more}
    own = own if isinstance(own, Side) else Side(own)
    peer = peer if isinstance(peer, Side) else Side(peer)
    return compare(own, peer, **arguments)  # type: ignore[arg-type]


CASES = [
    (10, _u(JUST_CREATED), _u(JUST_CREATED | 1), 0),
    (20, _u(JUST_CREATED), _u(X), -2),
    (20, _u(0), _u(X), -2),
    (20, _u(JUST_CREATED), _u(0), -2),
    (30, _u(X), _u(JUST_CREATED), 2),
    (30, _u(X), _u(0), 2),
    (30, _u(0), _u(JUST_CREATED), 2),
    (34, _u(Y, X + OFF, X), _u(Y, 0, X + OFF, X), 1),
    (36, _u(Y, X + OFF, X), _u(Y, 0, A, B), 1),
    (35, _u(Y, 0, X + OFF, X), _u(Y, X + OFF, X), -1),
    (37, _u(Y, 0, A, B), _u(Y, X + OFF, X), -1),
    (40, _u(Y), _u(Y | 1), 0),
    (40, _u(Y, X), _u(Y, X), 0),
    (50, _u(X), _u(Y, X), -1),
    (51, _u(X), _u(Y, X + OFF, X, A), -1),
    (60, _u(X), _u(Y, A, X), -2),
    (60, _u(X), _u(Y, A, B, X), -2),
    (70, _u(Y, X), _u(X), 1),
    (71, _u(Y, X + OFF, X, A), _u(X), 1),
    (80, _u(Y, A, X), _u(X), 2),
    (80, _u(Y, A, B, X), _u(X), 2),
    (90, _u(Y, X), _u(Z, X | 1), 100),
    (100, _u(Y, A, X, B), _u(Z, F, A | 1, X), -100),
    (100, _u(Y), _u(Z), -100),
    (100, _u(Y, A, B, X), _u(Z, A | 8, F, Y | 0x10), -1000),
]


@pytest.mark.parametrize(("rule", "own", "peer", "number"), CASES)
def test_rule(rule: int, own: UuidSet, peer: UuidSet, number: int) -> None:
    verdict = _compare(own, peer)
    assert (verdict.rule, verdict.number) == (rule, number)
    assert verdict.outcome.mirrored == _compare(peer, own, resolves_conflicts=False).outcome


def test_empty_history_slots_match_each_other() -> None:
    """So two fresh but unrelated nodes end in a split brain, never in -1000."""
    assert _compare(_u(Y, 0, A, 0), _u(Z, 0, B, 0)).outcome == Outcome.SPLIT_BRAIN_AMBIGUOUS
    assert _compare(_u(Y, 0, A, B), _u(Z, 0, X, F)).outcome == Outcome.UNRELATED


def test_rule_34_corrects_our_set() -> None:
    verdict = _compare(_u(Y, X + OFF, X, A), _u(Y, 0, X + OFF, X))
    assert verdict.own == _u(Y, 0, X + OFF, X)
    assert verdict.peer == _u(Y, 0, X + OFF, X)


def test_rule_35_corrects_our_copy_of_the_peers_set() -> None:
    verdict = _compare(_u(Y, 0, X + OFF, X), _u(Y, X + OFF, X, A))
    assert verdict.peer == _u(Y, 0, X + OFF, X)
    assert verdict.own == _u(Y, 0, X + OFF, X)


def test_rules_51_and_71_undo_a_start_the_target_never_heard_of() -> None:
    source, target = _u(Y, X + OFF, X, A), _u(X, 0, A)
    assert _compare(target, source).peer == _u(Y, X, A, A)
    assert _compare(source, target).own == _u(Y, X, A, A)


def test_other_rules_correct_nothing() -> None:
    for rule, own, peer, _ in CASES:
        if rule not in (34, 35, 51, 71):
            verdict = _compare(own, peer)
            assert (verdict.own, verdict.peer) == (own, peer)


@pytest.mark.parametrize(
    ("own_crashed", "peer_crashed", "resolves", "number"),
    [
        (False, False, True, 0),
        (True, False, True, 1),
        (False, True, True, -1),
        (True, True, True, -1),
        (True, True, False, 1),
    ],
)
def test_rule_40_after_a_crash(
    own_crashed: bool, peer_crashed: bool, resolves: bool, number: int
) -> None:
    verdict = _compare(
        Side(_u(Y), own_crashed), Side(_u(Y), peer_crashed), resolves_conflicts=resolves
    )
    assert (verdict.rule, verdict.number) == (40, number)


@pytest.mark.parametrize("crashed", [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(
    ("primaries", "number"), [((True, False), 1), ((False, True), -1), ((True, True), -100)]
)
def test_rule_41_a_primary_is_not_overwritten_by_a_crashed_one(
    crashed: tuple[bool, bool], primaries: tuple[bool, bool], number: int
) -> None:
    own = Side(_u(Y), crashed[0], primaries[0])
    peer = Side(_u(Y), crashed[1], primaries[1])
    verdict = _compare(own, peer)
    assert (verdict.rule, verdict.number) == (41, number)
    old_peer = _compare(own, peer, wsame=False)
    assert (old_peer.outcome, old_peer.number) == (Outcome.NEEDS_NEWER_PEER, -66661)


def test_rule_34_needs_the_raw_bitmap_uuid_to_be_zero() -> None:
    """Bit 0 alone counts as a bitmap UUID here, though it is masked everywhere else."""
    assert _compare(_u(Y, 1), _u(Y, 0)).rule == 34
    assert _compare(_u(Y, 1, A), _u(Y, 1, A)).rule == 40


@pytest.mark.parametrize("rule", [34, 35, 36, 37, 51, 71])
def test_corrections_need_protocol_91(rule: int) -> None:
    own, peer = {
        34: (_u(Y, X + OFF, X), _u(Y, 0, X + OFF, X)),
        36: (_u(Y, X + OFF, X), _u(Y, 0, A, B)),
        35: (_u(Y, 0, X + OFF, X), _u(Y, X + OFF, X)),
        37: (_u(Y, 0, A, B), _u(Y, X + OFF, X)),
        51: (_u(X, 0, A), _u(Y, B, X, A)),
        71: (_u(Y, B, X, A), _u(X, 0, A)),
    }[rule]
    verdict = _compare(own, peer, apv=90)
    assert (verdict.rule, verdict.number) == (rule, -1091)
    assert _compare(own, peer, apv=91).outcome != Outcome.NEEDS_PROTOCOL_91


def test_before_protocol_96_the_sync_uuid_is_recognised_by_its_history() -> None:
    source, target = _u(Y, 0x7777, X, A), _u(X, 0, A)
    assert _compare(target, source, apv=95).rule == 51
    assert _compare(source, target, apv=95).rule == 71
    assert _compare(target, source, apv=96).rule == 60
    assert _compare(source, target, apv=96).rule == 80


def test_the_sync_uuid_wraps_at_64_bits() -> None:
    high = 0xFFFF_0000_0000_1000
    wrapped = (high + OFF) % (1 << 64)
    assert _compare(_u(high), _u(Y, wrapped, high)).rule == 51


def test_a_whole_life_of_two_nodes() -> None:
    """Outage, a resync that breaks off, resumes and ends unseen: rules 70, 71, 70, 34."""
    primary = _u(X | 1).new_current(Y, primary=True)
    peer = _u(X)
    assert (_compare(primary, peer).rule, _compare(peer, primary).rule) == (70, 50)
    started = primary.sync_started(0)
    assert (_compare(started, peer).rule, _compare(peer, started).rule) == (71, 51)
    peer = peer.sync_received(started.bitmap, primary=False)
    assert (_compare(started, peer).rule, _compare(peer, started).rule) == (70, 50)
    peer = peer.sync_finished(primary, primary=False)
    verdict = _compare(started, peer)
    assert (verdict.rule, verdict.own) == (34, started.bitmap_cleared())
    assert _compare(started.bitmap_cleared(), peer).rule == 40
