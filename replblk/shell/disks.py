"""Opens the backing devices of a resource, each by the fastest way that the system allows.

io_uring with O_DIRECT where both can be had; else threads with O_DIRECT and the kernel's AIO; else
threads over the page cache. All keep the same promises and pass the same tests. Which one it is,
and why not a quicker one, is told to *log*.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from replblk.engine.ports import OpenFailed
from replblk.model.latency import Latencies
from replblk.shell.backing_device import BackingDevice, open_backing_device
from replblk.shell.disk import FileDisk
from replblk.shell.disk_ring import RingDisk
from replblk.shell.disk_writer import DiskDone
from replblk.shell.gathering_disk import GatheringDisk
from replblk.shell.holes import Runs, punches_holes, runs_of
from replblk.shell.last_known import LastKnownSize

AnyDisk = FileDisk | RingDisk


class FileDisks:
    """``engine.ports.Disks``. paths: by volume number; ring, direct: whether io_uring, and threads
    past the page cache, may be tried.

    known: what is noted of the devices' sizes, by volume number.
    """

    def __init__(
        self,
        paths: dict[int, str],
        loop: asyncio.AbstractEventLoop,
        on_done: DiskDone,
        log: Callable[[str], None] = lambda text: None,
        *,
        latencies: Latencies | None = None,
        ring: bool = True,
        direct: bool = True,
        known: dict[int, LastKnownSize] | None = None,
    ) -> None:
        self._known = known or {}
        self._latencies = latencies or Latencies()
        self._paths = paths
        self._loop = loop
        self._on_done = on_done
        self._log = log
        self._ring = ring
        self._direct = direct
        self.due: list[GatheringDisk] = []
        """Disks with something to carry out; they put themselves here."""
        self._devices: dict[int, tuple[BackingDevice, bool]] = {}
        """Each volume's device of late, and whether it punches holes."""

    def open(self, volume: int) -> AnyDisk | OpenFailed:
        """Open and lock the backing device of *volume*."""
        path = self._paths[volume]
        device = open_backing_device(path)
        if isinstance(device, OpenFailed):
            return device
        device.known = self._known.get(volume)
        disk = self._quickest(path, device)
        disk.all_due = self.due
        punches = not device.is_block_device and punches_holes(device.fd, device.size_bytes)
        self._devices[volume] = (device, punches)
        return disk

    def _quickest(self, path: str, device: BackingDevice) -> AnyDisk:
        if self._ring:
            try:
                return RingDisk(device, self._loop, self._on_done, self._latencies)
            except OSError as refused:
                self._log(f"{path}: without io_uring ({_reason(refused)}); threads do it, slower")
        if self._direct:
            try:
                return FileDisk(
                    device, self._loop, self._on_done, latencies=self._latencies, direct=True
                )
            except OSError as refused:
                self._log(
                    f"{path}: not past the page cache either ({_reason(refused)}); every flush "
                    "writes its pages back"
                )
        return FileDisk(device, self._loop, self._on_done, latencies=self._latencies)

    def runs(self, volume: int, offset: int, length: int, most: int) -> Runs:
        """Data and holes of a volume's device, as ``holes.runs_of``; a block device, or none at
        all, is data throughout."""
        device, _ = self._devices.get(volume, (None, False))
        if device is None or device.is_block_device or device.fd < 0:
            return [(length, False)]
        return runs_of(device.fd, offset, length, most)

    def punches(self, volume: int) -> bool:
        """Whether on a volume's device a zero that may unmap is quicker than a write."""
        device, punches = self._devices.get(volume, (None, False))
        return device is not None and device.fd >= 0 and punches

    def end_step(self) -> None:
        """Hand over what every disk gathered."""
        for disk in self.due:
            disk.end_step()
        self.due.clear()


def _reason(refused: OSError) -> str:
    return refused.strerror or os.strerror(refused.errno or 0)
