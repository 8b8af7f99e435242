"""Who has the newer data: two sets of generation UUIDs compared, rule by rule.

Both nodes do this with mirrored arguments and have to come to mirrored outcomes. That holds for all
UUID sets DRBD can produce; the sets for which it can't hold (both current UUIDs 0, or each current
UUID among the other's ancestors) are caught by ``sync_handshake``, which looks from both sides.

Bit 0 of a UUID is not part of its identity and is masked before comparing; only the tests for a
bitmap UUID being zero in rules 34 to 37 look at the whole number. Source: the comparison of
DRBD 8.4 (protocol versions 86 to 101).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from replblk.model.generation import (
    JUST_CREATED,
    SYNC_UUID_OFFSET,
    UUID_MASK,
    UuidSet,
    same_generation,
)

_APV_CORRECTIONS: Final = 91
"""Oldest protocol version whose peers can correct a resync end or start that got lost."""
_APV_DERIVED_SYNC_UUID: Final = 96
"""From here on the sync UUID is the bitmap UUID plus SYNC_UUID_OFFSET."""


class Outcome(Enum):
    """What a comparison says about *us*; the value is the number DRBD logs."""

    NONE = 0
    SOURCE_BITMAP = 1
    TARGET_BITMAP = -1
    SOURCE_FULL = 2
    TARGET_FULL = -2
    SPLIT_BRAIN = 100  # both went their own way from the same generation: bitmaps cover it
    SPLIT_BRAIN_AMBIGUOUS = -100  # ... from some common ancestor: bitmaps may not cover it
    UNRELATED = -1000
    NEEDS_PROTOCOL_91 = -1091
    NEEDS_NEWER_PEER = -0x10000 - 101 - (4 << 8)  # apv 101 and feature bit 4 (WRITE_SAME)

    @property
    def mirrored(self) -> Outcome:
        """What the peer has to conclude if we conclude this."""
        return _MIRRORED.get(self, self)


_MIRRORED: Final = {
    Outcome.SOURCE_BITMAP: Outcome.TARGET_BITMAP,
    Outcome.TARGET_BITMAP: Outcome.SOURCE_BITMAP,
    Outcome.SOURCE_FULL: Outcome.TARGET_FULL,
    Outcome.TARGET_FULL: Outcome.SOURCE_FULL,
}


@dataclass(frozen=True, slots=True)
class Side:
    """One node in the comparison.

    crashed_primary: it was Primary when it crashed, and not in sync since. primary_now: its role.
    """

    uuids: UuidSet
    crashed_primary: bool = False
    primary_now: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Which rule matched and what it says; own and peer are the UUID sets after its corrections.

    rule: DRBD's rule number. own, peer: equal to what went in, but for rules 34, 35, 51 and 71,
    which make up for a packet that got lost at the end or the start of a resync.
    """

    rule: int
    outcome: Outcome
    own: UuidSet
    peer: UuidSet

    @property
    def number(self) -> int:
        """DRBD's number, as in ``uuid_compare()=-1 by rule 50``."""
        return self.outcome.value


def compare(own: Side, peer: Side, *, resolves_conflicts: bool, apv: int, wsame: bool) -> Verdict:
    """The verdict on our data and the peer's.

    resolves_conflicts: we are the node that decides ties (the peer is not). apv: agreed protocol
    version. wsame: both nodes have feature WRITE_SAME.
    """
    s, p = own.uuids, peer.uuids

    def verdict(rule: int, outcome: Outcome) -> Verdict:
        return Verdict(rule, outcome, s, p)

    if _fresh(s.current) and _fresh(p.current):
        return verdict(10, Outcome.NONE)
    if _fresh_or_zero(s.current) and not _fresh(p.current):
        return verdict(20, Outcome.TARGET_FULL)
    if not _fresh(s.current) and _fresh_or_zero(p.current):
        return verdict(30, Outcome.SOURCE_FULL)
    if same_generation(s.current, p.current):
        return _lost_end(s, p, apv) or _after_crash(
            own, peer, resolves_conflicts=resolves_conflicts, wsame=wsame
        )

    if same_generation(s.current, p.bitmap):
        return verdict(50, Outcome.TARGET_BITMAP)
    if _lost_start(source=p, target=s, apv=apv):
        if apv < _APV_CORRECTIONS:
            return verdict(51, Outcome.NEEDS_PROTOCOL_91)
        return Verdict(51, Outcome.TARGET_BITMAP, s, _start_undone(p))
    if _in_history(s.current, p):
        return verdict(60, Outcome.TARGET_FULL)

    if same_generation(s.bitmap, p.current):
        return verdict(70, Outcome.SOURCE_BITMAP)
    if _lost_start(source=s, target=p, apv=apv):
        if apv < _APV_CORRECTIONS:
            return verdict(71, Outcome.NEEDS_PROTOCOL_91)
        return Verdict(71, Outcome.SOURCE_BITMAP, _start_undone(s), p)
    if _in_history(p.current, s):
        return verdict(80, Outcome.SOURCE_FULL)

    if same_generation(s.bitmap, p.bitmap) and not _zero(s.bitmap):
        return verdict(90, Outcome.SPLIT_BRAIN)
    # Empty history slots match each other here as they do in DRBD: better a split brain too many.
    if _in_history(s.history0, p) or _in_history(s.history1, p):
        return verdict(100, Outcome.SPLIT_BRAIN_AMBIGUOUS)
    return verdict(100, Outcome.UNRELATED)


