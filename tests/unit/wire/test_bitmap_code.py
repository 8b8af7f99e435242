"""The run-length code of bitmaps: worked examples, the order of packets, and what is refused."""

from __future__ import annotations

import pytest
from bitarray import bitarray
from bitarray.util import zeros

from replblk.model.errors import PeerError
from replblk.wire.bitmap_code import BitmapDecoder, encode_bitmap, vli_code
from replblk.wire.commands import Cmd

PLAIN, CODED = Cmd.P_BITMAP, Cmd.P_COMPRESSED_BITMAP


def little(text: str) -> bitarray:
    return bitarray(text, endian="little")


def full(count: int) -> bitarray:
    return ~zeros(count, endian="little")


def packets(bits: bitarray, *, apv: int = 101, use_rle: bool = True) -> list[tuple[Cmd, bytes]]:
    return list(encode_bitmap(bits, apv=apv, use_rle=use_rle))


def received(count: int, *parts: tuple[Cmd, bytes], apv: int = 101) -> bitarray:
    into = zeros(count, endian="little")
    decoder = BitmapDecoder(count, apv)
    for cmd, payload in parts:
        assert not decoder.complete
        decoder.feed(cmd, payload, into)
    assert decoder.complete
    return into


# --- the code ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "bits"),
    [
        (1, "00"),
        (2, "01"),
        (3, "100"),
        (4, "101"),
        (5, "11000"),
        (8, "11011"),
        (9, "1110000"),
        (17, "1111000000"),
        (53, "111110" + "00100000"),
        (304, "111110" + "11111111"),
        (305, "11111100" + "0" * 13),
        (8497, "11111110" + "0" * 21),
        (2105649, "11111101" + "0" * 34),
        (17181974833, "11111111" + "0" * 56),
        (72057611219902768, "1" * 64),
    ],
)
def test_code_words_in_the_order_they_are_sent(run: int, bits: str) -> None:
    assert vli_code(run) == little(bits)


WORKED = [
    pytest.param(full(17), "e2 0f 00", id="17 set"),
    pytest.param(little("000" + "11111" + "0" + "11" + "0" * 53), "62 19 f8 11 00", id="five runs"),
    pytest.param(full(1048576), "b2 7f cf de 0f", id="2^20 set"),
]


@pytest.mark.parametrize(("bits", "payload"), WORKED)
def test_worked_examples(bits: bitarray, payload: str) -> None:
    assert packets(bits) == [(CODED, bytes.fromhex(payload))]
    assert received(len(bits), (CODED, bytes.fromhex(payload))) == bits


# --- transfers --------------------------------------------------------------------------------


def test_a_whole_tebibyte_fits_in_one_packet() -> None:
    bits = full(1 << 28)
    (packet,) = packets(bits)
    assert len(packet[1]) == 7
    assert received(1 << 28, packet) == bits


def test_plain_transfer_ends_with_an_empty_packet() -> None:
    bits = little("1" * 70)
    assert packets(bits, use_rle=False) == [
        (PLAIN, b"\xff" * 8 + b"\x3f" + bytes(7)),
        (PLAIN, b""),
    ]


def test_no_bits_are_one_empty_packet() -> None:
    assert packets(zeros(0, endian="little")) == [(PLAIN, b"")]
    assert received(0, (PLAIN, b"")) == zeros(0, endian="little")


def test_before_version_90_nothing_is_compressed() -> None:
    assert [cmd for cmd, _ in packets(full(64), apv=89)] == [PLAIN, PLAIN]


@pytest.mark.parametrize(("apv", "full_packet"), [(101, 4080), (99, 4088)])
def test_plain_packets_are_as_long_as_the_header_leaves_room(apv: int, full_packet: int) -> None:
    bits = full(full_packet * 8 * 2 + 1)
    sent = packets(bits, apv=apv, use_rle=False)
    assert [len(payload) for _, payload in sent] == [full_packet, full_packet, 8, 0]
    assert received(len(bits), *sent, apv=apv) == bits


