"""The activity log as a gate before writes: cold extents wait for the transaction being gathered.

Order, kept by completions: data and bitmap pages of evicted extents durable, then the log block
durable, then the writes that wanted the new extents. Source: DRBD's metadata ordering rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from replblk.model.units import AL_EXTENT_BITS

if TYPE_CHECKING:
    from replblk.engine.volume import Volume
    from replblk.meta.activity_log import ActivityLog, Change

Go = Callable[[bool], None]


class AlGate:
    """One volume's activity log. ``go(True)``: write now; ``go(False)``: the disk is gone."""

    def __init__(self, volume: Volume, log: ActivityLog) -> None:
        self._volume = volume
        self._log = log
        self.waiting: deque[tuple[range, Go]] = deque()
        """Who wants cold extents, in order."""
        self.full = False
        """Those who wait found every extent in use, when it was looked at last: some are given back
        when the peer acknowledges a barrier."""
        self._writing: Change | None = None
        self._closed = False
        self._held = False
        self._when_idle: Callable[[], None] | None = None

    @property
    def log(self) -> ActivityLog:
        """The log behind the gate."""
        return self._log

    def enter(self, extents: range, go: Go) -> None:
        """Take a reference on each extent, now if all are hot, else after a transaction."""
        if self._closed:
            go(False)
        elif not self.waiting and self._take(extents):
            go(True)
        else:
            self.waiting.append((extents, go))

    def enter_at_once(self, extents: range) -> bool:
        """``enter`` where nobody has to wait: whether the references were taken."""
        if self._closed or self.waiting:
            return False
        return self._log.get(extents[0]) if len(extents) == 1 else self._take(extents)

    @property
    def log_at_once(self) -> ActivityLog | None:
        """The log to take references from, as ``enter_at_once``; None: everybody has to wait."""
        return None if self._closed or self.waiting else self._log

    def leave(self, extents: Iterable[int]) -> None:
        """Give references back: their writes are finished here and at the peer, or marked."""
        self._log.put_all(extents)

    def pump(self) -> bool:
        """Start a transaction for what waits, if none is being written; True if one was started."""
        if self._writing is not None or not self.waiting or self._closed or self._held:
            return False
        if self._admit():
            return True
        wanted: dict[int, None] = {}
        for extents, _ in self.waiting:
            wanted.update((extent, None) for extent in extents)
        change = self._log.prepare(list(wanted))
        self.full = change is None
        if change is None:
            return False
        self._writing = change
        meta, bitmap = self._volume.meta, self._volume.bitmap
        assert meta is not None and bitmap is not None
        pages: set[int] = set()
        for extent in change.evicted:
            first = extent * AL_EXTENT_BITS
            end = min(first + AL_EXTENT_BITS, len(bitmap))
            if first < end:
                pages.update(bitmap.pages_of(first, end))

        def settled(ok: bool) -> None:
            if ok:
                meta.write_bitmap(self._write_log, only=pages)

        if change.evicted:
            meta.settle_data(settled)
        else:
            settled(True)
        return True

    def hold(self, then: Callable[[], None]) -> None:
        """Begin no transaction until ``release``; *then* is called when none is being written."""
        assert not self._held
        self._held = True
        if self._writing is None or self._closed:
            then()
        else:
            self._when_idle = then

    def release(self) -> None:
        """Transactions go on."""
        self._held = False

    def _idle(self) -> None:
        then, self._when_idle = self._when_idle, None
        if then is not None:
            then()

    def close(self) -> None:
        """The disk is going away: everybody who waits is told so."""
        self._closed = True
        self._idle()
        waiting, self.waiting = self.waiting, deque()
        for _, go in waiting:
            go(False)

    def _write_log(self, ok: bool) -> None:
        change, meta = self._writing, self._volume.meta
        if ok and not self._closed:  # else the disk may be gone altogether by now
            assert change is not None and meta is not None
            self._volume.al_writes += 1
            meta.write_al(change.transaction, self._committed)

    def _committed(self, ok: bool) -> None:
        change = self._writing
        assert change is not None
        if not ok or self._closed:
            return
        self._writing = None
        self._log.commit(change)
        self._admit()
        self._idle()

    def _admit(self) -> bool:
        """Let those in front go whose extents are all hot now; True if anybody went."""
        went = False
        while self.waiting and self._take(self.waiting[0][0]):
            _, go = self.waiting.popleft()
            went = True
            go(True)
        return went

    def _take(self, extents: range) -> bool:
        if len(extents) == 1:
            return self._log.get(extents[0])
        taken: list[int] = []
        for extent in extents:
            if not self._log.get(extent):
                for earlier in taken:
                    self._log.put(earlier)
                return False
            taken.append(extent)
        return True
