"""Makes an epoch of the peer's writes durable, where each write was not yet by itself.

Source: protocol, epochs and barriers, receiver.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.epochs_received import ReceivedEpoch
    from replblk.engine.volume import Volume


def flush_epoch(
    ctx: Context,
    disk_failure: DiskFailure,
    epoch: ReceivedEpoch,
    settled: Callable[[bool], None],
) -> None:
    """Flush every disk; *settled* is told, later, whether all of the epoch is durable."""
    disks = [v for v in ctx.volumes.values() if v.has_disk]
    # What the cache of a disk kept that was lost meanwhile, nobody knows.
    failed = not all(ctx.volumes[number].has_disk for number in epoch.stored)
    left = len(disks)

    def done(volume: Volume, errno: int) -> None:
        nonlocal left, failed
        left -= 1
        if errno:
            failed = True
            disk_failure.failed(volume, f"flush failed (errno {errno})", flush=True)
        if not left:
            settled(not failed)

    for volume in disks:
        ctx.io.flush(volume, lambda errno, _, v=volume: done(v, errno))  # type: ignore[misc]
    if not disks:
        ctx.defer(lambda: settled(not failed))
