"""One bitmap exchange: a bitmap to the packets that carry it, and back by OR.

Bit n stands for sectors 8n..8n+7 and is bit n mod 8 (lowest first) of byte n // 8. A transfer moves
a cursor from bit 0 to the end. A plain packet (P_BITMAP) holds the 64-bit words from the cursor's
word on, as many as fit; a compressed one holds alternating run lengths from the cursor on, in a
variable-length code, lowest bit first. After a last plain packet an empty one ends the transfer;
a compressed packet that reaches the end ends it by itself. Errors: ``PeerError``.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from bitarray import bitarray
from bitarray.util import int2ba

from replblk.model.errors import PeerError
from replblk.wire.commands import BITMAP_PACKET_BYTES, Cmd
from replblk.wire.hot import Buffer

WORD_BITS = 64
CODE_VLI = 2
"""The only compression code there is: run lengths, first run's value in bit 7."""
COMPRESSION_APV = 90
RUNS_PER_PACKET = 4096
"""A packet is closed after so many runs, so that making one takes a few milliseconds at most."""
RUNS_WORTH_CODING = 512
"""More runs than this in the reach of one plain packet: plain is as good and a lot faster."""


class _Level(NamedTuple):
    """One level of the run-length code: *prefix* in the low *prefix_bits* of *total_bits*."""

    total_bits: int
    prefix_bits: int
    prefix: int
    first: int  # smallest run length of this level


def _levels() -> list[_Level]:
    table = (
        *((2, 1, 0x00), (3, 2, 0x01), (5, 3, 0x03), (7, 4, 0x07), (10, 5, 0x0F)),
        *((14, 6, 0x1F), (21, 8, 0x3F), (29, 8, 0x7F), (42, 8, 0xBF), (64, 8, 0xFF)),
    )
    levels, first = [], 1
    for total, bits, prefix in table:
        levels.append(_Level(total, bits, prefix, first))
        first += 1 << (total - bits)
    return levels


_LEVELS = _levels()
_BY_LOW_BYTE = [
    next(level for level in _LEVELS if byte & ((1 << level.prefix_bits) - 1) == level.prefix)
    for byte in range(256)
]
"""The level that a code word's first eight bits select: no prefix is longer, every byte has one."""


def payload_budget(apv: int) -> int:
    """Payload bytes of the largest bitmap packet: what 4096 leave after the header."""
    return BITMAP_PACKET_BYTES - (16 if apv >= 100 else 8)


def chunk_bits(apv: int) -> int:
    """Bits in a full plain packet."""
    return payload_budget(apv) // 8 * WORD_BITS


@lru_cache(maxsize=65536)
def vli_code(run: int) -> bitarray:
    """The code word of a run length >= 1, in the order its bits are sent."""
    level = next(level for level in reversed(_LEVELS) if run >= level.first)
    word = (run - level.first) << level.prefix_bits | level.prefix
    return int2ba(word, length=level.total_bits, endian="little")


