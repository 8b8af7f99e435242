"""Seeded bugs of resync, bitmap exchange, generations and states."""

from __future__ import annotations

from replblk.engine import (
    peer_reads,
    resync_bitmap,
    resync_source,
    resync_target,
    role_change,
    write_origin,
)
from replblk.model import generation
from replblk.rules import generations, permits, sanitizing, uuid_compare
from tests.mutants.planting import Edit
from tests.mutants.table import mutant

TARGET = resync_target.ResyncTarget
SOURCE = resync_source.ResyncSource
EXCHANGE = resync_bitmap.ResyncBitmap

RESYNCS = (
    mutant(
        "target-clears-when-it-asks",
        "the target clears a bit when it asks for the block",
        Edit(
            TARGET,
            "_request",
            "payload = block_request(sector, ID_SYNCER, size)",
            "payload = block_request(sector, ID_SYNCER, size); volume.mark_in_sync(sector, size)",
        ),
        masked_by="the source keeps its bit until the target has the block",
        both="both-clear-early",
    ),
    mutant(
        "source-clears-when-it-sends",
        "the source clears a bit when it sends the block, before the target has it",
        Edit(
            SOURCE,
            "_send",
            "peer = self._ctx.peer",
            "peer = self._ctx.peer; volume.mark_in_sync(request.sector, request.blksize)",
        ),
        masked_by="the target keeps its bit until it has the block",
        both="both-clear-early",
    ),
    mutant(
        "target-acks-before-flush",
        "the target acknowledges a resynced block that its disk has not flushed",
        Edit(
            TARGET,
            "_store",
            "self._ctx.io.write(volume, offset, data, done, durable=True)",
            "self._ctx.io.write(volume, offset, data, done, durable=False)",
        ),
        seed=9,
        profile="harsh",
    ),
    mutant(
        "failed-block-acknowledged",
        "the target acknowledges a block that it could not write, and clears its bit",
        Edit(
            TARGET,
            "_store",
            "def done(errno: int, _: Buffer | None) -> None:\n            ended(claim, errno)",
            "def done(errno: int, _: Buffer | None) -> None:\n            ended(claim, 0)",
        ),
        test="tests/scenario/test_disk_errors.py::test_the_target_can_not_write",
    ),
    mutant(
        "target-ends-early",
        "the target ends the resync although blocks are missing",
        Edit(
            TARGET,
            "_end_of_pass",
            "if volume.dirty_bits > failed:",
            "if False:",
        ),
        masked_by="_finish looks at the bits again",
        both="target-ends-early-twice",
    ),
    mutant(
        "target-ends-early-twice",
        "the target ends the resync although blocks are missing, and does not look again",
        Edit(TARGET, "_ask", "if target.quiet and target.next_run", "if target.next_run"),
        Edit(TARGET, "_end_of_pass", "if volume.dirty_bits > failed:", "if False:"),
        Edit(TARGET, "_finish", " or volume.dirty_bits > failed", ""),
        profile="harsh",
        seed=1,
    ),
    mutant(
        "both-clear-early",
        "source and target clear a bit when the block is asked for",
        Edit(
            TARGET,
            "_request",
            "payload = block_request(sector, ID_SYNCER, size)",
            "payload = block_request(sector, ID_SYNCER, size); volume.mark_in_sync(sector, size)",
        ),
        Edit(
            SOURCE,
            "_send",
            "peer = self._ctx.peer",
            "peer = self._ctx.peer; volume.mark_in_sync(request.sector, request.blksize)",
        ),
        test="tests/scenario/test_writing_target.py::"
        "test_what_was_sent_and_never_arrived_is_sent_again",
    ),
    mutant(
        "resync-overwrites-a-write",
        "a Primary that is sync target does not keep its writes off the blocks it asked for",
        Edit(TARGET, "_ask", "if volume.primary:", "if False:"),
        test="tests/scenario/test_writing_target.py::"
        "test_a_write_to_a_block_on_its_way_is_not_overwritten_by_it",
    ),
    mutant(
        "promoted-and-unguarded",
        "a target that is promoted does not guard what it had asked for before",
        Edit(
            TARGET,
            "on_state",
            "self._guard_asked(volume, running)",
            "pass",
        ),
        test="tests/scenario/test_writing_target.py::"
        "test_a_write_to_a_block_on_its_way_is_not_overwritten_by_it",
    ),
    mutant(
        "aborted-answers-are-errors",
        "a late answer to a resync that was aborted ends the connection",
        Edit(TARGET, "_answered", "if not self._abandoned[owed]:", "if True:"),
        test="tests/scenario/test_late_answers.py::"
        "test_an_answer_to_a_resync_that_was_aborted_costs_nothing",
    ),
    mutant(
        "source-reads-unlocked",
        "the source reads a block while it is being written",
        Edit(
            peer_reads,
            "read_for_peer",
            "volume.ranges.lock(sector, size, go, exclusive=False)",
            "volume.ranges.lock(1 << 40, size, go, exclusive=False)",
        ),
        test="tests/scenario/test_writing_target.py::"
        "test_a_block_that_is_being_written_is_read_for_the_target_afterwards",
    ),
    mutant(
        "source-forgets-acks-of-writes",
        "the source counts resync data as acknowledged whatever the answer was",
        Edit(SOURCE, "on_ack", "if cmd is Cmd.P_RS_WRITE_ACK:", "if True:"),
        test="tests/scenario/test_late_answers.py::"
        "test_a_block_that_the_target_could_not_write_stays_marked_at_the_source",
    ),
    mutant(
        "target-bitmap-ignored",
        "the source does not merge the bitmap of the target",
        Edit(
            EXCHANGE,
            "on_bitmap",
            "volume.bitmap.merge(received)",
            "volume.state.conn is ConnState.WF_BITMAP_T and volume.bitmap.merge(received)",
        ),
        test="tests/scenario/test_writing_target.py::"
        "test_both_bitmaps_name_what_either_of_them_did",
    ),
    mutant(
        "source-bitmap-ignored",
        "the target does not merge the bitmap of the source",
        Edit(
            EXCHANGE,
            "on_bitmap",
            "volume.bitmap.merge(received)",
            "volume.state.conn is ConnState.WF_BITMAP_S and volume.bitmap.merge(received)",
        ),
        seed=1,
    ),
    mutant(
        "target-not-durable",
        "the resync begins before Inconsistent is on the target's disk",
        Edit(
            EXCHANGE,
            "_become_target",
            "    meta.write_bitmap(bitmap_durable)",
            "    meta.write_bitmap(bitmap_durable); durable(True)",
        ),
        seed=11,
    ),
    mutant(
        "source-not-durable",
        "P_SYNC_UUID goes out before bitmap and sync UUID are on the source's disk",
        Edit(
            EXCHANGE,
            "_become_source",
            "    meta.write_bitmap(bitmap_durable)",
            "    volume.hold_replies(); meta.write_bitmap(bitmap_durable); durable(True)",
        ),
        test="tests/scenario/test_late_answers.py::"
        "test_the_start_of_a_resync_is_told_when_the_source_has_it_on_its_disk",
    ),
    mutant(
        "answered-before-the-sync-uuid",
        "a source whose target goes at once acknowledges writes before the sync UUID is durable",
        Edit(
            EXCHANGE,
            "_become_source",
            "volume.hold_replies()",
            "pass",
            also=("volume.release_replies(ok)", "pass"),
        ),
        test="tests/scenario/test_generations.py::"
        "test_a_write_that_waited_for_the_start_of_a_resync_is_answered_once_the_data_have_a_name",
    ),
    mutant(
        "bad-source-stays-good",
        "a source that could not write a block stays UpToDate beside the target that has it",
        Edit(
            resync_source.ResyncSource,
            "_finish",
            "if blocks := _marked(volume, volume.failed_anew):",
            "if blocks := 0:",
        ),
        test="tests/scenario/test_disk_errors.py::"
        "test_a_source_that_could_not_write_is_inconsistent_once_the_target_is_better",
    ),
    mutant(
        "no-full-sync",
        "a full sync sends the bitmap as it is instead of setting all bits",
        Edit(EXCHANGE, "begin", "if all_bits:", "if False:"),
        test="tests/scenario/test_late_answers.py::"
        "test_a_full_sync_marks_everything_whatever_either_bitmap_says",
    ),
    mutant(
        "target-ready-at-once",
        "the target is UpToDate for its peer before it is so on its own disk",
        Edit(
            TARGET,
            "_finish",
            "    volume.meta.sync(durable)",
            "    volume.meta.sync(); durable(True)",
        ),
        test="tests/scenario/test_killed_while_attaching.py::"
        "test_a_target_is_called_good_by_its_source_only_when_it_is_so_on_its_own_disk",
    ),
    mutant(
        "target-not-outdated",
        "a sync target stays UpToDate until the first block moves",
        Edit(
            sanitizing,
            "_limited",
            "disk_min, disk_max, pdsk_min, pdsk_max = LIMITS[state.conn]",
            "disk_min, disk_max, pdsk_min, pdsk_max = LIMITS[state.conn]\n"
            "    if state.conn is ConnState.WF_BITMAP_T: disk_max = _D.UP_TO_DATE",
        ),
        test="tests/unit/rules/test_sanitizing.py::"
        "test_s5_before_s6_makes_the_future_target_outdated",
    ),
    mutant(
        "target-stays-up-to-date",
        "a sync target never becomes Inconsistent",
        Edit(
            sanitizing,
            "_limited",
            "disk_min, disk_max, pdsk_min, pdsk_max = LIMITS[state.conn]",
            "disk_min, disk_max, pdsk_min, pdsk_max = LIMITS[state.conn]\n"
            "    if state.conn is ConnState.SYNC_TARGET: disk_min = disk_max = _D.UP_TO_DATE",
        ),
        seed=1,
    ),
    mutant(
        "aborted-target-upgraded",
        "a resync that is aborted leaves its target UpToDate (rule S3b is gone)",
        Edit(sanitizing, "_unfinished", "if LIMITS[old.conn] in _TO_TARGET", "if False"),
        test="tests/unit/rules/test_sanitizing.py::"
        "test_a_target_whose_source_lost_its_disk_is_not_declared_up_to_date",
    ),
    mutant(
        "upgraded-by-a-diskless-peer",
        "an Outdated disk becomes UpToDate by connecting to a peer without a disk (S5)",
        Edit(
            sanitizing,
            "sanitize",
            "(new.disk == _D.OUTDATED and new.pdsk > _D.FAILED)",
            "new.disk == _D.OUTDATED",
        ),
        test="tests/unit/rules/test_sanitizing.py::"
        "test_s5_a_peer_without_a_disk_makes_no_outdated_disk_good",
    ),
    mutant(
        "no-branch",
        "a sync source that lost its target begins no generation (DRBD's rule)",
        Edit(generations, "rotated", "if rotation == Rotation.BRANCH:", "if False:"),
        test="tests/scenario/test_cut_off_source.py::"
        "test_when_the_target_may_be_done_what_follows_has_a_name_of_its_own",
    ),
    mutant(
        "history-pushed-out",
        "what the target may still carry is pushed out of the history",
        Edit(
            generation.UuidSet,
            "pushed",
            "older = keep and",
            "older = False and",
        ),
        test="tests/unit/rules/test_generations.py::test_nor_out_of_a_set_that_the_kernel_left",
    ),
    mutant(
        "sync-uuid-of-no-target",
        "a full sync makes its sync UUID of the bitmap UUID, not of what the target has (as DRBD)",
        Edit(generation.UuidSet, "sync_started", "if older:", "if False:"),
        test="tests/scenario/test_what_a_target_may_have.py::"
        "test_a_target_that_never_got_the_sync_uuid_of_a_full_sync",
    ),
    mutant(
        "sync-uuid-forgotten",
        "without a bitmap UUID the sync UUID is random, and not known for one later (as DRBD)",
        Edit(
            generation.UuidSet,
            "sync_started",
            "bitmap=_ahead(self.current, steps)",
            "bitmap=fresh",
        ),
        test="tests/scenario/test_what_a_target_may_have.py::"
        "test_a_target_that_ended_the_resync_after_a_crash_unseen_is_not_merged",
    ),
    mutant(
        "late-barrier-withdraws",
        "the barrier's acknowledgement of a write withdraws the mark of one that came after it",
        Edit(
            write_origin.WriteOrigin,
            "_forget",
            "if both and volume.state.conn in SYNC_STATES:",
            "if both:",
        ),
        test="tests/scenario/test_acknowledged_after_the_end.py::"
        "test_a_barrier_acknowledgement_says_nothing_of_what_was_written_there_since",
    ),
    mutant(
        "low-bit-compared",
        "the Primary bit of a UUID counts as part of the generation",
        Edit(
            generation,
            "same_generation",
            "(a | 1) == (b | 1)",
            "a == b",
        ),
        seed=1,
    ),
    mutant(
        "crashed-primary-is-target",
        "after a crash the crashed Primary becomes target of its Secondary",
        Edit(
            uuid_compare,
            "_after_crash",
            "Outcome.SOURCE_BITMAP if own.crashed_primary else Outcome.TARGET_BITMAP",
            "Outcome.TARGET_BITMAP if own.crashed_primary else Outcome.SOURCE_BITMAP",
        ),
        test="tests/unit/rules/test_uuid_compare.py::test_rule_40_after_a_crash",
    ),
    mutant(
        "crash-forgotten",
        "equal generations are taken as equal data, whoever crashed",
        Edit(
            uuid_compare,
            "_after_crash",
            "if not own.crashed_primary and not peer.crashed_primary:",
            "if True:",
        ),
        test="tests/scenario/test_crashed_primary.py::"
        "test_the_primary_returns_while_the_other_stays_secondary",
    ),
    mutant(
        "lost-end-forgotten",
        "a source that never heard of the end of its resync is taken as in sync",
        Edit(
            uuid_compare,
            "compare",
            "return _lost_end(s, p, apv) or _after_crash(",
            "return _after_crash(",
        ),
        test="tests/unit/rules/test_uuid_compare.py::test_rule",
    ),
    mutant(
        "lost-start-forgotten",
        "a target that never got the sync UUID is not recognised (rules 51 and 71)",
        Edit(
            uuid_compare,
            "_lost_start",
            "if not same_generation(",
            "if True or not same_generation(",
        ),
        test="tests/unit/rules/test_uuid_compare.py::test_rule",
    ),
    mutant(
        "split-brain-merged",
        "two histories from one generation are resynced instead of refused",
        Edit(
            uuid_compare,
            "compare",
            "return verdict(90, Outcome.SPLIT_BRAIN)",
            "return verdict(90, Outcome.SOURCE_BITMAP if resolves_conflicts else "
            "Outcome.TARGET_BITMAP)",
        ),
        seed=4,
    ),
    mutant(
        "promotion-not-durable",
        "clients are served before the Primary mark is on disk",
        Edit(
            role_change.RoleChange,
            "_promoted",
            "    volume.meta.sync(durable)",
            "    volume.meta.sync(); durable(True)",
        ),
        seed=11,
    ),
    mutant(
        "promotion-begins-no-generation",
        "a node that is promoted alone goes on in the old generation",
        Edit(
            generations,
            "rotation_at_promotion",
            "return rotation_alone(",
            "return uuids.bitmap == 0 and Rotation.KEEP or rotation_alone(",
        ),
        seed=4,
    ),
    mutant(
        "demotion-does-not-wait",
        "a demotion does not wait for the barrier acks (as DRBD 8.4 does)",
        Edit(
            role_change.RoleChange,
            "secondary",
            "if self._writes.idle(volume):",
            "if not volume.app_pending:",
        ),
        masked_by="durability disk: an acknowledgement means flushed",
        both="demotion-does-not-wait-kernel",
    ),
    mutant(
        "demotion-does-not-wait-kernel",
        "as demotion-does-not-wait, where a write ack does not mean flushed",
        Edit(
            role_change.RoleChange,
            "secondary",
            "if self._writes.idle(volume):",
            "if not volume.app_pending:",
        ),
        test="tests/scenario/test_barriers.py::"
        "test_a_demotion_waits_until_the_peer_has_everything_for_good",
    ),
    mutant(
        "inconsistent-promoted",
        "a node without good data may be promoted",
        Edit(
            permits,
            "validity",
            "if rule.bars(state, facts):",
            "if rule.code != Code.NO_UP_TO_DATE_DISK and rule.bars(state, facts):",
        ),
        seed=9,
    ),
    mutant(
        "unnamed-beside-a-diskless-peer",
        "a Primary with its disk back beside a peer without one goes on in the generation of both",
        Edit(
            generations,
            "lost_peer_data",
            "(new.conn < ConnState.CONNECTED or new.pdsk < _D.INCONSISTENT)",
            "new.conn < ConnState.CONNECTED",
        ),
        test="tests/scenario/test_attach_detach.py::"
        "test_a_disk_comes_back_beside_a_peer_that_has_none",
    ),
    mutant(
        "two-primaries",
        "both nodes may be Primary at once",
        Edit(
            permits,
            "validity",
            "if rule.bars(state, facts):",
            "if rule.code != Code.TWO_PRIMARIES and rule.bars(state, facts):",
        ),
        test="tests/scenario/test_refusals.py::test_a_second_primary",
    ),
)
