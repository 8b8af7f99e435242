"""The text of /proc/drbd, held against captures of the kernel's."""

from __future__ import annotations

import pytest

from replblk.admin.proc_text import HEADER, permille_done, proc_text
from replblk.model.state import State
from replblk.model.status import ResyncStatus
from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.status_builders import CONNECTED, node, volume

SYNC_SOURCE = CONNECTED.but(
    role=Role.PRIMARY, conn=ConnState.SYNC_SOURCE, pdsk=DiskState.INCONSISTENT
)


def resync(**more: object) -> ResyncStatus:
    values: dict[str, object] = {
        "total_kib": 32728,
        "left_kib": 31480,
        "percent_done": 3.8,
        "rate_kib_s": 1248,
        "rate_average_kib_s": 1248,
        "want_kib_s": 102400,
        "seconds_left": 19,
    }
    return ResyncStatus(**(values | more))  # type: ignore[arg-type]


def body(text: str) -> str:
    assert text.startswith(HEADER)
    return text.removeprefix(HEADER)


def test_the_first_line_keeps_the_layout_scripts_take_apart() -> None:
    first, second = HEADER.splitlines()
    assert first == "version: 8.4.11 (api:1/proto:86-101)"
    assert second.startswith("build: replblk ")


def test_a_sync_source_looks_as_the_kernel_shows_it() -> None:
    syncing = volume(
        SYNC_SOURCE,
        sent_kib=1248,
        read_kib=1248,
        al_writes=8,
        out_of_sync_kib=31480,
        resync=resync(),
    )
    assert body(proc_text([node(syncing)])) == (
        " 0: cs:SyncSource ro:Primary/Secondary ds:UpToDate/Inconsistent C r-----\n"
        "    ns:1248 nr:0 dw:0 dr:1248 al:8 bm:0 lo:0 pe:0 ua:0 ap:0 ep:1 wo:f oos:31480\n"
        "\t[=>..................] sync'ed: 12.5% (31480/32728)K\n"
        "\tfinish: 0:00:19 speed: 1,248 (1,248) K/sec\n"
    )


def test_a_target_shows_its_aim_and_a_stall() -> None:
    state = SYNC_SOURCE.but(conn=ConnState.SYNC_TARGET)
    stuck = resync(seconds_left=7384, stalled=True)
    assert body(proc_text([node(volume(state, resync=stuck))])).endswith(
        "\tfinish: 2:03:04 speed: 1,248 (1,248) want: 102,400 K/sec (stalled)\n"
    )


def test_a_verify_is_verified_not_synced() -> None:
    state = CONNECTED.but(conn=ConnState.VERIFY_S)
    text = body(proc_text([node(volume(state, resync=resync(seconds_left=None)))]))
    assert "] verified: 12.5% (31480/32728)K\n" in text
    assert "\tfinish: ?:??:?? speed: 1,248 (1,248) want: 102,400 K/sec\n" in text


def test_a_paused_resync_shows_no_progress() -> None:
    state = SYNC_SOURCE.but(conn=ConnState.PAUSED_SYNC_S, user_isp=True)
    text = body(proc_text([node(volume(state, resync=resync()))]))
    assert text.count("\n") == 2
    assert " C r--u--\n" in text


@pytest.mark.parametrize(
    ("left", "total", "bar", "percent"),
    [
        (32728, 32728, ">....................", " 12.5"),
        (4 << 20, 4 << 20, ">....................", "  0.1"),
        (2 << 20, 4 << 20, "=========>..........", " 50.1"),
        (0, 4 << 20, "===================>", "100.0"),
    ],
)
def test_the_bar_moves_in_twenty_steps(left: int, total: int, bar: str, percent: str) -> None:
    text = proc_text([node(volume(SYNC_SOURCE, resync=resync(left_kib=left, total_kib=total)))])
    line = next(line for line in text.splitlines() if "sync'ed" in line)
    if total > 32728:
        assert line.startswith(f"\t[{bar}] sync'ed:{percent}% (")
    assert permille_done(left, total) == round(float(percent) * 10)


def test_above_4_gib_sizes_are_in_mib() -> None:
    big = resync(left_kib=(5 << 20) + 1023, total_kib=8 << 20)
    assert "% (5120/8192)M\n" in proc_text([node(volume(SYNC_SOURCE, resync=big))])
    just = resync(left_kib=4 << 20, total_kib=4 << 20)
    assert "% (4194304/4194304)K\n" in proc_text([node(volume(SYNC_SOURCE, resync=just))])


def test_huge_devices_count_in_coarser_steps() -> None:
    assert permille_done(1 << 34, 1 << 35) == 501
    assert permille_done(0, 1 << 50) == 1000


def test_gaps_between_minors_are_empty_lines_and_minors_ascend() -> None:
    empty = State()
    nodes = [
        node(volume(empty, minor=12), volume(empty, minor=3)),
        node(volume(empty, minor=1), volume(empty, minor=2), resource="other"),
    ]
    assert body(proc_text(nodes)) == (
        "\n 1: cs:Unconfigured\n 2: cs:Unconfigured\n 3: cs:Unconfigured\n\n12: cs:Unconfigured\n"
    )
    assert body(proc_text([node(volume(empty))])) == " 0: cs:Unconfigured\n"
    assert body(proc_text([])) == ""


def test_without_a_net_config_the_protocol_is_blank() -> None:
    state = State(disk=DiskState.UP_TO_DATE)
    text = body(proc_text([node(volume(state), protocol="", has_net=False)]))
    assert text.startswith(" 0: cs:StandAlone ro:Secondary/Unknown ds:UpToDate/DUnknown   r-----\n")


def test_a_diskless_primary_is_not_unconfigured() -> None:
    text = body(proc_text([node(volume(State(role=Role.PRIMARY)))]))
    assert text.startswith(" 0: cs:StandAlone ro:Primary/Unknown ds:Diskless/DUnknown C r-----\n")


@pytest.mark.parametrize(
    ("changes", "al_suspended", "congested", "flags"),
    [
        ({}, False, False, "r-----"),
        ({"susp": True}, False, False, "s-----"),
        ({"susp_nod": True}, False, False, "s-----"),
        ({"susp_fen": True}, False, True, "s-----"),
        ({"aftr_isp": True}, False, False, "ra----"),
        ({"peer_isp": True}, False, False, "r-p---"),
        ({"user_isp": True}, False, False, "r--u--"),
        ({}, False, True, "r---n-"),
        ({}, True, False, "r----s"),
    ],
)
def test_the_six_flags(
    changes: dict[str, bool], al_suspended: bool, congested: bool, flags: str
) -> None:
    one = volume(CONNECTED.but(**changes), al_suspended=al_suspended)
    assert f" C {flags}\n" in proc_text([node(one, congested=congested)])
