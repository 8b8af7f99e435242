"""The binding of io_uring against the kernel it runs on."""

from __future__ import annotations

import errno
import inspect
import os
import re
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from replblk.shell import disk_ring, uring
from replblk.shell.buffers import (
    ALIGN_BYTES,
    KEPT_BYTES_MAX,
    Pool,
    address_of,
    aligned_bytes,
    aligned_payload,
)
from replblk.shell.uring import RWF_DSYNC, Ring
from tests.interop.kernel.volatile_cache import VolatileRing


@pytest.fixture
def ring() -> Iterator[Ring]:
    try:
        made = Ring(8)
    except OSError as refused:
        pytest.skip(f"no io_uring here: {refused}")
    yield made
    made.close()


def finished(ring: Ring, count: int) -> dict[int, int]:
    assert ring.submit()
    found: dict[int, int] = {}
    while len(found) < count:
        readable, _, _ = select.select([ring.fileno()], [], [], 10)
        assert readable, "nothing completed in ten seconds"
        found.update(ring.completions())
    return found


def test_writes_flushes_and_reads_have_the_results_of_the_system_calls(
    ring: Ring, tmp_path: Path
) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(8192))
    fd = os.open(path, os.O_RDWR)
    pool = Pool()
    slot = pool.take(4096)
    slot.view[:] = b"w" * 4096
    ring.write(1, fd, 4096, slot.address, 4096)
    ring.write(2, fd, 0, slot.address, 512, RWF_DSYNC)
    assert finished(ring, 2) == {1: 4096, 2: 512}
    ring.fdatasync(3, fd)
    view, address = aligned_bytes(8192)
    ring.read(4, fd, 4096, address, 8192)
    assert finished(ring, 2) == {3: 0, 4: 4096}
    assert bytes(view[:4096]) == b"w" * 4096
    ring.fallocate(5, fd, 1, 8192, 4096)  # FALLOC_FL_KEEP_SIZE
    ring.write(6, -1, 0, slot.address, 512)
    results = finished(ring, 2)
    assert results[5] in (0, -errno.EOPNOTSUPP)
    assert results[6] == -errno.EBADF
    os.close(fd)
    assert path.read_bytes() == b"w" * 512 + bytes(3584) + b"w" * 4096


def test_only_memory_that_a_disk_can_take_data_from_has_an_address() -> None:
    view, address = aligned_bytes(4096)
    assert address_of(view) == address
    assert address_of(view[512:]) == address + 512
    assert address_of(aligned_payload(4096 + 24)[24:]) % ALIGN_BYTES == 0 != address
    assert address_of(aligned_payload(4096 + 24)) == 0
    assert address_of(view[1:]) == address_of(view.toreadonly()) == address_of(bytes(512)) == 0


def test_the_queues_go_round_and_round(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4096))
    fd = os.open(path, os.O_RDWR)
    _, address = aligned_bytes(512)
    for turn in range(100):
        numbers = range(turn * 7, turn * 7 + 7)
        for number in numbers:
            ring.read(number, fd, 0, address, 512)
        assert finished(ring, 7) == dict.fromkeys(numbers, 512)
    assert ring.room == 8
    os.close(fd)


def test_a_refusal_of_the_system_is_an_error_with_its_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refused(*args: int) -> int:
        uring.ctypes.set_errno(errno.EPERM)
        return -1

    monkeypatch.setattr(uring, "_syscall", refused)
    with pytest.raises(OSError, match="io_uring_setup") as caught:
        Ring(8)
    assert caught.value.errno == errno.EPERM


def test_a_pool_gives_the_same_memory_again_and_keeps_only_so_much() -> None:
    pool = Pool()
    slot = pool.take(5000)
    assert slot.size == 8192
    assert slot.address % 4096 == 0
    pool.give(slot)
    assert pool.take(8192).address == slot.address
    large = [pool.take(1 << 20) for _ in range(40)]
    for slot in large:
        pool.give(slot)
    assert pool.kept_bytes <= KEPT_BYTES_MAX
    huge = pool.take(3 << 20)
    assert huge.size == 3 << 20
    pool.give(huge)
    assert pool.kept_bytes <= KEPT_BYTES_MAX


@pytest.mark.parametrize("length", [512, 4096, 1 << 20])
def test_memory_to_read_into_is_aligned_and_exact(length: int) -> None:
    view, address = aligned_bytes(length)
    assert len(view) == length
    assert address % 512 == 0
    view[:] = b"\xff" * length


def test_what_stands_for_a_ring_in_the_tests_with_a_kernel_has_all_that_a_disk_asks_of_one() -> (
    None
):
    """Those tests need a virtual machine; that their stand-in fits is seen here."""
    asked = set(re.findall(r"self\._ring\.(\w+)", inspect.getsource(disk_ring)))
    assert "transfers" in asked
    ring = VolatileRing(8)
    assert {name for name in asked if not hasattr(ring, name)} <= {"submit_and_wait"}
    assert not ring.can_wait, "it has no submit_and_wait"
    for name in asked - {"submit_and_wait"}:
        if inspect.isfunction(real := inspect.getattr_static(Ring, name, None)):
            own = inspect.getattr_static(VolatileRing, name)
            assert (
                inspect.signature(own).parameters.keys()
                == inspect.signature(real).parameters.keys()
            )
    ring.close()
