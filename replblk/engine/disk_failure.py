"""What a disk error leads to: the policy on-io-error, never a retry.

A failed write or read is acted on as configured: the disk is given up (detach) or its data is
called Inconsistent (pass_on). A failed flush and any metadata error always give the disk up: nobody
knows what of the earlier writes survived. Source: states, I/O error policy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.notices import Level
from replblk.model.vocabulary import DiskState, OnIoError

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
        if volume.config.options.on_io_error is OnIoError.PASS_ON and not flush:
            if volume.state.disk > DiskState.INCONSISTENT:
                self._ctx.states.force(volume, what, disk=DiskState.INCONSISTENT)
            return
        self._give_up(volume, what)

    def metadata_failed(self, volume: Volume, what: str) -> None:
        """A metadata write failed: the disk goes, whatever the policy."""
        self._ctx.tell(Level.ERROR, what, volume.number)
        self._give_up(volume, what)

    def _give_up(self, volume: Volume, what: str) -> None:
        if volume.state.disk > DiskState.FAILED:
            self._ctx.tell(Level.ERROR, "Local IO failed. Detaching...", volume.number)
            volume.io_failed = True
            self._ctx.states.force(volume, what, disk=DiskState.FAILED)
