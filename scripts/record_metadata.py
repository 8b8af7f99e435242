"""Records metadata images that DRBD's own tool makes, for tests/conformance/test_metadata*.py.

Run it where drbdmeta (Debian: drbd-utils) is installed; it works on sparse files in a temporary
directory. For each image it stores the metadata area (xz) and, in images.json, its place and what
drbdmeta says of it. drbdmeta can't make an activity log with hot extents, only a running node can:
those rings come from replblk.meta, and what is recorded is what drbdmeta makes of them.

usage: python scripts/record_metadata.py [DIRECTORY]     default: tests/conformance/metadata
"""

from __future__ import annotations

import json
import lzma
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from replblk.meta.activity_log import ActivityLog
from replblk.meta.layout import Layout
from replblk.meta.superblock import LayoutOf, MdFlag, Superblock
from replblk.model.generation import UuidSet

MIB = 1 << 20
TARGET = Path(__file__).resolve().parent.parent / "tests" / "conformance" / "metadata"
GI = "2A6B3C4D5E6F7081:1122334455667788:99AABBCCDDEEFF00:0123456789ABCDEE:1:1:0:1:0:1:0"
BITS = """\
version "v08";
uuid {
 0x2A6B3C4D5E6F7081; 0x1122334455667788; 0x99AABBCCDDEEFF00; 0x0123456789ABCDEE; flags 0x00000091;
}
la-size-sect 32688;
bm-byte-per-bit 4096;
device-uuid 0x00DEADBEEF00CAFE;
la-peer-max-bio-size 1048576;
al-stripes 1;
al-stripe-size-4k 8;
bm {
 0x0000000000000001; 0x8000000000000000; 0x00000000000000FF; 0x0123456789ABCDEF;
 8 times 0xFFFFFFFFFFFFFFFF; 20 times 0x0000000000000000; 0x00000000DEADBEEF;
 30 times 0x0000000000000000; 0x003FFFFFFFFFFFFF;
}
"""


@dataclass(frozen=True)
class Image:
    """One image. commands: drbdmeta's, each with its options first; dirty: writes hot extents."""

    name: str
    size: int
    index: str = "internal"
    commands: tuple[tuple[str, ...], ...] = (("create-md",),)
    options: tuple[str, ...] = ()
    format: str = "v08"
    dirty: Callable[[Path, LayoutOf], None] | None = None

    def layout_of(self) -> LayoutOf:
        """Where the metadata lie."""
        if self.index == "internal":
            return partial(Layout.internal, self.size)
        if self.index == "flex-external":
            return partial(Layout.flexible, self.size)
        return partial(Layout.indexed, int(self.index), self.size)


def dirty(
    path: Path,
    layout_of: LayoutOf,
    *,
    slots: int,
    gatherings: list[list[int]],
    stripes: tuple[int, int] = (1, 8),
    flags: int = 0x17,
    torn: bool = False,
) -> None:
    """Make the image look as if the node crashed after these transactions, or in the last one."""
    layout = layout_of(*stripes)
    log = ActivityLog(slots)
    with path.open("r+b") as file:
        for turn, block in enumerate(log.initial_blocks(layout.al_blocks)):
            file.seek(layout.al_block_offset(turn))
            file.write(block)
        for gathered in gatherings:
            change = log.prepare(gathered)
            assert change is not None
            block = change.transaction.encode()
            if torn and gathered is gatherings[-1]:
                block = block[:512]  # the sectors after it stay those of the block before
            file.seek(layout.al_block_offset(change.transaction.number))
            file.write(block)
            log.commit(change)
        unclean = replace(
            Superblock.fresh(layout),
            la_size_sect=layout.usable_sectors,
            uuids=UuidSet(0x2A6B3C4D5E6F7081, 0x1122334455667788, 0x99AABBCCDDEEFF00, 0),
            flags=MdFlag(flags),
            clean=False,
            al_nr_extents=slots,
            la_peer_max_bio_size=MIB,
        )
        file.seek(layout.md_offset_bytes)
        file.write(unclean.encode())


