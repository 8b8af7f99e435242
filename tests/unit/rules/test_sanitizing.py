"""Rules S1 to S10: what a wanted state implies."""

from __future__ import annotations

import pytest

from replblk.model.state import State
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Fencing, OnNoData, Role
from replblk.rules.sanitizing import LIMITS
from replblk.rules.transitions import Facts, sanitize

GOOD = State(
    role=Role.SECONDARY, peer=Role.SECONDARY, conn=C.CONNECTED, disk=D.UP_TO_DATE, pdsk=D.UP_TO_DATE
)
PRIMARY = GOOD.but(role=Role.PRIMARY)


def _sane(old: State, new: State, **facts: object) -> State:
    return sanitize(old, new, Facts(**facts))[0]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("pdsk", "becomes"),
    [
        (D.DISKLESS, D.DUNKNOWN),
        (D.NEGOTIATING, D.DUNKNOWN),
        (D.INCONSISTENT, D.INCONSISTENT),
        (D.OUTDATED, D.OUTDATED),
        (D.CONSISTENT, D.DUNKNOWN),
        (D.UP_TO_DATE, D.DUNKNOWN),
    ],
)
def test_s1_a_lost_peer_is_unknown_unless_known_to_be_bad(pdsk: D, becomes: D) -> None:
    old = GOOD.but(peer=Role.PRIMARY, peer_isp=True)
    new = _sane(old, old.but(conn=C.BROKEN_PIPE, pdsk=pdsk))
    assert (new.peer, new.pdsk, new.peer_isp) == (Role.UNKNOWN, becomes, False)


def test_s2_an_unconfigured_volume_waits_for_nobody() -> None:
    old = State(aftr_isp=True, conn=C.UNCONNECTED)
    assert not _sane(old, old.but(conn=C.STANDALONE)).aftr_isp
    primary = old.but(role=Role.PRIMARY)
    assert _sane(primary, primary.but(conn=C.STANDALONE)).aftr_isp


@pytest.mark.parametrize("side", ["disk", "pdsk"])
@pytest.mark.parametrize(
    ("conn", "warning"),
    [(C.SYNC_SOURCE, "Resync aborted."), (C.VERIFY_T, "Online-verify aborted.")],
)
def test_s3_a_lost_disk_ends_resync_and_verify(side: str, conn: C, warning: str) -> None:
    old = GOOD.but(conn=conn)
    new, warnings = sanitize(old, old.but(**{side: D.FAILED}), Facts())
    assert new.conn == C.CONNECTED
    assert warnings == (warning,)
    assert getattr(new, side) == D.FAILED


@pytest.mark.parametrize("conn", [C.SYNC_SOURCE, C.PAUSED_SYNC_S, C.VERIFY_S, C.VERIFY_T])
def test_s3a_a_disk_that_went_bad_is_not_declared_good_again(conn: C) -> None:
    """S6 alone would raise it to UpToDate: reads could return what a failed write left behind."""
    old = GOOD.but(conn=conn, user_isp=conn == C.PAUSED_SYNC_S)
    new, warnings = sanitize(old, old.but(disk=D.INCONSISTENT), Facts())
    assert (new.conn, new.disk) == (C.CONNECTED, D.INCONSISTENT)
    assert len(warnings) == 1


def test_s4_a_link_lost_in_an_attach_leaves_no_disk() -> None:
    old = GOOD.but(disk=D.NEGOTIATING)
    new, warnings = sanitize(old, old.but(conn=C.NETWORK_FAILURE), Facts(kept_disk=D.CONSISTENT))
    assert (new.disk, new.pdsk) == (D.DISKLESS, D.DUNKNOWN)
    assert warnings == ("Connection lost while negotiating, no data!",)


def test_s4_the_data_served_last_may_stay() -> None:
    old = GOOD.but(disk=D.NEGOTIATING)
    facts = Facts(exposed_is_current=True, kept_disk=D.UP_TO_DATE, kept_pdsk=D.OUTDATED)
    new, warnings = sanitize(old, old.but(conn=C.NETWORK_FAILURE), facts)
    assert (new.disk, new.pdsk, warnings) == (D.UP_TO_DATE, D.OUTDATED, ())
    nothing_kept = Facts(exposed_is_current=True)
    assert sanitize(old, old.but(conn=C.NETWORK_FAILURE), nothing_kept)[0].disk == D.DISKLESS


