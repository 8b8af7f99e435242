"""Metadata commands for a device that no daemon has: apply-al, dump-md, wipe-md, get-gi, show-gi,
check-resize.

The texts and exit statuses are drbdmeta's (0, 1; AdminError 20 if the device can't be used). A
sentence of ours on what was found instead of metadata follows "No valid meta data found".
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from replblk.meta.al_transaction import Replay, replay
from replblk.meta.bitmap import PAGE_BYTES, Bitmap
from replblk.meta.dump import dump_text, gi_text, human_size, show_gi_text
from replblk.meta.layout import ATTACH_BYTES_MIN, BLOCK_BYTES, Layout, bm_bytes
from replblk.meta.moving import Step, plan
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.errors import MetadataError
from replblk.model.units import AL_EXTENT_BITS, BIT_BYTES, bits_of_capacity
from replblk.shell.create_md import Confirm, Out
from replblk.shell.last_known import LastKnownSize
from replblk.shell.md_device import INTERNAL, MdDevice, default_layout, layouts_on, open_md_device


class _Found:
    """A device and the valid metadata on it."""

    def __init__(
        self, device: MdDevice, layout: Layout, superblock: Superblock, *, moved: bool = False
    ) -> None:
        self.device, self.layout, self.superblock = device, layout, superblock
        self.moved = moved
        """Whether they are where they were last known to be, and not at the device's end."""

    def read_bitmap(self) -> bytes:
        """The bitmap of the last agreed size, whole pages; nothing before the first attach."""
        length = bm_bytes(bits_of_capacity(self.superblock.la_size_sect))
        return self.device.read(self.layout.bm_offset_bytes, length)

    def read_al(self) -> list[bytes]:
        """The ring of the activity log, in the order of the disk."""
        ring = self.device.read(self.layout.al_offset_bytes, self.layout.al_blocks * BLOCK_BYTES)
        return [ring[at : at + BLOCK_BYTES] for at in range(0, len(ring), BLOCK_BYTES)]


def apply_al(
    path: str, meta_disk: str, meta_index: int | None, *, known: LastKnownSize, out: Out
) -> int:
    """After a crash: mark what may differ from the peer, so that a node may attach again.

    Metadata that are no longer at the end of a device that grew are moved there.
    """
    with _metadata(path, meta_disk, meta_index, known) as found:
        if isinstance(found, MetadataError):
            return _none_valid(found, out)
        nothing_to_do = not found.superblock.needs_apply_al and not found.moved
        if nothing_to_do:
            out("Nothing to do.")
        elif status := _apply(found, out):
            return status
        if found.moved:
            _move(found, out)
        _remember(found, known)
        return 0


def check_resize(
    path: str, meta_disk: str, meta_index: int | None, *, known: LastKnownSize, out: Out
) -> int:
    """A device that grew: move its metadata to its end, from where they were last known to be."""
    with _metadata(path, meta_disk, meta_index, known) as found:
        if isinstance(found, MetadataError):
            out(f"no suitable meta data found :(\n{found}")
            return 1
        if found.moved:
            if status := _apply(found, out):
                return status
            _move(found, out)
        _remember(found, known)
        return 0


def _remember(found: _Found, known: LastKnownSize) -> None:
    if found.layout.kind == "internal":
        known.write(found.device.size_bytes, found.superblock.device_uuid)
    else:
        known.forget()


def _apply(found: _Found, out: Out) -> int:
    """Apply the activity log where it is; 0, or 1 if it can't tell what was hot.

    Order: bits durable, then the activity log forgotten, then the superblock clean. PRIMARY_IND
    stays, so that the node knows that it was a crashed Primary.
    """
    superblock = found.superblock
    if superblock.needs_apply_al and MdFlag.FULL_SYNC not in superblock.flags:
        log = replay(found.read_al())
        if log.any_magic and log.corrupt:
            out(f"{log.corrupt} corrupt AL transactions found")
        was_primary = MdFlag.PRIMARY_IND in superblock.flags
        if problem := _problem(log):
            out(problem)
            if was_primary:
                return 1
            out("Error ignored, no need to apply the AL")
        elif was_primary:
            marked = _mark(found, log.extents, out)
            if marked:
                size = human_size(marked * BIT_BYTES >> 10)
                out(f"Marked additional {size} as out-of-sync based on AL.")
    found.device.initialise_al(found.layout)
    clean = replace(superblock, clean=True, flags=superblock.flags | MdFlag.AL_CLEAN)
    found.device.write(found.layout.md_offset_bytes, clean.encode())
    found.device.sync()
    found.superblock = clean
    return 0


def _move(found: _Found, out: Out) -> None:
    """The metadata, their activity log applied, to the end of the device; by ``meta.moving.plan``.

    The last agreed size stays as it was.
    """
    out("Moving the internal meta data to its proper location")
    device, old, superblock = found.device, found.layout, found.superblock
    new = Layout.internal(device.size_bytes, old.al_stripes, old.al_stripe_size_4k)
    image = replace(
        superblock,
        md_size_sect=new.md_size_sect,
        al_offset=new.al_offset_sect,
        bm_offset=new.bm_offset_sect,
    )
    bitmap = found.read_bitmap()
    moving = plan(old, new)
    for step in moving.steps:
        if step is Step.WARN:
            warned = replace(image, flags=image.flags | MdFlag.FULL_SYNC | MdFlag.AL_DISABLED)
            device.write(new.md_offset_bytes, warned.encode())
        elif step is Step.BITMAP:
            device.write(new.bm_offset_bytes, bitmap)
        elif step is Step.ACTIVITY_LOG:
            device.initialise_al(new)
        elif step is Step.SUPERBLOCK:
            device.write(new.md_offset_bytes, image.encode())
        elif step is Step.ERASE:
            for offset, length in moving.erase:
                device.zero(offset, length)
        device.sync()
    found.layout, found.superblock = new, image
    out("Internal drbd meta data successfully moved.")


