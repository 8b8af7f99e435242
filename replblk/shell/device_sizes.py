"""Notices that a volume has another size than before, so that its block device can follow.

Looked at after every step of the node, whatever changed the size. NBD clients learn the size when
they connect; the helper of a kernel device connects again to ask. Sizes in bytes; 0: not known yet,
or no more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable


class DeviceSizes:
    """size_of: asked for each of *volumes*; resized: told of a volume whose device had a size
    before and has another now."""

    def __init__(
        self,
        volumes: Iterable[int],
        size_of: Callable[[int], int],
        resized: Callable[[int], None],
    ) -> None:
        self._sizes = dict.fromkeys(volumes, 0)
        self._size_of = size_of
        self._resized = resized

    def look(self) -> None:
        """A step has ended."""
        for volume, before in self._sizes.items():
            size = self._size_of(volume)
            if size != before and size:
                self._sizes[volume] = size
                if before:
                    self._resized(volume)
