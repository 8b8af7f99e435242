"""Holes of real files: what a file system tells is believed only where it reads as zeroes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from replblk.shell.holes import punches_holes, runs_of

MIB = 1 << 20


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """4 MiB: data in the second."""
    number = os.open(tmp_path / "disk", os.O_RDWR | os.O_CREAT)
    os.ftruncate(number, 4 * MIB)
    os.pwrite(number, b"x" * MIB, MIB)
    yield number
    os.close(number)


def test_runs_cover_the_range_and_every_hole_reads_as_zeroes(fd: int) -> None:
    runs = runs_of(fd, 0, 4 * MIB, 100)
    assert sum(size for size, _ in runs) == 4 * MIB
    at = 0
    for size, hole in runs:
        if hole:
            assert os.pread(fd, size, at) == bytes(size)
        at += size
    if not punches_holes(fd, 4 * MIB):
        pytest.skip("the file system of the temporary folder makes no holes")
    assert runs == [(MIB, True), (MIB, False), (2 * MIB, True)]


def test_a_range_inside_data_or_inside_a_hole_is_one_run(fd: int) -> None:
    assert runs_of(fd, MIB + 4096, 8192, 100) == [(8192, False)]
    assert [size for size, _ in runs_of(fd, 3 * MIB, 4096, 100)] == [4096]


def test_the_search_stops_after_so_many_runs(fd: int) -> None:
    assert len(runs_of(fd, 0, 4 * MIB, 2)) <= 2


def test_what_cannot_be_searched_is_data() -> None:
    read_end, write_end = os.pipe()
    try:
        assert runs_of(read_end, 0, MIB, 100) == [(MIB, False)]
        assert not punches_holes(write_end, MIB)
    finally:
        os.close(read_end)
        os.close(write_end)


def test_trying_to_punch_leaves_the_file_as_it_is(fd: int) -> None:
    before = os.fstat(fd).st_size, os.pread(fd, 4 * MIB, 0)
    punches_holes(fd, 4 * MIB)
    assert (os.fstat(fd).st_size, os.pread(fd, 4 * MIB, 0)) == before
