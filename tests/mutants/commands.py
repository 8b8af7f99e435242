"""Seeded bugs of what the administrator sets going: resize, moving metadata, switch-over, attach,
pause, disconnect."""

from __future__ import annotations

from replblk.engine import (
    attach,
    detaching,
    disk_failure,
    follow,
    handover_give,
    handover_take,
    handshake,
    metadata_move,
    node,
    peer_news,
    peer_state,
    resizing,
    resync_target,
    sizes,
    state_change,
    write_origin,
    write_peer,
    write_way,
)
from replblk.meta import moving
from replblk.rules import resizing as resizing_rules
from tests.mutants.planting import Edit
from tests.mutants.table import mutant

MOVE = metadata_move.MetadataMove
RESIZING = resizing.Resizing
SIZE = sizes.DeviceSize
GIVING = handover_give.Giving
TAKING = handover_take.Taking
DETACHING = detaching.Detaching
QUIET_DETACH = "tests/scenario/test_quiet_detach.py::"
ATTACHING = "tests/scenario/test_attach_detach.py::"

OLD_GENERATION = Edit(
    write_peer.WritePeer,
    "_ranged",
    "if rotation is not Rotation.KEEP:",
    "if rotation is Rotation.NEW_CURRENT:",
)
CORRECTED = Edit(handshake, "send_uuids", "volume.compared_uuids or volume.uuids", "volume.uuids")

