"""How fast a resync asks: the window alone, a share of the time beside an application."""

from __future__ import annotations

import pytest

from replblk.engine.resync_pace import PIECE_BYTES, SHARES, WINDOW_BYTES, Pace
from replblk.engine.volume import Volume
from replblk.model.config import DiskOptions, VolumeConfig

MS = 1_000_000
KIB = 1024


def volume(**options: int) -> Volume:
    disk = DiskOptions(**{"c_max_rate": 4 << 20, **options})  # type: ignore[arg-type]
    return Volume(VolumeConfig(number=0, minor=0, device="/dev/drbd0", disk="/no", options=disk))


def beside(it: Volume, pace: Pace, now_ns: int) -> int:
    """An application writes a MiB; how much may be asked for."""
    it.written_sectors += 2048
    return pace.room_bytes(0, now_ns)


def test_alone_a_window_is_asked_for() -> None:
    pace = Pace(volume(), 0.5, 0)
    assert pace.room_bytes(0, 0) == WINDOW_BYTES
    assert pace.room_bytes(WINDOW_BYTES - 1, 0) == 1
    assert pace.room_bytes(WINDOW_BYTES, 0) <= 0


def test_what_the_resync_itself_moves_is_no_application() -> None:
    it = volume()
    pace = Pace(it, 0.5, 0)
    for counter in ("written_sectors", "received_sectors", "read_sectors"):
        setattr(it, counter, 4096)
        pace.moved(2 << 20)
    assert pace.room_bytes(0, 1) == WINDOW_BYTES


def test_beside_an_application_one_piece_is_on_its_way() -> None:
    it = volume()
    pace = Pace(it, 0.5, 0)
    assert beside(it, pace, 1) == PIECE_BYTES
    assert pace.room_bytes(PIECE_BYTES, 2) == 0


@pytest.mark.parametrize("share", SHARES.values(), ids=SHARES)
def test_a_piece_is_followed_by_a_rest_that_leaves_the_application_its_share(share: float) -> None:
    it = volume()
    pace = Pace(it, share, 0)
    now = MS
    worked = 0
    for _ in range(100):
        assert beside(it, pace, now) == PIECE_BYTES
        pace.asked(PIECE_BYTES, now)
        now += 10 * MS
        worked += 10 * MS
        pace.settled(now)
        rest = beside(it, pace, now) or pace.rest_ns(now)
        now += rest
    assert worked / now == pytest.approx(share, rel=0.1)


def test_the_rest_ends_where_c_min_rate_would_be_missed() -> None:
    it = volume(c_min_rate=10240)
    pace = Pace(it, 0.01, 0)
    assert beside(it, pace, 1) == PIECE_BYTES
    pace.asked(PIECE_BYTES, 1)
    pace.settled(1 + 10 * MS)
    it.written_sectors += 2048
    assert pace.room_bytes(0, 1 + 10 * MS) == 0
    # 256 KiB at 10 MiB/s are 25 ms, of which the piece itself took ten.
    assert pace.rest_ns(1 + 10 * MS) == 15 * MS


def test_with_c_min_rate_0_the_resync_does_not_yield() -> None:
    it = volume(c_min_rate=0)
    assert beside(it, Pace(it, 0.05, 0), 1) == WINDOW_BYTES


def test_an_application_that_has_stopped_is_forgotten() -> None:
    it = volume()
    pace = Pace(it, 0.5, 0)
    assert beside(it, pace, 1) == PIECE_BYTES
    assert pace.room_bytes(0, 150 * MS) == PIECE_BYTES
    assert pace.room_bytes(0, 350 * MS) == WINDOW_BYTES


def test_a_write_now_and_then_does_not_slow_a_resync_down() -> None:
    it = volume()
    pace = Pace(it, 0.5, 0)
    for tick in range(20):
        it.written_sectors += 8
        assert pace.room_bytes(0, tick * 200 * MS) == WINDOW_BYTES


def test_a_window_that_drains_when_an_application_comes_is_not_followed_by_a_rest() -> None:
    it = volume()
    pace = Pace(it, 0.05, 0)
    assert pace.room_bytes(0, 1) == WINDOW_BYTES
    pace.asked(WINDOW_BYTES, 1)
    assert beside(it, pace, 2) == PIECE_BYTES
    pace.settled(900 * MS)
    assert beside(it, pace, 901 * MS) == PIECE_BYTES


def test_c_fill_target_is_the_window_where_it_was_chosen() -> None:
    assert Pace(volume(c_fill_target=2048), 0.5, 0).room_bytes(0, 0) == 1 << 20
    assert Pace(volume(c_fill_target=0), 0.5, 0).room_bytes(0, 0) == WINDOW_BYTES


def test_no_more_is_asked_for_than_the_rate_allows() -> None:
    pace = Pace(volume(c_max_rate=1000), 0.5, 0)
    pace.asked(100 * KIB, 0)
    assert pace.room_bytes(0, 1) == 0
    pace.tick()
    assert pace.room_bytes(0, 2) > 0
    slow = Pace(volume(c_plan_ahead=0, resync_rate=40), 0.5, 0)
    slow.asked(4096, 0)
    assert slow.room_bytes(0, 1) == 0
