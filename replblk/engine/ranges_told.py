"""What is told of a volume's ranges beside their content: out of sync or not, here or elsewhere.

Questions of the shell between two steps; nothing changes. Ranges in bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.units import BIT_BYTES
from replblk.model.vocabulary import ConnState, DiskState
from replblk.wire.packets import FF_WZEROES

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume


def out_of_sync(volume: Volume, offset: int, length: int, most: int) -> list[tuple[int, bool]]:
    """(length, whether the peer may lack it) of neighbouring ranges, at most *most*; then it stops
    before the end. Without a bitmap nothing is known, and all of it may be lacking.

    A write that is in flight counts once its bit is set: when the peer turns out not to have it.
    """
    bitmap = volume.bitmap
    if bitmap is None:
        return [(length, True)]
    found: list[tuple[int, bool]] = []
    end = offset + length
    while offset < end and len(found) < most:
        bit = offset // BIT_BYTES
        dirty = bitmap.any(bit, min(bit + 1, len(bitmap)))
        change = bitmap.next_clear(bit) if dirty else bitmap.next_set(bit)
        stop = end if change is None else min(end, change * BIT_BYTES)
        found.append((stop - offset, dirty))
        offset = stop
    return found


def all_here(volume: Volume) -> bool:
    """Whether every read would now be answered from the local disk."""
    return volume.state.disk is DiskState.UP_TO_DATE and not volume.state.suspended


def zeroes_travel(ctx: Context, volume: Volume) -> bool:
    """Whether zeroes reach the peer as one short packet, or need not reach it at all."""
    if volume.state.conn < ConnState.CONNECTED:
        return True
    return bool(ctx.peer.features & FF_WZEROES) and not ctx.net.data_integrity_alg
