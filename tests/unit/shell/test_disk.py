"""What is particular to disks on real files; the rest is in tests/contract."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from replblk.engine.ports import OpenFailed
from replblk.shell.disk import FileDisk
from tests.contract.rigs import ShellDiskRig


@pytest.fixture
def rig(tmp_path: Path) -> ShellDiskRig:
    return ShellDiskRig(tmp_path, 1 << 20, ring=False)


def opened(rig: ShellDiskRig) -> FileDisk:
    disk = rig.open()
    assert isinstance(disk, FileDisk)
    return disk


def test_a_read_does_not_wait_behind_a_flush(
    rig: ShellDiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    monkeypatch.setattr(os, "fdatasync", lambda fd: go_on.wait(10) and None)
    disk = opened(rig)
    disk.write(1, 0, b"w" * 512, durable=True)
    disk.read(2, 4096, 512)
    disk.read(3, 8192, 256 << 10)
    rig.run_until(lambda: {2, 3} <= rig.recorder.disk.keys())
    assert 1 not in rig.recorder.disk
    go_on.set()
    rig.run_until(lambda: 1 in rig.recorder.disk)
    disk.close()
    rig.loop.close()


def test_a_slow_read_does_not_hold_up_the_next(
    rig: ShellDiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()
    real = os.pread

    def first_block_is_slow(fd: int, length: int, offset: int) -> bytes:
        if offset == 0:
            go_on.wait(10)
        return real(fd, length, offset)

    monkeypatch.setattr(os, "pread", first_block_is_slow)
    disk = opened(rig)
    disk.read(1, 0, 128 << 10)
    disk.read(2, 256 << 10, 128 << 10)
    rig.run_until(lambda: 2 in rig.recorder.disk)
    assert 1 not in rig.recorder.disk
    go_on.set()
    rig.run_until(lambda: 1 in rig.recorder.disk)
    disk.close()
    rig.loop.close()


def test_a_slow_flush_does_not_hold_up_the_next_batch(
    rig: ShellDiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on, calls = threading.Event(), []

    def first_is_slow(fd: int) -> None:
        calls.append(fd)
        if len(calls) == 1:
            go_on.wait(10)

    monkeypatch.setattr(os, "fdatasync", first_is_slow)
    disk = opened(rig)
    disk.write(1, 0, b"w" * 512, durable=True)
    rig.submit()
    rig.run_until(lambda: bool(calls))
    disk.write(2, 4096, b"w" * 512, durable=True)
    rig.run_until(lambda: 2 in rig.recorder.disk)
    assert 1 not in rig.recorder.disk
    go_on.set()
    rig.run_until(lambda: 1 in rig.recorder.disk)
    assert calls[0] != calls[1], "each committer hears of write-back errors by its own descriptor"
    disk.close()
    rig.loop.close()


def test_reads_work_where_nowait_is_not_supported(
    rig: ShellDiskRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*args: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(os, "preadv", unsupported)
    disk = opened(rig)
    disk.read(1, 0, 512)
    rig.run_until(lambda: 1 in rig.recorder.disk)
    disk.read(2, 0, 512)
    rig.run_until(lambda: 2 in rig.recorder.disk)
    assert rig.recorder.disk == {1: (0, bytes(512)), 2: (0, bytes(512))}
    disk.close()
    rig.loop.close()


def test_a_device_that_shrank_is_an_error_and_never_a_short_answer(rig: ShellDiskRig) -> None:
    disk = opened(rig)
    os.truncate(rig.path, 4096)
    disk.read(1, 0, 8192)
    disk.read(2, 65536, 128 << 10)
    rig.run_until(lambda: {1, 2} <= rig.recorder.disk.keys())
    assert rig.recorder.disk == {1: (errno.EIO, None), 2: (errno.EIO, None)}
    disk.close()
    rig.loop.close()


def test_a_second_open_of_the_same_file_is_refused_until_the_first_is_closed(
    rig: ShellDiskRig,
) -> None:
    disk = opened(rig)
    refused = rig.open()
    assert isinstance(refused, OpenFailed)
    assert refused.number == 106
    disk.close()
    opened(rig).close()
    rig.loop.close()
