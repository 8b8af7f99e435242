"""Sectors, bitmap bits and extents, and the only conversions between them.

A *sector* is 512 bytes, a *bit* covers 4 KiB, an *AL extent* 4 MiB, a *resync extent* 16 MiB.
An index is not a count is not a size: names end in the unit they are in.
"""

from __future__ import annotations

SECTOR_BYTES = 512
BIT_BYTES = 4096
BIT_SECTORS = BIT_BYTES // SECTOR_BYTES
AL_EXTENT_BYTES = 4 << 20
AL_EXTENT_SECTORS = AL_EXTENT_BYTES // SECTOR_BYTES
AL_EXTENT_BITS = AL_EXTENT_BYTES // BIT_BYTES
RESYNC_EXTENT_BYTES = 16 << 20
RESYNC_EXTENT_BITS = RESYNC_EXTENT_BYTES // BIT_BYTES

REQUEST_BYTES_MAX = 1 << 20
"""Largest data request on the wire at protocol 100 and up."""
REQUEST_BYTES_MAX_95 = 128 << 10
"""The same at protocol 95 to 99."""
REQUEST_BYTES_MAX_80 = 32 << 10
"""The same before protocol 95: the length field of its header has 16 bits."""
DISCARD_BYTES_MAX = 128 << 20
"""Largest P_TRIM or P_ZEROES range."""
CAPACITY_SECTORS_MAX = 1 << 51
"""Largest device (1 PiB)."""


def request_bytes_max(apv: int) -> int:
    """The largest data request at a protocol version. Source: protocol, versions."""
    if apv >= 100:
        return REQUEST_BYTES_MAX
    return REQUEST_BYTES_MAX_95 if apv >= 95 else REQUEST_BYTES_MAX_80


def bits_of_capacity(capacity_sectors: int) -> int:
    """How many bitmap bits a device needs; the last may cover less than 4 KiB."""
    return -(-capacity_sectors // BIT_SECTORS)


def bits_touched(sector: int, size_bytes: int) -> range:
    """Bits of which any sector lies in the range: what is *set* for a write. Empty for size 0."""
    if size_bytes <= 0:
        return range(0)
    last_sector = sector + size_bytes // SECTOR_BYTES - 1
    return range(sector // BIT_SECTORS, last_sector // BIT_SECTORS + 1)


def bits_covered(sector: int, size_bytes: int, capacity_sectors: int) -> range:
    """Bits that lie completely in the range: what may be *cleared* after a write.

    A range that ends exactly at the end of the device also covers its last, partial bit.
    """
    end_sector = sector + size_bytes // SECTOR_BYTES
    first = -(-sector // BIT_SECTORS)
    end = end_sector // BIT_SECTORS
    if end_sector >= capacity_sectors:
        end = bits_of_capacity(capacity_sectors)
    return range(first, max(first, end))


def al_extents_of(sector: int, size_bytes: int) -> range:
    """Activity-log extents (4 MiB) that a write touches: at most two for one 1 MiB request."""
    if size_bytes <= 0:
        return range(0)
    last_sector = sector + size_bytes // SECTOR_BYTES - 1
    return range(sector // AL_EXTENT_SECTORS, last_sector // AL_EXTENT_SECTORS + 1)


def kib(sectors: int) -> int:
    """Sectors as whole KiB, rounded down."""
    return sectors >> 1
