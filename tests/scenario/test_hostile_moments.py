"""A hostile peer in the middle of something: writes, barriers, requests, bitmaps, reports."""

from __future__ import annotations

import pytest

from replblk.model.generation import UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.rules.transitions import INVALIDATE
from replblk.sim.world import SECOND_NS
from replblk.wire.packets import (
    BarrierAck,
    Cmd,
    Features,
    StateChange,
    StateWord,
)
from tests.support.hostile import MINE, Watch, primary, rig_with_data
from tests.support.lab import BLOCK
from tests.support.scripted_peer import Rig

# -- what only shows in the middle of something --------------------------------------------------


@pytest.mark.parametrize("how", ["sector", "size", "id", "twice", "negative twice"])
def test_wrong_acknowledgements_of_a_real_write(how: str) -> None:
    rig = rig_with_data()
    rig.meet()
    rig.primary("alpha")
    rig.run_for(0.1)
    watch = Watch(rig)
    write = rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    packet = rig.gets(Cmd.P_DATA)
    block_id = bytes(packet.payload[8:16])
    peer = rig.peer
    if how == "sector":
        peer.send_ack(Cmd.P_WRITE_ACK, 8, block_id, BLOCK)
    elif how == "size":
        peer.send_ack(Cmd.P_WRITE_ACK, 0, block_id, 512)
    elif how == "id":
        peer.send_ack(Cmd.P_WRITE_ACK, 0, b"\0" * 8, BLOCK)
    elif how == "twice":
        peer.ack(packet)
        peer.ack(packet)
    else:
        peer.ack(packet, Cmd.P_NEG_ACK)
        peer.ack(packet)
    rig.breaks()
    assert rig.done(write).errno == 0  # the disk here has it
    assert rig.out_of_sync_kib("alpha") == 4
    watch.over()


def test_a_refused_write_is_acknowledged_once_the_peer_tells_what_became_of_its_disk() -> None:
    """P_NEG_ACK overtakes P_STATE: until then both disks bear the same generation."""
    rig = rig_with_data()
    rig.meet()
    rig.primary("alpha")
    rig.run_for(0.1)
    before = rig.durable_uuids("alpha").current
    write = rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    packet = rig.gets(Cmd.P_DATA)
    rig.peer.ack(packet, Cmd.P_NEG_ACK)
    rig.run_for(0.5)
    assert not write.done
    rig.peer.send(Cmd.P_STATE, rig.peer.state(disk=DiskState.FAILED))
    assert rig.done(write).errno == 0
    assert rig.durable_uuids("alpha").current | 1 != before | 1


def test_a_write_that_a_peer_about_to_be_invalidated_refuses_is_acknowledged_under_a_new_name() -> (
    None
):
    """P_NEG_ACK overtakes the P_STATE that its disk is gone (simulator, storm 75002146)."""
    rig = rig_with_data()
    rig.meet()
    rig.primary("alpha")
    rig.run_for(0.1)
    write = rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    packet = rig.gets(Cmd.P_DATA)
    rig.run_for(0.1)
    rig.hold("alpha")
    rig.peer.send(Cmd.P_STATE_CHG_REQ, StateChange(INVALIDATE.mask, INVALIDATE.val))
    rig.reaches("alpha", conn=ConnState.STARTING_SYNC_S)
    rig.peer.ack(packet, Cmd.P_NEG_ACK)
    rig.run_for(0.1)
    assert not write.done
    rig.release("alpha")
    rig.peer.send(Cmd.P_STATE, rig.peer.state(disk=DiskState.FAILED))
    assert rig.done(write).errno == 0
    assert rig.durable_uuids("alpha").bitmap


@pytest.mark.parametrize("how", ["count", "number", "early"])
def test_wrong_barrier_acknowledgements(how: str) -> None:
    rig = rig_with_data()
    rig.meet()
    rig.primary("alpha")
    watch = Watch(rig)
    rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    packet = rig.gets(Cmd.P_DATA)
    peer = rig.peer
    if how == "early":
        rig.submit("alpha", "flush", 0)
        barrier = rig.gets(Cmd.P_BARRIER)
        peer.send(Cmd.P_BARRIER_ACK, BarrierAck(bytes(barrier.payload[:4]), 1))
    else:
        peer.ack(packet)
        barrier = rig.gets(Cmd.P_BARRIER)
        number = bytes(barrier.payload[:4])
        wrong = bytes(255 - byte for byte in number) if how == "number" else number
        peer.send(Cmd.P_BARRIER_ACK, BarrierAck(wrong, 7 if how == "count" else 1))
    rig.breaks()
    assert rig.out_of_sync_kib("alpha") == 4
    watch.over()


def test_a_peer_that_acknowledges_nothing_is_given_up() -> None:
    rig = Rig(timeout=10, ko_count=2)
    rig.meet()
    rig.primary("alpha")
    begun = rig.world.now_ns
    write = rig.submit("alpha", "write", 0, BLOCK, data=MINE)
    assert rig.done(write).errno == 0
    assert SECOND_NS < rig.world.now_ns - begun < 5 * SECOND_NS
    assert rig.told("alpha", "Remote failed to finish a request within")


def test_a_peer_that_pings_but_never_answers_a_state_request_is_given_up() -> None:
    rig = rig_with_data()
    rig.meet()
    rig.peer.consents = False
    waiting = rig.ask("alpha", "primary")
    rig.gets(Cmd.P_STATE_CHG_REQ)
    rig.breaks()
    assert rig.answered(waiting).exit_code == 0  # alone, and UpToDate
    assert rig.state("alpha").role is Role.PRIMARY


