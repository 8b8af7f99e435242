"""How large a device was: DRBD's own file, believed only if it is about this device."""

from __future__ import annotations

from pathlib import Path

import pytest

from replblk.shell.last_known import LastKnownSize
from replblk.shell.run_files import RunFiles


@pytest.fixture
def told() -> list[str]:
    return []


def known(folder: Path, told: list[str], device: str = "/dev/vg/data") -> LastKnownSize:
    return LastKnownSize(folder, 3, device, told.append)


def test_what_was_written_is_read_by_the_next_process(tmp_path: Path, told: list[str]) -> None:
    known(tmp_path / "state", told).write(33554432, 0x69773309A991D29F)
    text = (tmp_path / "state" / "drbd-minor-3.lkbd").read_text()
    assert text == "33554432\t/dev/vg/data\nuuid:\t69773309A991D29F\n"
    assert known(tmp_path / "state", told).read() == (33554432, 0x69773309A991D29F)
    assert told == []


def test_a_device_without_a_uuid_is_known_by_its_name(tmp_path: Path, told: list[str]) -> None:
    known(tmp_path, told).write(4096, 0)
    assert (tmp_path / "drbd-minor-3.lkbd").read_text() == "4096\t/dev/vg/data\n"
    assert known(tmp_path, told).read() == (4096, 0)
    assert known(tmp_path, told, "/dev/other").read() == (0, 0)


@pytest.mark.parametrize("text", ["", "abc", "1\n", "-5\t/dev/x\n", "5\t/dev/x\nuuid: 12\n"])
def test_nonsense_is_told_and_not_used(tmp_path: Path, told: list[str], text: str) -> None:
    (tmp_path / "drbd-minor-3.lkbd").write_text(text)
    assert known(tmp_path, told).read() == (0, 0)
    assert "is not what it should be" in told[0]


def test_nothing_is_known_and_that_is_nothing_to_tell(tmp_path: Path, told: list[str]) -> None:
    assert known(tmp_path, told).read() == (0, 0)
    known(tmp_path, told).forget()
    assert told == []


def test_a_place_that_cannot_be_written_is_told_with_what_follows(
    tmp_path: Path, told: list[str]
) -> None:
    (tmp_path / "state").write_text("a file where the folder should be")
    known(tmp_path / "state", told).write(4096, 1)
    assert "its metadata will not be found" in told[0]


def test_where_it_is_kept(tmp_path: Path) -> None:
    own = RunFiles.of(tmp_path, "r0")
    assert own.state_folder("") == tmp_path / "r0"
    assert own.state_folder("/srv/state") == Path("/srv/state")
    assert RunFiles.of("/run/replblk", "r0").state_folder("") == Path("/var/lib/drbd")
