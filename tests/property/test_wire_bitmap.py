"""The bitmap code against a naive model that codes one run at a time, bit by bit, as text."""

from __future__ import annotations

from contextlib import suppress
from itertools import groupby

from bitarray import bitarray
from bitarray.util import zeros
from hypothesis import given
from hypothesis import strategies as st

from replblk.model.errors import PeerError
from replblk.wire.bitmap_code import BitmapDecoder, encode_bitmap, vli_code
from replblk.wire.commands import Cmd

LEVELS = [  # data bits, prefix as sent, smallest run
    (1, "0", 1),
    (1, "10", 3),
    (2, "110", 5),
    (3, "1110", 9),
    (5, "11110", 17),
    (8, "111110", 49),
    (13, "11111100", 305),
    (21, "11111110", 8497),
    (34, "11111101", 2105649),
    (56, "11111111", 17181974833),
]


def naive_code(run: int) -> str:
    width, prefix, first = next(level for level in reversed(LEVELS) if run >= level[2])
    return prefix + format(run - first, f"0{width}b")[::-1]


def naive_runs(stream: str) -> list[int]:
    runs = []
    while stream:
        width, prefix, first = next(level for level in LEVELS if stream.startswith(level[1]))
        stream = stream[len(prefix) :]
        runs.append(int(stream[:width][::-1], 2) + first)
        stream = stream[width:]
    return runs


def naive_payload(bits: str) -> bytes:
    stream = "".join(naive_code(len(list(run))) for _, run in groupby(bits))
    pad = -len(stream) % 8
    head = int(bits[0]) << 7 | pad << 4 | 2
    return bytes((head,)) + bitarray(stream + "0" * pad, endian="little").tobytes()


# Bitmaps as kernels see them: mostly long runs, some short ones, some noise.
run_lengths = st.one_of(
    st.integers(1, 5), st.integers(1, 70), st.integers(1, 9000), st.integers(8000, 60000)
)
bitmaps = st.tuples(st.booleans(), st.lists(run_lengths, max_size=40)).map(
    lambda drawn: "".join(
        str(int(drawn[0]) ^ (place & 1)) * run for place, run in enumerate(drawn[1])
    )
)


@given(st.one_of(st.integers(1, 20000), st.integers(1, 72057611219902768)))
def test_code_words_are_those_of_the_table(run: int) -> None:
    assert vli_code(run).to01() == naive_code(run)


@given(bitmaps, st.sampled_from([89, 90, 99, 100, 101]), st.booleans())
def test_a_transfer_brings_every_bit_and_keeps_those_there(
    text: str, apv: int, use_rle: bool
) -> None:
    bits = bitarray(text, endian="little")
    into = zeros(len(bits), endian="little")
    into[::97] = True
    expected = into | bits
    decoder = BitmapDecoder(len(bits), apv)
    for cmd, payload in encode_bitmap(bits, apv=apv, use_rle=use_rle):
        assert len(payload) <= 4096 - (16 if apv >= 100 else 8)
        assert not decoder.complete
        decoder.feed(cmd, payload, into)
    assert decoder.complete
    assert into == expected


@given(bitmaps.filter(bool))
def test_a_compressed_packet_is_the_naive_one(text: str) -> None:
    sent = list(encode_bitmap(bitarray(text, endian="little"), apv=101, use_rle=True))
    naive = naive_payload(text)
    if len(text) >= 8 * (len(naive) - 1):
        assert sent == [(Cmd.P_COMPRESSED_BITMAP, naive)]
    else:  # the code would be longer than what it tells
        assert sent[0][0] is Cmd.P_BITMAP


@given(st.integers(0, 5000), st.binary(max_size=60))
def test_noise_decodes_as_the_naive_model_or_not_at_all(count: int, noise: bytes) -> None:
    payload = b"\x02" + noise
    into = zeros(count, endian="little")
    decoder = BitmapDecoder(count, 101)
    with suppress(PeerError):
        decoder.feed(Cmd.P_COMPRESSED_BITMAP, payload, into)
        stream = bitarray(endian="little")
        stream.frombytes(noise)
        runs = naive_runs(stream.to01())
        told = "".join(str(place & 1) * run for place, run in enumerate(runs))
        assert into.to01() == told.ljust(count, "0")
        assert decoder.complete == (len(told) == count)


@given(
    st.integers(0, 5000),
    st.lists(
        st.tuples(
            st.sampled_from([Cmd.P_BITMAP, Cmd.P_COMPRESSED_BITMAP, Cmd.P_STATE]),
            st.one_of(
                st.binary(max_size=40),
                st.integers(0, 80).map(lambda words: b"\x55" * 8 * words),
                st.binary(min_size=1, max_size=30).map(lambda stream: b"\x82" + stream),
            ),
        ),
        max_size=6,
    ),
)
def test_hostile_transfers_raise_nothing_but_peer_errors(
    count: int, parts: list[tuple[Cmd, bytes]]
) -> None:
    into = zeros(count, endian="little")
    decoder = BitmapDecoder(count, 101)
    with suppress(PeerError):
        for cmd, payload in parts:
            decoder.feed(cmd, payload, into)
    assert len(into) == count
