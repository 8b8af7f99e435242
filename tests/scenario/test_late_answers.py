"""Answers that come late, or never, at the moments when data depend on them: by a scripted peer."""

from __future__ import annotations

from replblk.model.generation import UuidSet
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.wire.commands import ID_SYNCER, UUID_FLAG_CRASHED_PRIMARY
from replblk.wire.hot import block_request, data_header
from replblk.wire.packets import DP_SEND_WRITE_ACK, Cmd, SyncUuid, Uuids
from tests.support.hostile import MINE, rig_with_data
from tests.support.lab import BLOCK
from tests.support.scripted_peer import Rig

THEIRS = b"of the peer!" * 341 + b"...."


def say_bitmap(rig: Rig, first_byte: int) -> None:
    """The peer's bitmap: the first eight blocks as that byte says, nothing else."""
    words = -(-rig.drive("alpha").layout.usable_sectors // 8 // 64)
    rig.peer.send_payload(Cmd.P_BITMAP, bytes([first_byte]) + bytes(8 * words - 1))
    rig.peer.send_payload(Cmd.P_BITMAP, b"")


def target(first_byte: int) -> Rig:
    """alpha is SyncTarget of the script, which says that those blocks differ."""
    rig = rig_with_data()
    rig.peer.uuids = rig.peer.uuids.new_current(0x77 << 32, primary=True)
    rig.passes("alpha", ConnState.WF_BITMAP_T)
    rig.run_for(0.01)
    say_bitmap(rig, first_byte)
    rig.passes("alpha", ConnState.WF_SYNC_UUID)
    rig.peer.send(Cmd.P_SYNC_UUID, SyncUuid(rig.peer.uuids.bitmap + (1 << 48) & (1 << 64) - 1))
    rig.gets(Cmd.P_RS_DATA_REQUEST)
    return rig


def written_and_gone() -> Rig:
    """A Primary wrote a block to alpha, whose disk is slow, and hung up."""
    rig = rig_with_data()
    rig.peer.role = Role.PRIMARY
    rig.meet()
    rig.hold("alpha")
    rig.peer.write(0, THEIRS, flags=DP_SEND_WRITE_ACK)
    rig.run_for(0.01)
    rig.peer.hang_up()
    return rig


def test_a_connection_waits_until_what_the_last_one_wrote_is_on_disk() -> None:
    rig = written_and_gone()
    rig.run_for(0.5)
    assert rig.alpha.connection < ConnState.CONNECTED
    rig.meet()
    assert rig.on_disk("alpha", 0, BLOCK) == THEIRS


def test_what_the_last_connection_wrote_is_not_acknowledged_in_the_next() -> None:
    """Its block id may be another write's by now."""
    rig = written_and_gone()
    rig.meet()
    rig.run_for(5)
    assert not rig.peer.of(Cmd.P_WRITE_ACK)


def test_what_only_the_peer_has_is_acknowledged_once_it_has_another_name() -> None:
    """Our disk failed: until the peer's generation is known, both disks bear the same one."""
    rig = rig_with_data()
    rig.peer.obliging = True
    rig.meet()
    rig.primary("alpha")
    rig.write("alpha", 0, MINE)
    rig.run_for(0.1)
    rig.fail("alpha", "data", "write")
    write = rig.submit("alpha", "write", 0, BLOCK, data=THEIRS)
    rig.reaches("alpha", disk=DiskState.DISKLESS)
    rig.run_for(1)
    assert not write.done
    peer = rig.peer
    peer.uuids = peer.uuids.new_current(0x99 << 32, primary=False)
    ours = peer.uuids
    peer.send(Cmd.P_UUIDS, Uuids(ours.current, ours.bitmap, ours.history0, ours.history1, 1, 0))
    assert rig.done(write).errno == 0


def test_an_answer_to_a_resync_that_was_aborted_costs_nothing() -> None:
    rig = target(first_byte=1)
    rig.peer.send(Cmd.P_STATE, rig.peer.state(role=Role.PRIMARY, disk=DiskState.FAILED))
    rig.reaches("alpha", conn=ConnState.CONNECTED)
    rig.peer.send_payload(Cmd.P_RS_DATA_REPLY, data_header(0, ID_SYNCER, 0, 0) + THEIRS)
    rig.run_for(1)
    assert rig.alpha.connection is ConnState.CONNECTED
    assert rig.on_disk("alpha", 0, BLOCK) == MINE
    assert rig.out_of_sync_kib("alpha") == 4


def test_a_block_that_the_target_could_not_write_stays_marked_at_the_source() -> None:
    rig = rig_with_data()
    rig.peer.uuids, rig.peer.disk = UuidSet(), DiskState.INCONSISTENT
    rig.passes("alpha", ConnState.WF_BITMAP_S)
    rig.run_for(0.01)
    say_bitmap(rig, 0xFF)
    rig.reaches("alpha", conn=ConnState.SYNC_SOURCE)
    before = rig.out_of_sync_kib("alpha")
    assert before
    for sector, cmd in ((0, Cmd.P_NEG_ACK), (8, Cmd.P_RS_WRITE_ACK)):
        request = block_request(sector, ID_SYNCER, BLOCK)
        rig.peer.send_payload(Cmd.P_RS_DATA_REQUEST, request)
        rig.gets(Cmd.P_RS_DATA_REPLY, 1 + sector // 8)
        rig.peer.send_ack(cmd, sector, ID_SYNCER, BLOCK)
        rig.run_for(0.1)
    assert rig.out_of_sync_kib("alpha") == before - 4


def test_a_node_that_crashed_as_primary_says_so_to_a_peer_that_has_to_know() -> None:
    rig = rig_with_data()
    rig.peer.obliging = True
    rig.meet()
    rig.primary("alpha")
    rig.write("alpha", 0, MINE)
    rig.alpha.power_off()
    rig.run_for(1)
    rig.peer.packets.clear()
    rig.boot("alpha")
    packet = rig.gets(Cmd.P_UUIDS)
    assert rig.peer.says(packet).flags & UUID_FLAG_CRASHED_PRIMARY


def test_a_full_sync_marks_everything_whatever_either_bitmap_says() -> None:
    """The peer's data descend from ours, but what became of the differences nobody has recorded."""
    rig = rig_with_data()
    ours = rig.uuids("alpha").current
    rig.peer.uuids = UuidSet(0x77 << 32, 0, ours)
    rig.passes("alpha", ConnState.WF_BITMAP_T)
    rig.run_for(0.1)
    say_bitmap(rig, 1)
    rig.passes("alpha", ConnState.WF_SYNC_UUID)
    node = rig.alpha.node
    assert node is not None
    assert rig.out_of_sync_kib("alpha") == -(-node.size_bytes(0) // BLOCK) * 4


def test_the_start_of_a_resync_is_told_when_the_source_has_it_on_its_disk() -> None:
    """Else a crash of the source leaves two nodes that know of different resyncs, or of none."""
    rig = rig_with_data()
    rig.peer.uuids, rig.peer.disk = UuidSet(), DiskState.INCONSISTENT
    rig.passes("alpha", ConnState.WF_BITMAP_S)
    rig.run_for(0.01)
    rig.hold("alpha")
    say_bitmap(rig, 0xFF)
    rig.run_for(0.5)
    assert not rig.peer.of(Cmd.P_SYNC_UUID)
    rig.gets(Cmd.P_SYNC_UUID)
    assert rig.durable_uuids("alpha").bitmap
    assert rig.durable_bits("alpha")
