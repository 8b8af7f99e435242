"""What follows a committed change, rule by rule (A2 to A24) and in which order."""

from __future__ import annotations

import pytest

from replblk.model.state import State
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Role
from replblk.rules.consequences import Follow, after_change, after_connection_change

GOOD = State(
    role=Role.SECONDARY, peer=Role.SECONDARY, conn=C.CONNECTED, disk=D.UP_TO_DATE, pdsk=D.UP_TO_DATE
)
PRIMARY = GOOD.but(role=Role.PRIMARY)
SOURCE = GOOD.but(conn=C.SYNC_SOURCE, pdsk=D.INCONSISTENT)
TARGET = GOOD.but(conn=C.SYNC_TARGET, disk=D.INCONSISTENT)
CUT = {"conn": C.NETWORK_FAILURE, "peer": Role.UNKNOWN, "pdsk": D.DUNKNOWN}
ATTACHING = GOOD.but(disk=D.ATTACHING)
FROZEN = PRIMARY.but(disk=D.DISKLESS, susp_nod=True, **CUT)
FENCING = PRIMARY.but(susp_fen=True, **CUT)


@pytest.mark.parametrize(
    ("rule", "old", "new", "expected"),
    [
        ("A2", TARGET, GOOD, Follow.CLEAR_CRASHED_PRIMARY),
        ("A3", PRIMARY.but(pdsk=D.DISKLESS), PRIMARY.but(pdsk=D.DISKLESS, disk=D.FAILED),
         Follow.CALL_PRI_ON_INCON_DEGR),
        ("A4", FROZEN.but(conn=C.WF_REPORT_PARAMS),
         FROZEN.but(conn=C.CONNECTED, pdsk=D.UP_TO_DATE), Follow.THAW_BY_PEER),
        ("A4", FROZEN.but(disk=D.ATTACHING), FROZEN.but(disk=D.UP_TO_DATE), Follow.THAW_BY_DISK),
        ("A5", FENCING.but(conn=C.WF_REPORT_PARAMS),
         FENCING.but(conn=C.CONNECTED, pdsk=D.UP_TO_DATE), Follow.THAW_FENCING),
        ("A5", FENCING, FENCING.but(pdsk=D.OUTDATED), Follow.PEER_FENCED),
        ("A6", GOOD.but(conn=C.WF_BITMAP_S), SOURCE, Follow.SEND_SYNC_UUID),
        ("A6", GOOD.but(conn=C.WF_BITMAP_S), SOURCE.but(conn=C.PAUSED_SYNC_S),
         Follow.SEND_SYNC_UUID),
        ("A7", GOOD.but(pdsk=D.DISKLESS), GOOD.but(pdsk=D.NEGOTIATING), Follow.SEND_UUIDS),
        ("A7", GOOD.but(pdsk=D.ATTACHING), GOOD.but(pdsk=D.NEGOTIATING), Follow.SEND_UUIDS),
        ("A8", GOOD.but(conn=C.WF_REPORT_PARAMS), GOOD.but(conn=C.WF_BITMAP_S),
         Follow.SEND_BITMAP),
        ("A9", PRIMARY, PRIMARY.but(**CUT), Follow.NEW_CURRENT_UUID),
        ("A10", GOOD.but(pdsk=D.DISKLESS), GOOD.but(pdsk=D.DISKLESS, peer=Role.PRIMARY),
         Follow.NEW_CURRENT_UUID),
        ("A11", GOOD.but(pdsk=D.DISKLESS, peer=Role.PRIMARY), GOOD.but(pdsk=D.DISKLESS),
         Follow.WRITE_BITMAP),
        ("A12", PRIMARY, GOOD, Follow.WRITE_BITMAP),
        ("A13", ATTACHING, GOOD.but(disk=D.NEGOTIATING), Follow.SEND_SIZES),
        ("A14", GOOD, GOOD.but(user_isp=True), Follow.SEND_STATE),
        ("A14", GOOD.but(aftr_isp=True), GOOD, Follow.SEND_STATE),
        ("A15", GOOD, GOOD.but(peer_isp=True), Follow.CHECK_RESYNC_AFTER),
        ("A16", GOOD.but(conn=C.WF_REPORT_PARAMS), GOOD, Follow.SEND_STATE),
        ("A16", GOOD, GOOD.but(conn=C.AHEAD, pdsk=D.CONSISTENT), Follow.SEND_STATE),
        ("A17", GOOD, GOOD.but(conn=C.STARTING_SYNC_S), Follow.START_RESYNC_SOURCE),
        ("A17", GOOD, GOOD.but(conn=C.STARTING_SYNC_T, disk=D.OUTDATED), Follow.AWAIT_SYNC_UUID),
        ("A18", GOOD, GOOD.but(disk=D.FAILED), Follow.DROP_RESYNC),
        ("A18", GOOD, GOOD.but(disk=D.FAILED), Follow.CALL_LOCAL_IO_ERROR),
        ("A18", GOOD, GOOD.but(disk=D.FAILED), Follow.SEND_STATE),
        ("A19", GOOD.but(disk=D.FAILED), GOOD.but(disk=D.DISKLESS), Follow.CLOSE_DISK),
        ("A20", GOOD, GOOD.but(disk=D.INCONSISTENT), Follow.SEND_STATE),
        ("A21", SOURCE, GOOD, Follow.CHECK_RESYNC_AFTER),
        ("A21", TARGET.but(conn=C.PAUSED_SYNC_T, user_isp=True), TARGET, Follow.CHECK_RESYNC_AFTER),
        ("A22", TARGET, GOOD, Follow.SEND_STATE),
        ("A22", TARGET, GOOD.but(disk=D.INCONSISTENT), Follow.SEND_STATE),
        ("A22", GOOD.but(conn=C.VERIFY_S), GOOD, Follow.SEND_STATE),
        ("A23", SOURCE, GOOD, Follow.WRITE_BITMAP),
        ("A23", GOOD.but(conn=C.VERIFY_T), GOOD, Follow.WRITE_BITMAP),
        ("A24", GOOD, PRIMARY, Follow.WRITE_SUPERBLOCK),
        ("handler", TARGET, GOOD, Follow.CALL_AFTER_RESYNC_TARGET),
        ("handler", SOURCE, GOOD, Follow.CALL_UNFENCE_PEER),
        ("handler", PRIMARY, PRIMARY.but(**CUT), Follow.CALL_FENCE_PEER),
    ],
)  # fmt: skip
def test_follow_up_action(rule: str, old: State, new: State, expected: Follow) -> None:
    assert expected in after_change(old, new), rule
    assert after_change(new, new) == (), "nothing changed, nothing follows"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (ATTACHING, GOOD.but(disk=D.NEGOTIATING),
         (Follow.SEND_SIZES, Follow.SEND_UUIDS, Follow.SEND_STATE, Follow.WRITE_SUPERBLOCK)),
        (GOOD.but(pdsk=D.DISKLESS), GOOD.but(pdsk=D.NEGOTIATING),
         (Follow.SEND_UUIDS, Follow.SEND_STATE, Follow.WRITE_SUPERBLOCK)),
        (GOOD.but(disk=D.FAILED), GOOD.but(disk=D.DISKLESS),
         (Follow.SEND_STATE, Follow.CLOSE_DISK)),
        (PRIMARY, PRIMARY.but(**CUT),
         (Follow.NEW_CURRENT_UUID, Follow.CALL_FENCE_PEER, Follow.WRITE_SUPERBLOCK)),
        (GOOD, GOOD.but(**CUT), (Follow.WRITE_SUPERBLOCK,)),
        (GOOD, GOOD.but(conn=C.STARTING_SYNC_S),
         (Follow.SET_ALL_BITS, Follow.START_RESYNC_SOURCE, Follow.WRITE_SUPERBLOCK)),
        (TARGET, GOOD,
         (Follow.CLEAR_CRASHED_PRIMARY, Follow.CHECK_RESYNC_AFTER, Follow.CALL_AFTER_RESYNC_TARGET,
          Follow.SEND_STATE, Follow.WRITE_BITMAP, Follow.WRITE_SUPERBLOCK)),
        (SOURCE, SOURCE.but(conn=C.PAUSED_SYNC_S, user_isp=True),
         (Follow.SEND_STATE, Follow.CHECK_RESYNC_AFTER, Follow.WRITE_SUPERBLOCK)),
    ],
)  # fmt: skip
def test_order(old: State, new: State, expected: tuple[Follow, ...]) -> None:
    assert after_change(old, new) == expected


