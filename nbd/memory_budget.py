"""How much payload all connections of a server may hold together, and who gets it when it is short.

Payload is what requests in flight carry or ask for, from their header on, and replies that a client
has not taken yet. While there is room, a connection has what it asks for, up to its own limit. When
there is none, each may still hold its share, so that many greedy clients keep no modest one from
being served; whoever wants more waits. Room comes back with answers that are taken; and clients
that hold some and move nothing for a while, neither taking replies nor sending what they announced,
are ended when others wait. Sizes in bytes. Everything runs in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

CHECK_S = 1.0
"""Between two looks at who moves nothing, while somebody waits."""


class Holder(Protocol):
    """A connection, as the budget sees it."""

    def room_again(self) -> None:
        """There may be room for the request that had to wait."""

    def moved_nothing(self) -> bool:
        """Whether it is up to the client to go on, and it did not since this was asked last."""

    def abort(self, why: str) -> None:
        """End at once."""


class MemoryBudget:
    """bytes_max: for all together; share: what a connection may hold in any case. patience_s: how
    long a client may hold payload and move nothing, while others wait. later: runs a check after
    some seconds."""

    def __init__(
        self,
        bytes_max: int,
        share: int,
        patience_s: float,
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self.bytes_max = bytes_max
        self.share = share
        self.held_bytes = 0
        self._patience_s = patience_s
        self._later = later
        self._held: dict[Holder, int] = {}
        self._waiting: dict[Holder, None] = {}
        self._idle: dict[Holder, int] = {}
        self._checking = False

    def allowance(self, holder: Holder) -> int:
        """How much that connection may hold at most from now on."""
        own = self._held.get(holder, 0)
        return max(self.share, own + self.bytes_max - self.held_bytes)

    def holds(self, holder: Holder, count: int) -> None:
        """What a connection holds now; 0 when it has ended."""
        before = self._held.pop(holder, 0)
        if count:
            self._held[holder] = count
        self.held_bytes += count - before
        if count < before and self._waiting and self.held_bytes < self.bytes_max:
            waiting, self._waiting = self._waiting, {}
            for one in waiting:
                one.room_again()

    def waits(self, holder: Holder) -> None:
        """A connection has a request that does not fit."""
        self._waiting[holder] = None
        if not self._checking:
            self._checking = True
            self._later(CHECK_S, self._check)

    def forget(self, holder: Holder) -> None:
        """A connection has ended."""
        self._waiting.pop(holder, None)
        self._idle.pop(holder, None)
        self.holds(holder, 0)

    def _check(self) -> None:
        """End who holds something and moved nothing for too long."""
        self._checking = False
        if not self._waiting:
            self._idle.clear()
            return
        for holder in list(self._held):
            if not holder.moved_nothing():
                self._idle.pop(holder, None)
                continue
            checks = self._idle[holder] = self._idle.get(holder, 0) + 1
            if checks * CHECK_S > self._patience_s:
                holder.abort("it moves nothing, and others wait for the memory it holds")
        self._checking = True
        self._later(CHECK_S, self._check)
