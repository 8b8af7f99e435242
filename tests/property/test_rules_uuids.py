"""Two nodes that decide by themselves: from mirrored facts they come to mirrored decisions."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replblk.model.generation import SYNC_UUID_OFFSET, UuidSet, same_generation
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Policy, Role
from replblk.rules.split_brain import Conflict, Fate, Policies, resolve
from replblk.rules.sync_handshake import HandshakeFacts, decide
from replblk.rules.uuid_compare import Side, compare

X, Y = 0x1000, 0x2000
S = X + SYNC_UUID_OFFSET
CURRENTS = (0, 4, X, X | 1, S, Y)
BITMAPS = (0, 1, 4, X, S, Y)
UNIVERSE = [UuidSet(*slots) for slots in product(CURRENTS, BITMAPS, (0, 4, X, Y, S), (0, X, Y))]
SMALL = [UuidSet(*slots) for slots in product((X, Y), (0, X, S), (0, X, S), (0, X))]


def _agree(own: Side, peer: Side, rc: bool, apv: int, wsame: bool = True) -> bool:
    here = compare(own, peer, resolves_conflicts=rc, apv=apv, wsame=wsame)
    there = compare(peer, own, resolves_conflicts=not rc, apv=apv, wsame=wsame)
    return here.outcome.mirrored == there.outcome


def _contradictory(own: UuidSet, peer: UuidSet) -> bool:
    """The sets no two nodes can agree on: DRBD never makes them, and a handshake refuses them.

    Both currents 0, or each current is among the other's ancestors.
    """
    if own.current | 1 == peer.current | 1:
        return own.current | 1 == 1
    if {own.current | 1, peer.current | 1} & {1, 5}:
        return False
    return _knows(own, peer.current) and _knows(peer, own.current)


def _knows(uuids: UuidSet, current: int) -> bool:
    ancestors = (uuids.bitmap, uuids.history0, uuids.history1)
    return any(same_generation(current, uuid) for uuid in ancestors)


def test_nodes_agree_on_all_uuid_sets_but_the_contradictory() -> None:
    for own, peer in product(UNIVERSE, UNIVERSE):
        assert _agree(Side(own), Side(peer), True, 101) is not _contradictory(own, peer), (
            str(own),
            str(peer),
        )


def test_every_rule_is_reached_and_the_peer_comes_to_its_mirror_image() -> None:
    """34 and 35, 36 and 37, 50 and 70, ... are one rule seen from both ends."""
    mirror = {10: 10, 20: 30, 34: 35, 36: 37, 40: 40, 50: 70, 51: 71, 60: 80, 90: 90, 100: 100}
    mirror |= {there: here for here, there in mirror.items()}
    reached = set()
    for own, peer in product(UNIVERSE, UNIVERSE):
        if _contradictory(own, peer):
            continue
        here = compare(Side(own), Side(peer), resolves_conflicts=True, apv=101, wsame=True)
        reached.add(here.rule)
        if here.rule not in (20, 30):  # of a fresh and an empty current both say 20 or 30
            there = compare(Side(peer), Side(own), resolves_conflicts=False, apv=101, wsame=True)
            assert there.rule == mirror[here.rule], (str(own), str(peer))
    crashed = (Side(UuidSet(X), True, True), Side(UuidSet(X)))
    verdict = compare(*crashed, resolves_conflicts=True, apv=101, wsame=True)
    assert reached | {verdict.rule} == {*mirror, 41}


@pytest.mark.parametrize("apv", [86, 90, 91, 95, 96])
def test_nodes_agree_at_older_protocol_versions(apv: int) -> None:
    for own, peer in product(SMALL, SMALL):
        if not _contradictory(own, peer):
            assert _agree(Side(own), Side(peer), False, apv), (str(own), str(peer))


def test_nodes_agree_after_every_kind_of_crash() -> None:
    bits = (False, True)
    for own, peer in product(SMALL, SMALL):
        if own.current != peer.current:
            continue
        for a, b, c, d, rc, wsame in product(bits, repeat=6):
            assert _agree(Side(own, a, b), Side(peer, c, d), rc, 101, wsame)


def test_corrections_leave_two_nodes_that_still_agree() -> None:
    for own, peer in product(SMALL, SMALL):
        verdict = compare(Side(own), Side(peer), resolves_conflicts=True, apv=101, wsame=True)
        if verdict.rule in (34, 35, 51, 71):
            mirrored = compare(Side(peer), Side(own), resolves_conflicts=False, apv=101, wsame=True)
            assert (mirrored.own, mirrored.peer) == (verdict.peer, verdict.own)


uuid_sets = st.sampled_from(UNIVERSE)
bools = st.booleans()
disks = st.sampled_from([D.INCONSISTENT, D.OUTDATED, D.CONSISTENT, D.UP_TO_DATE])
roles = st.sampled_from([Role.PRIMARY, Role.SECONDARY])
counts = st.sampled_from([0, 1, 2, 1000])
any_policy = st.sampled_from(list(Policy))
policies_given = st.builds(Policies, zero=any_policy, one=any_policy, two=any_policy)
_SWAPPED = {
    Policy.DISCARD_LOCAL: Policy.DISCARD_REMOTE,
    Policy.DISCARD_REMOTE: Policy.DISCARD_LOCAL,
}


@st.composite
def handshakes(draw: st.DrawFn) -> tuple[HandshakeFacts, HandshakeFacts]:
    """One handshake as both nodes see it."""
    own_role, peer_role = draw(roles), draw(roles)
    own_disk, peer_disk = draw(disks), draw(disks)
    own = HandshakeFacts(
        own=Side(draw(uuid_sets), draw(bools), own_role == Role.PRIMARY),
        peer=Side(draw(uuid_sets), draw(bools), peer_role == Role.PRIMARY),
        own_disk=own_disk,
        peer_disk=peer_disk,
        own_role=own_role,
        peer_role=peer_role,
        own_current_disk=draw(st.sampled_from([own_disk, D.NEGOTIATING])),
        resolves_conflicts=draw(bools),
        apv=draw(st.sampled_from([90, 95, 101])),
        wsame=draw(bools),
        own_discard=draw(bools),
        peer_discard=draw(bools),
        own_changes=draw(counts),
        peer_changes=draw(counts),
        policies=draw(policies_given),
        always_asbp=draw(bools),
        rr_conflict=draw(st.sampled_from([Policy.DISCONNECT, Policy.VIOLENTLY])),
        can_demote=draw(bools),
        peer_resyncs_leftover=draw(bools),
    )
    zero = own.policies.zero
    peer = replace(
        own,
        own=own.peer,
        peer=own.own,
        own_disk=peer_disk,
        peer_disk=own_disk,
        own_role=peer_role,
        peer_role=own_role,
        own_current_disk=draw(st.sampled_from([peer_disk, D.NEGOTIATING])),
        resolves_conflicts=not own.resolves_conflicts,
        own_discard=own.peer_discard,
        peer_discard=own.own_discard,
        own_changes=own.peer_changes,
        peer_changes=own.own_changes,
        policies=replace(own.policies, zero=_SWAPPED.get(zero, zero)),
        can_demote=draw(bools),
    )
    return own, peer


@settings(deadline=None, max_examples=400)
@given(handshakes())
def test_two_nodes_never_become_two_sources_or_two_targets(
    pair: tuple[HandshakeFacts, HandshakeFacts],
) -> None:
    here, there = decide(pair[0]), decide(pair[1])
    if here.conn is None or there.conn is None:
        return
    assert {here.conn, there.conn} in ({C.CONNECTED}, {C.WF_BITMAP_S, C.WF_BITMAP_T})
    assert here.set_all_bits == there.set_all_bits


@settings(deadline=None, max_examples=400)
@given(handshakes())
def test_a_decision_protects_what_is_good(pair: tuple[HandshakeFacts, HandshakeFacts]) -> None:
    facts = pair[0]
    decision = decide(facts)
    assert decision.reason
    if decision.conn == C.WF_BITMAP_T:
        assert not (facts.own_disk > D.INCONSISTENT and facts.peer_disk == D.INCONSISTENT)
        in_use = facts.own_role == Role.PRIMARY and facts.own_current_disk >= D.CONSISTENT
        assert not in_use or decision.demote or facts.rr_conflict == Policy.VIOLENTLY
    if decision.conn == C.WF_BITMAP_S:
        assert facts.own_disk > D.INCONSISTENT
    if decision.split_brain:
        assert decision.conn is None
    assert decision.set_all_bits <= (decision.conn in (C.WF_BITMAP_S, C.WF_BITMAP_T))


@settings(deadline=None, max_examples=400)
@given(
    primaries=st.sampled_from([0, 1, 2]),
    policies=policies_given,
    older=st.tuples(bools, bools),
    changes=st.tuples(counts, counts),
    rc=bools,
    own_is_primary=bools,
)
def test_policies_name_one_victim_or_none(
    primaries: int,
    policies: Policies,
    older: tuple[bool, bool],
    changes: tuple[int, int],
    rc: bool,
    own_is_primary: bool,
) -> None:
    own_primary = primaries == 2 or (primaries == 1 and own_is_primary)
    peer_primary = primaries == 2 or (primaries == 1 and not own_is_primary)
    here = resolve(
        primaries,
        policies,
        Conflict(
            own_primary=own_primary,
            own_older=older[0],
            peer_older=older[1],
            own_changes=changes[0],
            peer_changes=changes[1],
            resolves_conflicts=rc,
        ),
    ).fate
    there = resolve(
        primaries,
        replace(policies, zero=_SWAPPED.get(policies.zero, policies.zero)),
        Conflict(
            own_primary=peer_primary,
            own_older=older[1],
            peer_older=older[0],
            own_changes=changes[1],
            peer_changes=changes[0],
            resolves_conflicts=not rc,
        ),
    ).fate
    if Fate.UNRESOLVED not in (here, there):
        assert {here, there} == {Fate.SURVIVOR, Fate.VICTIM}
