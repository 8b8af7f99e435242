"""A pair at work: every kind of write by the Primary, and both disks the same afterwards."""

from __future__ import annotations

import subprocess

import pytest

from tests.interop.kernel.config import Options
from tests.interop.kernel.nodes import (
    KernelNode,
    Node,
    ReplblkNode,
    check,
    eventually,
    number,
    pattern,
    wait_both,
)
from tests.interop.kernel.pair import DISK_BYTES, Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20


def write_everything(node: Node) -> None:
    """512 B to 1 MiB, unaligned to 4 KiB, flushes, FUA, discards and write-zeroes."""
    for block, offset, size in (
        ("512", 0, "192k"),
        ("4k", 1, "2m"),
        ("64k", 3, "2m"),
        ("1m", 5, "4m"),
    ):
        node.fio(
            *("--rw=randwrite", f"--bs={block}", f"--offset={offset}m", f"--size={size}"),
            *("--iodepth=8", "--verify=crc32c", "--do_verify=1", "--verify_fatal=1", "--fsync=32"),
        )
    # Twelve sectors that begin and end inside blocks of 4 KiB.
    node.write(10 * MIB + 512, pattern(1, 6144))
    node.zero(6 * MIB + 1024, 300 << 10)
    node.discard(8 * MIB, 512 << 10)
    node.write(8 * MIB + 512, pattern(2, 512))


def with_flush_and_fua(node: Node) -> None:
    """Writes that must be durable, in each node's own way of saying so."""
    if isinstance(node, KernelNode):
        node.guest.check(
            "for n in 1 2 3 4; do "
            "dd if=/dev/urandom of=/dev/drbd0 bs=4k seek=$((2600 + n)) count=1 oflag=direct,dsync; "
            "dd if=/dev/urandom of=/dev/drbd0 bs=64k seek=$((166 + n)) count=1 conv=fsync,notrunc; "
            "done 2>&1"
        )
    elif isinstance(node, ReplblkNode):
        with node.device() as client:
            for n in range(4):
                client.write(10_649_600 + n * 4096, pattern(n, 4096), fua=True)
                client.write((166 + n) * 65536, pattern(n, 65536))
                client.flush()
        done = subprocess.run(
            [
                *("qemu-io", "-f", "raw", "-c", "write -f -P 7 11M 64k", "-c", "discard 2M 300k"),
                *("-c", "write -z -u 3M 100k", "-c", "flush", node.uri),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0 and "fail" not in done.stdout, done.stdout + done.stderr


@sides
@pytest.mark.parametrize("protocol", ["C", "B", "A"])
def test_every_kind_of_write(pair: Pair, protocol: str) -> None:
    """fio with verification, 512 B to 1 MiB, flushes, FUA, discards, write-zeroes"""
    pair.in_sync(Options().but(protocol=protocol))
    for node in (pair.kernel, pair.replblk):
        assert f" {protocol} r-----" in node.proc()
    write_everything(pair.first)
    with_flush_and_fua(pair.first)
    if protocol != "C":
        for node in (pair.kernel, pair.replblk):
            eventually("all is acknowledged", lambda node=node: not number(node, "ua"))
            eventually("all is acknowledged", lambda node=node: not number(node, "pe"))
    pair.compare()
    assert pair.first.read(10 * MIB + 512, 6144) == pattern(1, 6144)
    assert pair.first.read(8 * MIB, 1024) == bytes(512) + pattern(2, 512)


def test_a_file_system_of_the_kernel(pair: Pair) -> None:
    """mkfs, files, unmount on the kernel; replblk becomes Primary; e2fsck finds nothing"""
    pair.in_sync()
    guest = pair.kernel.guest
    guest.check("modprobe ext4; mkfs.ext4 -q /dev/drbd0 && mount /dev/drbd0 /mnt", 120)
    guest.check("cp -r /usr/sbin/ /etc /mnt/ && umount /mnt", 120)
    pair.compare()
    check(pair.kernel, "secondary")
    check(pair.replblk, "primary")
    wait_both(pair.replblk, pair.kernel, "cs:Connected")
    with pair.replblk.device() as client:
        image = client.read(0, pair.replblk.size())
    copy = pair.replblk.folder / "copy"
    copy.write_bytes(image)
    done = subprocess.run(["e2fsck", "-fn", copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@sides
@pytest.mark.disk_bytes(24 << 20)
def test_a_write_during_the_first_sync(pair: Pair) -> None:
    """The Primary writes while the full sync runs; nothing is lost"""
    options = Options().but_disk(resync_rate="2M")
    pair.connected(options)
    check(pair.first, "primary", "--force")
    wait_both(pair.first, pair.second, "cs:Sync")
    for n in range(8):
        pair.first.write((n * 7 % 23) * MIB + 512 * n, pattern(n, 8192))
    assert "cs:Sync" in pair.first.proc(), "the sync was over too soon to tell"
    pair.compare()
    assert pair.first.size() > DISK_BYTES
