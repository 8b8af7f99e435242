"""When a new data generation begins (G1 to G4), and the branch of a sync source."""

from __future__ import annotations

import pytest

from replblk.model.generation import JUST_CREATED, SYNC_UUID_OFFSET, UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Role
from replblk.rules.generations import (
    Rotation,
    needs_new_current_uuid,
    promotion_needs_new_uuid,
    rotated,
    rotation_after,
    rotation_at_promotion,
)
from replblk.rules.uuid_compare import Outcome, Side, compare

X, Y, Z, W = 0x1000, 0x2000, 0x3000, 0x4000
SYNCED = UuidSet(X)
PRIMARY = State(
    role=Role.PRIMARY, peer=Role.SECONDARY, conn=C.CONNECTED, disk=D.UP_TO_DATE, pdsk=D.UP_TO_DATE
)


@pytest.mark.parametrize("before", list(D))
@pytest.mark.parametrize("after", list(D))
def test_g1_contact_to_the_peers_data_lost(before: D, after: D) -> None:
    readable = before in (D.INCONSISTENT, D.CONSISTENT, D.UP_TO_DATE)
    gone = after < D.INCONSISTENT or after in (D.DUNKNOWN, D.OUTDATED)
    surely = before == D.DUNKNOWN and after in (D.DISKLESS, D.FAILED, D.OUTDATED)
    old, new = PRIMARY.but(pdsk=before), PRIMARY.but(pdsk=after)
    turned_bad = (before, after) == (D.UP_TO_DATE, D.INCONSISTENT)  # ours: docs/decisions, 15
    assert needs_new_current_uuid(old, new, SYNCED) is ((readable and gone) or surely or turned_bad)


@pytest.mark.parametrize(
    ("change", "uuids"),
    [
        ({"role": Role.SECONDARY}, SYNCED),
        ({"disk": D.CONSISTENT}, SYNCED),
        ({}, UuidSet(Y, X)),
    ],
)
def test_g1_only_a_primary_with_good_data_that_records_for_nobody(
    change: dict[str, object], uuids: UuidSet
) -> None:
    old = PRIMARY.but(**change)
    new = old.but(conn=C.NETWORK_FAILURE, peer=Role.UNKNOWN, pdsk=D.DUNKNOWN)
    assert not needs_new_current_uuid(old, new, uuids)


def test_g1_also_on_the_secondary_whose_primary_lost_its_disk() -> None:
    old = PRIMARY.but(role=Role.SECONDARY, peer=Role.PRIMARY)
    assert needs_new_current_uuid(old, old.but(pdsk=D.FAILED), SYNCED)


def test_g4_a_diskless_peer_becomes_primary() -> None:
    old = PRIMARY.but(role=Role.SECONDARY, pdsk=D.DISKLESS)
    new = old.but(peer=Role.PRIMARY)
    assert needs_new_current_uuid(old, new, SYNCED)
    assert not needs_new_current_uuid(new, new.but(user_isp=True), SYNCED)
    with_disk = PRIMARY.but(role=Role.SECONDARY)
    assert not needs_new_current_uuid(with_disk, with_disk.but(peer=Role.PRIMARY), SYNCED)


@pytest.mark.parametrize(
    ("state", "uuids", "forced", "needed"),
    [
        (PRIMARY, SYNCED, False, False),
        (PRIMARY, SYNCED, True, True),
        (PRIMARY, UuidSet(Y, X), True, True),
        (PRIMARY.but(pdsk=D.FAILED), SYNCED, False, True),
        (PRIMARY.but(pdsk=D.DISKLESS), UuidSet(Y, X), False, False),
        (PRIMARY.but(conn=C.WF_CONNECTION, pdsk=D.DUNKNOWN), SYNCED, False, True),
        (PRIMARY.but(conn=C.STANDALONE, pdsk=D.OUTDATED), UuidSet(Y, X), False, False),
    ],
)
def test_g2_g3_promotion(state: State, uuids: UuidSet, forced: bool, needed: bool) -> None:
    assert promotion_needs_new_uuid(state, uuids, forced) is needed


def _outcome(own: UuidSet, peer: UuidSet) -> Outcome:
    verdict = compare(Side(own), Side(peer), resolves_conflicts=True, apv=101, wsame=True)
    return verdict.outcome


SOURCE = PRIMARY.but(conn=C.SYNC_SOURCE, pdsk=D.INCONSISTENT)
CUT = SOURCE.but(conn=C.NETWORK_FAILURE, peer=Role.UNKNOWN, pdsk=D.DUNKNOWN)


@pytest.mark.parametrize("base", [UuidSet(Y, X), UuidSet(Y, JUST_CREATED)])
def test_a_source_that_lost_its_target_does_not_merge_two_histories(base: UuidSet) -> None:
    """The target had finished unseen, was promoted and took writes; so did the source."""
    source = base.sync_started(0x7777_0000)
    target = UuidSet(base.bitmap).sync_received(source.bitmap, primary=False)
    finished = target.sync_finished(base, primary=False)

    assert rotation_after(SOURCE, CUT, source) == Rotation.BRANCH
    went_on = rotated(source, Rotation.BRANCH, W, primary=True)
    assert went_on.bitmap == source.bitmap

    promoted = finished.new_current(Z, primary=True)
    split = (Outcome.SPLIT_BRAIN, Outcome.SPLIT_BRAIN_AMBIGUOUS)
    assert _outcome(went_on, promoted) in split
    assert _outcome(promoted, went_on) in split
    assert _outcome(source, promoted) == Outcome.TARGET_BITMAP  # what would happen without

    assert _outcome(went_on, target) == Outcome.SOURCE_BITMAP  # the usual case: not finished
    assert _outcome(target, went_on) == Outcome.TARGET_BITMAP
    assert _outcome(went_on, finished) == Outcome.SOURCE_FULL


