"""Names of the packets in what a node sends, for the transcript; never fails on any bytes."""

from __future__ import annotations

import struct
import zlib

from replblk.wire.packets import Cmd

_HEADERS = (
    (struct.Struct(">IHH"), 0x83740267),  # magic, command, length
    (struct.Struct(">HHI"), 0x835A),  # magic, command, length
)
_HEADER_100 = struct.Struct(">IHHII")  # magic, volume, command, length, pad
_MAGIC_100 = 0x8620EC20
_NAMES = {int(cmd): cmd.name for cmd in Cmd}
_SHOWN = 12


class Told:
    """Bytes as the transcript shows them: their checksum, and in ``{!s}`` the packets' names."""

    __slots__ = ("_data",)

    def __init__(self, data: bytes) -> None:
        self._data = data

    def __format__(self, spec: str) -> str:
        return format(zlib.crc32(self._data), spec)

    def __str__(self) -> str:
        return packet_names(self._data)


def packet_names(data: bytes) -> str:
    """``P_DATA/0 P_BARRIER``: commands in order, with the volume where the header has one."""
    names: list[str] = []
    at = 0
    while at < len(data):
        header = _header_at(data, at)
        if header is None:
            names.append(f"({len(data) - at} bytes)")
            break
        name, size = header
        at += size
        names.append(name)
    if len(names) > _SHOWN:
        names[_SHOWN:] = [f"... {len(names) - _SHOWN} more"]
    return " ".join(names)


def _header_at(data: bytes, at: int) -> tuple[str, int] | None:
    """Name and whole length of the packet that begins at *at*."""
    if len(data) - at >= _HEADER_100.size:
        magic, volume, command, length, _ = _HEADER_100.unpack_from(data, at)
        if magic == _MAGIC_100:
            name = _NAMES.get(command, hex(command))
            return (f"{name}/{volume}" if volume else name), _HEADER_100.size + length
    for layout, expected in _HEADERS:
        if len(data) - at >= layout.size:
            magic, command, length = layout.unpack_from(data, at)
            if magic == expected:
                return _NAMES.get(command, hex(command)), layout.size + length
    return None