def dump_md(
    path: str, meta_disk: str, meta_index: int | None, *, force: bool, command: str, out: Out
) -> int:
    """The metadata as text. command: what was typed, for the header."""
    with _metadata(path, meta_disk, meta_index) as found:
        if isinstance(found, MetadataError):
            return _none_valid(found, out)
        if found.superblock.needs_apply_al and not force:
            out('Found meta data is "unclean", please apply-al first')
            return 1
        now = time.time()
        header = (
            time.strftime(f"%Y-%m-%d %H:%M:%S %z [{int(now)}]", time.localtime(now)),
            f"{os.uname().nodename}> {command}",
        )
        text = dump_text(found.superblock, found.layout, found.read_bitmap(), header)
        out(text.removesuffix("\n"))
        return 0


def wipe_md(
    path: str,
    meta_disk: str,
    meta_index: int | None,
    *,
    force: bool,
    confirm: Confirm,
    out: Out,
) -> int:
    """Make the device one without metadata: the superblock is zeroed, all else stays."""
    with _metadata(path, meta_disk, meta_index) as found:
        if isinstance(found, MetadataError):
            out(f"There appears to be no drbd meta data to wipe out?\n{found}")
            return 0
        question = "\nDo you really want to wipe out the DRBD meta data?"
        if force:
            out(f"{question}\n*** confirmation forced via --force option ***")
        elif not confirm(question):
            out("Operation cancelled.")
            return 1
        out("Wiping meta data...")
        found.device.zero(found.layout.md_offset_bytes, BLOCK_BYTES)
        found.device.sync()
        out("DRBD meta data block successfully wiped out.")
        return 0


def get_gi(path: str, meta_disk: str, meta_index: int | None, *, out: Out) -> int:
    """The generation identifiers and flags, for scripts: nothing at all without metadata."""
    return _tell(path, meta_disk, meta_index, gi_text, out, silent=True)


def show_gi(path: str, meta_disk: str, meta_index: int | None, *, out: Out) -> int:
    """The generation identifiers and flags, for people."""
    return _tell(path, meta_disk, meta_index, show_gi_text, out)


def _tell(
    path: str,
    meta_disk: str,
    meta_index: int | None,
    text: Callable[[Superblock], str],
    out: Out,
    *,
    silent: bool = False,
) -> int:
    with _metadata(path, meta_disk, meta_index) as found:
        if isinstance(found, MetadataError):
            return 1 if silent else _none_valid(found, out)
        out(text(found.superblock).removesuffix("\n"))
        return 0


@contextmanager
def _metadata(
    path: str, meta_disk: str, meta_index: int | None, known: LastKnownSize | None = None
) -> Iterator[_Found | MetadataError]:
    """The locked device with its metadata, or why there are none.

    known: look there, too, if a device with internal metadata has none at its end.
    """
    with open_md_device(path if meta_disk == INTERNAL else meta_disk) as device:
        layout_of = layouts_on(device, meta_disk, meta_index)
        layout = default_layout(device, layout_of)
        block = device.read(layout.md_offset_bytes, BLOCK_BYTES)
        found: _Found | MetadataError
        try:
            superblock = Superblock.decode(block, layout_of)
            layout = layout_of(superblock.al_stripes, superblock.al_stripe_size_4k)
            found = _Found(device, layout, superblock)
        except MetadataError as error:
            found = error
            if known is not None and meta_disk == INTERNAL:
                found = _elsewhere(device, known) or error
        yield found


def _elsewhere(device: MdDevice, known: LastKnownSize) -> _Found | None:
    """Metadata at the place where they were when the device was smaller."""
    size, uuid = known.read()
    if not ATTACH_BYTES_MIN <= size < device.size_bytes:
        return None
    layout_of = partial(Layout.internal, size)
    layout = layout_of()
    try:
        superblock = Superblock.decode(device.read(layout.md_offset_bytes, BLOCK_BYTES), layout_of)
    except MetadataError:
        return None
    if superblock.device_uuid != uuid:
        return None
    layout = layout_of(superblock.al_stripes, superblock.al_stripe_size_4k)
    return _Found(device, layout, superblock, moved=True)


def _none_valid(error: MetadataError, out: Out) -> int:
    out(f"No valid meta data found\n{error}")
    return 1


def _problem(log: Replay) -> str:
    """Why the activity log can't tell what was hot; "" if it can."""
    if not log.any_magic:
        return "No usable activity log found. Do you need to create-md?"
    return "" if log.usable else "No valid AL update transaction found."


def _mark(found: _Found, extents: list[int], out: Out) -> int:
    """Set the bits of the extents, durable on return; how many were clear.

    Extents are marked whole, also past the end of the device as far as the bitmap's last page goes
    (a node ignores those bits), so that the result is the same as drbdmeta's.
    """
    data = found.read_bitmap()
    bitmap = Bitmap(len(data) * 8)
    bitmap.load(data)
    marked = 0
    for extent in extents:
        first = extent * AL_EXTENT_BITS
        if first >= len(bitmap):
            out(f"extent {extent} beyond end of bitmap! ({first} >= {len(bitmap)})")
            continue
        marked += bitmap.set(first, min(first + AL_EXTENT_BITS, len(bitmap)))
    for page in bitmap.dirty_pages():
        offset = found.layout.bm_offset_bytes + page * PAGE_BYTES
        found.device.write(offset, bitmap.page(page))
    found.device.sync()
    return marked
