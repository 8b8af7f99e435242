"""Memory that a disk can be written from directly: aligned, at a fixed address, used again.

O_DIRECT wants buffers aligned to the device's blocks, and io_uring wants addresses that stay. A
``Pool`` keeps buffers of powers of two bytes from 4 KiB to 1 MiB, so that a steady load takes no
new memory; larger ones are made and dropped. Sizes in bytes.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass

from replblk.engine.ports import Buffer

ALIGN_BYTES = 512
"""What every buffer here is aligned to at least."""
_BLOCK_HEADER_BYTES = 24
"""Of P_DATA, P_DATA_REPLY and P_RS_DATA_REPLY."""
_BEFORE_BYTES = ALIGN_BYTES - _BLOCK_HEADER_BYTES
_SLAB_BYTES = 256 << 10
_SMALLEST, _LARGEST = 4096, 1 << 20
KEPT_BYTES_MAX = 24 << 20
"""Free buffers kept for use again: three full batches of a disk."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_TRIM_BYTES = 64 << 20
"""Free memory at the heap's end that is kept: more than all blocks in flight together."""
_MMAP_BYTES = 4 << 20
"""From this size on (bitmaps of large devices) memory goes back as soon as it is free."""

_new_bytearray = ctypes.pythonapi.PyByteArray_FromStringAndSize
"""A bytearray that nobody fills with zeroes first: of a MiB, that costs as much as its transfer."""
_new_bytearray.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t)
_new_bytearray.restype = ctypes.py_object


@dataclass(slots=True)
class Slot:
    """A piece of aligned memory: what Python writes into, and its address."""

    view: memoryview
    address: int
    size: int


class Pool:
    """Buffers to be taken and given back. For one thread."""

    def __init__(self) -> None:
        self._free: dict[int, list[Slot]] = {}
        self.kept_bytes = 0

    def take(self, size: int) -> Slot:
        """A slot of at least *size* bytes, with anything in it."""
        rounded = max(_SMALLEST, 1 << (size - 1).bit_length())
        free = self._free.get(rounded)
        if not free:
            if rounded > _LARGEST:
                return _carved(size, size)[0]
            free = self._free.setdefault(rounded, [])
            free += _carved(max(rounded, _SLAB_BYTES), rounded)
            self.kept_bytes += max(rounded, _SLAB_BYTES)
        self.kept_bytes -= rounded
        return free.pop()

    def give(self, slot: Slot) -> None:
        """Take a slot back that nobody uses any more."""
        if slot.size <= _LARGEST and self.kept_bytes + slot.size <= KEPT_BYTES_MAX:
            self.kept_bytes += slot.size
            self._free[slot.size].append(slot)


def _carved(total: int, size: int) -> list[Slot]:
    """*total* bytes of fresh memory in page-aligned slots of *size* bytes."""
    memory = mmap.mmap(-1, total)
    view = memoryview(memory)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    return [Slot(view[at : at + size], address + at, size) for at in range(0, total, size)]


def aligned_bytes(length: int) -> tuple[memoryview, int]:
    """Fresh memory to read into and give away: exactly *length* bytes, and their address.

    There is anything in it: whoever reads into it gives no byte away that was not read.
    """
    room = _new_bytearray(None, length + ALIGN_BYTES)
    address = ctypes.addressof(ctypes.c_char.from_buffer(room))
    skip = -address % ALIGN_BYTES
    return memoryview(room)[skip : skip + length], address + skip


def aligned_payload(length: int) -> memoryview:
    """The same for the payload of a packet: what follows a block's header in it is aligned."""
    return aligned_bytes(length + _BEFORE_BYTES)[0][_BEFORE_BYTES:]


def address_of(data: Buffer | None) -> int:
    """Where *data* lies, if it is memory of ``aligned_bytes`` that a disk can be written from; else
    0."""
    if not isinstance(data, memoryview) or data.readonly:
        return 0
    address = ctypes.addressof(ctypes.c_char.from_buffer(data))
    return 0 if address % ALIGN_BYTES else address


def keep_freed_memory() -> bool:
    """Have glibc keep the memory of blocks that went through; False where there is no glibc.

    By default it returns what is freed at the end of the heap at once, and takes it anew for the
    next block: every page is faulted in and cleared again. That was half of the CPU time of blocks
    of a MiB. Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept: int = mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES) and mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    return bool(kept)
