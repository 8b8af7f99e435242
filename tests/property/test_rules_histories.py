"""Every story of resyncs that are begun again and again: the pair finds what both descend from.

One node is the source and takes all writes; its target gets the sync UUID or not, ends the resync
or not, seen by the source or not. Between two meetings the source is cut off, or killed, which
makes it forget what its target has, or a generation is begun by hand. All sequences of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from replblk.model.generation import JUST_CREATED, UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.rules.generations import Rotation, rotated, rotation_at_promotion
from replblk.rules.uuid_compare import Outcome, Side, Verdict, compare

X, Y, Z, W = 0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000
PROMOTED = 0x7777_0000
ALONE = State(role=Role.PRIMARY, conn=ConnState.WF_CONNECTION, disk=DiskState.UP_TO_DATE)
REFUSED = {Outcome.SPLIT_BRAIN, Outcome.SPLIT_BRAIN_AMBIGUOUS, Outcome.UNRELATED}
RESYNC = {Outcome.SOURCE_BITMAP, Outcome.SOURCE_FULL}
MEETINGS = ("lost start", "start", "unseen end", "end")
APART = ("cut off", "killed", "by hand")
DEPTH = 4
UPPER_BITS = (0, 0x1234, 0x3FFD, 0x3FFE, 0x7FFF, 0xFFFF)
"""Of the numbers that chance gives for a sync UUID."""


@dataclass(frozen=True)
class Story:
    """What a sequence of events has led to. syncing: the connection of a resync is still there."""

    source: UuidSet
    target: UuidSet
    events: tuple[str, ...] = ()
    syncing: bool = False
    fresh: int = 0x100_0000

    def then(self, event: str, source: UuidSet, target: UuidSet, *, syncing: bool = False) -> Story:
        return Story(source, target, (*self.events, event), syncing, self.fresh + 0x100_0000)

    def __str__(self) -> str:
        return f"{', '.join(self.events)}: source {self.source}, target {self.target}"


def verdict(source: UuidSet, target: UuidSet) -> Verdict:
    """What both say, of one mind. The source crashed as Primary: equal generations, too, resync."""
    own, peer = Side(source, crashed_primary=True), Side(target)
    here = compare(own, peer, resolves_conflicts=True, apv=101, wsame=True)
    there = compare(peer, own, resolves_conflicts=False, apv=101, wsame=True)
    assert here.outcome.mirrored == there.outcome
    assert (here.own, here.peer) == (there.peer, there.own)
    return here


def met(story: Story, event: str, upper: int) -> Story:
    """The two meet, and a resync begins."""
    found = verdict(story.source, story.target)
    assert found.outcome in RESYNC, str(story)
    told, target = found.own, found.peer
    source = told.sync_started(upper << 48 | story.fresh, target.current)
    if event != "lost start":
        target = target.sync_received(source.bitmap, primary=False)
    if event in ("unseen end", "end"):
        target = target.sync_finished(told, primary=False)
    if event == "end":
        source = source.bitmap_cleared()
    return story.then(event, source, target, syncing=event != "end")


def apart(story: Story, event: str) -> Story:
    """The source goes on alone, and writes; what the target has it has forgotten."""
    source, fresh = story.source, story.fresh
    if event == "cut off":
        source = rotated(source, Rotation.BRANCH, fresh, primary=True)
    elif event == "killed":
        rotation = rotation_at_promotion(ALONE, source, forced=False)
        source = rotated(source, rotation, fresh, primary=True)
    else:
        source = source.bitmap_cleared().new_current(fresh, primary=True)
    return story.then(event, source, story.target)


def stories(story: Story, upper: int, depth: int = DEPTH) -> Iterator[Story]:
    """All that may follow, by up to *depth* events; by hand once between two meetings, and first:
    more generations than the history has slots for are the administrator's affair.
    """
    yield story
    if not depth:
        return
    for event in MEETINGS:
        yield from stories(met(story, event, upper), upper, depth - 1)
    last = story.events[-1] if story.events else ""
    if story.syncing:
        yield from stories(apart(story, "cut off"), upper, depth - 1)
    yield from stories(apart(story, "killed"), upper, depth - 1)
    if last not in APART:
        yield from stories(apart(story, "by hand"), upper, depth - 1)


BEGINNINGS = [
    (UuidSet(Y, X), X),
    (UuidSet(Y, X, W, Z), X),
    (UuidSet(Y, Z, X), X),
    (UuidSet(Y, Z, X, W), X),
    (UuidSet(Y), Y),
    (UuidSet(Y, 0, X, Z), Y),
    (UuidSet(Y, 0, X), X),
    (UuidSet(Y, JUST_CREATED), JUST_CREATED),
]


@pytest.mark.parametrize("upper", UPPER_BITS)
@pytest.mark.parametrize(("source", "target"), BEGINNINGS, ids=str)
def test_a_target_that_took_no_writes_is_never_refused(
    source: UuidSet, target: int, upper: int
) -> None:
    for story in stories(Story(source, UuidSet(target)), upper):
        assert verdict(story.source, story.target).outcome in RESYNC, str(story)


@pytest.mark.parametrize("upper", UPPER_BITS)
@pytest.mark.parametrize(("source", "target"), BEGINNINGS, ids=str)
def test_a_target_that_was_promoted_is_never_merged_with_what_the_source_wrote_alone(
    source: UuidSet, target: int, upper: int
) -> None:
    """Whether it had ended the resync unseen, was in the middle of it, or had never begun."""
    judged = 0
    for story in stories(Story(source, UuidSet(target)), upper):
        if not story.events or story.events[-1] not in APART:
            continue
        promoted = story.target.new_current(PROMOTED, primary=True)
        if story.target.current != JUST_CREATED:
            assert verdict(story.source, promoted).outcome in REFUSED, str(story)
            judged += 1
    assert judged > 100


@pytest.mark.parametrize(("source", "target"), BEGINNINGS, ids=str)
def test_after_a_resync_both_have_one_history(source: UuidSet, target: int) -> None:
    """So a split brain is seen for one. After many lost starts the older slots may differ."""
    for story in stories(Story(source, UuidSet(target)), 0x1234, depth=2):
        if story.events and story.events[-1] == "end":
            assert replace(story.source, current=0) == replace(story.target, current=0), str(story)


def test_a_source_that_goes_on_alone_twice_begins_one_generation_only() -> None:
    """The second time nobody can have finished what it writes now."""
    for source, target in BEGINNINGS:
        for upper in UPPER_BITS:
            begun = met(Story(source, UuidSet(target)), "unseen end", upper)
            once = apart(begun, "killed")
            assert once.source.current != begun.source.current
            assert apart(once, "killed").source == once.source


def test_the_sync_uuid_of_a_full_sync_is_none_that_a_resync_by_bitmap_would_have() -> None:
    """A copy of the target from before it is told by its generation: never by bitmap (rule 71)."""
    older = UuidSet(X)
    for upper in range(0, 1 << 16, 7):
        began = UuidSet(Y, Z, X).sync_started(upper << 48, X)
        assert verdict(began, older).rule == 80