SCATTERED = [[0], [1, 2, 3], [40, 41], [100], [127], [5], [126], [7, 8, 9]]
MANY = [[7 * turn + step for step in range(7)] for turn in range(60)]
IMAGES = (
    Image("fresh", 16 * MIB),
    Image("odd-size", 300 * MIB + 12345),
    Image("uuids", 16 * MIB, commands=(
        ("create-md",), ("set-gi", GI), ("write-dev-uuid", "00DEADBEEF00CAFE"))),
    Image("bits", 16 * MIB, commands=(("create-md",), ("restore-md", "bits.txt"))),
    Image("flex", 4 * MIB, "flex-external", commands=(("create-md",), ("set-gi", GI))),
    Image("index1", 256 * MIB, "1", commands=(("create-md",), ("set-gi", GI))),
    Image("stripes", 64 * MIB, options=("--al-stripes", "4", "--al-stripe-size-kB", "64")),
    Image("drbd9", 16 * MIB, format="v09", commands=(("create-md", "1"),)),
    Image("dirty", 512 * MIB, dirty=partial(dirty, slots=67, gatherings=SCATTERED)),
    Image("dirty-evicted", 2048 * MIB, dirty=partial(dirty, slots=67, gatherings=MANY)),
    Image("dirty-contexts", 2048 * MIB, dirty=partial(dirty, slots=1237, gatherings=MANY)),
    Image("dirty-torn", 512 * MIB, dirty=partial(
        dirty, slots=67, gatherings=[*SCATTERED, [77]], torn=True)),
    Image("dirty-stripes", 256 * MIB,
        options=("--al-stripes", "4", "--al-stripe-size-kB", "64"),
        dirty=partial(dirty, slots=67, gatherings=MANY[:5], stripes=(4, 16))),
    Image("dirty-secondary", 512 * MIB, dirty=partial(
        dirty, slots=67, gatherings=SCATTERED, flags=0x15)),
)  # fmt: skip


def drbdmeta(
    directory: Path, image: Image, *command: str, stderr: int = subprocess.DEVNULL
) -> tuple[int, str]:
    """Exit status and what it printed, but for its complaints that a file is no block device."""
    done = subprocess.run(
        ["drbdmeta", "--force", *image.options * (command[0] == "create-md"), "-", image.format,
         "x.img", image.index, *command],
        cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
        text=True, check=False,
    )  # fmt: skip
    lines = done.stdout.splitlines(keepends=True)
    return done.returncode, "".join(line for line in lines if not line.startswith("ioctl("))


def described(directory: Path, image: Image) -> dict[str, object]:
    """What drbdmeta says of the image, without date and command line."""
    lines = drbdmeta(directory, image, "dump-md")[1].splitlines(keepends=True)
    lines[1:3] = ["# DATE\n", "# COMMAND\n"]
    return {
        "dump": "".join(lines),
        "gi": drbdmeta(directory, image, "get-gi")[1].rstrip("\n"),
        "show_gi": drbdmeta(directory, image, "show-gi")[1],
    }


def area(image: Image, path: Path) -> tuple[int, bytes]:
    """(byte offset, bytes) of the part of the device that holds all metadata."""
    layout = image.layout_of()(1, 8)
    if image.index == "internal":
        start, end = layout.bm_offset_bytes - 64 * 4096, image.size  # striped logs reach further
    else:
        start, end = layout.md_offset_bytes, layout.bm_offset_bytes + 4096
    with path.open("rb") as file:
        file.seek(start)
        return start, file.read(end - start)


def record(image: Image, target: Path) -> dict[str, object]:
    """Make the image, store its area, and tell all about it."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "bits.txt").write_text(BITS)
        path = directory / "x.img"
        with path.open("wb") as file:
            file.truncate(image.size)
        for command in image.commands:
            status, text = drbdmeta(directory, image, *command)
            if status:
                sys.exit(f"{image.name}: drbdmeta {command} ended with {status}: {text}")
        if image.dirty:
            image.dirty(path, image.layout_of())
        start, data = area(image, path)
        (target / f"{image.name}.xz").write_bytes(lzma.compress(data, preset=9))
        about: dict[str, object] = {
            "size": image.size, "index": image.index, "offset": start, "format": image.format,
        }  # fmt: skip
        if image.format == "v08":
            about.update(described(directory, image))
        if image.dirty:
            status, text = drbdmeta(directory, image, "apply-al", stderr=subprocess.STDOUT)
            about["apply_al"] = {"status": status, "text": text, **described(directory, image)}
            _, applied = area(image, path)
            (target / f"{image.name}.applied.xz").write_bytes(lzma.compress(applied, preset=9))
        return about


def main() -> None:
    """Record every image into the directory given, or the tests' own."""
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else TARGET
    target.mkdir(parents=True, exist_ok=True)
    about = {image.name: record(image, target) for image in IMAGES}
    (target / "images.json").write_text(json.dumps(about, indent=1) + "\n")
    print(f"{len(about)} images in {target}")


if __name__ == "__main__":
    main()