@pytest.mark.parametrize("bad", [D.OUTDATED, D.CONSISTENT])
def test_s5_outdating_a_connected_node_is_silently_undone(bad: D) -> None:
    assert sanitize(GOOD, GOOD.but(disk=bad), Facts()) == (GOOD, ())
    assert sanitize(GOOD, GOOD.but(pdsk=bad), Facts()) == (GOOD, ())


@pytest.mark.parametrize("pdsk", [D.DISKLESS, D.FAILED])
def test_s5_a_peer_without_a_disk_makes_no_outdated_disk_good(pdsk: D) -> None:
    """It has nothing to compare with: somebody else may have newer data."""
    old = GOOD.but(disk=D.OUTDATED, pdsk=pdsk)
    assert _sane(old, old.but(peer=Role.PRIMARY)).disk == D.OUTDATED


def test_s5_before_s6_makes_the_future_target_outdated() -> None:
    new = _sane(GOOD, GOOD.but(conn=C.WF_BITMAP_T))
    assert new.disk == D.OUTDATED
    assert _sane(GOOD, GOOD.but(conn=C.WF_BITMAP_S)).pdsk == D.CONSISTENT


@pytest.mark.parametrize("conn", [conn for conn in C if conn >= C.CONNECTED])
@pytest.mark.parametrize("disk", [disk for disk in D if disk > D.FAILED])
@pytest.mark.parametrize("pdsk", [disk for disk in D if disk > D.FAILED])
def test_s6_disks_are_within_the_limits_of_every_state(conn: C, disk: D, pdsk: D) -> None:
    new, warnings = sanitize(GOOD, GOOD.but(conn=conn, disk=disk, pdsk=pdsk), Facts())
    disk_min, disk_max, pdsk_min, pdsk_max = LIMITS[new.conn]
    assert disk_min <= new.disk <= disk_max
    assert pdsk_min <= new.pdsk <= pdsk_max
    if new.disk > disk and disk not in (D.OUTDATED, D.CONSISTENT):
        assert "Implicitly upgraded disk" in warnings


@pytest.mark.parametrize(
    ("conn", "disk", "pdsk"),
    [
        (C.WF_BITMAP_T, (4, 5), (8, 8)),
        (C.PAUSED_SYNC_T, (4, 5), (8, 8)),
        (C.STARTING_SYNC_T, (4, 5), (8, 8)),
        (C.WF_SYNC_UUID, (4, 5), (8, 8)),
        (C.BEHIND, (4, 5), (8, 8)),
        (C.VERIFY_S, (8, 8), (8, 8)),
        (C.VERIFY_T, (8, 8), (8, 8)),
        (C.CONNECTED, (0, 8), (0, 8)),
        (C.WF_BITMAP_S, (8, 8), (4, 7)),
        (C.PAUSED_SYNC_S, (8, 8), (4, 7)),
        (C.STARTING_SYNC_S, (8, 8), (4, 7)),
        (C.AHEAD, (8, 8), (4, 7)),
        (C.SYNC_TARGET, (4, 4), (8, 8)),
        (C.SYNC_SOURCE, (8, 8), (4, 4)),
        *((conn, (0, 8), (4, 6)) for conn in C if conn < C.CONNECTED),
    ],
)
def test_s6_table(conn: C, disk: tuple[int, int], pdsk: tuple[int, int]) -> None:
    assert LIMITS[conn] == (*disk, *pdsk)


