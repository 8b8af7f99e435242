"""Where a daemon's files lie, and that there is only one daemon."""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
from functools import partial
from pathlib import Path

import pytest

from replblk.model.errors import AdminError
from replblk.shell import run_files
from replblk.shell.run_files import DaemonLock, RunFiles, has_ended


def test_the_folder_is_the_owners_alone(tmp_path: Path) -> None:
    files = RunFiles.of(tmp_path / "run", "r0")
    files.make()
    assert files.folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_can_change_is_refused(tmp_path: Path) -> None:
    files = RunFiles.of(tmp_path, "r0")
    files.folder.mkdir()
    files.folder.chmod(0o770)
    with pytest.raises(AdminError, match="can be changed by other users"):
        files.make()
    files.folder.chmod(0o750)
    files.make()


def test_a_folder_of_somebody_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = RunFiles.of(tmp_path, "r0")
    files.make()
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(AdminError, match="belongs to user"):
        files.make()


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    files = RunFiles.of(tmp_path, "r0")
    files.folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AdminError, match="is a symbolic link"):
        files.make()


@pytest.mark.parametrize("name", ["log", "lock", "pid"])
def test_a_link_in_place_of_a_file_is_not_followed(tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    files = RunFiles.of(tmp_path, "r0")
    files.make()
    (files.folder / name).symlink_to(victim)
    open_it = files.open_log if name == "log" else partial(DaemonLock, files)
    with pytest.raises(AdminError, match="is a symbolic link"):
        open_it()
    assert victim.read_text() == "precious"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b"])
def test_a_name_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(AdminError):
        RunFiles.of(tmp_path, name)


def test_a_path_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="shorter --run-dir"):
        RunFiles.of(tmp_path / ("x" * 120), "r0")


def test_a_second_daemon_is_refused_and_told_the_first(tmp_path: Path) -> None:
    files = RunFiles.of(tmp_path, "r0")
    files.make()
    lock = DaemonLock(files)
    with pytest.raises(AdminError, match=f"process {os.getpid()}"):
        DaemonLock(files)
    lock.release()
    assert not files.pid.exists()
    DaemonLock(files).release()


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AdminError, match="--run-dir"):
        RunFiles.of(tmp_path / "file", "r0").make()


def test_a_long_log_is_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_files, "LOG_BYTES_MAX", 10)
    files = RunFiles.of(tmp_path, "r0")
    files.make()
    files.log.write_text("a long log\nof two lines\n")
    os.close(files.open_log())
    assert files.log.read_text() == ""
    assert files.log.with_name("log.old").read_text() == "a long log\nof two lines\n"


def test_a_killed_process_that_nobody_has_waited_for_has_ended() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        assert not has_ended(str(process.pid))
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert has_ended(str(process.pid)), "a zombie"
    assert has_ended(str(process.pid))
    assert has_ended("?"), "the file is gone, as its process will be"


def test_the_lock_of_a_process_that_is_ending_is_waited_for(tmp_path: Path) -> None:
    """Its threads may be inside a disk operation yet; it holds the lock until they are not."""
    files = RunFiles.of(tmp_path, "r0")
    files.make()
    held = os.open(files.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(held, fcntl.LOCK_EX)
    timer = threading.Timer(0.2, os.close, (held,))
    timer.start()
    lock = DaemonLock(files)  # there is no pid file: whoever holds it is on its way out
    timer.join()
    lock.release()
