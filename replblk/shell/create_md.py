"""create-md: gives a device new metadata, unless that would cost data.

The texts and exit statuses are drbdmeta's: 0 created, 1 the administrator said no, 10 too small,
20 the device can't be opened or written, 40 refused because of existing data, also with --force.
Nothing is written before every question is answered. Then the order is safe at every cut: the old
superblock goes first and the new one comes last, each with the device flushed in between.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from replblk.meta.detect import HEAD_BYTES, existing_data, judge
from replblk.meta.dump import human_size
from replblk.meta.layout import (
    ATTACH_BYTES_MIN,
    BLOCK_BYTES,
    INDEXED_SLOT_SECTORS,
    Layout,
    bm_bytes,
)
from replblk.meta.superblock import Superblock, foreign_version
from replblk.model.errors import MetadataError
from replblk.model.units import SECTOR_BYTES, bits_of_capacity
from replblk.shell.md_device import INTERNAL, MdDevice, default_layout, layouts_on, open_md_device

EXIT_CANCELLED = 1
EXIT_EXISTING_DATA = 40

Confirm = Callable[[str], bool]
"""Asks the administrator; True only for a typed "yes"."""
Out = Callable[[str], None]
"""Tells the administrator; one or more lines, without the last newline."""


def create_md(
    path: str,
    meta_disk: str,
    meta_index: int | None,
    *,
    device_uuid: int,
    force: bool,
    confirm: Confirm,
    out: Out,
) -> int:
    """Make v08 metadata for the backing device *path*; the exit status.

    meta_disk: "internal" or the path of another device, of which meta_index (0..255) names a
    128 MiB slot, or None the whole. device_uuid: 64 random bits.
    AdminError if a device can't be opened, is in use, too small, or fails.
    """
    with ExitStack() as stack:
        backing = stack.enter_context(open_md_device(path))
        internal = meta_disk == INTERNAL
        device = backing if internal else stack.enter_context(open_md_device(meta_disk))
        layout = default_layout(device, layouts_on(device, meta_disk, meta_index))
        sectors = layout.usable_sectors
        if not internal:
            sectors = min(sectors, backing.size_bytes // SECTOR_BYTES)
        questions = _Questions(force, confirm, out)
        if not _may_overwrite_metadata(device, layout, questions):
            out("\nOperation cancelled.")
            return EXIT_CANCELLED

        found = existing_data(device.read(0, min(HEAD_BYTES, device.size_bytes)), device.size_bytes)
        if found:
            judgement = judge(found, layout)
            out(judgement.text)
            if judgement.refused:
                return EXIT_EXISTING_DATA
            if not questions.agreed("\nDo you want to proceed?"):
                out("Operation canceled.")
                return EXIT_CANCELLED

        bitmap_bytes = layout.bm_area_bytes if internal else bm_bytes(bits_of_capacity(sectors))
        _write(device, layout, bitmap_bytes, device_uuid, out)
        if device.size_bytes < ATTACH_BYTES_MIN:
            out(f"Note: a node attaches only devices of {ATTACH_BYTES_MIN} bytes or more.")
    return 0


class _Questions:
    """Asks, unless --force has answered already."""

    def __init__(self, force: bool, confirm: Confirm, out: Out) -> None:
        self._force, self._confirm, self._out = force, confirm, out

    def tell(self, text: str) -> None:
        self._out(text)

    def agreed(self, question: str) -> bool:
        if not self._force:
            return self._confirm(question)
        self._out(f"{question}\n*** confirmation forced via --force option ***")
        return True


def _may_overwrite_metadata(device: MdDevice, layout: Layout, questions: _Questions) -> bool:
    """Whether there are no metadata yet, or the administrator gives them up."""
    found = _metadata_at(device, layout)
    if found is None:
        return True
    version, offset = found
    place = f"{device.path} at byte offset {offset}"
    if layout.kind != "internal" and version == "v08":
        return questions.agreed(
            f"\nValid meta data seems to be in place on {place}.\nDo you really want to overwrite?"
        )
    kind = "internal" if layout.kind == "internal" else "external"
    size = "fixed-size" if version == "v07" else "flexible-size"
    questions.tell(
        f"You want me to create a v08 style flexible-size {kind} meta data block.\n"
        f"There appears to be a {version} {size} {kind} meta data block\n"
        f"already in place on {place}"
    )
    return questions.agreed("\nDo you really want to overwrite the existing meta-data?")


def _metadata_at(device: MdDevice, layout: Layout) -> tuple[str, int] | None:
    """(version, byte offset) of metadata that a superblock's signature shows, valid or not."""
    offset = layout.md_offset_bytes
    block = device.read(offset, BLOCK_BYTES)
    if version := foreign_version(block):
        return version, offset
    try:
        Superblock.parse(block)
    except MetadataError:
        pass  # whatever else is there, existing_data judges it
    else:
        return "v08", offset
    fixed = device.size_bytes // BLOCK_BYTES * BLOCK_BYTES - INDEXED_SLOT_SECTORS * SECTOR_BYTES
    if layout.kind == "internal" and fixed >= 0:  # where v07 had its internal metadata
        block = device.read(fixed, BLOCK_BYTES)
        if foreign_version(block) == "v07":
            return "v07", fixed
    return None


def _write(device: MdDevice, layout: Layout, bitmap_bytes: int, device_uuid: int, out: Out) -> None:
    """The old superblock away, bitmap and activity log empty, and last the new superblock."""
    device.zero(layout.md_offset_bytes, BLOCK_BYTES)
    device.sync()
    out(f"initializing bitmap ({human_size(bitmap_bytes >> 10)}) to all zero")
    device.zero(layout.bm_offset_bytes, bitmap_bytes)
    out("initializing activity log")
    device.initialise_al(layout)
    out("Writing meta data...")
    superblock = Superblock.fresh(layout, device_uuid=device_uuid)
    device.write(layout.md_offset_bytes, superblock.encode())
    device.sync()
    out("New drbd meta data block successfully created.")
