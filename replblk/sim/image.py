"""Backing devices as they are before a run: as create-md leaves them, or as a healthy pair's.

Internal metadata, byte for byte what stands on a disk. Sizes in bytes; superblock fields big-endian
at the offsets of the v08 format (there is no checksum over them).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from replblk.meta.al_transaction import initialised_block
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.generation import UuidSet
from replblk.sim.disk import Drive
from replblk.sim.store import PAGE_BYTES, Store

if TYPE_CHECKING:
    from replblk.sim.machine import Machine

AL_BLOCKS = 8
_U64 = struct.Struct(">Q")
_UUIDS = struct.Struct(">4Q")
_U32 = struct.Struct(">I")
_LA_SIZE_AT = 0
_CURRENT_UUID_AT = 8
_BITMAP_UUID_AT = 16
_FLAGS_AT = 56


def fresh_drive(machine: Machine, volume: int, device_bytes: int) -> Drive:
    """A drive with the metadata that create-md writes; the data area reads as zeroes."""
    layout = Layout.internal(device_bytes)
    return _drive(machine, volume, layout, device_bytes, Superblock.fresh(layout).encode())


def synced_drive(machine: Machine, volume: int, device_bytes: int, generation: int) -> Drive:
    """A drive of a pair that was in sync and was shut down: UpToDate, nothing out of sync.

    generation: the current UUID, the same on both machines.
    """
    layout = Layout.internal(device_bytes)
    superblock = bytearray(Superblock.fresh(layout).encode())
    _U64.pack_into(superblock, _LA_SIZE_AT, layout.usable_sectors)
    _U64.pack_into(superblock, _CURRENT_UUID_AT, generation & ~1)
    flags = MdFlag.CONSISTENT | MdFlag.WAS_UP_TO_DATE | MdFlag.AL_CLEAN
    _U32.pack_into(superblock, _FLAGS_AT, flags)
    return _drive(machine, volume, layout, device_bytes, bytes(superblock))


def generation(drive: Drive) -> UuidSet:
    """The UUIDs in the superblock as a read would find them."""
    at = drive.layout.md_offset_bytes + _CURRENT_UUID_AT
    block = drive.store.read(at // 512 * 512, 512)
    return UuidSet(*_UUIDS.unpack_from(block, at % 512))


def _drive(
    machine: Machine, volume: int, layout: Layout, device_bytes: int, superblock: bytes
) -> Drive:
    store = Store(device_bytes)
    block = initialised_block()
    for number in range(AL_BLOCKS):
        store.preset(layout.al_offset_bytes + number * PAGE_BYTES, block)
    store.preset(layout.md_offset_bytes, superblock)
    return Drive(machine, volume, store, layout)
