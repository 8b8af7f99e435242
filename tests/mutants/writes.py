"""Seeded bugs on the way of a write: acknowledgement, epochs, flushes, range locks, disk errors."""

from __future__ import annotations

from replblk.engine import (
    app_flush,
    connection,
    disk_failure,
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
from replblk.rules import generations
from tests.mutants.planting import Edit
from tests.mutants.table import mutant

FLUSHES = app_flush.AppFlushes
ORIGIN = write_origin.WriteOrigin
PEER = write_peer.WritePeer
RUNS = write_run.WriteRuns

WRITES = (
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
        seed=38,
        profile="harsh",
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
        not_caught=(
            "120 seeds of mixed; needs the source's loss between the ack of its copy and the reply"
        ),
    ),
    mutant(
        "local-error-not-marked",
        "a local write error leaves no mark in the bitmap",
        Edit(
            ORIGIN,
            "_local_done",
            "volume.mark_out_of_sync(write.sector, write.size)",
            "pass",
        ),
        not_caught=(
            "120 seeds of mixed; with on-io-error detach the bitmap goes with the disk and "
            "the peer keeps the books; pass_on is in tests/scenario/test_disk_errors.py, not "
            "in the seeds"
        ),
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
        not_caught=("120 seeds of mixed"),
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
        masked_by="answers of an old session are dropped (write_peer, resync_*)",
        both="old-session-acknowledged-undrained",
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
        not_caught=(
            "120 seeds of mixed, 50 seeds of harsh; needs a reconnect within the time of one "
            "disk write"
        ),
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
        not_caught=("120 seeds of mixed"),
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
        Edit(
            peer_news.PeerNews,
            "disk_failed",
            "new.role is Role.PRIMARY",
            "False",
        ),
        not_caught="seed 20237 of mixed found it until later changes of the engine moved that run",
    ),
    mutant(
        "refused-write-acknowledged-at-once",
        "a write that the peer refused is acknowledged before it is known what became of its disk",
        Edit(peer_news.PeerNews, "refused", "state.pdsk is DiskState.UP_TO_DATE", "False"),
        profile="policies",
        not_caught="30 seeds: P_STATE nearly always comes first; a scenario with a scripted peer "
        "holds it back",
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
        Edit(follow.FollowUps, "_rotate", "if serving_diskless and", "if False and"),
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
        not_caught=(
            "120 seeds of mixed; needs a promotion in the middle of a resync and a read of a "
            "block still missing"
        ),
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
        not_caught=(
            "120 seeds of mixed, 50 seeds of harsh; needs a read error of the Primary's disk "
            "while the peer is there"
        ),
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
        profile="kernel",
        not_caught="16 seeds of kernel: the peer has to be promoted after both lost power",
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
        profile="kernel",
        not_caught="no seed was searched for yet",
    ),
    mutant(
        "failed-flush-taken-for-done",
        "a flush that failed on the local disk counts as done, and the disk stays in use",
        Edit(FLUSHES, "_local_flushed", "if errno:", "if False:"),
        profile="kernel",
        not_caught="no seed was searched for yet",
    ),
    mutant(
        "barrier-ack-before-flush",
        "P_BARRIER_ACK before the disk has flushed the epoch",
        Edit(PEER, "_make_durable", "if self._ctx.persist or not disks:", "if True:"),
        profile="kernel",
        seed=4,
    ),
    mutant(
        "failed-epoch-flush-acknowledged",
        "P_BARRIER_ACK although flushing the epoch failed",
        Edit(PEER, "_make_durable", "    failed = True\n", "    failed = False\n"),
        profile="kernel",
        not_caught="no seed was searched for yet",
    ),
    mutant(
        "fua-ignored-by-the-peer",
        "the peer does not flush a write that asked for it",
        Edit(PEER, "_store", "or bool(write.flags & DP_FUA)", ""),
        Edit(PEER, "_begin_run", "or bool(flags & DP_FUA)", ""),
        profile="kernel",
        not_caught="no seed was searched for yet",
    ),
    mutant(
        "fua-ignored-here",
        "the local disk does not flush a write that asked for it",
        Edit(ORIGIN, "_write_local", "write.fua or self._ctx.persist", "self._ctx.persist"),
        Edit(RUNS, "_begin", "fua or persist", "persist"),
        profile="kernel",
        not_caught="no seed was searched for yet",
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
)
