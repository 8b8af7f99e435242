"""Every way a backing device can be unusable has its number and its sentence."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from replblk.engine.ports import OpenFailed
from replblk.shell import backing_device
from replblk.shell.backing_device import BackingDevice, open_backing_device


def file_of(path: Path, size_bytes: int = 1 << 20) -> Path:
    with path.open("wb") as file:
        file.truncate(size_bytes)
    return path


def refused(path: Path) -> OpenFailed:
    answer = open_backing_device(str(path))
    assert isinstance(answer, OpenFailed)
    assert str(path) in answer.text
    return answer


def test_a_file_is_opened_and_measured_in_whole_sectors(tmp_path: Path) -> None:
    device = open_backing_device(str(file_of(tmp_path / "disk", (1 << 20) + 700)))
    assert isinstance(device, BackingDevice)
    assert device.size_bytes == (1 << 20) + 512
    assert device.block_bytes in (512, 1024, 2048, 4096)
    assert not device.is_block_device
    device.close()


def test_a_missing_device(tmp_path: Path) -> None:
    answer = refused(tmp_path / "nowhere")
    assert answer.number == 104
    assert "create it" in answer.text


def test_a_directory(tmp_path: Path) -> None:
    answer = refused(tmp_path)
    assert answer.number == 107
    assert "is a directory" in answer.text


def test_a_character_device() -> None:
    assert refused(Path("/dev/null")).number == 107


def test_a_pipe_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").number == 107


def test_too_small(tmp_path: Path) -> None:
    answer = refused(file_of(tmp_path / "disk", 4096))
    assert answer.number == 111
    assert "4096 bytes" in answer.text


def test_in_use_by_another_daemon(tmp_path: Path) -> None:
    path = file_of(tmp_path / "disk")
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        answer = refused(path)
    assert answer.number == 106
    assert "in use" in answer.text


def test_in_use_under_another_name(tmp_path: Path) -> None:
    path = file_of(tmp_path / "disk")
    (tmp_path / "alias").symlink_to(path)
    device = open_backing_device(str(tmp_path / "alias"))
    assert isinstance(device, BackingDevice)
    assert refused(path).number == 106
    device.close()


@pytest.mark.parametrize("failed", [errno.EACCES, errno.EROFS, errno.EBUSY])
def test_a_device_that_can_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int
) -> None:
    path = file_of(tmp_path / "disk")

    def denied(*args: object) -> int:
        raise OSError(failed, os.strerror(failed))

    monkeypatch.setattr(os, "open", denied)
    answer = refused(path)
    assert answer.number == (114 if failed == errno.EBUSY else 104)


def test_a_refusal_leaves_no_lock_behind(tmp_path: Path) -> None:
    path = file_of(tmp_path / "disk", 4096)
    refused(path)
    os.truncate(path, 1 << 20)
    device = open_backing_device(str(path))
    assert isinstance(device, BackingDevice)
    device.close()


def test_what_a_killed_daemon_left_in_a_ring_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock is gone, but the kernel still holds the ring's file until the last write is done."""
    monkeypatch.setattr(backing_device, "PATIENCE_S", 0.1)
    path = file_of(tmp_path / "disk")
    killed = open_backing_device(str(path))
    assert isinstance(killed, BackingDevice)
    under_way = killed.direct_fd(lock=True)
    killed.close()
    answer = refused(path)
    assert answer.number == 106
    assert "daemon that was killed" in answer.text
    os.close(under_way)
    again = open_backing_device(str(path))
    assert isinstance(again, BackingDevice)
    again.close()


def test_a_device_with_its_own_ring_is_closed_and_opened_again(tmp_path: Path) -> None:
    path = file_of(tmp_path / "disk")
    for _ in range(2):
        device = open_backing_device(str(path))
        assert isinstance(device, BackingDevice)
        os.close(device.direct_fd(lock=True))
        device.close()
