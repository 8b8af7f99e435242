"""Reads that the page cache answers: the same bytes as the disk's, or none."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from replblk.engine.ports import OpenFailed
from replblk.shell import warm_reads
from replblk.shell.backing_device import BackingDevice, open_backing_device
from replblk.shell.warm_reads import COLD_SKIPPED_MAX, WARM_BYTES_MIN, WarmReads

MIB = 1 << 20


@pytest.fixture
def device(tmp_path: Path) -> Iterator[BackingDevice]:
    path = tmp_path / "disk"
    path.write_bytes(os.urandom(2 * MIB))
    opened = open_backing_device(str(path))
    assert not isinstance(opened, OpenFailed)
    yield opened
    opened.close()


def warm(device: BackingDevice) -> WarmReads:
    """Of a file that was just written; skips where the system can't tell what is cached."""
    found = WarmReads(device)
    if found.read(0, MIB) is None:
        found.close()
        pytest.skip("no cachestat(2), or a file system that is not trusted")
    return found


def test_what_is_cached_is_read_without_the_disk(device: BackingDevice) -> None:
    reads = warm(device)
    try:
        assert reads.read(4096, MIB) == os.pread(device.fd, MIB, 4096)
        assert reads.read(MIB + 512, WARM_BYTES_MIN) == os.pread(
            device.fd, WARM_BYTES_MIN, MIB + 512
        )
    finally:
        reads.close()


def test_a_direct_write_is_seen_by_the_next_read(device: BackingDevice) -> None:
    """The page of it is dropped: the range is not warm any more, so the disk is asked."""
    reads = warm(device)
    direct = device.direct_fd(lock=False)
    try:
        with mmap.mmap(-1, 4096) as page:
            page[:] = b"w" * 4096
            os.pwrite(direct, page, 0)
        found = reads.read(0, MIB)
        assert found is None or found == b"w" * 4096 + os.pread(device.fd, MIB - 4096, 4096)
    finally:
        os.close(direct)
        reads.close()


def test_short_reads_and_block_devices_are_left_to_the_disk(device: BackingDevice) -> None:
    reads = WarmReads(device)
    try:
        assert reads.read(0, WARM_BYTES_MIN - 512) is None
    finally:
        reads.close()
    assert WarmReads(replace(device, is_block_device=True)).read(0, MIB) is None


def test_an_unknown_file_system_is_not_trusted(
    device: BackingDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_reads, "_TRUSTED", frozenset())
    assert WarmReads(device).read(0, MIB) is None


def test_after_a_cold_range_it_is_asked_less_and_less(device: BackingDevice) -> None:
    reads = warm(device)
    asked = 0

    def cold(offset: int, length: int) -> bool:
        nonlocal asked
        asked += 1
        return False

    reads._cached = cold  # type: ignore[method-assign]
    for _ in range(1000):
        assert reads.read(0, MIB) is None
    reads.close()
    assert asked < 1000 / COLD_SKIPPED_MAX + 8
