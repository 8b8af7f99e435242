"""Seeded bugs of the metadata: activity log, bitmap, superblock, attach."""

from __future__ import annotations

from replblk.engine import al_gate, attach, meta_store
from replblk.meta import al_transaction, bitmap, superblock
from replblk.model import units
from replblk.rules import attach_state
from replblk.wire import bitmap_code
from tests.mutants.planting import Edit
from tests.mutants.table import mutant

STORE = meta_store.MetaStore
ATTACHMENT = attach._Attachment

METADATA = (
    mutant(
        "al-not-written",
        "the activity-log transaction is never written",
        Edit(
            STORE,
            "write_al",
            "self._ctx.io.write(self._volume, offset, transaction.encode(), done)",
            "self._ctx.defer(lambda: done(0, None))",
        ),
        seed=3,
    ),
    mutant(
        "al-not-flushed",
        "the activity-log transaction is written, but not flushed before the data",
        Edit(
            STORE,
            "write_al",
            "transaction.encode(), done)",
            "transaction.encode(), done, durable=False)",
        ),
        test="tests/scenario/test_write_durability.py::"
        "test_a_cold_extent_is_in_the_log_durably_before_any_data_is_submitted_anywhere",
    ),
    mutant(
        "al-beside-the-data",
        "the data do not wait for the activity-log transaction",
        Edit(
            al_gate.AlGate,
            "_write_log",
            "meta.write_al(change.transaction, self._committed)",
            "meta.write_al(change.transaction, lambda _: None); self._committed(True)",
        ),
        seed=2,
        profile="harsh",
    ),
    mutant(
        "evicted-without-its-bits",
        "an extent leaves the activity log before its part of the bitmap is on disk",
        Edit(
            al_gate.AlGate,
            "pump",
            "    meta.write_bitmap(self._write_log, only=pages)",
            "    self._write_log(True)",
        ),
        seed=13,
        profile="harsh",
    ),
    mutant(
        "data-not-settled",
        "metadata stop to warn of blocks before the data in them are flushed",
        Edit(STORE, "settle_data", "if self._ctx.persist or self.dead:", "if True:"),
        profile="kernel",
        seed=33,
    ),
    mutant(
        "al-extents-of-the-last-block-only",
        "recovery takes the extents of the newest transaction only",
        Edit(
            al_transaction,
            "_hot_after",
            "sorted(transactions, key=lambda t: _after(t.number, end))",
            "[t for t in transactions if t.number == end]",
        ),
        test="tests/unit/meta/test_al_transaction.py::"
        "test_what_older_blocks_told_holds_where_no_later_one_says_otherwise",
    ),
    mutant(
        "al-context-ignored",
        "recovery ignores what the transactions tell of older ones",
        Edit(
            al_transaction,
            "_hot_after",
            "slots.update((slot, extent) for slot, extent in context if extent != FREE)",
            "pass",
        ),
        test="tests/unit/meta/test_al_transaction.py::"
        "test_context_tells_what_overwritten_blocks_told",
    ),
    mutant(
        "al-slot-and-extent-swapped",
        "slot and extent change places in the activity log on disk",
        Edit(
            al_transaction,
            "_hot_after",
            "slots.update(found.updates)",
            "slots.update((e, s) for s, e in found.updates)",
        ),
        seed=3,
    ),
    mutant(
        "al-not-applied",
        "a crashed Primary does not mark what its activity log names",
        Edit(
            ATTACHMENT,
            "_take_over",
            "crashed = MdFlag.PRIMARY_IND in flags and self._replay is not None",
            "crashed = False",
        ),
        seed=3,
    ),
    mutant(
        "al-cleared-before-its-bits",
        "at attach the activity log is initialised before its bits are on disk",
        Edit(
            ATTACHMENT,
            "_settle_place",
            "    meta.write_bitmap(self._bitmap_durable)\n        return",
            "    meta.write_bitmap(); self._bitmap_durable(True)\n        return",
        ),
        test="tests/scenario/test_killed_while_attaching.py::"
        "test_at_every_moment_of_its_recovery_a_crashed_primary_knows_what_is_in_doubt",
    ),
    mutant(
        "crash-mark-lost",
        "a node that crashed as Primary does not remember it",
        Edit(
            ATTACHMENT,
            "_take_over",
            "bool(flags & (MdFlag.CRASHED_PRIMARY | MdFlag.PRIMARY_IND))",
            "bool(flags & MdFlag.CRASHED_PRIMARY)",
        ),
        test="tests/scenario/test_late_answers.py::"
        "test_a_node_that_crashed_as_primary_says_so_to_a_peer_that_has_to_know",
    ),
    mutant(
        "full-sync-flag-ignored",
        "the flag that says all blocks are out of sync is not looked at",
        Edit(
            ATTACHMENT,
            "_take_over",
            "if MdFlag.FULL_SYNC in flags or (",
            "if (",
        ),
        test="tests/scenario/test_killed_while_attaching.py::"
        "test_a_power_cut_while_everything_is_being_marked",
    ),
    mutant(
        "attach-without-flush",
        "what a killed process left in the cache is believed before it is flushed",
        Edit(
            ATTACHMENT,
            "begin",
            "self._ctx.io.flush(volume, self._flushed)",
            "self._ctx.defer(lambda: self._flushed(0, None))",
        ),
        test="tests/scenario/test_killed_while_attaching.py::"
        "test_what_a_killed_process_left_in_the_cache_is_durable_before_it_is_believed",
    ),
    mutant(
        "wrong-disk-attached",
        "any generation may come under a device that is in use",
        Edit(
            attach_state,
            "may_attach",
            "served = any(same_generation(current_uuid, generation) for generation in exposed)",
            "served = True",
        ),
        test="tests/scenario/test_attach_detach.py::"
        "test_both_diskless_and_the_old_data_only_comes_back",
    ),
    mutant(
        "two-superblock-writes",
        "two writes of the superblock are under way at once",
        Edit(STORE, "_go_on", "if not self._writing and", "if"),
        seed=1,
    ),
    mutant(
        "superblock-told-too-early",
        "the superblock counts as written when the write begins",
        Edit(
            STORE,
            "_put_superblock",
            "self._ctx.io.write(self._volume, layout.md_offset_bytes, block, done)",
            "waiting, wishes = wishes, []\n    for told in waiting:\n        told(True)\n"
            "    self._ctx.io.write(self._volume, layout.md_offset_bytes, block, done)",
        ),
        seed=4,
    ),
    mutant(
        "superblock-not-flushed",
        "the superblock is written, but not flushed",
        Edit(
            STORE,
            "_put_superblock",
            "layout.md_offset_bytes, block, done)",
            "layout.md_offset_bytes, block, done, durable=False)",
        ),
        seed=1,
    ),
    mutant(
        "second-warning-taken-back-too-early",
        "what is taken back besides, while flush and bitmap run for another warning, has none",
        Edit(STORE, "_settle_for", "if back <= settled:", "if back <= settled or settled:"),
        test="tests/unit/engine/test_meta_store.py::"
        "test_a_warning_taken_back_while_data_are_flushed_waits_for_a_flush_of_its_own",
    ),
    mutant(
        "warning-taken-back-too-early",
        "the superblock takes a warning back before the bitmap is on disk",
        Edit(STORE, "_settle_for", "if back <= settled:", "if True:"),
        test="tests/unit/engine/test_meta_store.py::"
        "test_a_warning_is_taken_back_when_the_bitmap_is_on_disk_and_not_before",
    ),
    mutant(
        "bitmap-not-written",
        "changed bitmap pages are never written",
        Edit(
            STORE,
            "_write_pages",
            "pages = bitmap.dirty_pages()",
            "pages = []",
        ),
        seed=3,
    ),
    mutant(
        "bitmap-not-flushed",
        "bitmap pages are written, but not flushed",
        Edit(
            STORE,
            "_write_pages",
            "count: done(first, count, errno),  # ",
            "count: done(first, count, errno), durable=False,  # ",
        ),
        seed=3,
    ),
    mutant(
        "bitmap-change-while-writing-lost",
        "a bit that is set while its page is being written counts as written",
        Edit(
            bitmap.Bitmap,
            "_touch",
            "if self._taken:",
            "if False:",
        ),
        test="tests/unit/engine/test_meta_store.py::"
        "test_a_page_is_never_in_flight_twice_and_what_changed_meanwhile_is_written_next",
    ),
    mutant(
        "failed-metadata-write-ignored",
        "an error of a metadata write has no consequences",
        Edit(STORE, "_die", "if not self.dead:", "if False:"),
        seed=2,
        profile="harsh",
    ),
    mutant(
        "more-cleared-than-copied",
        "a partly copied block counts as in sync",
        Edit(
            units,
            "bits_covered",
            "first = ",
            "return bits_touched(sector, size_bytes)\n    first = ",
        ),
        test="tests/unit/model/test_units.py::"
        "test_a_block_that_was_written_in_part_is_touched_and_not_covered",
    ),
    mutant(
        "flag-inverted",
        "the flag WAS_UP_TO_DATE is stored the wrong way round",
        Edit(
            superblock,
            "flags_of",
            "MdFlag.WAS_UP_TO_DATE: state.disk > DiskState.OUTDATED",
            "MdFlag.WAS_UP_TO_DATE: state.disk <= DiskState.OUTDATED",
        ),
        test="tests/unit/meta/test_superblock.py::test_flags_follow_the_state",
    ),
    mutant(
        "consistent-while-target",
        "the disk of a sync target is called consistent",
        Edit(
            superblock,
            "flags_of",
            "MdFlag.CONSISTENT: state.disk > DiskState.INCONSISTENT",
            "MdFlag.CONSISTENT: True",
        ),
        test="tests/scenario/test_half_synced_target.py::test_killed_at_every_disk_operation",
    ),
    mutant(
        "rle-off-by-one",
        "run lengths of the compressed bitmap are one too short beyond 64",
        Edit(
            bitmap_code,
            "_compressed",
            "code = vli_code(end - position)",
            "code = vli_code(end - position - (end - position > 64))",
        ),
        seed=2,
    ),
)
