"""When a node that was Primary may be so again: every connection state, every disk state."""

from __future__ import annotations

import pytest

from replblk.engine.resume import resumption
from replblk.engine.volume import Volume
from replblk.model.config import VolumeConfig
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role


def volume(**fields: object) -> Volume:
    made = Volume(VolumeConfig(number=0, minor=0, device="/dev/drbd0", disk="/none"))
    good = State(disk=DiskState.UP_TO_DATE, pdsk=DiskState.UP_TO_DATE, conn=ConnState.CONNECTED)
    made.state = good.but(**fields)  # type: ignore[arg-type]
    return made


def test_a_connected_secondary_peer_and_good_data_here() -> None:
    assert resumption(volume(peer=Role.SECONDARY), has_peer=True) == ""


@pytest.mark.parametrize("conn", list(ConnState))
def test_a_peer_that_is_primary_is_never_joined(conn: ConnState) -> None:
    assert resumption(volume(conn=conn, peer=Role.PRIMARY), has_peer=True)


@pytest.mark.parametrize("disk", [d for d in DiskState if d is not DiskState.UP_TO_DATE])
@pytest.mark.parametrize("conn", list(ConnState))
def test_without_good_data_here_it_never_is(conn: ConnState, disk: DiskState) -> None:
    for has_peer in (True, False):
        assert resumption(volume(conn=conn, disk=disk), has_peer=has_peer) != ""


@pytest.mark.parametrize("conn", [c for c in ConnState if c < ConnState.CONNECTED])
def test_alone_only_beside_a_peer_that_cannot_be_promoted(conn: ConnState) -> None:
    unknown = resumption(volume(conn=conn, pdsk=DiskState.DUNKNOWN), has_peer=True)
    outdated = resumption(volume(conn=conn, pdsk=DiskState.OUTDATED), has_peer=True)
    assert unknown != ""
    assert outdated == "" or conn in (ConnState.STANDALONE, ConnState.DISCONNECTING)


def test_a_handshake_that_is_not_over_is_waited_for() -> None:
    it = volume()
    it.handshaking = True
    assert resumption(it, has_peer=True) is None
    assert resumption(volume(conn=ConnState.WF_BITMAP_S), has_peer=True) is None


def test_a_target_of_a_resync_has_not_seen_what_happened_meanwhile() -> None:
    assert resumption(volume(conn=ConnState.SYNC_TARGET), has_peer=True)


def test_a_resource_without_a_peer_has_nobody_to_ask() -> None:
    assert resumption(volume(conn=ConnState.STANDALONE), has_peer=False) == ""
