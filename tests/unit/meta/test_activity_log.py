"""The cache of hot extents: what it asks to be written, in which order."""

from __future__ import annotations

import pytest

from replblk.meta.activity_log import ActivityLog, Change, clamp_extents
from replblk.meta.al_transaction import FREE, Transaction, replay


def touch(log: ActivityLog, extent: int) -> Change | None:
    """One write into the extent, finished at once; the transaction it needed."""
    change = None
    if not log.get(extent):
        change = log.prepare([extent])
        assert change is not None
        log.commit(change)
        assert log.get(extent)
    log.put(extent)
    return change


def filled(slots: int) -> ActivityLog:
    """All slots taken, extents 0.. in the order of their use."""
    log = ActivityLog(slots)
    for extent in range(slots):
        touch(log, extent)
    return log


def test_transactions_are_those_of_a_kernel_node() -> None:
    """al-extents 67, writes into 0 1 2 3 40 41 42 100 127 5 0 126 on a new device."""
    log = ActivityLog(67)
    log.initial_blocks(8)
    writes = (0, 1, 2, 3, 40, 41, 42, 100, 127, 5, 0, 126)
    done = [change.transaction for extent in writes if (change := touch(log, extent))]
    assert [(t.number, *t.updates) for t in done] == [
        (8, (66, 0)),
        (9, (65, 1)),
        (10, (64, 2)),
        (11, (63, 3)),
        (12, (62, 40)),
        (13, (61, 41)),
        (14, (60, 42)),
        (15, (59, 100)),
        (16, (58, 127)),
        (17, (57, 5)),
        (18, (56, 126)),
    ]
    assert done[3].context == (FREE,) * 64 + (2, 1, 0)
    assert done[10].context == (FREE,) * 57 + (5, 127, 100, 42, 41, 40, 3, 2, 1, 0)
    assert log.writes == 11


def test_a_cold_extent_is_hot_only_after_its_transaction_is_durable() -> None:
    log = ActivityLog(67)
    assert not log.get(5)
    change = log.prepare([5])
    assert change is not None
    assert not log.is_hot(5)
    assert not log.get(5)
    log.commit(change)
    assert log.is_hot(5)
    assert log.get(5)


def test_the_least_recently_used_extent_makes_room_and_is_cold_at_once() -> None:
    log = filled(67)
    touch(log, 0)
    change = log.prepare([100])
    assert change is not None
    assert change.evicted == (1,)
    assert change.transaction.updates == ((65, 100),)
    assert not log.get(1)
    assert log.get(0)


def test_context_is_the_cache_before_the_transaction() -> None:
    log = filled(67)
    change = log.prepare([100])
    assert change is not None
    assert change.transaction.context[66] == 0
    assert 100 not in change.transaction.context


def test_held_extents_are_never_evicted() -> None:
    log = filled(67)
    for extent in range(67):
        assert log.get(extent)
    assert log.prepare([100]) is None
    log.put(30)
    change = log.prepare([100, 101])
    assert change is not None
    assert (change.evicted, change.taken) == ((30,), (100,))


def test_an_extent_is_held_until_the_last_put() -> None:
    log = filled(67)
    assert log.get(0)
    assert log.get(0)
    log.put(0)
    assert log.held == 1
    change = log.prepare([100])
    assert change is not None
    assert change.evicted == (1,)


def test_at_most_64_extents_share_a_transaction() -> None:
    log = ActivityLog(1237)
    change = log.prepare(range(100))
    assert change is not None
    assert change.taken == tuple(range(64))


def test_hot_and_repeated_extents_need_nothing() -> None:
    log = filled(67)
    assert log.prepare([3, 4]) is None
    change = log.prepare([3, 100, 100])
    assert change is not None
    assert change.taken == (100,)


def test_what_a_waiting_request_already_has_is_not_evicted_for_its_other_half() -> None:
    log = filled(67)
    change = log.prepare([67, 0])
    assert change is not None
    assert change.evicted == (1,)


def test_requests_that_each_have_half_of_what_they_need_do_not_wait_for_ever() -> None:
    """All idle extents are asked for and none is held: the least urgent request gives way."""
    log = filled(67)
    wanted = [1000, *range(67)]
    change = log.prepare(wanted)
    assert change is not None
    assert (change.evicted, change.taken) == ((66,), (1000,))
    log.commit(change)
    assert log.get(1000)
    assert log.get(0)
    assert log.prepare([1001, *range(66)]) is None  # 1000 is held: wait for its put


def test_only_one_change_at_a_time() -> None:
    log = ActivityLog(67)
    change = log.prepare([1])
    with pytest.raises(AssertionError, match="not committed"):
        log.prepare([2])
    assert change is not None
    log.commit(change)
    with pytest.raises(AssertionError, match="only the prepared"):
        log.commit(change)


def test_cursor_shows_every_slot_in_turn() -> None:
    log = ActivityLog(2000)
    starts = []
    for extent in range(7):
        change = touch(log, extent)
        assert change is not None
        starts.append(change.transaction.context_start)
    assert starts == [0, 919, 1838, 0, 919, 1838, 0]


def test_new_ring_numbers_its_blocks_from_zero_and_tells_what_is_hot() -> None:
    log = ActivityLog(67)
    blocks = log.initial_blocks(8)
    assert [Transaction.decode(block).number for block in blocks] == list(range(8))
    assert (replay(blocks).extents, log.next_number) == ([], 8)
    for extent in (4, 5, 6):
        touch(log, extent)
    moved = log.initial_blocks(16)
    assert replay(moved).extents == [4, 5, 6]
    assert Transaction.decode(moved[11]).number == 11
    assert Transaction.decode(moved[0]).number == 16


def test_a_big_cache_is_told_by_a_new_ring_of_the_least_size() -> None:
    log = ActivityLog(6433)
    for first in range(0, 6400, 64):
        change = log.prepare(range(first, first + 64))
        assert change is not None
        log.commit(change)
    assert replay(log.initial_blocks(8)).extents == list(range(6400))


def test_after_clear_all_begins_anew() -> None:
    log = filled(67)
    log.clear()
    assert log.hot_extents() == []
    change = touch(log, 9)
    assert change is not None
    assert (change.transaction.number, change.transaction.updates) == (0, ((66, 9),))


@pytest.mark.parametrize(
    ("configured", "al_blocks", "used"),
    [
        (5, 8, 5),
        (0, 8, 1),
        (100000, 8, 6433),
        (1237, 8, 1237),
        (100000, 72, 65249),
        (100000, 73, 65534),
    ],
)
def test_al_extents_are_clamped_as_a_node_clamps_them(
    configured: int, al_blocks: int, used: int
) -> None:
    assert clamp_extents(configured, al_blocks) == used
