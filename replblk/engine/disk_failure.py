"""What a disk error leads to: the policy on-io-error, never a retry.

A failed write or read is acted on as configured: the disk is given up (detach) or, if the peer has
better data, called Inconsistent (pass_on). If it has none, the error is passed on and nothing else:
the disk still holds the only good data there are. A failed flush and any metadata error always give
the disk up: nobody knows what of the earlier writes survived. Source: states, I/O error policy.
"""

from __future__ import annotations

import errno as errnos
from typing import TYPE_CHECKING

from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, DiskState, OnIoError

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume


class DiskFailure:
    """Turns an error of a volume's disk into a state."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx

    def failed(self, volume: Volume, what: str, *, flush: bool = False) -> None:
        """A data read, write or flush failed; *what* names it for people."""
        self._ctx.tell(Level.ERROR, what, volume.number)
        if volume.state.disk <= DiskState.FAILED:
            return
        if volume.config.options.on_io_error is not OnIoError.PASS_ON or flush:
            self._give_up(volume, what)
        elif self.only_passed_on(volume):
            self._ctx.tell(
                Level.WARNING,
                "the error is passed on; the disk stays UpToDate, since no other has these data",
                volume.number,
            )
        elif volume.state.disk > DiskState.INCONSISTENT:
            self._call_inconsistent(volume, what)

    def _call_inconsistent(self, volume: Volume, what: str) -> None:
        """What the peer alone has is acknowledged once our disk says that it is not whole: as a
        Primary that crashed it would overwrite the peer's otherwise."""
        assert volume.meta is not None

        def durable(ok: bool) -> None:
            # If that failed, the disk is given up: the peer's new generation is waited for instead.
            volume.release_replies(ok or volume.awaits_peer_generation)

        volume.hold_replies()
        self._ctx.states.force(volume, what, disk=DiskState.INCONSISTENT)
        volume.meta.sync(durable)

    @staticmethod
    def only_passed_on(volume: Volume) -> bool:
        """Whether a data error of this disk would change no state."""
        state = volume.state
        better = state.conn >= ConnState.CONNECTED and state.pdsk is DiskState.UP_TO_DATE
        return (
            volume.config.options.on_io_error is OnIoError.PASS_ON
            and state.disk is DiskState.UP_TO_DATE
            and not better
        )

    def too_slow(self, volume: Volume) -> None:
        """An operation exceeded disk-timeout: the disk goes, nobody waits for it any longer."""
        if volume.state.disk < DiskState.INCONSISTENT:
            return  # being attached, or given up already
        what = "Local backing device failed to meet the disk-timeout"
        self._ctx.tell(Level.ERROR, what, volume.number)
        self._give_up(volume, what)
        self._ctx.io.abort(volume, errnos.ETIMEDOUT)

    def metadata_failed(self, volume: Volume, what: str) -> None:
        """A metadata write failed: the disk goes, whatever the policy."""
        self._ctx.tell(Level.ERROR, what, volume.number)
        self._give_up(volume, what)

    def _give_up(self, volume: Volume, what: str) -> None:
        if volume.state.disk > DiskState.FAILED:
            self._ctx.tell(Level.ERROR, "Local IO failed. Detaching...", volume.number)
            volume.io_failed = True
            lose_disk(self._ctx, volume, what)


def lose_disk(ctx: Context, volume: Volume, why: str) -> None:
    """The disk is Failed; the target of a resync that said it is done is what has the data now.

    It was told nothing else, and begins a generation for what we go on to write there.
    """
    if volume.target_done:
        volume.adopt_own_generation_for_peer()
        changes = {"conn": ConnState.CONNECTED, "pdsk": DiskState.UP_TO_DATE}
        ctx.states.force(volume, why, disk=DiskState.FAILED, **changes)
    else:
        ctx.states.force(volume, why, disk=DiskState.FAILED)
