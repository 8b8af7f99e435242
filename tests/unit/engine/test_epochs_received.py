"""The receiver's epochs: a barrier is acknowledged when all before it is done and durable."""

from __future__ import annotations

from replblk.engine.epochs_received import EpochsReceived, ReceivedEpoch


class Bench:
    """Notes what the epochs ask for."""

    def __init__(self, *, at_once: bool = True) -> None:
        self.acks: list[tuple[bytes, int]] = []
        self.ready: list[ReceivedEpoch] = []
        self.at_once = at_once
        self.epochs = EpochsReceived(self._make_durable, lambda b, n: self.acks.append((b, n)))

    def _make_durable(self, epoch: ReceivedEpoch) -> bool:
        self.ready.append(epoch)
        return self.at_once


def test_acknowledged_once_all_writes_are_done() -> None:
    bench = Bench()
    one, two = bench.epochs.write_received(), bench.epochs.write_received()
    assert one is two
    assert bench.epochs.barrier(b"aaaa")
    bench.epochs.write_done(one)
    assert bench.acks == []
    bench.epochs.write_done(two)
    assert bench.acks == [(b"aaaa", 2)]


def test_a_barrier_after_the_writes_are_done_is_acknowledged_at_once() -> None:
    bench = Bench()
    bench.epochs.write_done(bench.epochs.write_received())
    assert bench.acks == []
    assert bench.epochs.barrier(b"aaaa")
    assert bench.acks == [(b"aaaa", 1)]


def test_an_empty_epoch_is_refused() -> None:
    bench = Bench()
    assert not bench.epochs.barrier(b"aaaa")
    bench.epochs.write_received()
    assert bench.epochs.barrier(b"aaaa")
    assert not bench.epochs.barrier(b"bbbb")


def test_a_later_epoch_that_is_done_first_waits_for_the_earlier_one() -> None:
    bench = Bench()
    slow = bench.epochs.write_received()
    bench.epochs.barrier(b"aaaa")
    quick = bench.epochs.write_received()
    bench.epochs.barrier(b"bbbb")
    bench.epochs.write_done(quick)
    assert bench.acks == []
    assert not bench.epochs.is_oldest(quick)
    bench.epochs.write_done(slow)
    assert bench.acks == [(b"aaaa", 1), (b"bbbb", 1)]


def test_one_flush_at_a_time_and_no_acknowledgement_before_it() -> None:
    bench = Bench(at_once=False)
    for barrier in (b"aaaa", b"bbbb"):
        epoch = bench.epochs.write_received()
        bench.epochs.barrier(barrier)
        bench.epochs.write_done(epoch)
    assert len(bench.ready) == 1
    assert bench.acks == []
    bench.epochs.flushed(bench.ready[0])
    assert bench.acks == [(b"aaaa", 1)]
    assert len(bench.ready) == 2
    bench.epochs.flushed(bench.ready[1])
    assert bench.acks == [(b"aaaa", 1), (b"bbbb", 1)]
    assert len(bench.epochs) == 1
