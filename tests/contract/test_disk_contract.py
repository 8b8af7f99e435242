"""What a node may rely on of a Disk, in whichever world."""

from __future__ import annotations

import pytest

from replblk.engine.ports import Disk, OpenFailed
from tests.contract.conftest import DISK_BYTES
from tests.contract.rigs import DiskRig

MIB = 1 << 20


def opened(rig: DiskRig) -> Disk:
    disk = rig.open()
    assert not isinstance(disk, OpenFailed), disk
    return disk


def answered(rig: DiskRig, *ops: int) -> list[tuple[int, bytes | None]]:
    rig.run_until(lambda: all(op in rig.recorder.disk for op in ops))
    return [rig.recorder.disk[op] for op in ops]


def test_a_new_device_has_its_size_and_reads_as_zeroes(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    assert disk.size_bytes == DISK_BYTES
    disk.read(1, 0, 4096)
    assert answered(disk_rig, 1) == [(0, bytes(4096))]
    disk.close()


@pytest.mark.parametrize("durable", [False, True])
def test_what_was_written_is_read_back(disk_rig: DiskRig, durable: bool) -> None:
    disk = opened(disk_rig)
    disk.write(1, 8192, b"a" * 4096, durable=durable)
    disk.write(2, 512, b"b" * 512, durable=durable)
    assert answered(disk_rig, 1, 2) == [(0, None), (0, None)]
    disk.read(3, 0, 16384)
    expected = bytes(512) + b"b" * 512 + bytes(7168) + b"a" * 4096 + bytes(4096)
    assert answered(disk_rig, 3) == [(0, expected)]
    disk.close()


def test_nothing_is_answered_from_inside_the_call(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    disk.write(1, 0, b"x" * 512, durable=True)
    disk.read(2, 4096, 512)
    disk.flush(3)
    assert disk_rig.recorder.disk == {}
    answered(disk_rig, 1, 2, 3)
    disk.close()


def test_a_thousand_scattered_writes_of_one_step_all_land(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    for op in range(1, 1001):
        disk.write(op, op * 8192, op.to_bytes(2, "big") * 256, durable=True)
    assert {errno for errno, _ in answered(disk_rig, *range(1, 1001))} == {0}
    for op in range(1, 1001):
        disk.read(1000 + op, op * 8192, 512)
    found = answered(disk_rig, *range(1001, 2001))
    assert [data for _, data in found] == [op.to_bytes(2, "big") * 256 for op in range(1, 1001)]
    disk.close()


def test_neighbouring_writes_of_one_step_keep_their_places(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    for op in range(1, 65):
        disk.write(op, (64 - op) * 4096, bytes([op]) * 4096, durable=True)
    answered(disk_rig, *range(1, 65))
    disk.read(100, 0, 64 * 4096)
    expected = b"".join(bytes([64 - block]) * 4096 for block in range(64))
    assert answered(disk_rig, 100) == [(0, expected)]
    disk.close()


@pytest.mark.parametrize("unmap", [False, True])
def test_a_zeroed_range_reads_as_zeroes_and_its_neighbours_stay(
    disk_rig: DiskRig, unmap: bool
) -> None:
    disk = opened(disk_rig)
    disk.write(1, 0, b"z" * (3 * MIB), durable=False)
    answered(disk_rig, 1)
    disk.zero(2, MIB - 512, MIB + 1024, unmap=unmap, durable=True)
    answered(disk_rig, 2)
    disk.read(3, 0, 3 * MIB)
    [(errno, data)] = answered(disk_rig, 3)
    assert errno == 0
    assert data == b"z" * (MIB - 512) + bytes(MIB + 1024) + b"z" * (MIB - 512)
    disk.close()


def test_the_last_sector_can_be_written_and_read(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    disk.write(1, DISK_BYTES - 512, b"e" * 512, durable=True)
    answered(disk_rig, 1)
    disk.read(2, DISK_BYTES - 512, 512)
    assert answered(disk_rig, 2) == [(0, b"e" * 512)]
    disk.close()


def test_a_flush_is_answered_like_any_operation(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    disk.write(1, 0, b"f" * 512, durable=False)
    answered(disk_rig, 1)
    disk.flush(2)
    assert answered(disk_rig, 2) == [(0, None)]
    disk.close()


def test_a_closed_device_can_be_opened_again_with_its_content(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    disk.write(1, 4096, b"k" * 4096, durable=True)
    answered(disk_rig, 1)
    disk.close()
    again = opened(disk_rig)
    again.read(2, 4096, 4096)
    assert answered(disk_rig, 2) == [(0, b"k" * 4096)]
    again.close()


def test_closing_with_something_in_flight_is_a_bug_of_the_node(disk_rig: DiskRig) -> None:
    disk = opened(disk_rig)
    disk.write(1, 0, b"x" * 512, durable=True)
    with pytest.raises(AssertionError):
        disk.close()
    answered(disk_rig, 1)
    disk.close()


@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 100), (DISK_BYTES, 512), (-512, 512)])
def test_a_range_that_is_odd_or_outside_is_a_bug_of_the_node(
    disk_rig: DiskRig, offset: int, length: int
) -> None:
    disk = opened(disk_rig)
    with pytest.raises(AssertionError):
        disk.read(1, offset, length)
    disk.close()
