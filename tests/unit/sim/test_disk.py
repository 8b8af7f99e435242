"""The simulated disk keeps its side of the port's contract and holds the node to the other."""

from __future__ import annotations

import errno

import pytest

from replblk.engine.ports import Disk, OpenFailed
from replblk.sim.disk import FOREVER, DriveFault
from replblk.sim.machine import Machine
from replblk.sim.options import Options
from replblk.sim.setup import build_pair
from replblk.sim.world import SECOND_NS, World
from tests.support.recorder_node import RecorderNode

BLOCK = b"b" * 4096


def _machine(seed: int = 1) -> Machine:
    machine = build_pair(World(seed), Options(seed=seed), RecorderNode).machines[0]
    machine.boot()
    return machine


def _opened(machine: Machine) -> tuple[Disk, RecorderNode]:
    node = machine.node
    assert isinstance(node, RecorderNode)
    disk = node.ports.disks.open(0)
    assert not isinstance(disk, OpenFailed)
    return disk, node


def test_operations_complete_in_any_order() -> None:
    orders = set()
    for seed in range(10):
        machine = _machine(seed)
        disk, node = _opened(machine)
        for op in range(1, 4):
            disk.write(op, op * 4096, BLOCK, durable=False)
        assert not node.events, "nothing is answered from inside the call"
        machine.world.run_for(SECOND_NS)
        done = node.of("disk_done")
        assert {(op, code) for op, code, _ in done} == {(1, 0), (2, 0), (3, 0)}
        orders.add(tuple(op for op, _, _ in done))
    assert len(orders) > 1


def test_a_durable_write_is_durable_when_it_is_answered() -> None:
    machine = _machine()
    disk, node = _opened(machine)
    disk.write(1, 0, BLOCK, durable=True)
    machine.world.run_until(lambda: bool(node.of("disk_done")), SECOND_NS)
    machine.power_off()
    assert machine.drives[0].store.read(0, 4096) == BLOCK


def test_a_read_returns_what_was_written_and_zeroes_where_zeroed() -> None:
    machine = _machine()
    disk, node = _opened(machine)
    disk.write(1, 0, BLOCK, durable=False)
    machine.world.run_for(SECOND_NS)
    disk.zero(2, 512, 512, unmap=True, durable=False)
    machine.world.run_for(SECOND_NS)
    disk.read(3, 0, 1536)
    machine.world.run_for(SECOND_NS)
    assert node.of("disk_done")[-1] == (3, 0, BLOCK[:512] + bytes(512) + BLOCK[:512])


@pytest.mark.parametrize("second", ["write", "read", "zero"])
def test_overlapping_operations_in_flight_break_the_contract(second: str) -> None:
    disk, _ = _opened(_machine())
    disk.write(1, 0, BLOCK, durable=False)
    submit = {
        "write": lambda: disk.write(2, 4096 - 512, BLOCK, durable=False),
        "read": lambda: disk.read(2, 512, 512),
        "zero": lambda: disk.zero(2, 0, 512, unmap=False, durable=False),
    }[second]
    with pytest.raises(AssertionError, match="overlaps write #1"):
        submit()


def test_two_reads_may_overlap() -> None:
    machine = _machine()
    disk, node = _opened(machine)
    disk.read(1, 0, 4096)
    disk.read(2, 0, 4096)
    machine.world.run_for(SECOND_NS)
    assert len(node.of("disk_done")) == 2


def test_numbers_used_twice_unaligned_and_far_offsets_break_the_contract() -> None:
    disk, _ = _opened(_machine())
    disk.read(5, 0, 512)
    with pytest.raises(AssertionError, match="used before"):
        disk.read(5, 8192, 512)
    with pytest.raises(AssertionError, match="unaligned"):
        disk.read(6, 100, 512)
    with pytest.raises(AssertionError, match="beyond the end"):
        disk.read(7, disk.size_bytes, 512)


def test_closing_with_something_in_flight_breaks_the_contract() -> None:
    machine = _machine()
    disk, _ = _opened(machine)
    disk.flush(1)
    with pytest.raises(AssertionError, match="in flight"):
        disk.close()
    machine.world.run_for(SECOND_NS)
    disk.close()
    _opened(machine)


def test_errors_strike_the_zone_and_kind_they_are_meant_for() -> None:
    machine = _machine()
    disk, node = _opened(machine)
    layout = machine.drives[0].layout
    machine.drives[0].faults.append(DriveFault("al", "write", left=FOREVER))
    disk.write(1, 0, BLOCK, durable=False)
    disk.write(2, layout.al_offset_bytes, BLOCK, durable=True)
    disk.read(3, layout.al_offset_bytes + 4096, 512)
    machine.world.run_for(SECOND_NS)
    assert {op: code for op, code, _ in node.of("disk_done")} == {1: 0, 2: errno.EIO, 3: 0}
    assert machine.drives[0].struck == 1


def test_a_failing_flush_fails_durable_writes_too_and_only_once_if_so_drawn() -> None:
    machine = _machine()
    disk, node = _opened(machine)
    machine.drives[0].faults.append(DriveFault("any", "flush"))
    disk.write(1, 0, BLOCK, durable=True)
    machine.world.run_for(SECOND_NS)
    disk.flush(2)
    machine.world.run_for(SECOND_NS)
    assert [(op, code) for op, code, _ in node.of("disk_done")] == [(1, errno.EIO), (2, 0)]


def test_a_stopped_process_hears_of_completions_when_it_goes_on() -> None:
    machine = _machine()
    disk, node = _opened(machine)
    disk.read(1, 0, 512)
    machine.pause()
    machine.world.run_for(SECOND_NS)
    assert not node.events
    machine.resume()
    machine.world.run_for(SECOND_NS)
    assert node.of("disk_done") == [(1, 0, bytes(512))]
    assert node.steps