def test_each_thing_is_done_once_at_the_place_of_its_last_reason() -> None:
    """Both nodes attach at once: P_UUIDS for the peer's disk and for ours is one P_UUIDS."""
    old = ATTACHING.but(pdsk=D.DISKLESS)
    assert after_change(old, old.but(disk=D.NEGOTIATING, pdsk=D.NEGOTIATING)) == (
        Follow.SEND_SIZES,
        Follow.SEND_UUIDS,
        Follow.SEND_STATE,
        Follow.WRITE_SUPERBLOCK,
    )


def test_the_sync_uuid_goes_before_all_other_packets() -> None:
    grown = GOOD.but(pdsk=D.DISKLESS, conn=C.WF_BITMAP_S)
    todo = after_change(grown, SOURCE)
    assert todo[0] == Follow.SEND_SYNC_UUID


def test_an_aborted_resync_calls_no_handler_for_its_end() -> None:
    todo = after_change(TARGET, GOOD.but(disk=D.FAILED))
    assert Follow.CALL_AFTER_RESYNC_TARGET not in todo
    assert Follow.CALL_UNFENCE_PEER not in after_change(SOURCE, GOOD.but(pdsk=D.DISKLESS))


@pytest.mark.parametrize(("apv", "told"), [(96, False), (97, True), (100, False), (101, True)])
def test_the_end_of_a_verify_is_told_to_peers_that_understand_it(apv: int, told: bool) -> None:
    todo = after_change(GOOD.but(conn=C.VERIFY_S), GOOD, apv=apv)
    assert (Follow.SEND_STATE in todo) is told


