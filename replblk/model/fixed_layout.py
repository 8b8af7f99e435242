"""Packs and unpacks a declared layout of fixed-size fields in one go, as ``struct`` can.

A layout is a ``construct.Struct`` of integers, byte strings and paddings, the readable form; taken
field by field it costs 20 times as much as the ``struct`` format that says the same. Raises
``struct.error`` for values that do not fit their field, or for too few bytes: both are bugs of the
caller. Bytes behind the layout are ignored; paddings are zero on the way out.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any


class FixedLayout:
    """One layout, ready for use."""

    __slots__ = ("_byte_strings", "_form", "names")

    def __init__(self, layout: Any) -> None:
        """layout: whose ``subcons`` are named fields (``fmtstr`` or ``length``) and paddings."""
        form, names, lengths = ">", [], []
        for part in layout.subcons:
            if part.name is None:
                form += f"{part.length}x"
                continue
            names.append(part.name)
            code = getattr(part.subcon, "fmtstr", None)
            if code is None:
                lengths.append((part.name, part.subcon.length))
                form += f"{part.subcon.length}s"
            else:
                assert code[0] == ">", f"{part.name} is not big-endian"
                form += code[1:]
        self._form = struct.Struct(form)
        assert self._form.size == layout.sizeof()
        self._byte_strings = tuple(lengths)
        self.names: tuple[str, ...] = tuple(names)
        """The fields, in order."""

    def parse(self, data: bytes | bytearray | memoryview) -> dict[str, Any]:
        """The fields by name."""
        return dict(zip(self.names, self._form.unpack_from(data), strict=True))

    def build(self, fields: Mapping[str, Any]) -> bytes:
        """The bytes that say *fields*; all must be there, byte strings of just their length."""
        for name, length in self._byte_strings:
            if len(fields[name]) != length:  # struct itself would cut or fill
                raise struct.error(f"{name} must have {length} bytes, not {len(fields[name])}")
        return self._form.pack(*[fields[name] for name in self.names])