def test_dense_bits_go_plain_and_a_long_rest_compressed() -> None:
    bits = little("10" * 20000) + full(1000000)
    sent = packets(bits)
    assert [cmd for cmd, _ in sent] == [PLAIN, PLAIN, CODED]
    assert received(len(bits), *sent) == bits


def test_plain_after_compressed_starts_at_the_word_of_the_cursor() -> None:
    # One set run of 100, then a plain packet from word 1 (bit 64) on: bits 64..99 come twice.
    into = received(
        192,
        (CODED, bytes((0x80 | 2 << 4 | 2,)) + vli_code(100).tobytes()),
        (PLAIN, b"\0" * 8 + b"\x80" + bytes(7)),
        (PLAIN, b""),
    )
    assert into == little("1" * 100 + "0" * 28 + "0" * 7 + "1" + "0" * 56)


def test_compressed_after_plain_starts_at_the_end_of_the_plain_one() -> None:
    bits = 510 * 64
    code = vli_code(64)
    into = received(
        bits + 64,
        (PLAIN, bytes(4080)),
        (CODED, bytes((0x80 | (-len(code) % 8) << 4 | 2,)) + code.tobytes()),
    )
    assert into == zeros(bits, endian="little") + full(64)


def test_received_bits_are_added_to_those_there() -> None:
    into = little("1000" * 16)
    decoder = BitmapDecoder(64, 101)
    decoder.feed(PLAIN, b"\x02" + bytes(7), into)
    assert into == little("1100" + "1000" * 15)


def test_bits_beyond_the_end_are_dropped() -> None:
    assert received(3, (PLAIN, b"\xff" * 8), (PLAIN, b"")) == full(3)


def test_a_packet_may_come_as_a_memoryview() -> None:
    into = zeros(17, endian="little")
    decoder = BitmapDecoder(17, 101)
    decoder.feed(CODED, memoryview(bytes.fromhex("e20f00")), into)
    assert decoder.complete


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "cmd", "payload", "apv", "why"),
    [
        (64, PLAIN, "", 101, "0 bytes at word 0 of 1: expected 8"),
        (64, PLAIN, "00" * 16, 101, "16 bytes at word 0 of 1: expected 8"),
        (64, CODED, "82", 101, "1 bytes: expected 2 to 4080"),
        (64, CODED, "82" + "00" * 4080, 101, "4081 bytes: expected 2 to 4080"),
        (64, CODED, "e10f00", 101, "code 1: expected 2"),
        (16, CODED, "e20f00", 101, "a run of 17 at bit 0: the bitmap ends at 16"),
        (16, CODED, "620f00", 101, "a run of 17 at bit 0: the bitmap ends at 16"),
        (64, CODED, "82ff", 101, "in the middle of a code of 64 bits"),
        (64, CODED, "f200", 101, "in the middle of a code of 2 bits"),
        (17, CODED, "e20f00", 89, "P_COMPRESSED_BITMAP at protocol version 89"),
        (64, Cmd.P_STATE, "00000000", 101, "P_STATE at bit 0 of 64 of a bitmap transfer"),
    ],
)
def test_what_can_be_no_part_of_the_transfer_is_refused(
    count: int, cmd: Cmd, payload: str, apv: int, why: str
) -> None:
    decoder = BitmapDecoder(count, apv)
    with pytest.raises(PeerError, match=why):
        decoder.feed(cmd, bytes.fromhex(payload), zeros(count, endian="little"))
    assert not decoder.complete


def test_nothing_follows_the_end() -> None:
    into = zeros(17, endian="little")
    decoder = BitmapDecoder(17, 101)
    decoder.feed(CODED, bytes.fromhex("e20f00"), into)
    with pytest.raises(PeerError, match="P_BITMAP after the bitmap was complete"):
        decoder.feed(PLAIN, b"", into)


def test_a_full_bitmap_still_needs_its_empty_packet_and_takes_no_more_runs() -> None:
    into = zeros(64, endian="little")
    decoder = BitmapDecoder(64, 101)
    decoder.feed(PLAIN, bytes(8), into)
    assert not decoder.complete
    with pytest.raises(PeerError, match="a run of 1 at bit 64"):
        decoder.feed(CODED, bytes((2 | 6 << 4, 0)), into)
