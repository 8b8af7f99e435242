"""The binding of the kernel's AIO against the kernel it runs on."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replblk.shell import kernel_aio
from replblk.shell.buffers import Pool
from replblk.shell.kernel_aio import Aio

MOST = 8


@pytest.fixture
def aio() -> Iterator[Aio]:
    try:
        made = Aio(MOST)
    except OSError as refused:
        pytest.skip(f"no AIO here: {refused}")
    yield made
    made.close()


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "file"
    path.write_bytes(bytes(64 << 10))
    opened = os.open(path, os.O_RDWR)
    yield opened
    os.close(opened)


def test_each_result_is_that_of_its_own_write(aio: Aio, fd: int) -> None:
    pool = Pool()
    slots = [pool.take(4096) for _ in range(MOST)]
    for number, slot in enumerate(slots):
        slot.view[:] = bytes([number]) * 4096
    writes = [(number * 8192, slot.address, 512 * number) for number, slot in enumerate(slots)]
    for _ in range(3):
        assert aio.write_all(fd, writes) == [512 * number for number in range(MOST)]
    for number in range(MOST):
        assert os.pread(fd, 512 * number, number * 8192) == bytes([number]) * 512 * number


def test_a_refused_write_is_told_and_the_others_are_done(aio: Aio, fd: int) -> None:
    slot = Pool().take(4096)
    slot.view[:] = b"w" * 4096
    good, bad = (4096, slot.address, 512), (-512, slot.address, 512)
    assert aio.write_all(fd, [good, bad, (8192, slot.address, 512), bad]) == [
        *(512, -errno.EINVAL, 512, -errno.EINVAL)
    ]
    assert os.pread(fd, 512, 8192) == b"w" * 512
    assert aio.write_all(99_999, [good, good]) == [-errno.EBADF] * 2


def test_what_the_kernel_has_no_room_for_waits_for_the_others(
    aio: Aio, fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, submitted = kernel_aio._syscall, []

    def two_at_a_time(number: int, context: int, count: int, *rest: int) -> int:
        if number != aio._submit:
            return int(real(number, context, count, *rest))
        submitted.append(count)
        if len(submitted) % 2 == 0:
            kernel_aio.ctypes.set_errno(errno.EAGAIN)
            return -1
        return int(real(number, context, min(count, 2), *rest))

    monkeypatch.setattr(kernel_aio, "_syscall", two_at_a_time)
    slot = Pool().take(4096)
    slot.view[:] = b"x" * 4096
    writes = [(number * 4096, slot.address, 512) for number in range(6)]
    assert aio.write_all(fd, writes) == [512] * 6
    assert submitted[0] == 6
    assert len(submitted) > 3


def test_a_system_without_it_is_told_by_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match="io_setup"):
        Aio(0)
    monkeypatch.setattr(kernel_aio.platform, "machine", lambda: "pdp11")
    with pytest.raises(OSError, match="pdp11"):
        Aio(MOST)
