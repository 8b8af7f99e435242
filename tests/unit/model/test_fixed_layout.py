"""The quick form of a layout says what the readable form says, and refuses what does not fit."""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest
from construct import Bytes, Int16ub, Int32sb, Padding, Struct

from replblk.model.fixed_layout import FixedLayout
from replblk.wire import layouts

LAYOUTS = {name: at for name, at in vars(layouts).items() if isinstance(at, Struct)}
MIXED = Struct("signed" / Int32sb, Padding(2), "short" / Int16ub, "name" / Bytes(3))


@pytest.mark.parametrize("layout", [*LAYOUTS.values(), MIXED], ids=[*LAYOUTS, "MIXED"])
def test_it_reads_and_writes_as_construct_does(layout: Any) -> None:
    chance, quick = random.Random(7), FixedLayout(layout)
    for _ in range(50):
        data = chance.randbytes(layout.sizeof())
        slow = layout.parse(data)
        fields = quick.parse(data + b"and what follows")
        assert fields == {name: slow[name] for name in quick.names}
        assert quick.names == tuple(part.name for part in layout.subcons if part.name)
        assert quick.build(fields) == layout.build(fields)


@pytest.mark.parametrize(
    "wrong", [{"short": 1 << 16}, {"signed": 1 << 31}, {"name": b"four"}, {"name": b"2"}]
)
def test_what_does_not_fit_is_not_packed(wrong: dict[str, object]) -> None:
    with pytest.raises(struct.error):
        FixedLayout(MIXED).build({"signed": 1, "short": 2, "name": b"abc"} | wrong)


def test_too_few_bytes_are_not_unpacked() -> None:
    with pytest.raises(struct.error):
        FixedLayout(MIXED).parse(bytes(10))
