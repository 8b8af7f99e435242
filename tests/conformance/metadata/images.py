"""The recorded metadata images (see scripts/record_metadata.py) as devices that tests can read.

Only the metadata area of each was stored; everything else on the device is zero.
"""

from __future__ import annotations

import json
import lzma
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from replblk.meta.layout import Layout, bm_bytes
from replblk.meta.superblock import LayoutOf, Superblock
from replblk.model.units import bits_of_capacity

HERE = Path(__file__).resolve().parent
ABOUT: dict[str, dict[str, Any]] = json.loads((HERE / "images.json").read_text())
V08 = [name for name, about in ABOUT.items() if about["format"] == "v08"]
DIRTY = [name for name, about in ABOUT.items() if "apply_al" in about]


@dataclass(frozen=True)
class Image:
    """One recorded image; index: internal, flex-external, or a number."""

    size: int
    index: str
    offset: int
    area: bytes

    @property
    def layout_of(self) -> LayoutOf:
        """Where its metadata lie, given the geometry of the activity log."""
        if self.index == "internal":
            return partial(Layout.internal, self.size)
        if self.index == "flex-external":
            return partial(Layout.flexible, self.size)
        return partial(Layout.indexed, int(self.index), self.size)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the device, all of which must have been recorded."""
        start = offset - self.offset
        assert start >= 0
        assert start + length <= len(self.area)
        return self.area[start : start + length]

    def superblock(self) -> Superblock:
        """Decoded and checked."""
        at = self.layout_of(1, 8).md_offset_bytes
        return Superblock.decode(self.read(at, 4096), self.layout_of)

    def layout(self) -> Layout:
        """The layout that the superblock asks for."""
        superblock = self.superblock()
        return self.layout_of(superblock.al_stripes, superblock.al_stripe_size_4k)

    def ring(self) -> list[bytes]:
        """The activity log."""
        layout = self.layout()
        at = layout.al_offset_bytes
        return [self.read(at + 4096 * index, 4096) for index in range(layout.al_blocks)]

    def bitmap(self) -> bytes:
        """The bitmap of the last agreed size."""
        length = bm_bytes(bits_of_capacity(self.superblock().la_size_sect))
        return self.read(self.layout().bm_offset_bytes, length)

    def write_to(self, path: Path) -> None:
        """Make a sparse file that is this device."""
        with path.open("wb") as file:
            file.truncate(self.size)
            file.seek(self.offset)
            file.write(self.area)


def image(name: str) -> Image:
    """A recorded image by its name; ``NAME.applied`` is the same after drbdmeta's apply-al."""
    about = ABOUT[name.removesuffix(".applied")]
    area = lzma.decompress((HERE / f"{name}.xz").read_bytes())
    return Image(about["size"], about["index"], about["offset"], area)


def true_flags(dump: str, flags: int) -> str:
    """drbdmeta's dump, in which up to 9.32 all flags are shown as 0, with the flags there are."""
    return dump.replace("    flags 0x00000000;\n", f"    flags 0x{flags:08X};\n")
