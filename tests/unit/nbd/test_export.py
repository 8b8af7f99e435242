"""Geometry refuses what no client could obey."""

from __future__ import annotations

import pytest

from nbd.export import Geometry


@pytest.mark.parametrize(
    "fields",
    [
        {"minimum_block": 0},
        {"minimum_block": 3},
        {"minimum_block": 131072, "preferred_block": 131072},
        {"preferred_block": 256},
        {"preferred_block": 5000},
        {"minimum_block": 4096, "preferred_block": 512},
        {"maximum_payload": 1024},
        {"maximum_payload": (64 << 20) + 1},
        {"size": -1},
        {"size": 1 << 63},
        {"size": 1000, "minimum_block": 512},
    ],
)
def test_impossible_sizes_are_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="not"):
        Geometry(**{"size": 1 << 20, **fields})


def test_ordinary_sizes_are_fine() -> None:
    assert Geometry(0).size == 0
    assert Geometry(1 << 40, minimum_block=512).minimum_block == 512
