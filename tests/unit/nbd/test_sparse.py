"""What spares a client the zeroes: reads with holes in them, and zeroing that must be fast."""

from __future__ import annotations

import errno

import pytest

from nbd.alignment import AlignedExport, RangeLocks
from nbd.export import Export, FastZeroes, Geometry, Refused, SparseReads
from nbd.memory import MemoryDisk, MemoryExports
from nbd.protocol import Command, CommandFlag, Error
from nbd.transmission import SPARSE_BYTES_MIN, Transmission
from tests.support.nbd_bytes import Said, extended, replies, request

SIZE = 1 << 20
PAGE = 4096
DF, FAST, NO_HOLE = CommandFlag.DF, CommandFlag.FAST_ZERO, CommandFlag.NO_HOLE


class Session:
    """A Transmission on a memory disk."""

    def __init__(self, form: str, block: int = 1, **geometry: object) -> None:
        exports = MemoryExports.single(SIZE, "disk", minimum_block=block, **geometry)
        self.disk: MemoryDisk = exports.disks["disk"]
        self.form = form
        opened = exports.open("disk")
        assert not isinstance(opened, Refused)
        export: Export = opened if block == 1 else AlignedExport(opened, RangeLocks())
        self.t = Transmission(
            export,
            structured=form == "structured",
            extended=form == "extended",
            promised_alignment=False,
            wake=lambda: None,
        )

    def ask(self, command: int, offset: int, length: int, flags: int = 0) -> Said:
        build = extended if self.form == "extended" else request
        self.t.receive(memoryview(build(command, offset, length, flags=flags)))
        raw = b"".join(bytes(piece) for piece in self.t.take())
        (said,) = replies(raw, {1: length})
        return said


@pytest.mark.parametrize("form", ["structured", "extended"])
@pytest.mark.parametrize("block", [1, 512])
def test_a_read_names_its_holes_instead_of_sending_them(form: str, block: int) -> None:
    s = Session(form, block)
    s.disk.put(16 * PAGE, b"x" * (4 * PAGE))
    said = s.ask(Command.READ, 0, 64 * PAGE)
    assert [(at, size, data is None) for at, size, data in said.pieces] == [
        (0, 16 * PAGE, True),
        (16 * PAGE, 4 * PAGE, False),
        (20 * PAGE, 44 * PAGE, True),
    ]
    assert said.data == s.disk.content(0, 64 * PAGE)


@pytest.mark.parametrize("form", ["structured", "extended"])
def test_zeroes_that_are_kept_are_data_and_not_a_hole(form: str) -> None:
    s = Session(form)
    s.disk.wipe(0, 64 * PAGE, may_unmap=False)
    said = s.ask(Command.READ, 0, 64 * PAGE)
    assert [(at, size, data is None) for at, size, data in said.pieces] == [(0, 64 * PAGE, False)]


@pytest.mark.parametrize("form", ["structured", "extended"])
def test_df_gets_one_chunk_of_data_holes_or_not(form: str) -> None:
    """proto.md, NBD_CMD_FLAG_DF: the reply MUST NOT be more than one content chunk."""
    s = Session(form)
    s.disk.put(16 * PAGE, b"x" * PAGE)
    said = s.ask(Command.READ, 0, 64 * PAGE, DF)
    assert [(at, size, data is None) for at, size, data in said.pieces] == [(0, 64 * PAGE, False)]
    assert said.data == s.disk.content(0, 64 * PAGE)


def test_a_client_of_simple_replies_gets_every_byte() -> None:
    assert Session("simple").ask(Command.READ, 0, 64 * PAGE).data == bytes(64 * PAGE)


def test_a_short_read_is_not_searched_for_holes() -> None:
    said = Session("structured").ask(Command.READ, 0, SPARSE_BYTES_MIN - 1)
    assert [data is None for _, _, data in said.pieces] == [False]


def test_an_odd_range_of_a_disk_of_blocks_comes_in_one_piece() -> None:
    said = Session("structured", 512).ask(Command.READ, 3, 64 * PAGE)
    assert said.pieces == [(3, 64 * PAGE, bytes(64 * PAGE))]


@pytest.mark.parametrize("form", ["structured", "extended"])
def test_a_sparse_read_that_fails_is_one_error(form: str) -> None:
    s = Session(form)
    s.disk.fail("read", errno.EIO)
    said = s.ask(Command.READ, 0, 64 * PAGE)
    assert (said.error, said.pieces) == (Error.EIO, [])


def test_fast_zero_that_would_be_slow_is_refused_and_changes_nothing() -> None:
    """proto.md, NBD_CMD_FLAG_FAST_ZERO: MUST fail quickly with ENOTSUP, MUST NOT alter contents."""
    s = Session("structured")
    s.disk.put(0, b"x" * PAGE)
    s.disk.recording = True
    assert s.ask(Command.WRITE_ZEROES, 0, 100, FAST).error == Error.ENOTSUP
    assert s.disk.calls == []
    assert s.disk.content(0, PAGE) == b"x" * PAGE
    assert s.ask(Command.WRITE_ZEROES, 0, 100).error == 0, "without the flag never ENOTSUP"
    assert s.ask(Command.WRITE_ZEROES, 0, PAGE, FAST | NO_HOLE).error == 0
    assert s.disk.content(0, PAGE) == bytes(PAGE)


def test_fast_zero_that_is_not_advertised_is_einval() -> None:
    s = Session("structured", can_fast_zero=False)
    assert s.ask(Command.WRITE_ZEROES, 0, PAGE, FAST).error == Error.EINVAL


def test_fast_zero_needs_zero() -> None:
    """proto.md: SEND_FAST_ZERO MUST be clear where SEND_WRITE_ZEROES is."""
    with pytest.raises(ValueError, match="can't zero fast"):
        Geometry(SIZE, can_zero=False, can_fast_zero=True)


def test_a_disk_of_blocks_asks_the_disk_beneath_for_whole_blocks() -> None:
    exports = MemoryExports.single(SIZE, "disk", minimum_block=512)
    opened = exports.open("disk")
    assert isinstance(opened, SparseReads)
    assert isinstance(opened, FastZeroes)
    aligned = AlignedExport(opened, RangeLocks())
    assert aligned.zeroes_fast(1, PAGE, True), "the blocks around it are a page and more"
    assert not aligned.zeroes_fast(1, 512, True)
