"""ko-count: a peer that does not finish a write within timeout * ko-count is given up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.engine.context import TENTH_NS
from replblk.model.vocabulary import ConnState

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.transfer_log import TransferLog


class KoCount:
    """Watches the oldest write of the transfer log."""

    def __init__(self, ctx: Context, log: TransferLog) -> None:
        self._ctx = ctx
        self._log = log
        self.armed = False
        """Whether the oldest write will be looked at, some time: then there is nothing to do."""

    def watch(self) -> None:
        """Something is in the log."""
        net = self._ctx.net
        if not net.ko_count or self.armed:
            return
        oldest = self._log.oldest_ns()
        if oldest is not None:
            left = max(oldest + self._limit_ns - self._ctx.now_ns(), 1_000_000)
            self.armed = True
            self._ctx.timers.set("ko-count", left, self._due)

    def stop(self) -> None:
        """The connection is gone."""
        self.armed = False
        self._ctx.timers.cancel("ko-count")

    @property
    def _limit_ns(self) -> int:
        net = self._ctx.net
        return net.timeout * net.ko_count * TENTH_NS

    def _due(self) -> None:
        self.armed = False
        net = self._ctx.net
        oldest = self._log.oldest_ns()
        if oldest is None:
            return
        if self._ctx.now_ns() - oldest >= self._limit_ns:
            self._ctx.peer.give_up(
                ConnState.TIMEOUT,
                "Remote failed to finish a request within "
                f"ko-count ({net.ko_count}) * timeout ({net.timeout} * 0.1s)",
            )
        else:
            self.watch()
