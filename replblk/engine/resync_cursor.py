"""Where the target of a resync is: what it asks for next, and what it asked for already.

Requests go from the first dirty block to the last, each of neighbouring dirty blocks within one
16 MiB extent; a pass ends at the device's end. With rs-discard-granularity (and a peer that knows
thin resyncs) none crosses a multiple of it, so that whole granules of zeroes need not be sent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.units import (
    BIT_BYTES,
    BIT_SECTORS,
    REQUEST_BYTES_MAX,
    RESYNC_EXTENT_BITS,
    SECTOR_BYTES,
)
from replblk.wire.packets import FF_THIN_RESYNC

if TYPE_CHECKING:
    from replblk.engine.admission import RangeLock
    from replblk.engine.peer_link import PeerLink
    from replblk.engine.resync_pace import Pace
    from replblk.engine.volume import Volume


class Target:
    """One volume's requests in flight."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self.cursor_bit = 0
        self.asked: dict[tuple[int, int], RangeLock | None] = {}
        """(sector, size) requested and not answered; with the range lock of a Primary."""
        self.waiting: set[tuple[int, int]] = set()
        """Ranges of a Primary that wait for their lock before they are requested."""
        self.bytes_out = 0
        self.writing = 0
        self.finishing = False
        self.cleared_this_pass = True

    @property
    def quiet(self) -> bool:
        """Nothing requested, nothing being written."""
        return not self.asked and not self.waiting and not self.writing

    def next_run(
        self, volume: Volume, bytes_max: int, granule_bytes: int = 0
    ) -> tuple[int, int] | None:
        """The next dirty blocks as (sector, bytes): within one extent and one granule, if any.

        bytes_max: what may be asked for; 0: only look whether there are any.
        """
        bitmap = volume.bitmap
        assert bitmap is not None
        first = bitmap.next_set(self.cursor_bit)
        if first is None:
            return None
        limit = min(
            first + max(bytes_max // BIT_BYTES, 1),
            (first // RESYNC_EXTENT_BITS + 1) * RESYNC_EXTENT_BITS,
            len(bitmap),
        )
        if granule := granule_bytes // BIT_BYTES:
            limit = min(limit, (first // granule + 1) * granule)
        end = bitmap.next_clear(first)
        end = limit if end is None else min(end, limit)
        if bytes_max:
            self.cursor_bit = end
        sector = first * BIT_SECTORS
        sectors = min(end * BIT_SECTORS, volume.capacity_sectors) - sector
        return sector, sectors * SECTOR_BYTES


def thin_granule_bytes(volume: Volume, peer: PeerLink) -> int:
    """The size of requests that may be answered "only zeroes there"; 0: none may.

    rs-discard-granularity has to be whole blocks, and no more than one request may ask for.
    """
    granule = volume.config.options.rs_discard_granularity
    if not peer.features & FF_THIN_RESYNC or granule % BIT_BYTES:
        return 0
    return granule if granule <= min(REQUEST_BYTES_MAX, peer.request_bytes_max) else 0
