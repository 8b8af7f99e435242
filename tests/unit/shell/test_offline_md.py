"""apply-al, dump-md, wipe-md, get-gi and show-gi on a device that no daemon has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from replblk.meta.activity_log import ActivityLog
from replblk.meta.al_transaction import initialised_block
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.shell.create_md import create_md
from replblk.shell.last_known import LastKnownSize
from replblk.shell.md_device import MdDevice
from replblk.shell.offline_md import (
    apply_al,
    check_resize,
    dump_md,
    get_gi,
    show_gi,
    wipe_md,
)

SIZE = 64 << 20
LAYOUT = Layout.internal(SIZE)
RUNNING_PRIMARY = MdFlag(0x17)


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    with path.open("wb") as file:
        file.truncate(SIZE)
    create_md(
        str(path),
        "internal",
        None,
        device_uuid=1,
        force=True,
        confirm=lambda _: True,
        out=lambda _: None,
    )
    return path


def put(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def crash(path: Path, extents: Sequence[int], flags: MdFlag = RUNNING_PRIMARY) -> None:
    """Leave the device as a running node did that wrote into the extents."""
    log = ActivityLog(67)
    for turn, block in enumerate(log.initial_blocks(8)):
        put(path, LAYOUT.al_block_offset(turn), block)
    for extent in extents:
        change = log.prepare([extent])
        assert change is not None
        put(path, LAYOUT.al_block_offset(change.transaction.number), change.transaction.encode())
        log.commit(change)
    running = replace(
        Superblock.fresh(LAYOUT), clean=False, flags=flags, la_size_sect=LAYOUT.usable_sectors
    )
    put(path, LAYOUT.md_offset_bytes, running.encode())


def known(path: Path) -> LastKnownSize:
    return LastKnownSize(path.parent / "state", 0, str(path), lambda _: None)


def applied(path: Path) -> tuple[int, str]:
    said: list[str] = []
    return apply_al(str(path), "internal", None, known=known(path), out=said.append), "\n".join(
        said
    )


def superblock(path: Path) -> Superblock:
    block = path.read_bytes()[LAYOUT.md_offset_bytes :][:4096]
    return Superblock.decode(block, partial(Layout.internal, SIZE))


def marked(path: Path) -> list[int]:
    """Extents with bits set."""
    bitmap = path.read_bytes()[LAYOUT.bm_offset_bytes : LAYOUT.al_offset_bytes]
    return [at for at in range(32) if any(bitmap[128 * at : 128 * at + 128])]


def test_crashed_primary_gets_its_hot_extents_marked(disk: Path) -> None:
    crash(disk, [3, 9, 15])
    assert applied(disk) == (0, "Marked additional 12 MB as out-of-sync based on AL.")
    assert marked(disk) == [3, 9, 15]
    assert superblock(disk).flags == RUNNING_PRIMARY | MdFlag.AL_CLEAN
    assert superblock(disk).clean
    assert applied(disk) == (0, "Nothing to do.")


def test_bits_that_were_set_are_not_counted_again(disk: Path) -> None:
    crash(disk, [3])
    put(disk, LAYOUT.bm_offset_bytes + 3 * 128, b"\xff" * 128)
    assert applied(disk) == (0, "")
    assert marked(disk) == [3]


def test_crashed_secondary_marks_nothing(disk: Path) -> None:
    crash(disk, [3], MdFlag(0x15))
    assert applied(disk) == (0, "")
    assert marked(disk) == []
    assert not superblock(disk).needs_apply_al


def test_extents_past_the_device_are_told_and_skipped(disk: Path) -> None:
    crash(disk, [3, 40])
    status, text = applied(disk)
    assert (status, marked(disk)) == (0, [3])
    assert text.startswith("extent 40 beyond end of bitmap! (40960 >= 32768)\n")


def test_without_any_activity_log_a_primary_is_refused(disk: Path) -> None:
    crash(disk, [3])
    put(disk, LAYOUT.al_offset_bytes, bytes(32768))
    before = disk.read_bytes()
    assert applied(disk) == (1, "No usable activity log found. Do you need to create-md?")
    assert disk.read_bytes() == before


def test_without_a_transaction_left_a_primary_is_refused(disk: Path) -> None:
    crash(disk, [])
    put(disk, LAYOUT.al_offset_bytes, initialised_block() + bytes(28672))
    said = "7 corrupt AL transactions found\nNo valid AL update transaction found."
    assert applied(disk) == (1, said)


def test_a_secondary_needs_no_activity_log(disk: Path) -> None:
    crash(disk, [3], MdFlag(0x15))
    put(disk, LAYOUT.al_offset_bytes, bytes(32768))
    status, text = applied(disk)
    assert status == 0
    assert text.endswith("\nError ignored, no need to apply the AL")
    assert not superblock(disk).needs_apply_al


def test_without_metadata_there_is_nothing_to_apply(disk: Path) -> None:
    put(disk, LAYOUT.md_offset_bytes, bytes(4096))
    status, text = applied(disk)
    assert status == 1
    assert text.startswith("No valid meta data found\nno metadata found: byte offset 67104768")


class PowerCutError(Exception):
    """The machine is off."""


@pytest.mark.parametrize("extents", [[3], [3, 9, 15], list(range(16))])
def test_power_cut_in_apply_al_loses_no_extent(
    disk: Path, monkeypatch: pytest.MonkeyPatch, extents: list[int]
) -> None:
    """Cut in the middle of the 1st write, the 2nd, ...; the next apply-al finds the same."""
    write = MdDevice.write
    left = 0

    def torn_write(device: MdDevice, offset: int, data: bytes) -> None:
        nonlocal left
        if left == 0:
            write(device, offset, data[:512])
            raise PowerCutError
        left -= 1
        write(device, offset, data)

    monkeypatch.setattr(MdDevice, "write", torn_write)
    cuts = 0
    while True:
        put(disk, LAYOUT.bm_offset_bytes, bytes(4096))
        crash(disk, extents)
        left = cuts
        try:
            applied(disk)
        except PowerCutError:
            cuts += 1
        else:
            break
        left = 1000
        assert applied(disk)[0] == 0
        assert marked(disk) == extents
        assert MdFlag.PRIMARY_IND in superblock(disk).flags
        assert not superblock(disk).needs_apply_al
    assert cuts == 10  # the bitmap's page, eight blocks of the log, the superblock


def test_dump_of_unclean_metadata_needs_force(disk: Path) -> None:
    crash(disk, [3])
    said: list[str] = []
    dump = partial(dump_md, str(disk), "internal", None, command="x dump-md", out=said.append)
    assert dump(force=False) == 1
    assert said.pop() == 'Found meta data is "unclean", please apply-al first'
    assert dump(force=True) == 0
    header = said[0].splitlines()[:4]
    assert header[0] == "# DRBD meta data dump"
    assert header[2].endswith("> x dump-md")


def test_gi_commands(disk: Path) -> None:
    said: list[str] = []
    assert get_gi(str(disk), "internal", None, out=said.append) == 0
    assert said == [f"{'0' * 15}4:{'0' * 16}:{'0' * 16}:{'0' * 16}:0:0:0:0:0:0:0"]
    assert show_gi(str(disk), "internal", None, out=said.append) == 0
    assert said[1].endswith("zero size device -- never seen peer yet?")
    put(disk, LAYOUT.md_offset_bytes, bytes(4096))
    assert get_gi(str(disk), "internal", None, out=said.append) == 1
    assert len(said) == 2
    assert show_gi(str(disk), "internal", None, out=said.append) == 1
    assert said[2].startswith("No valid meta data found\n")


def test_wipe_asks_and_then_there_are_no_metadata(disk: Path) -> None:
    said: list[str] = []
    wipe = partial(wipe_md, str(disk), "internal", None, out=said.append)
    assert wipe(force=False, confirm=lambda _: False) == 1
    assert not superblock(disk).needs_apply_al
    assert wipe(force=False, confirm=lambda _: True) == 0
    assert said[-1] == "DRBD meta data block successfully wiped out."
    assert wipe(force=True, confirm=lambda _: True) == 0
    assert said[-1].startswith("There appears to be no drbd meta data to wipe out?")


# -- a device that grew ---------------------------------------------------------------------------


def checked(path: Path) -> tuple[int, str]:
    said: list[str] = []
    status = check_resize(str(path), "internal", None, known=known(path), out=said.append)
    return status, "\n".join(said)


def grow(path: Path, by: int) -> Layout:
    with path.open("r+b") as file:
        file.truncate(SIZE + by)
    return Layout.internal(SIZE + by)


def test_metadata_where_they_belong_are_silently_noted(disk: Path) -> None:
    assert checked(disk) == (0, "")
    assert known(disk).read() == (SIZE, 1)


@pytest.mark.parametrize("by", [4096, 36864, 1 << 20])
def test_a_device_that_grew_gets_its_metadata_moved_to_its_end(disk: Path, by: int) -> None:
    crash(disk, [3, 9])
    known(disk).write(SIZE, 0)
    new = grow(disk, by)
    status, said = checked(disk)
    assert status == 0
    assert said.splitlines() == [
        "Marked additional 8192 KB as out-of-sync based on AL.",
        "Moving the internal meta data to its proper location",
        "Internal drbd meta data successfully moved.",
    ]
    data = disk.read_bytes()
    block = data[new.md_offset_bytes :][:4096]
    found = Superblock.decode(block, partial(Layout.internal, SIZE + by))
    assert (found.clean, found.la_size_sect) == (True, LAYOUT.usable_sectors)
    bitmap = data[new.bm_offset_bytes : new.al_offset_bytes]
    assert [at for at in range(16) if any(bitmap[128 * at : 128 * at + 128])] == [3, 9]
    assert known(disk).read() == (SIZE + by, 0)
    assert checked(disk) == (0, "")


def test_apply_al_moves_too(disk: Path) -> None:
    checked(disk)
    grow(disk, 1 << 20)
    status, said = applied(disk)
    assert status == 0
    assert "Internal drbd meta data successfully moved." in said
    assert applied(disk) == (0, "Nothing to do.")


def test_without_knowing_where_they_were_nothing_is_found(disk: Path) -> None:
    grow(disk, 1 << 20)
    status, said = checked(disk)
    assert status == 1
    assert said.startswith("no suitable meta data found :(")


def test_metadata_of_another_device_are_left_alone(disk: Path) -> None:
    known(disk).write(SIZE, 2)
    grow(disk, 1 << 20)
    assert checked(disk)[0] == 1