def _lost_end(s: UuidSet, p: UuidSet, apv: int) -> Verdict | None:
    """Rules 34 to 37: equal currents, and only one node knows that the resync has ended."""
    if s.bitmap != 0 and p.bitmap == 0:
        seen = same_generation(s.bitmap, p.history0) and same_generation(s.history0, p.history1)
        rule, own, peer = (34, s.bitmap_cleared(), p) if seen else (36, s, p)
        outcome = Outcome.SOURCE_BITMAP
    elif s.bitmap == 0 and p.bitmap != 0:
        seen = same_generation(s.history0, p.bitmap) and same_generation(s.history1, p.history0)
        rule, own, peer = (35, s, p.bitmap_cleared()) if seen else (37, s, p)
        outcome = Outcome.TARGET_BITMAP
    else:
        return None
    if apv < _APV_CORRECTIONS:
        return Verdict(rule, Outcome.NEEDS_PROTOCOL_91, s, p)
    return Verdict(rule, outcome, own, peer)


def _after_crash(own: Side, peer: Side, *, resolves_conflicts: bool, wsame: bool) -> Verdict:
    """Rules 40 and 41: equal currents; a Primary that crashed may have in-flight writes to undo."""
    rule = 40
    if not own.crashed_primary and not peer.crashed_primary:
        outcome = Outcome.NONE
    elif own.primary_now or peer.primary_now:
        rule = 41
        if not wsame:
            outcome = Outcome.NEEDS_NEWER_PEER
        elif own.primary_now and peer.primary_now:
            outcome = Outcome.SPLIT_BRAIN_AMBIGUOUS
        else:
            outcome = Outcome.SOURCE_BITMAP if own.primary_now else Outcome.TARGET_BITMAP
    elif own.crashed_primary and peer.crashed_primary:
        outcome = Outcome.TARGET_BITMAP if resolves_conflicts else Outcome.SOURCE_BITMAP
    else:
        outcome = Outcome.SOURCE_BITMAP if own.crashed_primary else Outcome.TARGET_BITMAP
    return Verdict(rule, outcome, own.uuids, peer.uuids)


def _lost_start(*, source: UuidSet, target: UuidSet, apv: int) -> bool:
    """Rules 51 and 71: *source* began a resync, but its P_SYNC_UUID never reached *target*."""
    if not same_generation(target.current, source.history0):
        return False
    if apv < _APV_DERIVED_SYNC_UUID:
        return same_generation(target.history0, source.history1)
    return same_generation((source.history0 + SYNC_UUID_OFFSET) & UUID_MASK, source.bitmap)


def _start_undone(uuids: UuidSet) -> UuidSet:
    """The set as it was before the resync began: bitmap and younger history slot taken back."""
    return replace(uuids, bitmap=uuids.history0, history0=uuids.history1)


def _in_history(uuid: int, uuids: UuidSet) -> bool:
    return same_generation(uuid, uuids.history0) or same_generation(uuid, uuids.history1)


def _fresh(uuid: int) -> bool:
    return same_generation(uuid, JUST_CREATED)


def _zero(uuid: int) -> bool:
    return same_generation(uuid, 0)


def _fresh_or_zero(uuid: int) -> bool:
    return _fresh(uuid) or _zero(uuid)
