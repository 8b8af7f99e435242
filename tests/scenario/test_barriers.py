"""A write is forgotten at the peer's P_BARRIER_ACK, never before: its extent, the role, the log."""

from __future__ import annotations

import pytest

from replblk.engine.write_origin import BARRIER_IDLE_NS
from replblk.model.vocabulary import Protocol
from tests.support.lab import BLOCK, EXTENT, Lab

DATA = b"not flushed by the peer yet....!" * 128


def unacknowledged(**options: object) -> Lab:
    """Protocol A, so writes are answered at once; beta's disk needs seconds for each."""
    lab = Lab(protocol=Protocol.A, settings={"durability": "kernel"}, **options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    return lab


def test_an_extent_stays_in_the_log_until_the_peer_has_its_writes_for_good() -> None:
    """Room for 67 extents and writes to 80: whatever was answered is hot, or marked, durably."""
    lab = unacknowledged(device_bytes=400 << 20, al_extents=67)
    for extent in range(67):
        lab.write("alpha", extent * EXTENT, DATA)
    lab.run_for(0.1)  # their barriers are acknowledged: all may go
    lab.hold("beta")
    doubtful = (0, 1, 2)
    writes = [lab.submit("alpha", "write", e * EXTENT, BLOCK, data=DATA) for e in doubtful]
    lab.run_for(0.01)
    assert all(write.done for write in writes)
    for extent in (*range(67, 80), *range(3, 67)):
        lab.submit("alpha", "write", extent * EXTENT, BLOCK, data=DATA)
    lab.run_for(0.3)
    assert any(lab.on_disk("beta", extent * EXTENT, BLOCK) != DATA for extent in (77, 78, 79))
    hot, bits = lab.durable_extents("alpha"), lab.durable_bits("alpha")
    for extent in doubtful:
        assert extent in hot or extent * 1024 in bits


def test_a_write_that_finds_the_log_full_does_not_wait_for_idle_barriers() -> None:
    """All seven extents are held by writes that are answered soon; no other carries a barrier."""
    lab = unacknowledged(device_bytes=64 << 20, al_extents=7)
    for extent in range(7):
        lab.write("alpha", extent * EXTENT, DATA)
    lab.run_for(0.1)
    for extent in range(7):
        lab.submit("alpha", "write", extent * EXTENT, BLOCK, data=DATA)
    cold = lab.submit("alpha", "write", 10 * EXTENT, BLOCK, data=DATA)
    lab.run_for(BARRIER_IDLE_NS / 2e9)
    assert cold.done


def test_a_write_that_only_the_peers_disk_has_is_answered_without_waiting_for_another() -> None:
    lab = unacknowledged()
    lab.fail("alpha", "data", "write")
    lab.write("alpha", 0, DATA)
    write = lab.submit("alpha", "write", BLOCK, BLOCK, data=DATA)
    lab.run_for(BARRIER_IDLE_NS / 2e9)
    assert write.done
    assert write.errno == 0


def test_a_demotion_waits_until_the_peer_has_everything_for_good() -> None:
    lab = unacknowledged()
    lab.write("alpha", 0, DATA)
    lab.run_for(0.1)
    lab.hold("beta")
    lab.write("alpha", BLOCK, DATA)
    waiting = lab.ask("alpha", "secondary")
    lab.run_for(0.5)
    assert not waiting.answers
    lab.release("beta")
    assert lab.answered(waiting).exit_code == 0
    for name in ("alpha", "beta"):
        assert lab.drive(name).store.read_durable(BLOCK, BLOCK) == DATA


@pytest.mark.parametrize("protocol", [Protocol.A, Protocol.B])
def test_the_peer_is_read_behind_what_it_has_not_written_yet(protocol: Protocol) -> None:
    """Acknowledged by our disk alone, then that failed: the peer got the write before the read."""
    lab = Lab(protocol=protocol, settings={"durability": "kernel"})
    lab.up()
    lab.primary("alpha")
    lab.hold("beta")
    for number in range(3):
        lab.write("alpha", 0, bytes([number]) * BLOCK)
    lab.fail("alpha", "data", "read")
    read = lab.submit("alpha", "read", 0, BLOCK)
    lab.run_for(0.01)
    lab.release("beta")
    assert bytes(lab.done(read).data) == bytes([2]) * BLOCK