def test_a_peer_that_pings_but_never_lets_us_leave_is_left() -> None:
    rig = rig_with_data()
    rig.meet()
    rig.peer.consents = False
    waiting = rig.ask("alpha", "disconnect")
    assert rig.answered(waiting).exit_code == 0
    assert rig.state("alpha").conn is ConnState.STANDALONE


def test_a_dead_peer_is_noticed_by_the_ping() -> None:
    rig = primary()
    rig.peer.pongs = False
    rig.breaks()
    assert rig.told("alpha", "PingAck did not arrive in time")


def test_zeroes_to_a_peer_that_knows_neither_trim_nor_zeroes_go_as_data_it_can_take() -> None:
    rig = rig_with_data(device_bytes=16 << 20)
    rig.peer.offer = Features(86, 0, 101)
    rig.peer.obliging = True
    rig.meet()
    rig.primary("alpha")
    request = rig.submit("alpha", "zero", 0, 4 << 20)
    rig.run_until(lambda: request.done)
    assert request.errno == 0
    sizes = [len(packet.payload) - 24 for packet in rig.peer.of(Cmd.P_DATA)]
    assert sum(sizes) == 4 << 20
    assert max(sizes) <= 1 << 20


# -- bitmaps ----------------------------------------------------------------------------------


def exchanging(*, source: bool, device_bytes: int = 1 << 20) -> Rig:
    """alpha is in WFBitMapS or WFBitMapT; of the peer's bitmap nothing has come yet."""
    rig = rig_with_data(device_bytes=device_bytes)
    peer = rig.peer
    if source:
        peer.uuids, peer.disk = UuidSet(), DiskState.INCONSISTENT
    else:
        peer.uuids = peer.uuids.new_current(0x77 << 32, primary=True)
    rig.passes("alpha", ConnState.WF_BITMAP_S if source else ConnState.WF_BITMAP_T)
    rig.run_for(0.01)
    return rig


BITMAPS: dict[str, list[tuple[Cmd, bytes]]] = {
    "a piece of the wrong length": [(Cmd.P_BITMAP, b"\xff" * 9)],
    "a piece too long": [(Cmd.P_BITMAP, b"\xff" * 4080)],
    "an end before the end": [(Cmd.P_BITMAP, b"")],
    "an unknown code": [(Cmd.P_COMPRESSED_BITMAP, b"\x81\x00")],
    "a set run beyond the end": [(Cmd.P_COMPRESSED_BITMAP, b"\xb2\x7f\xcf\xde\x0f")],
    "a clear run beyond the end": [(Cmd.P_COMPRESSED_BITMAP, b"\x32\x7f\xcf\xde\x0f")],
    "a code cut short": [(Cmd.P_COMPRESSED_BITMAP, b"\x82\x7f")],
    "nothing but pad": [(Cmd.P_COMPRESSED_BITMAP, b"\x82")],
    "something else in between": [
        (Cmd.P_COMPRESSED_BITMAP, b"\x82\x00"),
        (Cmd.P_UNPLUG_REMOTE, b""),
    ],
}


@pytest.mark.parametrize("source", [False, True], ids=["target", "source"])
@pytest.mark.parametrize("name", BITMAPS)
def test_a_bitmap_that_breaks_the_code(name: str, source: bool) -> None:
    rig = exchanging(source=source)
    data = rig.on_disk("alpha", 0, BLOCK)
    for cmd, payload in BITMAPS[name]:
        rig.peer.send_payload(cmd, payload)
    rig.breaks()
    rig.run_for(3)
    assert rig.alpha.alive
    assert rig.on_disk("alpha", 0, BLOCK) == data
    assert rig.state("alpha").disk in (DiskState.UP_TO_DATE, DiskState.OUTDATED)


def test_pings_and_acknowledgements_may_come_in_the_middle_of_a_bitmap() -> None:
    """The rule "nothing but bitmap" is for the data socket: the meta socket knows nothing of it."""
    rig = exchanging(source=False, device_bytes=300 << 20)
    peer = rig.peer
    words = -(-rig.drive("alpha").layout.usable_sectors // 8 // 64)
    assert words > 510
    peer.send_payload(Cmd.P_BITMAP, bytes(8 * 510))
    rig.run_for(0.01)
    peer.send(Cmd.P_PING)
    rig.gets(Cmd.P_PING_ACK)
    left = words - 510
    while left:
        piece = min(left, 510)
        peer.send_payload(Cmd.P_BITMAP, bytes(8 * piece))
        left -= piece
    peer.send_payload(Cmd.P_BITMAP, b"")
    rig.passes("alpha", ConnState.WF_SYNC_UUID)


def test_a_peer_that_reports_every_state_there_is() -> None:
    """Connected: each possible report of role, connection and disk; the node bears them all."""
    rig = rig_with_data()
    for conn in ConnState:
        rig.behave()
        for role in Role:
            for disk in DiskState:
                word = State(role=role, conn=conn, disk=disk, pdsk=DiskState.UP_TO_DATE)
                rig.peer.send(Cmd.P_STATE, StateWord(word.packed()))
                rig.run_for(0.01)
                if not rig.peer.data:
                    rig.behave()
        rig.peer.hang_up()
        rig.breaks()
    assert rig.on_disk("alpha", 0, BLOCK) == MINE
