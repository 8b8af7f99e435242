"""Blocks of the activity log and their replay."""

from __future__ import annotations

import pytest

from replblk.meta.al_transaction import (
    FREE,
    Transaction,
    crc32c_raw,
    initialised_block,
    replay,
    trimmed,
)
from replblk.model.errors import MetadataError


def transaction(number: int, *updates: tuple[int, int]) -> bytes:
    return Transaction(number, updates, context_size=67).encode()


def test_checksum_is_raw_crc32c() -> None:
    assert crc32c_raw(b"123456789") == 0x58E3FA20


def test_initialised_block_is_drbds() -> None:
    block = initialised_block()
    assert block[:20].hex(" ", 4) == "69cb65a2 00000000 709cc651 ffff0000 00000000"
    assert not any(block[20:])


@pytest.mark.parametrize("used", [0, 1, 63, 64, 65, 855, 918, 919])
@pytest.mark.parametrize("last", [0, 255, FREE - 1, 0xFFFFFF])
def test_free_slots_at_the_end_of_a_context_are_left_out(used: int, last: int) -> None:
    held = (*[FREE] * (used - 1), last)[:used] if used else ()
    assert trimmed([*held, *[FREE] * (919 - used)]) == held
    assert Transaction.decode(Transaction(7, context=held).encode()).context == held


def test_every_field_has_its_place() -> None:
    block = Transaction(0x01020304, ((9, 0xA0), (8, 0xB0)), 1237, 919, (FREE, 0xC0)).encode()
    assert block[4:8].hex() == "01020304"
    assert block[12:20].hex() == "0000000204d50397"
    assert not any(block[20:36])
    assert block[36:42].hex() == "00090008ffff"
    assert block[164:176].hex() == "000000a0000000b0ffffffff"
    assert block[420:432].hex() == "ffffffff000000c0ffffffff"


@pytest.mark.parametrize("at", [0, 5, 9, 13, 15, 40, 420, 4095])
def test_one_flipped_byte_makes_a_block_invalid(at: int) -> None:
    block = bytearray(transaction(7, (66, 1)))
    block[at] ^= 0x10
    with pytest.raises(MetadataError, match="activity log block"):
        Transaction.decode(bytes(block))


@pytest.mark.parametrize(("at", "value"), [(12, b"\x00\x01"), (14, b"\x00\x41")])
def test_impossible_blocks_with_a_right_checksum_are_invalid(at: int, value: bytes) -> None:
    block = bytearray(transaction(7, (66, 1)))
    block[at : at + 2] = value
    block[8:12] = bytes(4)
    block[8:12] = crc32c_raw(bytes(block)).to_bytes(4, "big")
    with pytest.raises(MetadataError, match="impossible"):
        Transaction.decode(bytes(block))


def test_later_blocks_override_earlier_ones_wherever_they_lie() -> None:
    log = replay([transaction(8, (66, 5)), transaction(9, (66, 6)), transaction(7, (66, 4))])
    assert (log.extents, log.newest) == ([6], 9)


def test_what_older_blocks_told_holds_where_no_later_one_says_otherwise() -> None:
    log = replay([transaction(8, (65, 5)), transaction(9, (66, 6))])
    assert (log.extents, log.newest) == ([5, 6], 9)


def test_numbers_wrap() -> None:
    log = replay([transaction(0, (66, 6)), transaction(0xFFFFFFFF, (66, 5))])
    assert (log.extents, log.newest) == ([6], 0)


def test_an_evicted_extent_is_not_marked() -> None:
    evicting = Transaction(1, ((66, 9),), 67, 0, (FREE,) * 66 + (5,)).encode()
    assert replay([transaction(0, (66, 5)), evicting]).extents == [9]


def test_context_tells_what_overwritten_blocks_told() -> None:
    assert replay([Transaction(20, ((1, 9),), 67, 2, (7, FREE, 8)).encode()]).extents == [7, 8, 9]


def test_damaged_blocks_are_counted_and_skipped() -> None:
    torn = transaction(9, (65, 6))[:512] + bytes(3584)
    log = replay([transaction(8, (66, 5)), torn, bytes(4096)])
    assert (log.extents, log.corrupt, log.usable) == ([5], 2, True)


def test_a_fresh_ring_says_nothing_is_hot() -> None:
    log = replay([initialised_block()] * 8)
    assert (log.extents, log.usable, log.newest, log.any_magic) == ([], True, None, True)


def test_a_torn_first_transaction_is_no_reason_to_worry() -> None:
    """Its data writes were never submitted."""
    log = replay([bytes(4096), *[initialised_block()] * 7])
    assert (log.usable, log.corrupt) == (True, 1)


@pytest.mark.parametrize("damaged", [(1,), (0, 1), (7,)])
def test_lost_transactions_make_the_log_unusable(damaged: tuple[int, ...]) -> None:
    ring = [initialised_block()] * 8
    for index in damaged:
        ring[index] = b"\xff" * 4096
    log = replay(ring)
    assert (log.usable, log.any_magic, log.corrupt) == (False, True, len(damaged))


def test_no_activity_log_at_all() -> None:
    log = replay([bytes(4096)] * 8)
    assert (log.usable, log.any_magic, log.extents) == (False, False, [])