COMMANDS = (
    mutant(
        "new-part-not-marked",
        "the new part of a device that grew is taken as in sync",
        Edit(
            RESIZING,
            "_grow",
            "bitmap.resize(bits_of_capacity(sectors), fill)",
            "bitmap.resize(bits_of_capacity(sectors), 0)",
        ),
        test="tests/scenario/test_resize.py::"
        "test_both_devices_grew_and_resize_makes_the_room_usable",
    ),
    mutant(
        "larger-before-its-bits",
        "clients may write to the new part before its bits and the size are durable",
        Edit(
            RESIZING,
            "_grow",
            "meta.write_bitmap(marked)",
            "set_capacity(self._ctx, volume, sectors); meta.write_bitmap(marked)",
        ),
        test="tests/scenario/test_resize.py::"
        "test_nobody_sees_a_size_that_is_not_on_disk_with_the_bits_of_the_new_part",
    ),
    mutant(
        "size-not-durable",
        "a size is in force before it is on disk",
        Edit(RESIZING, "_grow", "meta.sync(durable)", "meta.sync(); durable(True)"),
        test="tests/scenario/test_resize.py::"
        "test_nobody_sees_a_size_that_is_not_on_disk_with_the_bits_of_the_new_part",
    ),
    mutant(
        "last-partial-block-not-marked",
        "the block in which the old size ended counts as in sync, the rest of it is new",
        Edit(RESIZING, "_grow", "if fill and volume.capacity_sectors % 8:", "if False:"),
        test="tests/scenario/test_resize.py::"
        "test_the_rest_of_a_block_in_which_the_old_size_ended_is_new",
    ),
    mutant(
        "smaller-while-its-primary-writes",
        "a Secondary becomes smaller before its Primary, whose clients still write behind the end",
        Edit(resizing_rules, "awaits_primary", "new < current", "False"),
        test="tests/unit/rules/test_resizing.py::test_a_secondary_shrinks_after_its_primary",
    ),
    mutant(
        "new-part-not-copied",
        "nobody copies the new part to the other node",
        Edit(SIZE, "_settled", "self._copy_new_part(volume)", "pass"),
        test="tests/scenario/test_resize.py::"
        "test_both_devices_grew_and_resize_makes_the_room_usable",
    ),
    mutant(
        "refused-wish-kept",
        "a size that the Primary never heard of is wished for at the next connection",
        Edit(SIZE, "_ask", "if asked.user_before is not None:", "if False:"),
        test="tests/scenario/test_resize.py::"
        "test_a_secondary_that_asked_for_less_and_lost_its_primary_connects_to_it_again",
    ),
    mutant(
        "shrinks-by-itself",
        "the device becomes smaller though nobody has named a size",
        Edit(
            resizing_rules,
            "may_have_size",
            "if new >= current or (wanted and wanted <= usable):",
            "if True:",
        ),
        test="tests/unit/rules/test_resizing.py::test_smaller_only_by_name",
    ),
    mutant(
        "moved-over-the-old-ones-unwarned",
        "where old and new metadata overlap, nothing warns of it while the old ones are spoilt",
        Edit(moving, "plan", "if overlap or gone:", "if gone:"),
        test="tests/unit/meta/test_moving.py::test_where_old_and_new_overlap_a_warning_comes_first",
    ),
    mutant(
        "moving-superblock-first",
        "the new superblock counts before the bitmap that it stands for is there",
        Edit(
            moving,
            "plan",
            "(Step.BITMAP, Step.ACTIVITY_LOG, Step.SUPERBLOCK, Step.REMEMBER, Step.ERASE)",
            "(Step.SUPERBLOCK, Step.BITMAP, Step.ACTIVITY_LOG, Step.REMEMBER, Step.ERASE)",
        ),
        test="tests/unit/meta/test_moving.py::"
        "test_with_room_the_new_superblock_comes_last_and_nothing_warns",
    ),
    mutant(
        "moved-without-the-log",
        "the activity log at the new place names nothing",
        Edit(
            MOVE,
            "_put_log",
            "new, log = self._new, self._gate.log",
            "new, log = self._new, type(self._gate.log)(self._gate.log.slots)",
        ),
        test="tests/scenario/test_resize_crashes.py::"
        "test_killed_at_every_disk_operation_of_a_resize",
    ),
    mutant(
        "failed-move-counts",
        "a write of the new metadata that failed has no consequences",
        Edit(MOVE, "_write", "if errno:", "if False:"),
        test="tests/scenario/test_resize.py::"
        "test_no_room_for_the_new_metadata_and_the_old_ones_stay",
    ),
    mutant(
        "handed-over-undrained",
        "the role is given up while clients have the device open",
        Edit(GIVING, "_gone", "and not self._volume.open_count", ""),
        test="tests/scenario/test_switchover.py::test_one_command_on_either_node_moves_the_role",
    ),
    mutant(
        "served-while-handing-over",
        "clients are let in again while the role is on its way",
        Edit(GIVING, "_send_away", "self._volume.serving = False", "pass"),
        test="tests/scenario/test_switchover.py::"
        "test_nobody_is_let_in_any_more_once_clients_are_sent_away",
    ),
    mutant(
        "taken-before-it-is-given",
        "the Secondary promotes itself before its peer is Secondary",
        Edit(TAKING, "_look", "self._ready and state.peer is Role.SECONDARY", "self._ready"),
        test="tests/scenario/test_switchover.py::test_requests_in_flight_are_answered_first",
    ),
    mutant(
        "withdrawn-and-taken",
        "a Secondary becomes Primary although the role was withdrawn",
        Edit(TAKING, "peer_said", "if flags & UUID_FLAG_DOES_NOT:", "if False:"),
        test="tests/scenario/test_switchover.py::"
        "test_a_secondary_is_told_why_by_itself_or_by_its_peers_log",
    ),
    mutant(
        "taken-back-beside-a-primary",
        "who gave the role and waits in vain takes it back though the peer may have it",
        Edit(
            GIVING,
            "_lost",
            "self._handover.resume(self._volume, self._resumed)",
            "self._roles.primary(self._volume, Command(self._command.number, 'primary', "
            "self._volume.number, {}), self._resumed)",
        ),
        test="tests/scenario/test_switchover.py::"
        "test_lost_after_the_demotion_the_role_comes_back_when_the_nodes_meet",
    ),
    mutant(
        "detached-in-full-flight",
        "a Primary says that nothing is in flight while a write is: if its disk fails that, the "
        "peer's word alone is taken for it in the generation of both disks",
        Edit(DETACHING, "_begin", "late or self._writes.drained(volume)", "True"),
        test=QUIET_DETACH + "test_a_write_in_flight_fails_while_a_primary_detaches",
    ),
    mutant(
        "detached-unflushed",
        "a disk that was not flushed is let go in the generation of the one that goes on",
        Edit(DETACHING, "_may_wait", "volume.primary and self._ctx.persist", "volume.primary"),
        test=QUIET_DETACH + "test_without_durable_writes_the_peer_names_its_data_at_once",
    ),
    mutant(
        "any-detach-is-quiet",
        "the peer of a Primary that did not say so, as DRBD does not, names its data too late",
        Edit(
            state_change.StateRequests,
            "_may_detach_unnamed",
            "bool(theirs.flags & UUID_FLAG_DETACHES)",
            "True",
        ),
        test=QUIET_DETACH + "test_beside_a_peer_that_passes_over_the_flag_all_is_as_before",
    ),
    mutant(
        "named-when-the-disk-is-gone",
        "a generation begins before anything differs: a needless split brain, or no data, if the "
        "Primary does not hear of it",
        Edit(follow.FollowUps, "_rotate", "volume.peer_detaches", "False"),
        test=QUIET_DETACH
        + "test_the_peer_begins_a_generation_with_the_first_write_that_only_it_gets",
    ),
    mutant(
        "older-data-forgotten",
        "a node forgets that it connected without its disk to newer data than that holds",
        Edit(
            peer_state.PeerState,
            "_peer_serves",
            "volume.serves_since(uuids.current)",
            "pass",
        ),
        test=ATTACHING
        + "test_the_peer_goes_while_a_secondary_attaches_data_that_it_knows_to_be_older",
    ),
    mutant(
        "older-data-beside-a-lost-disk",
        "a diskless Primary whose peer lost its disk, too, takes the older data it attaches",
        Edit(peer_state.PeerState, "_lacks_what_was_served", "negotiates\n", "False\n"),
        test="tests/scenario/test_both_disks_lost.py::"
        "test_older_data_are_attached_while_the_word_of_the_peers_lost_disk_is_on_its_way",
    ),
    mutant(
        "a-disk-on-trial-counts-as-served",
        "a diskless Secondary takes what its peer attaches, and may refuse, for what is served",
        Edit(
            peer_state.PeerState,
            "_apply",
            "told.disk is DiskState.UP_TO_DATE:",
            "told.disk > DiskState.DISKLESS:",
        ),
        test="tests/scenario/test_both_disks_lost.py::"
        "test_older_data_are_attached_while_the_word_of_the_peers_lost_disk_is_on_its_way",
    ),
    mutant(
        "passed-on-before-it-is-said",
        "pass_on: a write is acknowledged while the disk that lacks it still says it is whole",
        Edit(
            disk_failure.DiskFailure,
            "_call_inconsistent",
            "volume.release_replies(ok or volume.awaits_peer_generation)",
            "pass",
            also=("volume.hold_replies()", "pass"),
        ),
        test="tests/scenario/test_passed_on_and_power_lost.py::"
        "test_both_lose_power_when_a_write_that_one_disk_refused_is_answered",
    ),
    mutant(
        "done-when-our-disk-was-gone",
        "what a target that was done alone has is acknowledged in the generation of both",
        Edit(peer_news.PeerNews, "before", "if done and", "if False and"),
        test="tests/scenario/test_the_target_was_done.py::"
        "test_what_the_target_alone_has_is_acknowledged_in_a_generation_of_its_own",
    ),
    mutant(
        "the-only-disk-left-begins-none",
        "a disk attached beside a diskless Primary takes writes in the generation of both disks",
        Edit(follow.FollowUps, "after", "if begun_here and", "if False and"),
        test="tests/scenario/test_both_disks_lost.py::"
        "test_the_peers_disk_alone_comes_back_in_the_generation_of_both",
    ),
    mutant(
        "planned-though-in-sync",
        "what was refused while I/O was suspended waits for a generation that nobody needs",
        Edit(peer_news.PeerNews, "after", "if resynced and", "if False and"),
        test="tests/scenario/test_resynced_while_suspended.py::"
        "test_what_was_refused_is_answered_at_once_and_in_the_generation_of_both",
    ),
    mutant(
        "older-data-in-the-handshake",
        "a Primary whose disk fails between the peer's UUIDs and its state takes its older data",
        Edit(peer_state.PeerState, "_judge_state", "and new_there", "and False"),
        test="tests/scenario/test_the_disk_fails_in_the_handshake.py::"
        "test_older_data_are_never_served_for_what_was_acknowledged_alone",
    ),
    mutant(
        "believed-before-it-is-durable",
        "a generation that the peer's disk does not bear yet lets acknowledgements go",
        Edit(
            peer_news.PeerNews,
            "uuids_changed",
            "and not theirs.flags & UUID_FLAG_BEGINS",
            "",
        ),
        test="tests/simulation/test_stories.py::test_stories_that_once_went_wrong",
    ),
    mutant(
        "begun-while-detaching",
        "a Secondary that lets its disk go, too, begins a generation beside its Primary's",
        Edit(follow.FollowUps, "_rotate", "volume.detaching > 0", "False"),
        test="tests/scenario/test_both_disks_lost.py::"
        "test_the_target_is_done_when_its_disk_was_given_up_already",
    ),
    mutant(
        "begun-before-the-detach-forgotten",
        "a Primary attaches its disk alone though the peer began a generation before it let it go",
        Edit(node.Node, "_after", "if lost and", "if False and"),
        test="tests/scenario/test_both_disks_lost.py::"
        "test_the_peer_begins_a_generation_before_the_disk_is_let_go",
    ),
    mutant(
        "begun-elsewhere-forgotten",
        "a Primary whose disk failed refuses the generation that its peer began for it",
        Edit(
            peer_news.PeerNews,
            "disk_failed",
            "volume.peer_begins |= beside_good_data",
            "pass",
        ),
        test="tests/scenario/test_both_disks_lost.py::"
        "test_the_peer_begins_a_generation_and_both_disks_come_back_at_once",
    ),
    mutant(
        "written-while-negotiating",
        "a diskless Primary that attaches sends writes behind the generation that is compared",
        Edit(write_way.WriteWay, "__init__", " or state.disk is DiskState.NEGOTIATING", ""),
        test=ATTACHING
        + "test_a_write_that_comes_while_a_primary_attaches_waits_for_whose_data_are_newer",
    ),
    mutant(
        "written-elsewhere-forgotten",
        "a diskless Primary that missed the word of its peer's new generation attaches old data",
        Edit(
            write_origin.WriteOrigin,
            "_submit",
            "volume.written_elsewhere |= not local",
            "pass",
        ),
        test=QUIET_DETACH
        + "test_what_the_peer_names_anew_is_known_to_be_elsewhere_though_the_word_of_it_is_lost",
    ),
    mutant(
        "written-in-the-targets-generation",
        "a source whose target was done, unseen, takes the writes of that node in its generation",
        OLD_GENERATION,
        masked_by="what the two compare when the disk is attached again",
        both="written-in-the-targets-generation-and-compared-wrongly",
    ),
    mutant(
        "compared-with-what-was-corrected",
        "whose disk is attached compares with what its peer has made of its UUIDs by comparing",
        CORRECTED,
        masked_by="a generation that the peer's first write began",
        both="written-in-the-targets-generation-and-compared-wrongly",
    ),
    mutant(
        "written-in-the-targets-generation-and-compared-wrongly",
        "both: each of the two takes itself for the source",
        OLD_GENERATION,
        CORRECTED,
        test="tests/scenario/test_what_a_target_may_have.py::"
        "test_a_target_lets_its_disk_go_as_its_resync_ends_unseen",
    ),
    mutant(
        "under-way-to-a-lost-disk",
        "what the peer refuses while its disk comes back is marked when the bitmap has been told",
        Edit(
            write_origin.WriteOrigin,
            "peer_lost_disk",
            "volume.mark_out_of_sync(write.sector, write.size)",
            "pass",
        ),
        test=ATTACHING
        + "test_what_was_on_its_way_to_a_disk_that_is_already_being_attached_again_is_copied",
    ),
    mutant(
        "peer-outdated-for-ever",
        "after a restart a peer whose resync may have ended is taken for Outdated",
        Edit(attach._Attachment, "_in_place", " and not handed_out", ""),
        test="tests/scenario/test_resuming_primary.py::"
        "test_a_peer_whose_resync_may_have_ended_unseen_is_not_known_to_be_outdated",
    ),
    mutant(
        "late-write-not-marked",
        "what a diskless Primary writes after the bitmap was told is marked nowhere",
        Edit(write_way, "misses_writes", " or state.conn is ConnState.WF_BITMAP_S", ""),
        test=ATTACHING
        + "test_what_a_diskless_primary_writes_before_it_hears_of_the_resync_is_copied_too",
    ),
    mutant(
        "late-write-not-told",
        "what a diskless Primary writes after the bitmap was told is marked, but the target of the "
        "resync never hears of it",
        Edit(
            write_peer.WritePeer,
            "_ranged",
            "if newly and volume.state.conn in _BITMAP_TOLD:",
            "if False:",
        ),
        test=ATTACHING
        + "test_what_a_diskless_primary_writes_before_it_hears_of_the_resync_is_copied_too",
    ),
    mutant(
        "disk-lost-while-parting",
        "a node that has agreed to part does not listen any more when the Primary's disk goes",
        Edit(
            peer_state.PeerState,
            "_judge_state",
            "volume.diskless_link = self._ctx.peer.data",
            "pass",
        ),
        test="tests/scenario/test_disk_errors.py::"
        "test_what_only_the_peer_got_is_marked_there_though_we_are_disconnecting",
    ),
    mutant(
        "paused-for-ever",
        "a resync that was paused when all was copied never ends",
        Edit(
            resync_target.ResyncTarget,
            "_finish",
            "self._targets[volume.number].finishing = False",
            "pass",
        ),
        test="tests/scenario/test_invalidate_and_pause.py::"
        "test_paused_when_everything_is_copied_it_ends_after_the_pause",
    ),
)
