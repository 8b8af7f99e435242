"""Group commit past the page cache, with the kernel's answers shortened or made to fail."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from replblk.shell import direct_writer
from replblk.shell.buffers import aligned_bytes
from replblk.shell.direct_writer import GROUP_RUNS_MAX
from replblk.shell.disk import FileDisk, read_directly
from replblk.shell.kernel_aio import Aio, DirectWrite
from tests.contract.rigs import ShellDiskRig

BYTES = 16 << 20
Answer = Callable[[int, Sequence[DirectWrite], list[int]], list[int]]


class Story:
    """A direct disk on a file; what its writes are answered may be made up."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.groups: list[list[DirectWrite]] = []
        self.alone: list[tuple[int, int]] = []
        self.answer: Answer | None = None
        real, real_alone = Aio.write_all, os.pwrite

        def write_all(aio: Aio, fd: int, writes: Sequence[DirectWrite]) -> list[int]:
            self.groups.append(list(writes))
            results = [] if self.answer else real(aio, fd, writes)
            return self.answer(fd, writes, results) if self.answer else results

        def pwrite(fd: int, data: memoryview, offset: int) -> int:
            self.alone.append((offset, len(data)))
            return real_alone(fd, data, offset)

        monkeypatch.setattr(Aio, "write_all", write_all)
        monkeypatch.setattr(os, "pwrite", pwrite)
        self.rig = ShellDiskRig(folder, BYTES, ring=False, direct=True)
        disk = self.rig.open()
        assert isinstance(disk, FileDisk)
        self.disk = disk

    def put(self, *writes: tuple[int, bytes]) -> list[int]:
        numbers = range(1, len(writes) + 1)
        self.rig.recorder.disk.clear()
        for number, (offset, data) in zip(numbers, writes, strict=True):
            self.disk.write(number, offset, data, durable=True)
        self.rig.run_until(lambda: len(self.rig.recorder.disk) == len(writes))
        return [self.rig.recorder.disk[number][0] for number in numbers]

    def content(self, offset: int, length: int) -> bytes:
        with self.rig.path.open("rb") as file:
            file.seek(offset)
            return file.read(length)

    def close(self) -> None:
        self.disk.close()
        self.rig.loop.close()


@pytest.fixture
def story(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    return Story(tmp_path, monkeypatch)


def test_a_batch_is_written_together_neighbours_as_one_and_one_write_by_itself(
    story: Story,
) -> None:
    parts = (0, b"a" * 512), (512, b"b" * 512), (8192, b"c" * 4096)
    assert story.put(*parts) == [0, 0, 0]
    assert [[(offset, size) for offset, _, size in group] for group in story.groups] == [
        [(0, 1024), (8192, 4096)]
    ]
    assert story.put((4096, b"d" * 512)) == [0]
    assert story.alone == [(4096, 512)]
    assert story.content(0, 1024) == b"a" * 512 + b"b" * 512
    assert story.content(4096, 512) + story.content(8192, 4096) == b"d" * 512 + b"c" * 4096
    story.close()


def test_groups_are_bounded_in_number_and_bytes(story: Story) -> None:
    many = [(number * 8192, b"m" * 512) for number in range(GROUP_RUNS_MAX + 2)]
    assert set(story.put(*many)) == {0}
    assert [len(group) for group in story.groups] == [GROUP_RUNS_MAX, 2]
    story.groups.clear()
    long = [(number * ((1 << 20) + 4096), b"l" * (1 << 20)) for number in range(10)]
    assert set(story.put(*long)) == {0}
    assert [len(group) for group in story.groups] == [8, 2]
    story.close()


def test_a_short_write_is_completed(story: Story) -> None:
    def short(fd: int, writes: Sequence[DirectWrite], _: list[int]) -> list[int]:
        return [512 for _ in writes]

    story.answer = short
    os_file = b"0" * 512  # what the first try is said to have written
    assert story.put((0, os_file + b"1" * 512), (8192, os_file + b"2" * 1024)) == [0, 0]
    assert story.alone == [(512, 512), (8704, 1024)]
    assert story.content(512, 512) + story.content(8704, 1024) == b"1" * 512 + b"2" * 1024
    story.close()


def test_what_was_written_before_an_error_counts_and_the_rest_is_never_tried_again(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, data: memoryview, offset: int) -> int:
        story.alone.append((offset, len(data)))
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(direct_writer.os, "pwrite", full)
    story.answer = lambda fd, writes, _: [512, -errno.EIO]
    data = b"n" * 512
    assert story.put((0, data), (512, data), (1024, data), (8192, data)) == [
        *(0, errno.ENOSPC, errno.ENOSPC, errno.EIO)
    ]
    assert story.alone == [(512, 1024)]
    story.close()


def test_reads_come_in_pieces_and_a_device_that_ends_early_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"r" * 8192)
    fd = os.open(path, os.O_RDONLY)
    real = os.preadv

    def by_sectors(fd: int, buffers: list[memoryview], offset: int) -> int:
        return real(fd, [buffers[0][:512]], offset)

    monkeypatch.setattr(os, "preadv", by_sectors)
    failed, view = read_directly(fd, 4096, 2048)
    assert (failed, bytes(view or b"")) == (0, b"r" * 2048)
    assert read_directly(fd, 4096, 8192) == (errno.EIO, None)
    os.close(fd)
    assert read_directly(fd, 0, 512) == (errno.EBADF, None)
    assert len(aligned_bytes(512)[0]) == 512


@pytest.mark.parametrize("drops", [True, False])
def test_reads_see_what_was_written_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drops: bool
) -> None:
    """By the page cache only where such writes leave no old page in it."""
    monkeypatch.setattr("replblk.shell.disk.drops_cached_pages", lambda device: drops)
    story = Story(tmp_path, monkeypatch)
    assert (story.disk._read_fd < 0) is drops
    for round_ in range(8):
        data = bytes([round_]) * 512
        assert story.put((512 * round_, data), (8192, data * 8)) == [0, 0]
        story.disk.read(3, 0, 4096)
        story.disk.read(4, 8192, 128 << 10)
        story.rig.run_until(lambda: {3, 4} <= story.rig.recorder.disk.keys())
        (_, short), (_, long) = story.rig.recorder.disk[3], story.rig.recorder.disk[4]
        assert bytes(short)[512 * round_ :][:512] == bytes(long)[:512] == data
    story.close()
