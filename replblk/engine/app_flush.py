"""A client's flush: everything answered before it, durable on both nodes.

Here the disk flushes; at the peer it is done when every epoch that was open is acknowledged. With
durability "disk" both have nothing left to do, and still are asked: a flush answers for them.
"""

from __future__ import annotations

import errno as errnos
from typing import TYPE_CHECKING

from replblk.engine.write_request import ABSENT, DONE, FAILED, PENDING, Flush
from replblk.engine.write_way import way_of
from replblk.model.vocabulary import DiskState

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.disk_failure import DiskFailure
    from replblk.engine.frozen_writes import FrozenWrites
    from replblk.engine.ports import ClientRequest
    from replblk.engine.transfer_log import TransferLog
    from replblk.engine.volume import Volume


class AppFlushes:
    """The flushes in flight of all volumes; those of a volume with frozen writes wait with them."""

    def __init__(
        self, ctx: Context, disk_failure: DiskFailure, log: TransferLog, frozen: FrozenWrites
    ) -> None:
        self._ctx = ctx
        self._disk_failure = disk_failure
        self._log = log
        self._frozen = frozen
        self.pending: list[Flush] = []

    def on_flush(self, volume: Volume, request: ClientRequest) -> None:
        """A client flushes."""
        if volume.paused is not None:
            volume.paused.append(lambda: self.on_flush(volume, request))
            return
        volume.app_pending += 1
        if way_of(self._ctx, volume).wait or volume.sync_uuid_pending:
            volume.app_pending -= 1
            volume.held.append(lambda: self.on_flush(volume, request))
            return
        log = self._log
        log.close()
        flush = Flush(volume, request.number, log.newest() if self._ctx.peer.up else None)
        self.pending.append(flush)
        if volume.has_disk:
            self._ctx.io.flush(volume, lambda errno, _: self._local_flushed(flush, errno))
        else:
            flush.local = ABSENT
            self._ctx.defer(lambda: self._look(flush))

    def progress(self) -> None:
        """An epoch is gone, or writes are frozen no longer: who waited for that?"""
        for flush in list(self.pending):
            self._look(flush)

    def thaw(self, volume: Volume, *, resend: bool) -> None:
        """The frozen writes of a volume go on: sent again, or without the peer."""
        for flush in self.pending:
            if flush.volume is volume:
                flush.epoch = self._log.newest() if resend else None
        self.progress()

    def _local_flushed(self, flush: Flush, errno: int) -> None:
        if errno:
            flush.local = FAILED
            self._disk_failure.failed(flush.volume, f"flush failed (errno {errno})", flush=True)
        else:
            flush.local = DONE
        self._look(flush)

    def _look(self, flush: Flush) -> None:
        if flush not in self.pending or flush.local == PENDING:
            return
        if self._frozen.of(flush.volume):
            return
        if flush.epoch is not None and self._log.holds(flush.epoch):
            return
        self.pending.remove(flush)
        volume = flush.volume
        peer_good = volume.state.pdsk is DiskState.UP_TO_DATE and self._ctx.peer.up
        good_here = flush.local == DONE and volume.state.disk is DiskState.UP_TO_DATE
        errno = 0 if good_here or peer_good else errnos.EIO
        volume.app_pending -= 1
        clients, number = self._ctx.ports.clients, flush.number
        volume.reply_when_durable(
            lambda ok: clients.reply(number, errno if ok else errno or errnos.EIO, None)
        )