def test_s7_stonith_freezes_a_primary_that_lost_its_peer() -> None:
    stonith = Fencing.RESOURCE_AND_STONITH
    lost = PRIMARY.but(conn=C.BROKEN_PIPE)
    frozen = _sane(PRIMARY, lost, fencing=stonith)
    assert frozen.susp_fen
    assert not _sane(PRIMARY, lost, fencing=Fencing.RESOURCE_ONLY).susp_fen
    assert not _sane(GOOD, GOOD.but(conn=C.BROKEN_PIPE), fencing=stonith).susp_fen
    outdated = PRIMARY.but(conn=C.TEAR_DOWN, pdsk=D.OUTDATED)
    assert not _sane(PRIMARY, outdated, fencing=stonith).susp_fen
    thawed = frozen.but(susp_fen=False)
    assert not _sane(thawed, thawed.but(conn=C.UNCONNECTED), fencing=stonith).susp_fen


def test_s7_fencing_counts_only_with_a_disk() -> None:
    diskless = PRIMARY.but(disk=D.DISKLESS)
    lost = diskless.but(conn=C.BROKEN_PIPE)
    assert not _sane(diskless, lost, fencing=Fencing.RESOURCE_AND_STONITH).susp_fen


def test_s8_a_primary_without_data_is_frozen_if_configured() -> None:
    diskless = PRIMARY.but(disk=D.DISKLESS)
    lost = diskless.but(conn=C.NETWORK_FAILURE)
    assert _sane(diskless, lost, on_no_data=OnNoData.SUSPEND_IO).susp_nod
    assert not _sane(diskless, lost, on_no_data=OnNoData.IO_ERROR).susp_nod
    thawed = _sane(diskless, lost)
    assert not _sane(
        thawed, thawed.but(conn=C.UNCONNECTED), on_no_data=OnNoData.SUSPEND_IO
    ).susp_nod


@pytest.mark.parametrize("why", ["aftr_isp", "peer_isp", "user_isp"])
@pytest.mark.parametrize(
    ("running", "paused"),
    [(C.SYNC_SOURCE, C.PAUSED_SYNC_S), (C.SYNC_TARGET, C.PAUSED_SYNC_T)],
)
def test_s9_s10_pause_and_go_on(why: str, running: C, paused: C) -> None:
    old = _sane(GOOD, GOOD.but(conn=running))
    stopped = _sane(old, old.but(**{why: True}))
    assert stopped.conn == paused
    assert _sane(stopped, stopped.but(**{why: False})).conn == running


def test_s10_a_sync_target_is_inconsistent_however_it_got_there() -> None:
    paused = GOOD.but(conn=C.PAUSED_SYNC_T, disk=D.OUTDATED, user_isp=True)
    assert _sane(paused, paused.but(user_isp=False)).disk == D.INCONSISTENT


@pytest.mark.parametrize(
    "conn",
    [C.WF_BITMAP_T, C.WF_SYNC_UUID, C.SYNC_TARGET, C.PAUSED_SYNC_T],
)
def test_a_target_whose_source_lost_its_disk_is_not_declared_up_to_date(conn: C) -> None:
    """Rule S3b; the simulator's seed 1016 promoted such a node and served old data."""
    old = State(
        role=Role.SECONDARY,
        peer=Role.PRIMARY,
        conn=conn,
        disk=D.OUTDATED if conn is not C.SYNC_TARGET else D.INCONSISTENT,
        pdsk=D.UP_TO_DATE,
    )
    new, _ = sanitize(old, old.but(pdsk=D.FAILED), Facts())
    assert (new.conn, new.disk) == (C.CONNECTED, D.INCONSISTENT)


@pytest.mark.parametrize("conn", [C.WF_BITMAP_S, C.SYNC_SOURCE, C.PAUSED_SYNC_S])
def test_a_source_that_loses_its_disk_does_not_take_its_target_for_up_to_date(
    conn: C,
) -> None:
    """Rule S3b, seen from the other node."""
    old = State(
        role=Role.PRIMARY,
        peer=Role.SECONDARY,
        conn=conn,
        disk=D.UP_TO_DATE,
        pdsk=D.INCONSISTENT if conn is C.SYNC_SOURCE else D.CONSISTENT,
    )
    new, _ = sanitize(old, old.but(disk=D.FAILED), Facts())
    assert (new.conn, new.pdsk) == (C.CONNECTED, D.INCONSISTENT)