def encode_bitmap(bits: bitarray, *, apv: int, use_rle: bool) -> Iterator[tuple[Cmd, bytes]]:
    """The packets of one whole transfer, made one by one as they are asked for.

    Nothing else may go on the data socket in between. Bits that change behind the cursor while the
    iterator is in use are not told.
    """
    assert bits.endian == "little"
    coding = use_rle and apv >= COMPRESSION_APV
    offset, reach = 0, chunk_bits(apv)
    last_was_plain = True
    while offset < len(bits):
        coded = _compressed(bits, offset, payload_budget(apv), reach) if coding else None
        if coded is not None:
            payload, offset = coded
            last_was_plain = False
            yield Cmd.P_COMPRESSED_BITMAP, payload
        else:
            start = offset - offset % WORD_BITS
            offset = min(start + reach, len(bits))
            words = -(-(offset - start) // WORD_BITS)
            last_was_plain = True
            yield Cmd.P_BITMAP, bits[start:offset].tobytes().ljust(8 * words, b"\0")
    if last_was_plain:
        yield Cmd.P_BITMAP, b""


def _compressed(bits: bitarray, offset: int, budget: int, reach: int) -> tuple[bytes, int] | None:
    """A compressed packet and the cursor behind it, or None where a plain one is better."""
    ahead = bits[offset : offset + reach]
    if (ahead ^ (ahead << 1)).count() > RUNS_WORTH_CODING:
        return None
    stream = bitarray(endian="little")
    room = 8 * (budget - 1)
    first = value = bits[offset]
    position = offset
    for _ in range(RUNS_PER_PACKET):
        end = bits.find(not value, position)
        if end < 0:
            end = len(bits)
        code = vli_code(end - position)
        if len(stream) + len(code) > room:
            break
        stream += code
        position, value = end, not value
        if position == len(bits):
            break
    coded = stream.tobytes()
    if position - offset < 8 * len(coded):
        return None
    pad_bits = 8 * len(coded) - len(stream)
    return bytes((first << 7 | pad_bits << 4 | CODE_VLI,)) + coded, position


class BitmapDecoder:
    """Receives one transfer of a bitmap of *bit_count* bits; a cursor guards every step."""

    __slots__ = ("_apv", "_bit_count", "_offset", "_word_offset", "complete")

    def __init__(self, bit_count: int, apv: int) -> None:
        self._bit_count = bit_count
        self._apv = apv
        self._offset = 0
        self._word_offset = 0
        self.complete = False

    def feed(self, cmd: Cmd, payload: Buffer, into: bitarray) -> None:
        """Set in *into* (little-endian, bit_count long) the bits one packet tells to be set.

        ``complete`` is True after the last packet. After a ``PeerError`` *into* may hold some of
        the faulty packet's bits: more resync than needed, never less.
        """
        assert into.endian == "little"
        assert len(into) == self._bit_count
        if self.complete:
            raise PeerError(f"{cmd.name} after the bitmap was complete")
        if cmd is Cmd.P_BITMAP:
            self._plain(payload, into)
        elif cmd is Cmd.P_COMPRESSED_BITMAP:
            self._compressed(payload, into)
        else:
            raise PeerError(
                f"{cmd.name} at bit {self._offset} of {self._bit_count} of a bitmap transfer, "
                "where only bitmap packets have a place"
            )

    def _plain(self, payload: Buffer, into: bitarray) -> None:
        words_total = -(-self._bit_count // WORD_BITS)
        words = min(chunk_bits(self._apv) // WORD_BITS, words_total - self._word_offset)
        if len(payload) != 8 * words:
            raise PeerError(
                f"P_BITMAP with {len(payload)} bytes at word {self._word_offset} of "
                f"{words_total}: expected {8 * words}"
            )
        if not words:
            self.complete = True
            return
        start = self._word_offset * WORD_BITS
        self._word_offset += words
        self._offset = min(self._word_offset * WORD_BITS, self._bit_count)
        told = bitarray(endian="little")
        told.frombytes(bytes(payload))
        del told[self._offset - start :]
        into[start : self._offset] |= told

    def _compressed(self, payload: Buffer, into: bitarray) -> None:
        if self._apv < COMPRESSION_APV:
            raise PeerError(f"P_COMPRESSED_BITMAP at protocol version {self._apv}: 90 brought it")
        if not 2 <= len(payload) <= payload_budget(self._apv):
            raise PeerError(
                f"P_COMPRESSED_BITMAP with {len(payload)} bytes: "
                f"expected 2 to {payload_budget(self._apv)}"
            )
        encoding = payload[0]
        if encoding & 15 != CODE_VLI:
            raise PeerError(f"P_COMPRESSED_BITMAP with code {encoding & 15}: expected {CODE_VLI}")
        value = bool(encoding >> 7)
        position = self._offset
        for run in _runs(payload[1:], encoding >> 4 & 7):
            end = position + run
            if end > self._bit_count:
                raise PeerError(
                    f"P_COMPRESSED_BITMAP with a run of {run} at bit {position}: "
                    f"the bitmap ends at {self._bit_count}"
                )
            if value:
                into[position:end] = True
            position, value = end, not value
        self._offset = position
        self._word_offset = position // WORD_BITS
        self.complete = position == self._bit_count


def _runs(stream: Buffer, pad_bits: int) -> Iterator[int]:
    """The run lengths of a code stream; a code word that its end cuts off is an error."""
    left = 8 * len(stream) - pad_bits
    ahead = fetched = ahead_bits = 0
    while left:
        if ahead_bits < 64:
            piece = stream[fetched : fetched + 8]
            ahead |= int.from_bytes(piece, "little") << ahead_bits
            ahead_bits += 8 * len(piece)
            fetched += 8
        level = _BY_LOW_BYTE[ahead & 255]
        total = level.total_bits
        if total > left:
            raise PeerError(f"P_COMPRESSED_BITMAP ends in the middle of a code of {total} bits")
        yield ((ahead & ((1 << total) - 1)) >> level.prefix_bits) + level.first
        ahead >>= total
        ahead_bits -= total
        left -= total
