"""One disk, two programs: what the kernel left is attached by replblk, and the other way round."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from replblk.meta.superblock import Superblock
from tests.conformance.metadata.images import true_flags
from tests.interop.kernel.nodes import KernelNode, Node, check, number, pattern, wait
from tests.interop.kernel.pair import DISK_BYTES, Pair
from tests.interop.test_kernel_crash import BLOCK, crash_under_load, large

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20


def drbdmeta(disk: Path, *command: str) -> str:
    """What drbdmeta prints, without its complaints that a file is no block device."""
    done = subprocess.run(
        ["/usr/sbin/drbdmeta", "--force", "-", "v08", str(disk), "internal", *command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def dumps(pair: Pair, disk: Path) -> tuple[str, str]:
    """dump-md of a disk by drbdmeta and by replblk, without the comment that tells who and when."""
    shutil.copyfile(disk, pair.replblk.disk)
    ours = check(pair.replblk, "dump-md", "--force")
    with disk.open("rb") as image:
        image.seek(-BLOCK, 2)
        flags = Superblock.parse(image.read(BLOCK)).flags
    theirs = true_flags(drbdmeta(disk, "dump-md"), flags)

    def body(text: str) -> str:
        return "\n".join(line for line in text.splitlines() if not line.startswith("#"))

    return body(theirs), body(ours)


@sides
def test_both_dump_it_to_the_letter(pair: Pair, tmp_path: Path) -> None:
    """A used disk with out-of-sync blocks: drbdmeta's dump and replblk's are the same text"""
    pair.in_sync()
    check(pair.second, "disconnect")
    wait(pair.first, "cs:WFConnection")
    for n in range(5):
        pair.first.write(n * 2 * MIB + 4096 * n, pattern(n, 8192))
    stop(pair.first)
    stop(pair.second)
    kept = tmp_path / "kept"
    shutil.copyfile(pair.first.disk, kept)
    theirs, ours = dumps(pair, kept)
    assert theirs == ours
    assert "bitmap[" not in theirs and "times 0x" in theirs


def stop(node: Node) -> None:
    """Down, in order."""
    if "ro:Primary" in node.proc():
        check(node, "secondary")
    check(node, "down")


@sides
@large
def test_apply_al_of_the_others_dirty_log(pair: Pair, tmp_path: Path) -> None:
    """A crashed Primary's disk: drbdmeta apply-al and replblk apply-al leave the same bytes"""
    pair.in_sync()
    crash_under_load(pair)
    pair.second.power_cut()
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    shutil.copyfile(pair.first.disk, theirs)
    shutil.copyfile(pair.first.disk, ours)
    shutil.copyfile(ours, pair.replblk.disk)
    check(pair.replblk, "apply-al")
    drbdmeta(theirs, "apply-al")
    assert pair.replblk.disk.read_bytes() == theirs.read_bytes()


def alone(node: Node) -> None:
    """In use without a peer: good data, and a mark in each MiB."""
    check(node, "create-md", "--force")
    node.up()
    check(node, "primary", "--force")
    for megabyte in range(10):
        node.write(megabyte * MIB, pattern(megabyte, 4096))


def hand_over(pair: Pair) -> None:
    """The second gets the first's disk; the first has a new one."""
    source, sink = pair.first.disk, pair.second.disk
    with source.open("rb") as data, sink.open("r+b") as out:
        shutil.copyfileobj(data, out)
    if pair.kernel.guest.running:
        pair.kernel.guest.check("blockdev --flushbufs /dev/vda")


@sides
def test_left_in_order(pair: Pair) -> None:
    """Made, used and left in order by one: attached by the other, good at once, the same data"""
    pair.configure()
    alone(pair.first)
    marked = number(pair.first, "oos")
    stop(pair.first)
    hand_over(pair)
    pair.second.up()
    wait(pair.second, "ds:UpToDate/DUnknown")
    assert number(pair.second, "oos") == marked
    check(pair.second, "primary")
    for megabyte in range(10):
        assert pair.second.read(megabyte * MIB, 4096) == pattern(megabyte, 4096)
    assert pair.second.size() < DISK_BYTES


@sides
@large
def test_left_by_a_crash(pair: Pair) -> None:
    """The Primary crashes, the other program attaches its disk: just active extents differ"""
    pair.in_sync()
    load = crash_under_load(pair)
    survivor = pair.second
    survivor.power_cut()
    hand_over(pair)
    if isinstance(survivor, KernelNode):
        survivor.guest.boot()
        survivor.configure("replblk", pair.from_kernel.port, pair.options)
    survivor.up()
    wait(survivor, "ds:(Consistent|UpToDate)/DUnknown")
    hot = len({load.places[count] * BLOCK // (4 * MIB) for count in load.acked})
    assert 4096 <= number(survivor, "oos") <= (hot + 1) * 4096
    check(survivor, "primary", "--force")
    assert not load.missing(survivor)
