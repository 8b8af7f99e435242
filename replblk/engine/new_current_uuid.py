"""The command new-current-uuid: a generation begun by hand, and skipping the first sync.

StandAlone: the bitmap UUID goes into the history, a new current UUID begins; with --clear-bitmap
the administrator also declares that nothing is out of sync.
Connected, both nodes fresh, --clear-bitmap: both disks hold the same already; no first sync.
Source: states, other admin operations; protocol, skip initial sync.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS
from replblk.engine.ports import Answer, Command
from replblk.model.generation import JUST_CREATED, same_generation
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState
from replblk.wire.packets import UUID_FLAG_SKIP_INITIAL_SYNC, Cmd, Uuids

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume

Then = Callable[[Answer], None]
APV_SKIP = 90
"""Oldest protocol version whose peers understand that the first sync is skipped."""
NO_DISK = Answer(10, "Device does not have a disk-config", 138)
CONNECTED = Answer(
    10,
    "Need to be StandAlone: a connected node begins no generation by hand (only --clear-bitmap on "
    "two fresh nodes, to skip the first sync); disconnect first",
    151,
)
FAILED = Answer(10, "IO error(s) occurred writing the metadata", 118)


class NewCurrentUuid:
    """Runs the command for one volume."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def run(self, volume: Volume, command: Command, then: Then) -> None:
        """Begin a generation; clear_bitmap: and declare the copies equal."""
        clear = bool(command.options.get("clear_bitmap"))
        if volume.meta is None or not volume.has_disk:
            then(NO_DISK)
        elif volume.state.conn is ConnState.STANDALONE:
            self._alone(volume, clear, then)
        elif clear and self._both_fresh(volume):
            self._when_peer_is_settled(volume, lambda: self._skip_first_sync(volume, then))
        else:
            then(CONNECTED)

    def _alone(self, volume: Volume, clear: bool, then: Then) -> None:
        uuids = volume.uuids.bitmap_cleared()
        fresh = self._ctx.random_u64()
        volume.begin_generation(uuids.new_current(fresh, primary=volume.primary))
        volume.generation_planned = None  # while I/O is suspended: it has begun now
        self._make_durable(volume, clear, lambda ok: then(Answer() if ok else FAILED))

    def _both_fresh(self, volume: Volume) -> bool:
        theirs = volume.peer_uuids
        return (
            volume.state.conn is ConnState.CONNECTED
            and volume.state.disk is volume.state.pdsk is DiskState.INCONSISTENT
            and self._ctx.peer.apv >= APV_SKIP
            and same_generation(volume.uuids.current, JUST_CREATED)
            and theirs is not None
            and same_generation(theirs.current, JUST_CREATED)
        )

    def _when_peer_is_settled(self, volume: Volume, then: Callable[[], None]) -> None:
        """What the peer says on becoming Connected is about before: it has to be in, soon it is."""
        name = ("peer-settled", volume.number)
        self._ctx.timers.set(name, SECOND_NS, lambda: None)

        def settled() -> bool:
            late = not self._ctx.timers.pending(name)
            if not (late or volume.peer_is_connected) and self._both_fresh(volume):
                return False
            self._ctx.timers.cancel(name)
            then()
            return True

        self._ctx.when(settled)

    def _skip_first_sync(self, volume: Volume, then: Then) -> None:
        """Durable here before the peer hears of it: a crash in between ends in a first sync."""
        if not self._both_fresh(volume):
            then(CONNECTED)
            return
        session = self._ctx.peer.data
        uuids = volume.uuids.new_current(self._ctx.random_u64(), primary=volume.primary)
        volume.begin_generation(replace(uuids, bitmap=0))

        def durable(ok: bool) -> None:
            if not ok:
                then(FAILED)
                return
            if session == self._ctx.peer.data and volume.state.conn is ConnState.CONNECTED:
                told = (uuids.current, uuids.bitmap, uuids.history0, uuids.history1)
                packet = Uuids(*told, 0, UUID_FLAG_SKIP_INITIAL_SYNC)
                self._ctx.peer.send(Cmd.P_UUIDS, packet, volume.number)
            then(Answer())

        self._ctx.states.force(
            volume, "first sync skipped", disk=DiskState.UP_TO_DATE, pdsk=DiskState.UP_TO_DATE
        )
        volume.adopt_own_generation_for_peer()
        self._make_durable(volume, True, durable)

    def _make_durable(self, volume: Volume, clear: bool, told: Callable[[bool], None]) -> None:
        """No write is acknowledged before the new generation is on disk."""
        meta = volume.meta
        assert meta is not None and volume.bitmap is not None
        current = volume.uuids.current
        self._ctx.tell(Level.INFO, f"new current UUID {volume.uuids}", volume.number)
        if clear:
            self._ctx.tell(Level.WARNING, "clearing the bitmap on command", volume.number)
            volume.bitmap.clear_all()
        volume.hold_replies()

        def durable(ok: bool) -> None:
            if ok:
                volume.generation_is_durable(current)
            volume.release_replies(ok)
            told(ok)

        meta.write_bitmap(lambda ok: meta.sync(durable) if ok else durable(False))
