"""create-md: what is refused, what is asked, what is left on disk, also when cut short."""

from __future__ import annotations

import fcntl
from functools import partial
from pathlib import Path

import pytest

from replblk.meta.al_transaction import initialised_block, replay
from replblk.meta.layout import Layout
from replblk.meta.superblock import Superblock
from replblk.model.errors import AdminError, MetadataError
from replblk.shell.create_md import create_md
from replblk.shell.md_device import MdDevice

SIZE = 16 << 20
OFFSET = 16773120
EXT3_UP_TO_THE_END = (1024 + 4, b"\x00\x10\x00\x00", 1024 + 24, b"\x02", 1024 + 56, b"\x53\xef")


class Operator:
    """An administrator with an opinion."""

    def __init__(self, answer: bool) -> None:
        self.answer = answer
        self.asked: list[str] = []
        self.told: list[str] = []

    def confirm(self, question: str) -> bool:
        self.asked.append(question)
        return self.answer

    @property
    def text(self) -> str:
        return "\n".join(self.told)

    def create(
        self, path: Path, meta_disk: str = "internal", index: int | None = None, force: bool = False
    ) -> int:
        return create_md(
            str(path),
            meta_disk,
            index,
            device_uuid=0xABCD,
            force=force,
            confirm=self.confirm,
            out=self.told.append,
        )


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return device(tmp_path / "disk", SIZE)


def device(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def put(path: Path, *places: int | bytes) -> None:
    with path.open("r+b") as file:
        for at, data in zip(places[::2], places[1::2], strict=True):
            assert isinstance(at, int)
            assert isinstance(data, bytes)
            file.seek(at)
            file.write(data)


def superblock(path: Path) -> Superblock:
    data = path.read_bytes()
    layout = Layout.internal(len(data))
    block = data[layout.md_offset_bytes :][:4096]
    return Superblock.decode(block, partial(Layout.internal, len(data)))


def test_an_empty_device_gets_metadata_without_a_question(disk: Path) -> None:
    operator = Operator(False)
    assert operator.create(disk) == 0
    assert operator.asked == []
    assert operator.text == (
        "initializing bitmap (4 KB) to all zero\n"
        "initializing activity log\n"
        "Writing meta data...\n"
        "New drbd meta data block successfully created."
    )
    assert superblock(disk).device_uuid == 0xABCD
    assert disk.stat().st_size == SIZE
    assert disk.read_bytes()[OFFSET - 32768 : OFFSET] == initialised_block() * 8


def test_stale_bitmap_and_log_are_cleaned(disk: Path) -> None:
    put(disk, OFFSET - 36864, b"\xff" * 36864)
    assert Operator(False).create(disk) == 0
    assert not any(disk.read_bytes()[OFFSET - 36864 : OFFSET - 32768])


def test_existing_metadata_are_named_and_kept_unless_confirmed(disk: Path) -> None:
    assert Operator(False).create(disk) == 0
    before = disk.read_bytes()
    operator = Operator(False)
    assert operator.create(disk) == 1
    assert f"already in place on {disk} at byte offset {OFFSET}" in operator.text
    assert operator.asked == ["\nDo you really want to overwrite the existing meta-data?"]
    assert operator.told[-1] == "\nOperation cancelled."
    assert disk.read_bytes() == before
    assert Operator(True).create(disk) == 0


def test_force_answers_the_questions(disk: Path) -> None:
    assert Operator(False).create(disk) == 0
    operator = Operator(False)
    assert operator.create(disk, force=True) == 0
    assert operator.asked == []
    assert "*** confirmation forced via --force option ***" in operator.text


@pytest.mark.parametrize(
    ("at", "magic", "name"),
    [(60, b"\x83\x74\x02\x6d", "v09 flexible-size"), (28, b"\x83\x74\x02\x6a", "v07 fixed-size")],
)
def test_metadata_of_other_versions_are_named(disk: Path, at: int, magic: bytes, name: str) -> None:
    put(disk, OFFSET + at, magic)
    operator = Operator(False)
    assert operator.create(disk) == 1
    assert f"There appears to be a {name} internal meta data block" in operator.text


def test_v07_metadata_are_found_where_v07_had_them(tmp_path: Path) -> None:
    path = device(tmp_path / "disk", 256 << 20)
    put(path, (128 << 20) + 28, b"\x83\x74\x02\x6a")
    operator = Operator(False)
    assert operator.create(path) == 1
    assert f"on {path} at byte offset 134217728" in operator.text


@pytest.mark.parametrize("force", [False, True])
def test_a_file_system_up_to_the_end_is_never_cut_off(disk: Path, force: bool) -> None:
    put(disk, *EXT3_UP_TO_THE_END)
    before = disk.read_bytes()
    operator = Operator(True)
    assert operator.create(disk, force=force) == 40
    assert "Found ext2 filesystem" in operator.text
    assert operator.text.endswith("Operation refused.")
    assert disk.read_bytes() == before


def test_unknown_data_are_asked_about(disk: Path) -> None:
    put(disk, 5000, b"precious")
    before = disk.read_bytes()
    operator = Operator(False)
    assert operator.create(disk) == 1
    assert operator.asked == ["\nDo you want to proceed?"]
    assert operator.told[-1] == "Operation canceled."
    assert disk.read_bytes() == before
    assert Operator(True).create(disk) == 0
    assert disk.read_bytes()[5000:5008] == b"precious"


def test_external_metadata_leave_the_data_alone(disk: Path, tmp_path: Path) -> None:
    put(disk, 0, b"data")
    before = disk.read_bytes()
    meta = device(tmp_path / "meta", 1 << 20)
    assert Operator(False).create(disk, str(meta)) == 0
    assert Superblock.parse(meta.read_bytes()[:4096]).al_offset == 8
    operator = Operator(False)
    assert operator.create(disk, str(meta)) == 1
    assert "Valid meta data seems to be in place" in operator.asked[0]
    assert disk.read_bytes() == before


def test_indexed_metadata_go_into_their_slot(disk: Path, tmp_path: Path) -> None:
    meta = device(tmp_path / "meta", 256 << 20)
    assert Operator(False).create(disk, str(meta), 1) == 0
    with meta.open("rb") as file:
        file.seek(128 << 20)
        assert Superblock.parse(file.read(4096)).md_size_sect == 262144
    with pytest.raises(AdminError, match="metadata index 2 needs at least") as refused:
        Operator(False).create(disk, str(meta), 2)
    assert refused.value.exit_code == 10


def test_missing_device_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="nowhere") as refused:
        Operator(False).create(tmp_path / "nowhere")
    assert refused.value.exit_code == 20


