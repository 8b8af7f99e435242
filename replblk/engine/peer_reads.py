"""Blocks that the peer wants read from our disk: for its clients, for a resync, for a verify.

Under a shared lock of the range, so that no write of it is half on the disk, and judged when its
turn comes: the disk or the connection may be gone by then. A disk error is the disk's, whoever
asked. *then* is told the data, or None if there are none to tell, while the lock is still held, so
that what it sends goes before any later write of the range; never after the connection that asked
has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.engine.disk_io import sector_offset
from replblk.model.vocabulary import DiskState

if TYPE_CHECKING:
    from collections.abc import Callable

    from replblk.engine.admission import RangeLock
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.ports import Buffer
    from replblk.engine.volume import Volume
    from replblk.wire.packets import BlockRequest

GONE = -1
"""Instead of an error number: the disk or the connection went while the read waited."""


def read_for_peer(
    ctx: Context,
    disk_failure: DiskFailure,
    volume: Volume,
    request: BlockRequest,
    then: Callable[[Buffer | None], None],
    *,
    marks: bool = False,
) -> None:
    """Read what *request* names. marks: what can't be read is marked out of sync."""
    sector, size = request.sector, request.blksize
    session = ctx.peer.data
    volume.began_peer_read()

    def go(claim: RangeLock) -> None:
        if session != ctx.peer.data or volume.state.disk is not DiskState.UP_TO_DATE:
            ctx.defer(lambda: done(claim, GONE, None))
            return
        volume.read_sectors += size >> 9
        ctx.io.read(
            volume, sector_offset(sector), size, lambda errno, data: done(claim, errno, data)
        )

    def done(claim: RangeLock, errno: int, data: Buffer | None) -> None:
        volume.ended_peer_read()
        if errno > 0:
            if marks:
                volume.mark_out_of_sync(sector, size)
            disk_failure.failed(
                volume, f"local READ IO error sector {sector}+{size >> 9} (errno {errno})"
            )
        if session == ctx.peer.data:
            then(None if errno else data)
        volume.ranges.release(claim)

    volume.ranges.lock(sector, size, go, exclusive=False)
