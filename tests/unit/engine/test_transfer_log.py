"""The sender's epochs: what a barrier acknowledgement may name, and what a loss leaves."""

from __future__ import annotations

from typing import Any

import pytest

from replblk.engine.transfer_log import Epoch, TransferLog
from replblk.model.errors import PeerError


class Write:
    """As much of a write as the log looks at."""

    def __init__(self, sent_ns: int = 0) -> None:
        self.epoch: Any = None
        self.sent_ns = sent_ns


def log_with(*sizes: int) -> tuple[TransferLog, list[list[Any]]]:
    """Epochs of those sizes, all closed but the last."""
    log, epochs = TransferLog(), []
    for number, size in enumerate(sizes):
        if number:
            log.close()
        writes: list[Any] = [Write() for _ in range(size)]
        for write in writes:
            log.add(write)
        epochs.append(writes)
    return log, epochs


def test_an_empty_epoch_is_never_closed_and_has_no_barrier() -> None:
    log = TransferLog()
    log.close()
    log.close()
    assert log.due_barriers() == []
    assert len(log) == 0


def test_each_barrier_is_due_once_in_order() -> None:
    log, _ = log_with(2, 1, 3)
    due = log.due_barriers()
    assert [epoch.count for epoch in due] == [2, 1]
    assert log.due_barriers() == []
    log.close()
    assert [epoch.count for epoch in log.due_barriers()] == [3]


def test_only_the_oldest_epoch_with_its_exact_size_is_acknowledged() -> None:
    log, (first, second, _) = log_with(2, 1, 1)
    with pytest.raises(PeerError, match="expected none"):
        log.named_by(bytes(4), 2)
    one, two = log.due_barriers()
    with pytest.raises(PeerError, match="expected #"):
        log.named_by(two.barrier, 1)
    with pytest.raises(PeerError, match="n_writes=3"):
        log.named_by(one.barrier, 3)
    assert log.writes()[:2] == first  # nothing of that took anything out of the log
    log.drop(log.named_by(one.barrier, 2))
    assert not log.holds(one)
    log.drop(log.named_by(two.barrier, 1))
    assert log.writes()[0] not in second


def test_a_write_in_several_packets_counts_as_many() -> None:
    log = TransferLog()
    write: Any = Write()
    log.add(write, packets=4)
    log.close()
    (epoch,) = log.due_barriers()
    assert (epoch.count, len(epoch.writes)) == (4, 1)


def test_what_is_not_acknowledged_is_lost_with_the_connection_oldest_first() -> None:
    log, (first, second, third) = log_with(2, 1, 3)
    one, _ = log.due_barriers()
    log.drop(log.named_by(one.barrier, 2))
    assert log.lost() == second + third
    assert log.writes() == []
    assert len(log) == 0
    assert first[0] not in log.writes()


def test_the_newest_closed_epoch_is_what_a_flush_waits_for() -> None:
    log, _ = log_with(2)
    assert log.newest() is None
    log.close()
    newest = log.newest()
    assert newest is not None
    assert newest.count == 2
    assert log.holds(newest)


def test_the_oldest_write_tells_how_long_the_peer_has_been_owing() -> None:
    log = TransferLog()
    assert log.oldest_ns() is None
    for at in (5, 6):
        write: Any = Write(at)
        log.add(write)
        log.close()
    assert log.oldest_ns() == 5


def test_barrier_numbers_wrap() -> None:
    log = TransferLog()
    log._number = 0xFFFFFFFF
    log.current = Epoch(log._number)
    for _ in range(2):
        write: Any = Write()
        log.add(write)
        log.close()
    assert [epoch.barrier for epoch in log.due_barriers()] == [b"\xff" * 4, bytes(4)]
