"""One block of the activity log (4096 bytes, big-endian) as a value, and the replay after a crash.

A transaction says which slots of the cache changed (*updates*, up to 64) and, so that the ring can
forget old blocks, what a run of 919 slots held before it (*context*). Its checksum makes a torn
block recognisable; a torn newest block loses nothing, since its data writes were not submitted yet.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import crcmod
from construct import Bytes, Int16ub, Int32ub, Struct

from replblk.meta.layout import BLOCK_BYTES
from replblk.model.errors import MetadataError
from replblk.model.fixed_layout import FixedLayout

AL_MAGIC = 0x69CB65A2
UPDATES_MAX = 64
CONTEXT_SLOTS = 919
FREE = 0xFFFF_FFFF
"""An extent number that says: this slot holds nothing."""
NUMBER_MODULUS = 1 << 32

UPDATE = 0
INITIALISED = 0xFFFF
"""Type of a block in which nothing was written since the ring was made: its arrays are all zero."""
_NO_SLOT = 0xFFFF
_CRC_OFFSET = 8

_BLOCK = FixedLayout(
    Struct(
        "magic" / Int32ub,
        "number" / Int32ub,
        "crc32c" / Int32ub,
        "type" / Int16ub,
        "n_updates" / Int16ub,
        "context_size" / Int16ub,
        "context_start" / Int16ub,
        "reserved" / Bytes(16),
        "update_slots" / Bytes(2 * UPDATES_MAX),
        "update_extents" / Bytes(4 * UPDATES_MAX),
        "context" / Bytes(4 * CONTEXT_SLOTS),
    )
)
# The three arrays are opaque to construct: an array of 919 costs it a millisecond, struct 10 µs.
_SLOTS = struct.Struct(f">{UPDATES_MAX}H")
_EXTENTS = struct.Struct(f">{UPDATES_MAX}I")
_CONTEXT = struct.Struct(f">{CONTEXT_SLOTS}I")
_FREE_RUN = (FREE,) * 64

crc32c_raw = cast(
    Callable[[bytes], int], crcmod.mkCrcFun(0x11EDC6F41, initCrc=0, rev=True, xorOut=0)
)
"""CRC-32C without the usual inversions at start and end; of b"123456789" it is 0x58E3FA20."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What one block says. Slots and extents are numbers; an extent is 4 MiB of data."""

    number: int  # wraps at 2^32
    updates: tuple[tuple[int, int], ...] = ()  # (slot, new extent), at most 64
    context_size: int = 0  # slots of the cache
    context_start: int = 0  # first slot of the context
    context: tuple[int, ...] = ()  # extents of slots start.. before this; at most 919, no FREE last
    type: int = UPDATE

    def encode(self) -> bytes:
        """The 4096 bytes, checksum included."""
        updates, context = self.updates, self.context
        assert len(updates) <= UPDATES_MAX
        assert len(context) <= CONTEXT_SLOTS
        no_slot, free = (_NO_SLOT, FREE) if self.type == UPDATE else (0, 0)
        fields = {
            "magic": AL_MAGIC,
            "number": self.number,
            "crc32c": 0,
            "type": self.type,
            "n_updates": len(updates),
            "context_size": self.context_size,
            "context_start": self.context_start,
            "reserved": bytes(16),
            "update_slots": _SLOTS.pack(*_padded([s for s, _ in updates], UPDATES_MAX, no_slot)),
            "update_extents": _EXTENTS.pack(*_padded([e for _, e in updates], UPDATES_MAX, free)),
            "context": _CONTEXT.pack(*_padded(context, CONTEXT_SLOTS, free)),
        }
        block = bytearray(_BLOCK.build(fields))
        assert len(block) == BLOCK_BYTES
        block[_CRC_OFFSET : _CRC_OFFSET + 4] = crc32c_raw(bytes(block)).to_bytes(4, "big")
        return bytes(block)

    @classmethod
    def decode(cls, block: bytes) -> Transaction:
        """The transaction in a block; MetadataError says why it is none (torn, foreign, ...)."""
        assert len(block) == BLOCK_BYTES, f"an AL block has {BLOCK_BYTES} bytes, not {len(block)}"
        raw = _BLOCK.parse(block)
        if raw["magic"] != AL_MAGIC:
            raise MetadataError(f"not an activity log block: magic {raw['magic']:#010x}")
        blanked = block[:_CRC_OFFSET] + bytes(4) + block[_CRC_OFFSET + 4 :]
        if (crc := crc32c_raw(blanked)) != raw["crc32c"]:
            raise MetadataError(
                f"torn or damaged activity log block: checksum {crc:#010x},"
                f" not {raw['crc32c']:#010x}"
            )
        if raw["n_updates"] > UPDATES_MAX or raw["type"] not in (UPDATE, INITIALISED):
            raise MetadataError(
                f"impossible activity log block: type {raw['type']:#06x},"
                f" {raw['n_updates']} updates"
            )
        if raw["type"] == INITIALISED:
            return cls(
                raw["number"], (), raw["context_size"], raw["context_start"], (), INITIALISED
            )
        count = raw["n_updates"]
        slots, extents = _SLOTS.unpack(raw["update_slots"]), _EXTENTS.unpack(raw["update_extents"])
        return cls(
            number=raw["number"],
            updates=tuple(zip(slots[:count], extents[:count], strict=True)),
            context_size=raw["context_size"],
            context_start=raw["context_start"],
            context=_held(raw["context"]),
        )