def test_nor_after_a_resync_that_had_been_resumed() -> None:
    """The target then has the source's set from after the start: refused, or a split brain."""
    source = UuidSet(Y, X).sync_started(0)
    target = UuidSet(X).sync_received(source.bitmap, primary=False)
    promoted = target.sync_finished(source, primary=False).new_current(Z, primary=True)
    went_on = rotated(source, Rotation.BRANCH, W, primary=True)
    refused = (Outcome.SPLIT_BRAIN, Outcome.SPLIT_BRAIN_AMBIGUOUS, Outcome.UNRELATED)
    assert _outcome(went_on, promoted) in refused
    assert _outcome(promoted, went_on) in refused


@pytest.mark.parametrize("base", [UuidSet(Y, X), UuidSet(Y, JUST_CREATED)])
def test_nor_does_one_that_is_promoted_later(base: UuidSet) -> None:
    source = base.sync_started(0x7777_0000)
    alone = PRIMARY.but(conn=C.WF_CONNECTION, peer=Role.UNKNOWN, pdsk=D.DUNKNOWN)
    assert rotation_at_promotion(alone, source, forced=False) == Rotation.BRANCH
    branched = rotated(source, Rotation.BRANCH, W, primary=True)
    assert rotation_at_promotion(alone, branched, forced=False) == Rotation.KEEP


def test_promoted_beside_a_disk_that_passed_its_error_on() -> None:
    """It gets no writes, and may die before that it is bad is durable: a generation tells them."""
    beside = PRIMARY.but(conn=C.CONNECTED, peer=Role.SECONDARY, pdsk=D.INCONSISTENT)
    assert rotation_at_promotion(beside, UuidSet(Y), forced=False) == Rotation.NEW_CURRENT
    assert rotation_at_promotion(beside, UuidSet(Y, X), forced=False) == Rotation.KEEP
    syncs = beside.but(conn=C.SYNC_SOURCE)
    assert rotation_at_promotion(syncs, UuidSet(Y, X), forced=False) == Rotation.KEEP


def test_a_secondary_source_and_a_plain_outage_keep_their_generation() -> None:
    sync = UuidSet(Y, X).sync_started(0)
    secondary = SOURCE.but(role=Role.SECONDARY)
    assert rotation_after(secondary, CUT.but(role=Role.SECONDARY), sync) == Rotation.KEEP
    assert rotation_after(PRIMARY, CUT, UuidSet(Y, X)) == Rotation.KEEP
    assert rotated(sync, Rotation.KEEP, W, primary=True) == sync


def test_new_current_is_what_the_model_calls_so() -> None:
    assert rotated(SYNCED, Rotation.NEW_CURRENT, Y, primary=True) == UuidSet(Y | 1, X)


def test_a_target_that_can_not_be_done_is_no_reason_for_a_generation() -> None:
    source = UuidSet(Y, X).sync_started(0)
    unfinished = rotation_after(SOURCE, CUT, source, target_unfinished=True)
    assert unfinished == Rotation.KEEP
    alone = PRIMARY.but(conn=C.WF_CONNECTION, peer=Role.UNKNOWN, pdsk=D.DUNKNOWN)
    promoted = rotation_at_promotion(alone, source, forced=False, target_unfinished=True)
    assert promoted == Rotation.KEEP


def test_the_targets_generation_is_never_pushed_out_of_the_history() -> None:
    """However often a resync of a target that never gets its sync UUID is begun and cut off."""
    source = UuidSet(Y, X)
    target = UuidSet(X)
    for fresh in (0x1_0000, 0x2_0000, 0x3_0000, 0x4_0000):
        source = source.sync_started(0, target.current)
        source = rotated(source, Rotation.BRANCH, fresh, primary=True, target=target.current)
        assert _outcome(source, target) == Outcome.SOURCE_FULL
        assert _outcome(target, source) == Outcome.TARGET_FULL


def test_nor_out_of_a_set_that_the_kernel_left() -> None:
    """There the younger slot holds the bitmap UUID from before the start, whoever the target is."""
    source = UuidSet(Y, X + SYNC_UUID_OFFSET, X, Z)
    alone = rotated(source, Rotation.BRANCH, W, primary=True, target=Z)
    assert _outcome(alone, UuidSet(Z)) == Outcome.SOURCE_FULL


def test_a_primary_that_gets_its_disk_back_without_its_peer_begins_a_generation() -> None:
    """The peer was lost while there was no disk: G1 had nothing to begin one on."""
    bare = State(role=Role.PRIMARY, conn=C.WF_CONNECTION, disk=D.ATTACHING)
    back = bare.but(disk=D.UP_TO_DATE)
    assert rotation_after(bare, back, UuidSet(0x1000)) is Rotation.NEW_CURRENT
    assert rotation_after(bare, back, UuidSet(0x2000, 0x1000)) is Rotation.KEEP
    secondary = bare.but(role=Role.SECONDARY)
    alone = secondary.but(disk=D.UP_TO_DATE)
    assert rotation_after(secondary, alone, UuidSet(0x1000)) is Rotation.KEEP
