"""Every split brain there is, decided by both nodes: one victim that was named, or none.

Exhaustive over policies, roles, who was Primary when it happened, changes, ties, discard-my-data,
always-asbp, both kinds of split brain, and whether a victim could give up its role.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Final

import pytest

from replblk.model.generation import UuidSet
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Policy, Role
from replblk.rules.split_brain import Policies
from replblk.rules.sync_handshake import Decision, HandshakeFacts, decide
from replblk.rules.uuid_compare import Outcome, Side

X, Y, Z, A, B = 0x1000, 0x2000, 0x3000, 0xA000, 0xB000
SPLIT: Final = {
    Outcome.SPLIT_BRAIN: (UuidSet(Y, X), UuidSet(Z, X)),
    Outcome.SPLIT_BRAIN_AMBIGUOUS: (UuidSet(Y, A, X, B), UuidSet(Z, B, X)),
}
ZERO: Final = (
    *(Policy.DISCONNECT, Policy.DISCARD_YOUNGER_PRI, Policy.DISCARD_OLDER_PRI),
    *(Policy.DISCARD_ZERO_CHG, Policy.DISCARD_LEAST_CHG, Policy.DISCARD_LOCAL),
    Policy.DISCARD_REMOTE,
)
ONE: Final = (
    *(Policy.DISCONNECT, Policy.CONSENSUS, Policy.DISCARD_SECONDARY, Policy.CALL_HELPER),
    Policy.VIOLENTLY,
)
TWO: Final = (Policy.DISCONNECT, Policy.CALL_HELPER, Policy.VIOLENTLY)
CHANGES: Final = ((0, 0), (0, 3), (3, 0), (2, 3), (3, 3))
BITS: Final = (False, True)
MIRROR: Final = {
    Policy.DISCARD_LOCAL: Policy.DISCARD_REMOTE,
    Policy.DISCARD_REMOTE: Policy.DISCARD_LOCAL,
}
PRI, SEC = Role.PRIMARY, Role.SECONDARY
ROLES: Final = {0: [(SEC, SEC)], 1: [(PRI, SEC), (SEC, PRI)], 2: [(PRI, PRI)]}
POLICIES: Final = {
    0: [Policies(zero=zero) for zero in ZERO],
    1: [Policies(zero=zero, one=one) for zero in ZERO for one in ONE],
    2: [Policies(zero=zero, two=two) for zero in ZERO for two in TWO],
}


def older(uuids: UuidSet, primary_then: bool) -> UuidSet:
    """Bit 0 of the bitmap UUID: the node was Primary when the histories parted."""
    return replace(uuids, bitmap=uuids.bitmap & ~1 | primary_then)


def conflicts(primaries: int, kind: Outcome) -> Iterator[HandshakeFacts]:
    """Every conflict of that kind, as this node sees it."""
    for roles, policies, then, changes, rc, discard, asbp in product(
        ROLES[primaries],
        POLICIES[primaries],
        product(BITS, BITS),
        CHANGES,
        BITS,
        product(BITS, BITS),
        BITS,
    ):
        own, peer = (older(s, was) for s, was in zip(SPLIT[kind], then, strict=True))
        yield HandshakeFacts(
            own=Side(own, primary_now=roles[0] is PRI),
            peer=Side(peer, primary_now=roles[1] is PRI),
            own_disk=D.UP_TO_DATE,
            peer_disk=D.UP_TO_DATE,
            own_role=roles[0],
            peer_role=roles[1],
            own_current_disk=D.UP_TO_DATE,
            resolves_conflicts=rc,
            own_discard=discard[0],
            peer_discard=discard[1],
            own_changes=changes[0],
            peer_changes=changes[1],
            policies=policies,
            always_asbp=asbp,
            can_demote=rc,  # both cases; what the peer can is drawn the other way round
        )


def seen_from_the_peer(facts: HandshakeFacts) -> HandshakeFacts:
    zero = facts.policies.zero
    return replace(
        facts,
        own=facts.peer,
        peer=facts.own,
        own_role=facts.peer_role,
        peer_role=facts.own_role,
        resolves_conflicts=not facts.resolves_conflicts,
        own_discard=facts.peer_discard,
        peer_discard=facts.own_discard,
        own_changes=facts.peer_changes,
        peer_changes=facts.own_changes,
        policies=replace(facts.policies, zero=MIRROR.get(zero, zero)),
        can_demote=not facts.can_demote,
    )


def named(facts: HandshakeFacts, decision: Decision) -> bool:
    """Whether a policy or an administrator named the node whose changes are given up."""
    primaries = (facts.own_role is PRI) + (facts.peer_role is PRI)
    used = (facts.policies.zero, facts.policies.one, facts.policies.two)[primaries]
    ambiguous = decision.verdict.outcome is Outcome.SPLIT_BRAIN_AMBIGUOUS
    by_policy = used is not Policy.DISCONNECT and (facts.always_asbp or not ambiguous)
    return by_policy or facts.own_discard != facts.peer_discard


@pytest.mark.parametrize("kind", list(SPLIT), ids=lambda kind: kind.name)
@pytest.mark.parametrize("primaries", [0, 1, 2])
def test_both_nodes_name_the_same_victim_or_none(primaries: int, kind: Outcome) -> None:
    seen: Counter[tuple[C | None, C | None]] = Counter()
    for facts in conflicts(primaries, kind):
        here, there = decide(facts), decide(seen_from_the_peer(facts))
        pair = (here.conn, there.conn)
        seen[pair] += 1
        # Nobody just connects; never two sources, never two targets.
        assert C.CONNECTED not in pair, facts
        assert pair not in ((C.WF_BITMAP_S, C.WF_BITMAP_S), (C.WF_BITMAP_T, C.WF_BITMAP_T)), facts
        if None in pair:
            # One decides alone only where the other is a Primary that does not give in.
            alone = facts if here.conn is None else seen_from_the_peer(facts)
            assert pair == (None, None) or alone.own_role is PRI, facts
        if here.conn is not None:
            assert named(facts, here), facts
            assert here.set_all_bits is (kind is Outcome.SPLIT_BRAIN_AMBIGUOUS), facts
        if here.conn is C.WF_BITMAP_T:
            assert facts.own_role is SEC or here.demote, facts
        assert here.handlers[0] == "initial-split-brain"
        assert here.split_brain is (here.handlers[-1] == "split-brain")
    assert seen[None, None]
    assert seen[C.WF_BITMAP_S, C.WF_BITMAP_T]
    assert seen[C.WF_BITMAP_T, C.WF_BITMAP_S]


@pytest.mark.parametrize("kind", list(SPLIT), ids=lambda kind: kind.name)
def test_discard_my_data_counts_where_no_policy_decides(kind: Outcome) -> None:
    for facts in conflicts(0, kind):
        decision = decide(facts)
        silent = facts.policies.zero is Policy.DISCONNECT or (
            kind is Outcome.SPLIT_BRAIN_AMBIGUOUS and not facts.always_asbp
        )
        if silent and facts.own_discard != facts.peer_discard:
            wanted = C.WF_BITMAP_T if facts.own_discard else C.WF_BITMAP_S
            assert decision.conn is wanted, facts
        elif silent:
            assert decision.conn is None, facts
            assert decision.split_brain, facts