def test_directory_is_no_device(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match="directory") as refused:
        Operator(False).create(tmp_path)
    assert refused.value.exit_code == 20


def test_too_small_a_device_is_refused(tmp_path: Path) -> None:
    path = device(tmp_path / "disk", 65536)
    with pytest.raises(AdminError, match="65536 bytes") as refused:
        Operator(False).create(path)
    assert refused.value.exit_code == 10


def test_device_too_small_to_attach_is_made_but_told(tmp_path: Path) -> None:
    operator = Operator(False)
    assert operator.create(device(tmp_path / "disk", 100 << 10)) == 0
    assert "a node attaches only devices of 1048576 bytes or more" in operator.text


def test_device_in_use_is_left_alone(disk: Path) -> None:
    with disk.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AdminError, match="in use") as refused:
            Operator(True).create(disk, force=True)
    assert refused.value.exit_code == 20
    assert Operator(False).create(disk) == 0


def test_full_file_system_is_a_sentence(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    with pytest.raises(AdminError, match=r"can't write .* No space left on device"):
        Operator(False).create(disk)


class PowerCutError(Exception):
    """The machine is off."""


def test_power_cut_leaves_whole_metadata_or_none(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over metadata in use, cut before the 1st write, the 2nd, ... until one run needs no cut."""
    write = MdDevice.write
    left = 0

    def cut_write(device: MdDevice, offset: int, data: bytes) -> None:
        nonlocal left
        if left == 0:
            raise PowerCutError
        left -= 1
        write(device, offset, data)

    monkeypatch.setattr(MdDevice, "write", cut_write)
    seen: list[bool] = []
    for writes in range(100):
        left = 1000
        Operator(True).create(disk, force=True)
        put(disk, OFFSET + 8, b"\x77" * 8)  # the old generation
        put(disk, OFFSET - 36864, b"\xff" * 4096)  # and its bits
        left = writes
        try:
            Operator(True).create(disk, force=True)
        except PowerCutError:
            try:
                found = superblock(disk)
            except MetadataError:
                seen.append(False)  # none: attach is refused
                continue
            seen.append(True)
            assert found.uuids.current == 0x7777777777777777
            assert disk.read_bytes()[OFFSET - 36864] == 0xFF
            continue
        break
    assert seen[:2] == [True, False]
    assert True not in seen[1:]
    assert len(seen) == 11  # old superblock, bitmap, eight blocks of the log, new superblock
    assert replay([disk.read_bytes()[OFFSET - 4096 : OFFSET]]).usable
