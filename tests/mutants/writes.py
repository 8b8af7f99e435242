"""Seeded bugs on the way of a write: acknowledgement, epochs, flushes, range locks, disk errors."""

from __future__ import annotations

from replblk.engine import (
    app_flush,
    connection,
    disk_failure,
    epoch_flush,
    epochs_received,
    fencing,
    follow,
    meta_store,
    peer_news,
    read,
    transfer_log,
    write_origin,
    write_peer,
    write_run,
    write_way,
)
from replblk.rules import consequences, generations
from tests.mutants.planting import Edit
from tests.mutants.table import mutant

FLUSHES = app_flush.AppFlushes
ORIGIN = write_origin.WriteOrigin
PEER = write_peer.WritePeer
RUNS = write_run.WriteRuns

WRITES = (
    mutant(
        "writes-before-the-failure",
        "the disk fails in a verify: what waited goes to the peer before it hears of that",
        Edit(
            consequences, "_after_resync", "if verified and new.disk != _D.FAILED:", "if verified:"
        ),
        test="tests/unit/rules/test_consequences.py::"
        "test_the_peer_hears_of_a_failed_disk_before_writes_go_on_without_it",
    ),
    mutant(
        "lost-writes-not-marked",
        "what the peer had not acknowledged when the connection went is not marked out of sync",
        Edit(
            ORIGIN,
            "_settle",
            "write.volume.mark_out_of_sync(write.sector, write.size)",
            "pass",
        ),
        seed=48,
    ),
    mutant(
        "log-dropped-at-write-ack",
        "the transfer log forgets a write at P_WRITE_ACK instead of P_BARRIER_ACK",
        Edit(
            transfer_log.TransferLog,
            "lost",
            "for write in epoch.writes]",
            "for write in epoch.writes if not write.net]",
        ),
        masked_by="durability disk: an acknowledgement means flushed",
        both="log-dropped-at-write-ack-kernel",
    ),
    mutant(
        "ack-before-the-peer",
        "a write is acknowledged as soon as the local disk has it",
        Edit(
            ORIGIN,
            "_conclude",
            "not (write.enough and good_here)",
            "not good_here",
        ),
        Edit(ORIGIN, "_local_done", "if write.net != PENDING or write.enough:", "if True:"),
        Edit(RUNS, "_all_local_done", "if write.net != PENDING or write.enough:", "if True:"),
        seed=11,
    ),
    mutant(
        "ack-before-the-local-disk",
        "a write is acknowledged as soon as the peer has it",
        Edit(
            ORIGIN,
            "_maybe_complete",
            "if write.local == PENDING or write.completed:",
            "if write.completed or (write.local == PENDING and write.net == PENDING):",
        ),
        Edit(
            ORIGIN,
            "_net_done",
            "if write.local != PENDING and not write.completed:",
            "if not write.completed:",
        ),
        Edit(
            RUNS,
            "on_acks",
            "if write.local != PENDING and not write.completed:",
            "if not write.completed:",
        ),
        seed=1,
    ),
    mutant(
        "nack-taken-as-ack",
        "P_NEG_ACK counts as P_WRITE_ACK",
        Edit(
            ORIGIN,
            "on_block_ack",
            "self._net_done(write, cmd != _P_NEG_ACK)",
            "self._net_done(write, True)",
        ),
        test="tests/scenario/test_disk_errors.py::"
        "test_a_failed_write_of_the_secondary_passed_on_marks_the_block_on_both",
    ),
    mutant(
        "any-part-acked-is-success",
        "a write that failed on both disks is acknowledged",
        Edit(ORIGIN, "_conclude", "0 if good_here or good_there else errnos.EIO", "0"),
        seed=83,
    ),
    mutant(
        "inconsistent-copy-counts",
        "a copy on a disk that is being resynced counts as good",
        Edit(
            ORIGIN,
            "_conclude",
            "write.local == DONE and state.disk is DiskState.UP_TO_DATE",
            "write.local == DONE",
        ),
        test="tests/scenario/test_half_synced_target.py::"
        "test_a_copy_on_a_target_that_lost_its_source_before_it_got_it_too_is_no_copy",
    ),
    mutant(
        "local-error-not-marked",
        "a local write error leaves no mark in the bitmap",
        Edit(
            ORIGIN,
            "_local_done",
            "volume.mark_failed(write.sector, write.size)",
            "pass",
        ),
        test="tests/scenario/test_disk_errors.py::"
        "test_passed_on_the_disk_stays_inconsistent_with_the_block_marked",
    ),
    mutant(
        "alone-and-not-marked",
        "a write without the peer is not marked out of sync",
        Edit(
            ORIGIN,
            "_submit",
            "newly = volume.mark_out_of_sync(write.sector, write.size)",
            "newly = 0",
        ),
        seed=1,
    ),
    mutant(
        "local-disk-not-flushed",
        "the local disk has not flushed a write when it is acknowledged",
        Edit(ORIGIN, "_write_local", "write.fua or self._ctx.persist", "False"),
        Edit(RUNS, "_begin", "fua or persist", "False"),
        seed=19,
    ),
    mutant(
        "peer-not-flushed",
        "the peer acknowledges a write that its disk has not flushed",
        Edit(PEER, "_store", "self._ctx.persist or bool(write.flags & DP_FUA)", "False"),
        Edit(PEER, "_begin_run", "persist or bool(flags & DP_FUA)", "False"),
        seed=32,
    ),
    mutant(
        "al-left-at-the-write-ack",
        "activity-log references are given back at the write's end, before the barrier ack",
        Edit(
            ORIGIN,
            "_conclude",
            "if write.epoch is None:",
            "if True:",
        ),
        test="tests/scenario/test_barriers.py::"
        "test_an_extent_stays_in_the_log_until_the_peer_has_its_writes_for_good",
    ),
    mutant(
        "no-range-lock-for-writes",
        "overlapping writes of clients do not wait for each other",
        Edit(
            ORIGIN,
            "_admit",
            "ranges.claim(write.sector,",
            "ranges.claim((1 << 40) + write.number * 4096,",
        ),
        Edit(RUNS, "_begin", "claim(sector,", "claim((1 << 40) + request.number * 4096,"),
        seed=2,
    ),
    mutant(
        "no-range-lock-at-the-peer",
        "overlapping writes of the peer go to the disk in any order",
        Edit(
            PEER,
            "_admit",
            "ranges.claim(write.sector,",
            "ranges.claim((1 << 40) + int.from_bytes(write.block_id) * 4096,",
        ),
        Edit(
            PEER,
            "_begin_run",
            "claim(sector,",
            "claim((1 << 40) + int.from_bytes(block_id) * 4096,",
        ),
        seed=44,
    ),
    mutant(
        "old-session-acknowledged",
        "the end of a write of the previous connection is acted on in the new one",
        Edit(PEER, "_done", "if write.session == self._session:", "if True:"),
        Edit(PEER, "_all_stored", "if write.session != session:", "if False:"),
        masked_by="the drain before a new connection (connection.check_drained)",
        both="old-session-acknowledged-undrained",
    ),
    mutant(
        "no-drain",
        "a new connection begins while disk operations of the old one still run",
        Edit(
            connection.Connection,
            "check_drained",
            "volume.unacked > volume.peer_reads",
            "False",
        ),
        test="tests/scenario/test_late_answers.py::"
        "test_a_connection_waits_until_what_the_last_one_wrote_is_on_disk",
    ),
    mutant(
        "old-session-acknowledged-undrained",
        "both: nothing is drained, and old completions are acted on",
        Edit(PEER, "_done", "if write.session == self._session:", "if True:"),
        Edit(PEER, "_all_stored", "if write.session != session:", "if False:"),
        Edit(
            connection.Connection,
            "check_drained",
            "volume.unacked > volume.peer_reads",
            "False",
        ),
        test="tests/scenario/test_late_answers.py::"
        "test_what_the_last_connection_wrote_is_not_acknowledged_in_the_next",
    ),
    mutant(
        "epoch-done-with-a-write-running",
        "P_BARRIER_ACK while a write of the epoch is still on its way to the disk",
        Edit(
            epochs_received.EpochsReceived,
            "_advance",
            "epoch.barrier is None or epoch.active",
            "epoch.barrier is None",
        ),
        test="tests/unit/engine/test_epochs_received.py::"
        "test_acknowledged_once_all_writes_are_done",
    ),
    mutant(
        "generation-not-begun",
        "the Primary goes on without its peer in the old generation",
        Edit(
            follow.FollowUps,
            "begin_generation",
            "if rotation is Rotation.KEEP or volume.meta is None:",
            "if True:",
        ),
        seed=1,
    ),
    mutant(
        "generation-not-durable",
        "a write is acknowledged before the new generation is on disk",
        Edit(
            follow.FollowUps,
            "begin_generation",
            "volume.meta.sync(durable)",
            "volume.meta.sync(); durable(True)",
        ),
        seed=4,
    ),
    mutant(
        "peer-generation-not-awaited",
        "after a disk error, writes are acknowledged before the peer has begun a new generation",
        Edit(peer_news.PeerNews, "disk_failed", "new.role is Role.PRIMARY", "False"),
        test="tests/scenario/test_late_answers.py::"
        "test_what_only_the_peer_has_is_acknowledged_once_it_has_another_name",
    ),
    mutant(
        "refused-write-acknowledged-at-once",
        "a write that the peer refused is acknowledged before it is known what became of its disk",
        Edit(peer_news.PeerNews, "refused", "volume.uuids.bitmap == 0", "False"),
        test="tests/scenario/test_hostile_moments.py::"
        "test_a_refused_write_is_acknowledged_once_the_peer_tells_what_became_of_its_disk",
    ),
    mutant(
        "refused-while-suspended",
        "what the peer refuses in suspended I/O is acknowledged before the planned generation",
        Edit(peer_news.PeerNews, "_no_news", "volume.generation_planned is not None", "False"),
        test="tests/scenario/test_suspended_io.py::test_what_the_peers_disk_refuses_while_"
        "suspended_is_answered_under_the_new_generation",
    ),
    mutant(
        "peer-turned-bad-in-the-old-generation",
        "a peer that passed an error on stays Inconsistent, and no generation tells",
        Edit(generations, "_turned_bad", "new.role == Role.PRIMARY", "False"),
        profile="policies",
        seed=19,
    ),
    mutant(
        "thawed-beside-a-peer-that-restarted",
        "frozen I/O goes on though nobody fenced the peer that came back and is gone again",
        Edit(
            fencing.PeerFencing,
            "peer_restarted",
            "self._begin(volume, planned)",
            'volume.generation_planned = planned; self.thaw(volume, "", susp_fen=False)',
        ),
        profile="fenced",
        seed=13,
    ),
    mutant(
        "marks-gone-before-the-data-are-flushed",
        "durability kernel: a bitmap is written without marks whose data are in a cache",
        Edit(
            meta_store.MetaStore,
            "_write_pages",
            "if self._volume.marks_withdrawn > self._settled:",
            "if False:",
        ),
        profile="kernel",
        seed=2,
    ),
    mutant(
        "generation-begun-for-nothing",
        "a peer that serves a diskless Primary begins a generation before the first write",
        Edit(follow.FollowUps, "_rotate", "if new.serves_diskless and", "if False and"),
        seed=44,
    ),
    mutant(
        "stale-block-read",
        "a Primary that is sync target reads blocks from its own disk that are out of sync",
        Edit(
            read.ReadPath,
            "_go",
            "and volume.is_in_sync(read.sector, read.size)",
            "",
        ),
        test="tests/scenario/test_reads.py::"
        "test_a_sync_target_reads_dirty_blocks_from_the_peer_and_clean_ones_here",
    ),
    mutant(
        "read-error-not-retried",
        "a read that failed here goes to the client although the peer has the data",
        Edit(
            read.ReadPath,
            "_local_done",
            "self._go(read)",
            "self._finish(read, errno, None)",
        ),
        test="tests/scenario/test_disk_errors.py::test_a_failed_read_is_answered_by_the_peer",
    ),
    mutant(
        "disk-error-ignored",
        "a disk that failed stays in use",
        Edit(
            disk_failure.DiskFailure,
            "_give_up",
            "if volume.state.disk > DiskState.FAILED:",
            "if False:",
        ),
        seed=2,
    ),
    mutant(
        "writes-before-the-resync",
        "writes go on, unreplicated, while an invalidated peer is about to become sync target",
        Edit(
            write_way.WriteWay,
            "__init__",
            "state.conn in _BEFORE_RESYNC",
            "state.conn in (ConnState.WF_BITMAP_T, ConnState.WF_SYNC_UUID)",
        ),
        seed=7,
        profile="storm",
    ),
    mutant(
        "flush-does-not-wait-for-the-peer",
        "a client's flush is answered before the peer has the epochs before it",
        Edit(
            FLUSHES,
            "on_flush",
            "log.newest() if self._ctx.peer.up else None",
            "None",
        ),
        test="tests/scenario/test_write_durability.py::test_flush_waits_for_both_nodes",
    ),
    mutant(
        "flush-does-not-wait-for-the-disk",
        "a client's flush is answered before the local disk has flushed",
        Edit(
            FLUSHES,
            "_look",
            "or flush.local == PENDING:",
            "or False:",
        ),
        test="tests/scenario/test_write_durability.py::test_flush_waits_for_both_nodes",
    ),
    mutant(
        "failed-flush-taken-for-done",
        "a flush that failed on the local disk counts as done, and the disk stays in use",
        Edit(FLUSHES, "_local_flushed", "if errno:", "if False:"),
        test="tests/scenario/test_disk_errors.py::"
        "test_alone_a_failed_flush_is_told_the_client_and_ends_the_disk",
    ),
    mutant(
        "barrier-ack-before-flush",
        "P_BARRIER_ACK before the disk has flushed the epoch",
        Edit(PEER, "_make_durable", "if self._ctx.persist:", "if True:"),
        profile="kernel",
        seed=4,
    ),
    mutant(
        "failed-epoch-flush-acknowledged",
        "P_BARRIER_ACK although flushing the epoch failed",
        Edit(epoch_flush, "flush_epoch", "    failed = True\n", "    failed = False\n"),
        test="tests/scenario/test_disk_errors.py::test_the_secondary_flush_at_a_barrier_fails",
    ),
    mutant(
        "fua-ignored-by-the-peer",
        "the peer does not flush a write that asked for it",
        Edit(PEER, "_store", "or bool(write.flags & DP_FUA)", ""),
        Edit(PEER, "_begin_run", "or bool(flags & DP_FUA)", ""),
        test="tests/scenario/test_write_durability.py::"
        "test_fua_is_durable_on_both_though_other_writes_are_not",
    ),
    mutant(
        "fua-ignored-here",
        "the local disk does not flush a write that asked for it",
        Edit(ORIGIN, "_write_local", "write.fua or self._ctx.persist", "self._ctx.persist"),
        Edit(RUNS, "_begin", "fua or persist", "persist"),
        test="tests/scenario/test_write_durability.py::"
        "test_fua_is_durable_on_both_though_other_writes_are_not",
    ),
    mutant(
        "log-dropped-at-write-ack-kernel",
        "as log-dropped-at-write-ack, where a write ack does not mean flushed",
        Edit(
            transfer_log.TransferLog,
            "lost",
            "for write in epoch.writes]",
            "for write in epoch.writes if not write.net]",
        ),
        profile="kernel",
        seed=7,
    ),
    mutant(
        "run-answered-before-the-peer",
        "writes that came together are acknowledged when the local disk has them",
        Edit(RUNS, "_complete_all", "or write.net != DONE", "or False"),
        Edit(RUNS, "_all_local_done", "if write.net != PENDING or write.enough:", "if True:"),
        test="tests/scenario/test_write_runs.py::"
        "test_a_run_is_answered_only_when_both_disks_have_it_durably",
    ),
    mutant(
        "run-not-flushed",
        "writes that came together are not flushed by the local disk",
        Edit(
            RUNS, "_begin", "(offset, data, fua or persist, write)", "(offset, data, False, write)"
        ),
        test="tests/scenario/test_write_runs.py::"
        "test_a_run_is_answered_only_when_both_disks_have_it_durably",
    ),
    mutant(
        "run-fua-not-told",
        "writes that came together and ask to be flushed do not tell the peer",
        Edit(RUNS, "_begin", "way.flags | DP_FUA if fua else way.flags", "way.flags"),
        test="tests/scenario/test_write_runs.py::"
        "test_a_run_that_asks_to_be_durable_is_so_on_both_disks",
    ),
    mutant(
        "run-error-ignored",
        "an error of the disk under writes that came together counts as success",
        Edit(RUNS, "_all_local_done", "if errno:", "if False:"),
        test="tests/scenario/test_write_runs.py::"
        "test_the_disk_fails_under_a_run_and_only_the_peers_copy_counts",
    ),
    mutant(
        "lost-cache-promised",
        "an epoch is acknowledged as durable though its disk was lost before it was flushed",
        Edit(
            epoch_flush,
            "flush_epoch",
            "failed = not all(ctx.volumes[number].has_disk for number in epoch.stored)",
            "failed = False",
        ),
        test="tests/scenario/test_disk_errors.py::"
        "test_what_a_failed_disk_of_the_secondary_kept_in_its_cache_is_not_promised",
    ),
)
