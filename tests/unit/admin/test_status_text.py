"""The status tree, held against captures; the JSON document; role, cstate and dstate lines."""

from __future__ import annotations

import json

from replblk.admin.state_words import cstate_line, dstate_line, role_line
from replblk.admin.status_json import UNKNOWN_SECONDS, status_json
from replblk.admin.status_text import status_text
from replblk.model.state import State
from replblk.model.status import ResyncStatus
from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.status_builders import CONNECTED, node, volume

PRIMARY = CONNECTED.but(role=Role.PRIMARY)
WAITING = PRIMARY.but(peer=Role.UNKNOWN, conn=ConnState.WF_CONNECTION, pdsk=DiskState.DUNKNOWN)


def test_two_fresh_nodes() -> None:
    fresh = CONNECTED.but(disk=DiskState.INCONSISTENT, pdsk=DiskState.INCONSISTENT)
    assert status_text([node(volume(fresh))]) == (
        "left role:Secondary\n"
        "  disk:Inconsistent\n"
        "  peer role:Secondary\n"
        "    replication:Established peer-disk:Inconsistent\n"
        "\n"
    )


def test_everything_there_is() -> None:
    one = volume(
        PRIMARY,
        read_kib=32728,
        written_kib=32000,
        al_writes=16,
        sent_kib=32000,
        out_of_sync_kib=16,
    )
    assert status_text([node(one)], verbose=True, statistics=True) == (
        "left role:Primary suspended:no\n"
        "    write-ordering:flush\n"
        "  volume:0 minor:0 disk:UpToDate\n"
        "      size:32728 read:32728 written:32000 al-writes:16 bm-writes:0\n"
        "      upper-pending:0 lower-pending:0 al-suspended:no blocked:no\n"
        "  peer connection:Connected role:Secondary congested:no\n"
        "    volume:0 replication:Established peer-disk:UpToDate resync-suspended:no\n"
        "        received:0 sent:32000 out-of-sync:16 pending:0 unacked:0\n"
        "\n"
    )


def test_a_paused_resync_wraps_at_eighty_columns() -> None:
    paused = PRIMARY.but(conn=ConnState.PAUSED_SYNC_S, pdsk=DiskState.INCONSISTENT, user_isp=True)
    assert status_text([node(volume(paused, out_of_sync_kib=32156))]) == (
        "left role:Primary\n"
        "  disk:UpToDate\n"
        "  peer role:Secondary\n"
        "    replication:PausedSyncS peer-disk:Inconsistent done:1.75\n"
        "        resync-suspended:user\n"
        "\n"
    )


def test_a_primary_that_waits_for_fencing() -> None:
    assert status_text([node(volume(WAITING.but(susp_fen=True)))]) == (
        "left role:Primary suspended:fencing\n"
        "  disk:UpToDate blocked:upper\n"
        "  peer connection:Connecting\n"
        "\n"
    )


def test_several_volumes_are_numbered_and_resources_sorted() -> None:
    state = CONNECTED.but(peer=Role.PRIMARY)
    two = node(volume(state), volume(state, number=1, minor=1))
    text = status_text([two, node(volume(state), resource="aaa")])
    assert text.index("aaa role") < text.index("left role")
    assert (
        "left role:Secondary\n"
        "  volume:0 disk:UpToDate\n"
        "  volume:1 disk:UpToDate\n"
        "  peer role:Primary\n"
        "    volume:0 replication:Established peer-disk:UpToDate\n"
        "    volume:1 replication:Established peer-disk:UpToDate\n"
        "\n"
    ) in text


def test_a_single_volume_with_another_number_shows_it() -> None:
    assert "  volume:3 disk:UpToDate\n" in status_text([node(volume(number=3))])


def test_without_a_net_config_there_is_no_peer() -> None:
    alone = node(volume(State(disk=DiskState.UP_TO_DATE)), has_net=False)
    assert status_text([alone]) == "left role:Secondary\n  disk:UpToDate\n\n"


def test_statistics_without_verbose_are_shorter() -> None:
    text = status_text([node(volume(WAITING, read_kib=5, out_of_sync_kib=8))], statistics=True)
    assert "      read:5 written:0\n" in text
    assert "    peer-disk:DUnknown\n        received:0 sent:0 out-of-sync:8\n" in text


