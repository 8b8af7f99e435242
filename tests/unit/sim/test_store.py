"""A drive keeps what it promised through a power cut, and nothing it did not promise is certain."""

from __future__ import annotations

import random

import pytest

from replblk.sim.store import PAGE_BYTES, SECTOR_BYTES, Store, differing_pages

OLD = b"o" * PAGE_BYTES
NEW = b"n" * PAGE_BYTES
SEEDS = range(60)


def _store() -> Store:
    store = Store(64 * PAGE_BYTES)
    store.preset(0, OLD)
    return store


def test_a_durable_write_survives_every_power_cut() -> None:
    for seed in SEEDS:
        store = _store()
        store.write(0, NEW, PAGE_BYTES, durable=True)
        store.power_cut([], random.Random(seed))
        assert store.read(0, PAGE_BYTES) == NEW


def test_a_write_that_was_not_flushed_may_be_kept_lost_or_torn_between_sectors() -> None:
    seen = set()
    for seed in SEEDS:
        store = _store()
        store.write(0, NEW, PAGE_BYTES, durable=False)
        store.power_cut([], random.Random(seed))
        left = store.read(0, PAGE_BYTES)
        sectors = {left[at : at + SECTOR_BYTES] for at in range(0, PAGE_BYTES, SECTOR_BYTES)}
        assert sectors <= {OLD[:SECTOR_BYTES], NEW[:SECTOR_BYTES]}
        seen.add("kept" if left == NEW else "lost" if left == OLD else "torn")
    assert seen == {"kept", "lost", "torn"}


def test_a_flush_covers_what_completed_before_it_began_and_nothing_later() -> None:
    lost_later = False
    for seed in SEEDS:
        store = _store()
        store.write(0, NEW, PAGE_BYTES, durable=False)
        covers = store.write_count()
        store.write(PAGE_BYTES, NEW, PAGE_BYTES, durable=False)
        store.flushed(covers)
        store.power_cut([], random.Random(seed))
        assert store.read(0, PAGE_BYTES) == NEW
        lost_later |= store.read(PAGE_BYTES, PAGE_BYTES) != NEW
    assert lost_later


def test_a_power_cut_never_brings_older_content_back_over_durable_newer_content() -> None:
    for seed in SEEDS:
        store = _store()
        store.write(0, b"x" * PAGE_BYTES, PAGE_BYTES, durable=False)
        store.write(0, NEW, PAGE_BYTES, durable=True)
        store.power_cut([], random.Random(seed))
        assert store.read(0, PAGE_BYTES) == NEW


def test_after_a_failed_flush_a_later_one_does_not_save_what_was_lost() -> None:
    lost = 0
    for seed in SEEDS:
        store = _store()
        store.write(0, NEW, PAGE_BYTES, durable=False)
        store.flush_failed(random.Random(seed))
        store.flushed(store.write_count())
        store.power_cut([], random.Random(seed))
        changed = store.read(0, PAGE_BYTES) != NEW
        assert store.doubtful_pages() == ({0} if changed else set())
        store.write(0, NEW, PAGE_BYTES, durable=True)
        assert store.doubtful_pages() == set()
        lost += changed
    assert lost


def test_a_kill_keeps_completed_writes_and_decides_those_in_flight_by_chance() -> None:
    fates = set()
    for seed in SEEDS:
        store = _store()
        store.write(0, NEW, PAGE_BYTES, durable=False)
        store.kill([(PAGE_BYTES, NEW, PAGE_BYTES)], random.Random(seed))
        assert store.read(0, PAGE_BYTES) == NEW
        fates.add(store.read(PAGE_BYTES, PAGE_BYTES) == NEW)
    assert fates == {True, False}


def test_durable_content_is_visible_before_the_log_is_folded() -> None:
    store = _store()
    store.write(PAGE_BYTES, NEW, PAGE_BYTES, durable=False)
    store.write(512, b"d" * 512, 512, durable=True)
    assert store.read_durable(0, 1536) == OLD[:512] + b"d" * 512 + OLD[:512]
    assert store.read_durable(PAGE_BYTES, 512) == bytes(512)


@pytest.mark.parametrize("seed", range(5))
def test_reads_agree_with_a_flat_array_of_bytes(seed: int) -> None:
    chance = random.Random(seed)
    size = 8 * PAGE_BYTES
    store, flat = Store(size), bytearray(size)
    for _ in range(200):
        first = chance.randrange(size // 512)
        length = chance.randrange(1, size // 512 - first + 1) * 512
        if chance.random() < 0.3:
            store.write(first * 512, None, length, durable=False)
            flat[first * 512 : first * 512 + length] = bytes(length)
        elif chance.random() < 0.7:
            data = chance.randbytes(length)
            store.write(first * 512, data, length, durable=True)
            flat[first * 512 : first * 512 + length] = data
        assert store.read(first * 512, length) == flat[first * 512 : first * 512 + length]
    assert store.read(0, size) == flat


def test_differing_pages_ignores_what_lies_behind_the_end() -> None:
    a, b = Store(4 * PAGE_BYTES), Store(4 * PAGE_BYTES)
    a.write(PAGE_BYTES, NEW, PAGE_BYTES, durable=True)
    b.write(3 * PAGE_BYTES, NEW, PAGE_BYTES, durable=True)
    assert differing_pages(a.pages, b.pages, 4 * PAGE_BYTES) == [1, 3]
    assert differing_pages(a.pages, b.pages, 3 * PAGE_BYTES) == [1]
    a.write(3 * PAGE_BYTES, NEW[:512], 512, durable=True)
    assert differing_pages(a.pages, b.pages, 3 * PAGE_BYTES + 512) == [1]
