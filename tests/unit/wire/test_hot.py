"""The struct twins refuse what the construct ones refuse, and read what they make."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replblk.model.errors import PeerError
from replblk.wire import hot

Parse = Callable[[bytes], object]


def test_what_is_made_is_read_back() -> None:
    handle = b"\x01\x02\x03\x04\x05\x06\x07\x08"
    assert hot.parse_data(hot.data_header(9, handle, 5, 256) + b"data") == (9, handle, 5, 256)
    assert hot.parse_trim(hot.trim_header(9, handle, 5, 64, 512)) == (9, handle, 5, 64, 512)
    assert hot.parse_block_ack(hot.block_ack(9, handle, 512, 5)) == (9, handle, 512, 5)
    assert hot.parse_block_request(hot.block_request(9, handle, 512)) == (9, handle, 512)


@pytest.mark.parametrize(
    ("parse", "length"),
    [
        (hot.parse_data, 23),
        (hot.parse_trim, 27),
        (hot.parse_trim, 29),
        (hot.parse_block_ack, 23),
        (hot.parse_block_ack, 25),
        (hot.parse_block_request, 23),
    ],
)
def test_wrong_lengths_are_refused(parse: Parse, length: int) -> None:
    with pytest.raises(PeerError, match=f"{length} bytes"):
        parse(bytes(length))


def test_sizes_that_no_request_can_have_are_refused() -> None:
    with pytest.raises(PeerError, match="more than 0 and at most 1048576"):
        hot.parse_block_request(hot.block_request(0, bytes(8), 0))
    with pytest.raises(PeerError, match="a multiple of 512, at most 134217728"):
        hot.parse_block_ack(hot.block_ack(0, bytes(8), 1, 0))
    with pytest.raises(PeerError, match="a discard for 0 bytes"):
        hot.parse_trim(hot.trim_header(0, bytes(8), 1, 64, 0))


def test_a_memoryview_reads_like_bytes() -> None:
    view = memoryview(hot.data_header(9, bytes(8), 5, 0) + b"x" * 512)
    assert hot.parse_data(view) == (9, bytes(8), 5, 0)
    assert view[24:] == b"x" * 512
