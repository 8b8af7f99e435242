"""From sectors to bits: what a write touches, and what it covers."""

from __future__ import annotations

import pytest

from replblk.model.units import bits_covered, bits_touched

CAPACITY = 100 * 8 + 3
"""Sectors: a hundred blocks, and a part of one."""


@pytest.mark.parametrize(
    ("sector", "size_bytes", "touched", "covered"),
    [
        (0, 4096, range(1), range(1)),
        (0, 512, range(1), range(0)),
        (4, 4096, range(2), range(1, 1)),
        (4, 8192, range(3), range(1, 2)),
        (800, 1536, range(100, 101), range(100, 101)),
        (800, 1024, range(100, 101), range(100, 100)),
        (799, 2048, range(99, 101), range(100, 101)),
    ],
)
def test_a_block_that_was_written_in_part_is_touched_and_not_covered(
    sector: int, size_bytes: int, touched: range, covered: range
) -> None:
    """A bit is set for what is touched, and cleared for what is covered: the device's end too."""
    assert bits_touched(sector, size_bytes) == touched
    assert list(bits_covered(sector, size_bytes, CAPACITY)) == list(covered)
