"""Writes that were under way when their volume lost its peer or its data while I/O is suspended.

They are neither answered nor marked out of sync: with the peer back they are sent again, in their
order and with a barrier wherever there was one, so that it is as if nothing had happened; without
it they are settled as after any other loss. Their ranges stay locked and their extents hot, so a
crash meanwhile costs no more than one of a connected Primary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replblk.engine.transfer_log import Epoch
    from replblk.engine.volume import Volume
    from replblk.engine.write_request import WriteRequest


class FrozenWrites:
    """The frozen writes of all volumes, oldest first, each with the epoch it was in."""

    def __init__(self) -> None:
        self._held: dict[int, list[tuple[Epoch | None, WriteRequest]]] = {}

    def add(self, write: WriteRequest) -> None:
        """Freeze; the write keeps its epoch, if it has one, though that is in no log any more."""
        held = self._held.setdefault(write.volume.number, [])
        if all(write is not other for _, other in held):
            held.append((write.epoch, write))

    def writes(self) -> Iterator[WriteRequest]:
        """All of them."""
        for held in self._held.values():
            for _, write in held:
                yield write

    def of(self, volume: Volume) -> bool:
        """Whether any write of the volume is frozen."""
        return bool(self._held.get(volume.number))

    def take(self, volume: Volume) -> list[tuple[Epoch | None, WriteRequest]]:
        """They are frozen no longer."""
        return self._held.pop(volume.number, [])
