"""Metadata writes: one superblock at a time, never a page twice, told only when durable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from replblk.engine import meta_store
from replblk.engine.meta_store import MetaStore
from replblk.engine.volume import Volume
from replblk.meta.bitmap import Bitmap
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.config import VolumeConfig
from replblk.model.generation import UuidSet
from replblk.model.units import bits_of_capacity
from replblk.model.vocabulary import DiskState, Role

SIZE = 700 << 20
LAYOUT = Layout.internal(SIZE)
FLUSH = -1
Answered = list[tuple[str, bool]]


class Bench:
    """A volume with a disk whose writes end when the test says so."""

    def __init__(self) -> None:
        self.flying: list[tuple[int, bytes, Callable[[int, Any], None]]] = []
        self.deferred: list[Callable[[], None]] = []
        self.answers: Answered = []
        self.failures: list[str] = []
        self.volume = Volume(VolumeConfig(number=0, minor=0, device="/dev/drbd0", disk="x"))
        self.volume.layout = LAYOUT
        self.volume.capacity_sectors = LAYOUT.usable_sectors
        self.volume.bitmap = Bitmap(bits_of_capacity(LAYOUT.usable_sectors))
        self.volume.state = self.volume.state.but(disk=DiskState.UP_TO_DATE)
        self.io = self
        ctx: Any = self
        known = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE
        base = replace(Superblock.fresh(LAYOUT), flags=known, clean=False)
        self.store = MetaStore(ctx, self.volume, base, self.failures.append)
        for page in self.volume.bitmap.dirty_pages():
            self.volume.bitmap.page(page)
            self.volume.bitmap.page_written(page)

    # -- what a context has ---------------------------------------------------------------------

    def write(self, volume: Volume, offset: int, data: bytes, then: Any) -> None:
        self.flying.append((offset, bytes(data), then))

    persist = False
    """Data are durable only after a flush, as with durability "kernel"."""

    def flush(self, volume: Volume, then: Any) -> None:
        self.flying.append((FLUSH, b"", then))

    def defer(self, action: Callable[[], None]) -> None:
        self.deferred.append(action)

    # -- what a test does -----------------------------------------------------------------------

    def told(self, name: str) -> Callable[[bool], None]:
        return lambda ok: self.answers.append((name, ok))

    def end(self, errno: int = 0) -> bytes:
        """The oldest write ends."""
        _, data, then = self.flying.pop(0)
        then(errno, None)
        self.settle()
        return data

    def settle(self) -> None:
        while self.deferred:
            self.deferred.pop(0)()

    def zone(self) -> list[str]:
        return [
            "flush"
            if offset == FLUSH
            else "superblock"
            if offset == LAYOUT.md_offset_bytes
            else "al"
            if offset >= LAYOUT.al_offset_bytes
            else "bitmap"
            for offset, _, _ in self.flying
        ]


def test_told_when_durable_and_not_before() -> None:
    bench = Bench()
    bench.store.sync(bench.told("a"))
    assert bench.answers == []
    bench.end()
    assert bench.answers == [("a", True)]


def test_nothing_changed_nothing_written_but_told() -> None:
    bench = Bench()
    bench.store.sync()
    bench.end()
    bench.store.sync(bench.told("again"))
    assert bench.flying == []
    bench.settle()
    assert bench.answers == [("again", True)]


def test_one_superblock_at_a_time_and_the_next_carries_what_changed_meanwhile() -> None:
    bench = Bench()
    bench.volume.uuids = bench.volume.uuids.new_current(0x10, primary=False)
    bench.store.sync(bench.told("first"))
    bench.volume.uuids = bench.volume.uuids.new_current(0x20, primary=False)
    bench.store.sync(bench.told("second"))
    bench.volume.uuids = bench.volume.uuids.new_current(0x30, primary=False)
    bench.store.sync(bench.told("third"))
    assert len(bench.flying) == 1
    assert bench.end()[8:16] == (0x10).to_bytes(8, "big")
    assert bench.answers == [("first", True)]
    assert bench.end()[8:16] == (0x30).to_bytes(8, "big")
    assert bench.answers == [("first", True), ("second", True), ("third", True)]
    assert bench.flying == []


def test_a_change_nobody_asked_to_write_follows_by_itself() -> None:
    bench = Bench()
    bench.store.sync()
    bench.volume.uuids = bench.volume.uuids.new_current(0x40, primary=False)
    bench.end()
    assert len(bench.flying) == 1
    assert bench.end()[8:16] == (0x40).to_bytes(8, "big")


@pytest.mark.parametrize("warning", ["the bitmap generation", "the Primary's mark"])
def test_a_warning_is_taken_back_when_the_bitmap_is_on_disk_and_not_before(warning: str) -> None:
    """Else a power cut would leave marks that nobody looks at any more, or no marks at all."""
    bench = Bench()
    bench.persist = True
    volume = bench.volume
    assert volume.bitmap is not None
    if warning == "the bitmap generation":
        volume.uuids = UuidSet(0x20, 0x10)
    else:
        volume.crashed_primary = True
    bench.store.sync()
    bench.end()
    volume.bitmap.set(5, 6)
    volume.uuids, volume.crashed_primary = UuidSet(0x20), False
    bench.store.sync(bench.told("taken back"))
    assert bench.zone() == ["bitmap"]
    bench.end()
    assert bench.zone() == ["superblock"]
    assert bench.answers == []
    bench.end()
    assert bench.answers == [("taken back", True)]


def test_only_changed_pages_and_neighbours_in_one_write() -> None:
    bench = Bench()
    bitmap = bench.volume.bitmap
    assert bitmap is not None
    per_page = 4096 * 8
    for bit in (0, per_page, 3 * per_page):
        bitmap.set(bit, bit + 1)
    bench.store.write_bitmap(bench.told("bits"))
    assert [(offset, len(data)) for offset, data, _ in bench.flying] == [
        (LAYOUT.bm_offset_bytes, 8192),
        (LAYOUT.bm_offset_bytes + 3 * 4096, 4096),
    ]
    bench.end()
    assert bench.answers == []
    bench.end()
    assert bench.answers == [("bits", True)]
    bench.store.write_bitmap(bench.told("nothing"))
    bench.settle()
    assert bench.flying == []
    assert bench.answers[-1] == ("nothing", True)


def test_a_large_bitmap_is_written_in_parts_and_told_of_when_all_are_durable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(meta_store, "PAGES_AT_ONCE", 2)
    bench = Bench()
    bitmap = bench.volume.bitmap
    assert bitmap is not None
    pages = bitmap.page_count
    assert pages >= 5
    per_page = 4096 * 8
    for page in range(5):
        bitmap.set(page * per_page, page * per_page + 1)
    bench.store.write_bitmap(bench.told("all"))
    written: list[int] = []
    for count in (2, 2, 1):
        assert bench.answers == []
        assert [len(data) for _, data, _ in bench.flying] == [count * 4096]
        written.append(bench.flying[0][0])
        if count == 1:
            bitmap.set(1, 2)  # a page of an earlier part changes once more: for the next write
        bench.end()
    start = LAYOUT.bm_offset_bytes
    assert written == [start, start + 8192, start + 16384]
    assert bench.answers == [("all", True)]
    assert bitmap.dirty_pages() == [0]


def test_a_part_that_fails_is_the_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meta_store, "PAGES_AT_ONCE", 1)
    bench = Bench()
    bitmap = bench.volume.bitmap
    assert bitmap is not None
    for page in range(2):
        bitmap.set(page * 32768, page * 32768 + 1)
    bench.store.write_bitmap(bench.told("all"))
    bench.end(5)
    bench.settle()
    assert bench.answers == [("all", False)]
    assert bench.flying == []


def test_a_page_is_never_in_flight_twice_and_what_changed_meanwhile_is_written_next() -> None:
    bench = Bench()
    bitmap = bench.volume.bitmap
    assert bitmap is not None
    bitmap.set(0, 1)
    bench.store.write_bitmap(bench.told("first"))
    bitmap.set(1, 2)
    bench.store.write_bitmap(bench.told("second"))
    assert len(bench.flying) == 1
    bench.end()
    assert bench.answers == [("first", True)]
    assert len(bench.flying) == 1
    assert bench.end()[:1] == b"\3"
    assert bench.answers == [("first", True), ("second", True)]


def test_only_the_pages_asked_for() -> None:
    bench = Bench()
    bitmap = bench.volume.bitmap
    assert bitmap is not None
    bitmap.set(0, 1)
    bitmap.set(4096 * 8, 4096 * 8 + 1)
    bench.store.write_bitmap(bench.told("one"), only={1})
    assert [offset for offset, _, _ in bench.flying] == [LAYOUT.bm_offset_bytes + 4096]
    bench.end()
    assert bitmap.dirty_pages() == [0]


def test_everything_out_of_sync_flag_first_then_bits_then_the_flag_goes() -> None:
    """Cut anywhere, the disk says "everything": by its flag or by its bits."""
    bench = Bench()
    bench.store.sync()
    bench.end()
    bench.store.set_all(bench.told("all"))
    assert bench.zone() == ["superblock"]
    assert MdFlag.FULL_SYNC in flags(bench.end())
    assert bench.zone() == ["bitmap"]
    assert bench.answers == []
    bench.end()
    assert bench.zone() == ["superblock"]
    assert MdFlag.FULL_SYNC not in flags(bench.end())
    assert bench.answers == [("all", True)]


def flags(block: bytes) -> MdFlag:
    return MdFlag(int.from_bytes(block[56:60], "big"))


def test_an_error_is_told_to_all_who_wait_once_and_ends_it() -> None:
    bench = Bench()
    bitmap = bench.volume.bitmap
    assert bitmap is not None
    bench.store.sync(bench.told("first"))
    bench.store.sync(bench.told("second"))
    bitmap.set(0, 1)
    bench.store.write_bitmap(bench.told("bits"))
    bench.end(5)
    bench.end()
    bench.store.sync(bench.told("late"))
    bench.store.write_bitmap(bench.told("late bits"))
    bench.settle()
    assert bench.flying == []
    assert len(bench.failures) == 1
    assert "superblock" in bench.failures[0]
    assert sorted(bench.answers) == [
        *(("bits", False), ("first", False), ("late", False), ("late bits", False)),
        ("second", False),
    ]


def test_stopping_tells_whoever_waits_that_it_will_not_be() -> None:
    bench = Bench()
    bench.store.sync(bench.told("first"))
    bench.store.sync(bench.told("second"))
    bench.store.stop()
    bench.end()
    assert sorted(bench.answers) == [("first", False), ("second", False)]


def test_a_warning_taken_back_while_data_are_flushed_waits_for_a_flush_of_its_own() -> None:
    """A resync ends, its flush begins, a write is done, and the node is demoted before it ends."""
    bench = Bench()
    volume = bench.volume
    volume.state = volume.state.but(role=Role.PRIMARY)
    volume.uuids = volume.uuids.new_current(0x10, primary=True)
    bench.store.sync()
    bench.end()
    volume.uuids = replace(volume.uuids, bitmap=0)
    bench.store.sync(bench.told("resynced"))
    assert bench.zone() == ["flush"]
    volume.state = volume.state.but(role=Role.SECONDARY)
    bench.store.sync(bench.told("demoted"))
    bench.end()
    assert bench.zone() == ["flush"], "the first one began before the demotion"
    bench.end()
    assert bench.zone() == ["superblock"]
    bench.end()
    assert bench.answers == [("resynced", True), ("demoted", True)]
    assert not bench.store.marked_primary