def test_nothing_is_sent_without_a_connection() -> None:
    offline = GOOD.but(**CUT)
    for change in ({"user_isp": True}, {"disk": D.FAILED}, {"disk": D.INCONSISTENT}):
        assert Follow.SEND_STATE not in after_change(offline, offline.but(**change))


@pytest.mark.parametrize("conn", [conn for conn in C if conn >= C.CONNECTED])
@pytest.mark.parametrize("after", [C.CONNECTED, None])
def test_the_peer_hears_of_a_failed_disk_before_writes_go_on_without_it(
    conn: C, after: C | None
) -> None:
    """Else they are done there in the generation of both disks (simulator, runs 70002361)."""
    old = PRIMARY.but(conn=conn)
    todo = after_change(old, old.but(conn=after or conn, disk=D.FAILED))
    assert todo.index(Follow.SEND_STATE) < todo.index(Follow.DROP_RESYNC)


def test_a_diskless_node_writes_no_superblock() -> None:
    assert after_change(State(), State(susp=True)) == ()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (C.STANDALONE, C.UNCONNECTED, (Follow.START_CONNECTING,)),
        (C.BROKEN_PIPE, C.UNCONNECTED, (Follow.START_CONNECTING,)),
        (C.WF_REPORT_PARAMS, C.DISCONNECTING, (Follow.DROP_NET,)),
        *(
            (C.WF_REPORT_PARAMS, failed, (Follow.DROP_CONNECTION,))
            for failed in C
            if C.TIMEOUT <= failed <= C.TEAR_DOWN
        ),
        (C.UNCONNECTED, C.WF_CONNECTION, ()),
        (C.DISCONNECTING, C.STANDALONE, ()),
        (C.TIMEOUT, C.TIMEOUT, ()),
    ],
)
def test_the_life_of_a_connection(old: C, new: C, expected: tuple[Follow, ...]) -> None:
    assert after_connection_change(old, new) == expected
