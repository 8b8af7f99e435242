"""Remembers, over reboots, how large a backing device was when its metadata were at its end.

Internal metadata lie at the end of a device. When it grows while nobody has it open, they are in
the middle, and this file says where: DRBD's own ``drbd-minor-N.lkbd``, in the state directory, so
that its tools and this program find each other's. Sizes in bytes.

    33554432<TAB>/dev/vg/data
    uuid:<TAB>69773309A991D29F

Source: metadata, auxiliary files.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

_FORM = re.compile(r"\A(\d{1,20})\t([^\n]*)\n(?:uuid:\t([0-9A-Fa-f]{16})\n?)?\Z")


class LastKnownSize:
    """The file of one minor number. told: where trouble with it is told."""

    def __init__(self, folder: Path, minor: int, device: str, told: Callable[[str], None]) -> None:
        self._path = folder / f"drbd-minor-{minor}.lkbd"
        self._device = device
        self._told = told

    def read(self) -> tuple[int, int]:
        """Size and UUID of the device; (0, 0) if nothing is known, or of another device only."""
        try:
            found = _FORM.match(self._path.read_text())
        except FileNotFoundError:
            return 0, 0
        except (OSError, ValueError) as error:
            self._told(f"{self._path} can't be read: {error}")
            return 0, 0
        if found is None:
            self._told(f"{self._path} is not what it should be, and not used")
            return 0, 0
        size, device, uuid = found.groups()
        if uuid is None and device != self._device:
            return 0, 0
        return int(size), int(uuid or "0", 16)

    def write(self, size_bytes: int, device_uuid: int) -> None:
        """Durable on return, if it can be; the old contents or the new ones, never a part."""
        uuid = f"uuid:\t{device_uuid:016X}\n" if device_uuid else ""
        text = f"{size_bytes}\t{self._device}\n{uuid}"
        try:
            if self._path.exists() and self._path.read_text() == text:
                return
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_name(self._path.name + ".new")
            with fresh.open("w") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(fresh, self._path)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            self._told(
                f"{self._path} can't be written: {error.strerror}; if {self._device} grows while "
                "it is not attached, its metadata will not be found"
            )

    def forget(self) -> None:
        """The device has no metadata any more."""
        self._path.unlink(missing_ok=True)
