"""How fast the target of a resync asks: a window, DRBD's limits, and the application comes first.

Alone, as much is requested and not yet on disk as the window holds, so that disks and network on
both nodes are always busy. Beside an application's reads and writes the resync asks for one piece,
waits until it is durable, and then rests: in proportion to how long the piece took, so that it has
no more than its share of the time, however slow or fast the machines are. It never rests so long
that it falls below c-min-rate; c-min-rate 0 means that it does not yield at all.

c-max-rate (with c-plan-ahead 0: resync-rate) bounds what is asked for in a second; c-fill-target,
where it is not DRBD's default, is the window. Bytes and nanoseconds; rates in KiB/s as configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS, TENTH_NS
from replblk.model.config import DiskOptions
from replblk.model.units import BIT_BYTES, SECTOR_BYTES

if TYPE_CHECKING:
    from replblk.engine.volume import Volume

WINDOW_BYTES = 16 << 20
"""Requested and not yet on disk: sixteen of the largest requests."""
PIECE_BYTES = 256 << 10
"""What is asked for at once beside an application: its own requests wait for no more than this."""
APPLICATION_SECTORS = 16
"""An application that moves less in a tenth of a second does not count as one."""
SHARES = {"fair": 0.35, "gentle": 0.05}
"""Of the time, beside an application: what the settings call ``resync``."""


_DEFAULT = DiskOptions()


def rate_kib_s(options: DiskOptions) -> int:
    """The most a volume asks for in a second."""
    return options.c_max_rate if options.c_plan_ahead else options.resync_rate


class Pace:
    """One resync of one volume. share: of the time, while an application is at work."""

    def __init__(self, volume: Volume, share: float, now_ns: int) -> None:
        self._volume = volume
        self._share = share
        self._own_sectors = 0
        self._foreign_sectors = self._foreign()
        self._looked_ns = now_ns
        self._application_ns = now_ns - SECOND_NS
        self._piece_ns = now_ns
        self._piece_bytes = 0
        """Asked for beside an application since nothing was on its way; 0: nothing was."""
        self._yields = False
        self.budget_bytes = self._tick_bytes()
        self.rests_until_ns = 0
        """Beside an application: when the next piece may be asked for."""

    # -- what is told -------------------------------------------------------------------------

    def tick(self) -> None:
        """A tenth of a second has passed: more may be asked for."""
        per_tick = self._tick_bytes()
        self.budget_bytes = min(self.budget_bytes + per_tick, 2 * per_tick)

    def moved(self, size_bytes: int) -> None:
        """The resync itself read, received or wrote so much: the volume's counters have it, too."""
        self._own_sectors += size_bytes // SECTOR_BYTES

    def asked(self, size_bytes: int, now_ns: int) -> None:
        """So much was asked for."""
        self.budget_bytes -= size_bytes
        if self._yields:
            if not self._piece_bytes:
                self._piece_ns = now_ns
            self._piece_bytes += size_bytes

    def settled(self, now_ns: int) -> None:
        """Nothing that was asked for is still to come."""
        size, self._piece_bytes = self._piece_bytes, 0
        if not size:
            return
        took_ns = now_ns - self._piece_ns
        rest_ns = int(took_ns * (1 - self._share) / self._share)
        least = self._volume.config.options.c_min_rate * 1024
        if least:
            rest_ns = min(rest_ns, max(size * SECOND_NS // least - took_ns, 0))
        self.rests_until_ns = now_ns + rest_ns

    # -- what may be asked for ----------------------------------------------------------------

    def room_bytes(self, bytes_out: int, now_ns: int) -> int:
        """How much may be asked for now, with *bytes_out* on their way; 0 or less: nothing."""
        self._yields = self._beside_application(now_ns)
        if self.budget_bytes <= 0:
            return 0
        if not self._yields:
            return min(self._window_bytes() - bytes_out, self.budget_bytes)
        if bytes_out or now_ns < self.rests_until_ns:
            return 0
        return min(PIECE_BYTES, self.budget_bytes)

    def rest_ns(self, now_ns: int) -> int:
        """How long the resync still rests beside an application; 0: it does not."""
        return max(self.rests_until_ns - now_ns, 0) if self._yields else 0

    def _beside_application(self, now_ns: int) -> bool:
        """Whether somebody else used the volume lately, and the resync is to yield."""
        if not self._volume.config.options.c_min_rate:
            return False
        foreign, passed_ns = self._foreign(), now_ns - self._looked_ns
        moved = foreign - self._foreign_sectors
        if moved * TENTH_NS >= APPLICATION_SECTORS * max(passed_ns, TENTH_NS):
            self._application_ns = now_ns
        if passed_ns >= TENTH_NS or self._application_ns == now_ns:
            self._looked_ns, self._foreign_sectors = now_ns, foreign
        return now_ns - self._application_ns < 2 * TENTH_NS

    def _foreign(self) -> int:
        it = self._volume
        return it.received_sectors + it.written_sectors + it.read_sectors - self._own_sectors

    def _tick_bytes(self) -> int:
        return max(rate_kib_s(self._volume.config.options) * 1024 // 10, BIT_BYTES)

    def _window_bytes(self) -> int:
        wished = self._volume.config.options.c_fill_target
        if wished in (0, _DEFAULT.c_fill_target):
            return WINDOW_BYTES
        return max(wished * SECTOR_BYTES, BIT_BYTES)
