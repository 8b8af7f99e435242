"""When a write counts: both disks durable, the activity log first, flushes for everything."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState
from tests.support.lab import BLOCK, EXTENT, Lab

DATA = b"0123456789abcdef" * 256


def ready(**options: object) -> Lab:
    lab = Lab(**options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    return lab


@pytest.mark.parametrize("held", ["alpha", "beta"])
def test_no_ack_while_either_disk_is_held(held: str) -> None:
    lab = ready()
    lab.write("alpha", 0, DATA)  # the extent is hot from here on
    lab.hold(held)
    request = lab.submit("alpha", "write", BLOCK, BLOCK, data=DATA)
    lab.run_for(0.9)
    assert not request.done
    lab.done(request)
    assert request.errno == 0
    for name in ("alpha", "beta"):
        assert lab.drive(name).store.read_durable(BLOCK, BLOCK) == DATA


def test_a_cold_extent_is_in_the_log_durably_before_any_data_is_submitted_anywhere() -> None:
    lab = ready(device_bytes=16 << 20)
    seen: list[set[int]] = []

    def submitted(zone: str, kind: str) -> None:
        if zone == "data" and kind == "write":
            seen.append(lab.durable_extents("alpha"))

    for name in ("alpha", "beta"):
        lab.drive(name).on_submit = submitted
    for extent in (1, 2):
        lab.write("alpha", extent * EXTENT, DATA)
    assert len(seen) == 4  # two writes on two nodes
    assert all(1 in extents for extents in seen[:2])
    assert all(2 in extents for extents in seen[2:])


def test_the_log_is_written_once_for_many_writes_of_one_step() -> None:
    lab = ready(device_bytes=16 << 20)
    logged: list[str] = []
    lab.drive("alpha").on_submit = lambda zone, kind: logged.append(zone) if zone == "al" else None
    requests = [
        lab.submit("alpha", "write", at * EXTENT + n * BLOCK, BLOCK, data=DATA)
        for at in range(3)
        for n in range(5)
    ]
    for request in requests:
        lab.done(request)
    assert len(logged) == 1


def test_a_hot_extent_needs_no_log_write() -> None:
    lab = ready()
    lab.write("alpha", 0, DATA)
    zones: list[str] = []
    lab.drive("alpha").on_submit = lambda zone, kind: zones.append(zone)
    for number in range(10):
        lab.write("alpha", number * BLOCK, DATA)
    assert set(zones) == {"data"}


def test_bits_of_an_evicted_extent_are_durable_before_the_log_forgets_it() -> None:
    """Alone, with room for 67 extents: what leaves the log is marked by the bitmap instead."""
    lab = ready(device_bytes=400 << 20, al_extents=67)
    lab["beta"].kill()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    lab.run_for(0.1)
    checked = []

    def submitted(zone: str, kind: str) -> None:
        """At every moment each block written so far is covered: bit or hot extent, durably."""
        bits, hot = lab.durable_bits("alpha"), lab.durable_extents("alpha")
        for extent in written:
            assert extent in hot or extent * 1024 in bits, (extent, hot)
        checked.append(zone)

    written: list[int] = []
    lab.drive("alpha").on_submit = submitted
    for extent in [*range(80), *range(3)]:
        lab.write("alpha", extent * EXTENT, DATA)
        written.append(extent)
    assert "bitmap" in checked
    assert "al" in checked


@pytest.mark.parametrize("held", ["alpha", "beta"])
def test_flush_waits_for_both_nodes(held: str) -> None:
    lab = ready(settings={"durability": "kernel"})
    lab.write("alpha", 0, DATA)
    lab.hold(held)
    request = lab.submit("alpha", "flush", 0)
    lab.run_for(0.9)
    assert not request.done
    lab.done(request)
    assert request.errno == 0
    for name in ("alpha", "beta"):
        assert lab.drive(name).store.read_durable(0, BLOCK) == DATA


def test_with_durability_kernel_only_a_flush_makes_durable() -> None:
    lab = ready(settings={"durability": "kernel"})
    lab.write("alpha", 0, DATA)
    assert lab.drive("alpha").store.read_durable(0, BLOCK) == bytes(BLOCK)
    lab.flush("alpha")
    for name in ("alpha", "beta"):
        assert lab.drive(name).store.read_durable(0, BLOCK) == DATA


def test_fua_is_durable_on_both_though_other_writes_are_not() -> None:
    lab = ready(settings={"durability": "kernel"})
    lab.write("alpha", 8 * BLOCK, DATA, fua=True)
    for name in ("alpha", "beta"):
        assert lab.drive(name).store.read_durable(8 * BLOCK, BLOCK) == DATA


@pytest.mark.parametrize("kind", ["zero", "trim"])
def test_zeroes_and_trims_read_as_zeroes_on_both(kind: str) -> None:
    lab = ready()
    lab.write("alpha", 0, DATA * 4)
    request = lab.done(lab.submit("alpha", kind, BLOCK, 2 * BLOCK))
    assert request.errno == 0
    assert lab.on_disk("alpha", 0, 4 * BLOCK) == DATA + bytes(2 * BLOCK) + DATA
    lab.run_for(0.1)
    assert lab.differing_blocks() == []


def test_overlapping_writes_end_equal_on_both_in_the_order_of_submission() -> None:
    lab = ready()
    lab.write("alpha", 0, bytes(BLOCK))
    requests = []
    for number in range(40):
        at = (number % 5) * 512
        requests.append(lab.submit("alpha", "write", at, 2048, data=bytes([number + 1]) * 2048))
    for request in requests:
        assert lab.done(request).errno == 0
    assert lab.differing_blocks() == []
    want = bytearray(BLOCK)
    for number in range(40):
        at = (number % 5) * 512
        want[at : at + 2048] = bytes([number + 1]) * 2048
    assert lab.on_disk("beta", 0, BLOCK) == bytes(want)


def test_a_write_across_two_extents_makes_both_hot() -> None:
    lab = ready(device_bytes=16 << 20)
    lab.write("alpha", EXTENT - BLOCK, DATA * 2)
    assert {0, 1} <= lab.durable_extents("alpha")
    assert lab.differing_blocks() == []


def test_the_last_partial_block_of_an_odd_device_is_replicated() -> None:
    lab = Lab(sizes={"alpha": (1 << 20) + 512 * 3, "beta": (1 << 20) + 512 * 3}, fresh=True)
    lab.up()
    lab.primary("alpha", force=True)
    lab.in_sync()
    node = lab.alpha.node
    assert node is not None
    end = node.size_bytes(0)
    lab.write("alpha", end - 512, b"z" * 512)
    assert lab.on_disk("beta", end - 512, 512) == b"z" * 512