def test_the_role_of_a_resource_is_the_highest_of_its_volumes() -> None:
    text = status_text([node(volume(CONNECTED), volume(PRIMARY, number=1))])
    assert text.startswith("left role:Primary\n")


def test_colours_mark_roles_good_and_bad_and_do_not_move_lines() -> None:
    paused = PRIMARY.but(conn=ConnState.PAUSED_SYNC_S, pdsk=DiskState.INCONSISTENT, user_isp=True)
    plain = status_text([node(volume(paused))])
    coloured = status_text([node(volume(paused))], colour=True)
    assert "role:\x1b[1;36mPrimary\x1b[0m\n" in coloured
    assert "disk:\x1b[1;32mUpToDate\x1b[0m\n" in coloured
    assert "peer-disk:\x1b[31mInconsistent\x1b[0m" in coloured
    for code in ("\x1b[1;36m", "\x1b[1;32m", "\x1b[31m", "\x1b[0m"):
        coloured = coloured.replace(code, "")
    assert coloured == plain
    assert "connection:\x1b[31mConnecting\x1b[0m" in status_text(
        [node(volume(WAITING))], colour=True
    )


def test_a_verify_shows_what_it_has_read() -> None:
    progress = ResyncStatus(
        total_kib=100,
        left_kib=40,
        percent_done=60.0,
        rate_kib_s=1,
        rate_average_kib_s=1,
        want_kib_s=0,
        seconds_left=None,
    )
    verifying = volume(CONNECTED.but(conn=ConnState.VERIFY_S), resync=progress)
    assert "replication:VerifyS peer-disk:UpToDate done:60.00\n" in status_text([node(verifying)])


def test_role_cstate_and_dstate_keep_the_old_words() -> None:
    assert role_line(WAITING) == "Primary/Unknown"
    assert cstate_line(WAITING) == "WFConnection"
    assert dstate_line(WAITING) == "UpToDate/DUnknown"
    gone = State(role=Role.PRIMARY)
    assert {role_line(gone), cstate_line(gone), dstate_line(gone)} == {"Unconfigured"}


def test_the_document_has_the_keys_monitoring_reads() -> None:
    progress = ResyncStatus(
        total_kib=32728,
        left_kib=16364,
        percent_done=50.0,
        rate_kib_s=2048,
        rate_average_kib_s=1024,
        want_kib_s=4096,
        seconds_left=None,
    )
    syncing = PRIMARY.but(conn=ConnState.SYNC_SOURCE, pdsk=DiskState.INCONSISTENT)
    document = status_json([node(volume(syncing, out_of_sync_kib=16364, resync=progress))])
    assert json.loads(json.dumps(document)) == document
    assert document["schema"] == 1
    (resource,) = document["resources"]
    assert resource["name"] == "left"
    assert resource["role"] == "Primary"
    assert resource["suspended"] is False
    assert resource["write-ordering"] == "flush"
    assert resource["devices"][0] == {
        "volume": 0,
        "minor": 0,
        "disk-state": "UpToDate",
        "client": False,
        "open": False,
        "quorum": True,
        "size": 32728,
        "read": 0,
        "written": 0,
        "al-writes": 0,
        "bm-writes": 0,
        "upper-pending": 0,
        "lower-pending": 0,
    }
    (connection,) = resource["connections"]
    assert (connection["name"], connection["connection-state"]) == ("bravo", "Connected")
    (peer_device,) = connection["peer_devices"]
    assert peer_device["replication-state"] == "SyncSource"
    assert peer_device["peer-disk-state"] == "Inconsistent"
    assert peer_device["has-sync-details"] is True
    assert peer_device["percent-in-sync"] == 50.0
    assert peer_device["db0/dt0 [MiB/s]"] == 2.0
    assert peer_device["estimated-seconds-to-finish"] == UNKNOWN_SECONDS
    assert peer_device["percent-resync-done"] == 50.0


def test_an_idle_or_lonely_node_says_less() -> None:
    (resource,) = status_json([node(volume(WAITING))])["resources"]
    (peer_device,) = resource["connections"][0]["peer_devices"]
    assert peer_device["replication-state"] == "Off"
    assert "percent-resync-done" not in peer_device
    assert status_json([node(has_net=False)])["resources"][0]["connections"] == []
    assert status_json([]) == {"schema": 1, "resources": []}
