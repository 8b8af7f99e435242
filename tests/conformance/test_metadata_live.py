"""DRBD's own drbdmeta reads and repairs what we wrote, and the other way round."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from replblk.meta.activity_log import ActivityLog
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.generation import UuidSet
from replblk.shell.create_md import create_md
from replblk.shell.last_known import LastKnownSize
from replblk.shell.offline_md import apply_al, dump_md, get_gi, show_gi
from tests.conformance.metadata.images import DIRTY, V08, image, true_flags
from tests.support.tools import need

MIB = 1 << 20


def drbdmeta(path: Path, index: str, *command: str) -> str:
    """What drbdmeta prints, without its complaints that a file is no block device."""
    need("drbdmeta")
    done = subprocess.run(
        ["drbdmeta", "--force", "-", "v08", str(path), index, *command],
        env={**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    quiet = [line for line in done.stderr.splitlines() if not line.startswith("ioctl(")]
    return done.stdout + "".join(f"{line}\n" for line in quiet)


def described(path: Path) -> tuple[str, str, str]:
    """dump-md (without date and command), get-gi and show-gi by drbdmeta."""
    dump = drbdmeta(path, "internal", "dump-md").splitlines(keepends=True)
    flags = Superblock.parse(_superblock_of(path)).flags
    return (
        true_flags("".join(dump[3:]), flags),
        drbdmeta(path, "internal", "get-gi"),
        drbdmeta(path, "internal", "show-gi"),
    )


def described_by_us(path: Path) -> tuple[str, str, str]:
    """The same by our commands."""
    said: list[str] = []
    assert dump_md(str(path), "internal", None, force=True, command="x", out=said.append) == 0
    assert get_gi(str(path), "internal", None, out=said.append) == 0
    assert show_gi(str(path), "internal", None, out=said.append) == 0
    dump, gi, shown = (f"{text}\n" for text in said)
    return "".join(dump.splitlines(keepends=True)[3:]), gi, shown


def _superblock_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(Layout.internal(path.stat().st_size).md_offset_bytes)
        return file.read(4096)


def metadata_of(path: Path) -> bytes:
    """Bitmap, activity log, superblock and the rest of the device."""
    with path.open("rb") as file:
        file.seek(Layout.internal(path.stat().st_size).bm_offset_bytes)
        return file.read()


def make(path: Path, size: int, device_uuid: int = 0) -> None:
    """A device with metadata of ours."""
    with path.open("wb") as file:
        file.truncate(size)
    status = create_md(
        str(path),
        "internal",
        None,
        device_uuid=device_uuid,
        force=False,
        confirm=lambda _: pytest.fail("an empty device needs no question"),
        out=lambda _: None,
    )
    assert status == 0


def crash(path: Path, slots: int, gatherings: list[list[int]]) -> list[int]:
    """Leave the device as a Primary that crashed; its hot extents."""
    layout = Layout.internal(path.stat().st_size)
    log = ActivityLog(slots)
    with path.open("r+b") as file:
        for turn, block in enumerate(log.initial_blocks(layout.al_blocks)):
            file.seek(layout.al_block_offset(turn))
            file.write(block)
        for extents in gatherings:
            change = log.prepare(extents)
            assert change is not None
            file.seek(layout.al_block_offset(change.transaction.number))
            file.write(change.transaction.encode())
            log.commit(change)
        flags = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.PRIMARY_IND
        superblock = replace(
            Superblock.fresh(layout),
            la_size_sect=layout.usable_sectors,
            uuids=UuidSet(0xABCDEF0123456789, 0, 0x1111111111111110, 0),
            flags=flags,
            clean=False,
            al_nr_extents=slots,
        )
        file.seek(layout.md_offset_bytes)
        file.write(superblock.encode())
    return log.hot_extents()


@pytest.mark.parametrize("size", [16 * MIB, 68 * 1024, 300 * MIB + 12345, 3 * 1024 * MIB])
def test_create_md_leaves_the_bytes_that_drbdmeta_leaves(tmp_path: Path, size: int) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    with theirs.open("wb") as file:
        file.truncate(size)
    drbdmeta(theirs, "internal", "create-md")
    make(ours, size)
    assert metadata_of(ours) == metadata_of(theirs)


def test_drbdmeta_reads_our_metadata(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    make(path, 64 * MIB, device_uuid=0x1234567890ABCDEF)
    assert described_by_us(path) == described(path)
    assert "device-uuid 0x1234567890ABCDEF;" in described(path)[0]


@pytest.mark.parametrize(
    ("slots", "gatherings"),
    [
        pytest.param(67, [[extent] for extent in range(150)], id="evictions, one at a time"),
        pytest.param(67, [list(range(at, at + 64)) for at in (0, 30, 120)], id="full transactions"),
        pytest.param(1237, [[3 * at, 3 * at + 1] for at in range(80)], id="two contexts a cycle"),
        pytest.param(6433, [[at] for at in range(20)], id="the whole ring is context"),
    ],
)
def test_drbdmeta_applies_our_activity_log_as_we_do(
    tmp_path: Path, slots: int, gatherings: list[list[int]]
) -> None:
    """Both find the extents that were hot when we crashed, and leave the same bytes."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    for path in (ours, theirs):
        make(path, 1024 * MIB)
        hot = crash(path, slots, gatherings)
    said: list[str] = []
    known = LastKnownSize(tmp_path / "state", 0, str(ours), said.append)
    assert apply_al(str(ours), "internal", None, known=known, out=said.append) == 0
    assert drbdmeta(theirs, "internal", "apply-al") == f"{said[0]}\n"
    left = metadata_of(ours)
    assert left == metadata_of(theirs)
    assert {byte // 128 for byte in range(32768) if left[byte]} == set(hot)
    drbdmeta(ours, "internal", "apply-al")
    assert metadata_of(ours) == left


@pytest.mark.parametrize("name", sorted(set(V08) - {"flex", "index1"}))
def test_recorded_images_are_described_alike(tmp_path: Path, name: str) -> None:
    path = tmp_path / "disk"
    image(name).write_to(path)
    if name in DIRTY:
        assert described_by_us(path)[1:] == described(path)[1:]
        drbdmeta(path, "internal", "apply-al")
    assert described_by_us(path) == described(path)