def trimmed(context: Sequence[int]) -> tuple[int, ...]:
    """The context without the free slots at its end, which a block holds anyway."""
    whole, end, many = tuple(context), len(context), len(_FREE_RUN)
    while end >= many and whole[end - many : end] == _FREE_RUN:
        end -= many
    while end and whole[end - 1] == FREE:
        end -= 1
    return whole[:end]


def _held(context: bytes) -> tuple[int, ...]:
    """``trimmed``, of a context as it stands in a block: a free slot is four bytes 0xff."""
    count = -(-len(context.rstrip(b"\xff")) // 4)
    return struct.unpack_from(f">{count}I", context)


def _padded(values: Sequence[int], length: int, filler: int) -> list[int]:
    return [*values, *[filler] * (length - len(values))]


def initialised_block() -> bytes:
    """The block that create-md and apply-al fill the ring with: nothing is hot."""
    return _INITIALISED_BLOCK


_INITIALISED_BLOCK = Transaction(0, type=INITIALISED).encode()


@dataclass(frozen=True, slots=True)
class Replay:
    """What the activity log of a crashed node tells."""

    extents: list[int]  # that were hot, ascending
    corrupt: int  # blocks that were skipped
    usable: bool  # False: what was hot can't be known
    newest: int | None  # number of the newest transaction; None: there is none
    any_magic: bool  # False: no block is a valid activity log block


def replay(
    blocks: Sequence[bytes], decode: Callable[[bytes], Transaction] = Transaction.decode
) -> Replay:
    """Read the whole ring, in the order of the disk, as it was found after a crash.

    decode: ``Transaction.decode``, or what remembers its results for whoever asks often.

    Blocks that are torn or damaged are counted and skipped. Without a single transaction the log is
    usable only if none can have been lost: all blocks are as initialised, but for the first one,
    where the very first transaction was torn while being written (so its data were not).
    """
    transactions: list[Transaction] = []
    corrupt: list[int] = []
    initialised = 0
    for index, block in enumerate(blocks):
        try:
            found = decode(block)
        except MetadataError:
            corrupt.append(index)
            continue
        if found.type == UPDATE:
            transactions.append(found)
        else:
            initialised += 1
    newest: int | None = None
    for found in transactions:
        if newest is None or _after(found.number, newest) > 0:
            newest = found.number
    return Replay(
        extents=_hot_after(transactions, newest),
        corrupt=len(corrupt),
        usable=bool(transactions) or (initialised > 0 and corrupt in ([], [0])),
        newest=newest,
        any_magic=bool(transactions) or initialised > 0,
    )


def _after(number: int, other: int) -> int:
    """How far *number* is after *other*, as a signed 32-bit difference."""
    difference = (number - other) % NUMBER_MODULUS
    return difference - NUMBER_MODULUS if difference >= NUMBER_MODULUS // 2 else difference


def _hot_after(transactions: list[Transaction], newest: int | None) -> list[int]:
    """Extents in the cache once the transactions were applied, oldest first."""
    if newest is None:
        return []
    end = newest
    slots: dict[int, int] = {}
    for found in sorted(transactions, key=lambda t: _after(t.number, end)):
        context = enumerate(found.context, found.context_start)
        slots.update((slot, extent) for slot, extent in context if extent != FREE)
        slots.update(found.updates)
    return sorted({extent for extent in slots.values() if extent != FREE})
