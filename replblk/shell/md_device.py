"""A metadata device while no daemon has it: opened, locked, read and written by offline commands.

Offsets and lengths in bytes. Nothing is durable before ``sync``. Every failure is an AdminError
that names the device: exit status 20 for what can't be opened, read or written, 10 for what is too
small, as drbdmeta has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from replblk.engine.ports import OpenFailed
from replblk.meta.al_transaction import initialised_block
from replblk.meta.layout import ERR_MD_DISK_TOO_SMALL, Layout
from replblk.meta.superblock import LayoutOf
from replblk.model.errors import AdminError, MetadataError
from replblk.shell.backing_device import BackingDevice, open_backing_device

INTERNAL = "internal"
EXIT_SIZE = 10
EXIT_DEVICE = 20

_ZERO_CHUNK_BYTES = 1 << 20


class MdDevice:
    """One open, locked device that holds metadata (internal: data as well)."""

    def __init__(self, device: BackingDevice) -> None:
        self._device = device
        self.path = device.path
        self.size_bytes = device.size_bytes

    def read(self, offset: int, length: int) -> bytes:
        """Exactly *length* bytes."""
        chunks: list[bytes] = []
        at, end = offset, offset + length
        while at < end:
            try:
                chunk = os.pread(self._device.fd, end - at, at)
            except OSError as error:
                raise self._failed("read", at, end - at, error.strerror) from error
            if not chunk:
                raise self._failed("read", at, end - at, "the device ends there")
            chunks.append(chunk)
            at += len(chunk)
        return b"".join(chunks)

    def write(self, offset: int, data: bytes) -> None:
        """All of *data*."""
        rest, at = memoryview(data), offset
        while rest:
            try:
                written = os.pwrite(self._device.fd, rest, at)
            except OSError as error:
                raise self._failed("write", at, len(rest), error.strerror) from error
            if not written:
                raise self._failed("write", at, len(rest), "it takes nothing there")
            rest, at = rest[written:], at + written

    def zero(self, offset: int, length: int) -> None:
        """Zeroes, really written: a file gets its space now, not when it may have run out."""
        chunk = bytes(_ZERO_CHUNK_BYTES)
        for at in range(offset, offset + length, len(chunk)):
            self.write(at, chunk[: offset + length - at])

    def sync(self) -> None:
        """Make everything written durable."""
        try:
            os.fsync(self._device.fd)
        except OSError as error:
            raise AdminError(
                f"{self.path}: the device failed to make its contents durable: {error.strerror};"
                " what was written last may be lost",
                EXIT_DEVICE,
            ) from error

    def initialise_al(self, layout: Layout) -> None:
        """Fill the ring of the activity log so that it names no extent; durable on return.

        The first block comes last and alone. An interrupted run leaves either a transaction in it,
        or a ring in which no other block is torn: in both cases ``replay`` can still tell.
        """
        first, end = layout.al_offset_bytes, layout.al_offset_bytes + 4096 * layout.al_blocks
        block = initialised_block()
        for at in range(first + len(block), end, len(block)):
            self.write(at, block)
        self.sync()
        self.write(first, block)
        self.sync()

    def _failed(self, what: str, at: int, length: int, why: str | None) -> AdminError:
        return AdminError(
            f"{self.path}: can't {what} {length} bytes at byte offset {at}: {why}", EXIT_DEVICE
        )


@contextmanager
def open_md_device(path: str) -> Iterator[MdDevice]:
    """Open and lock; AdminError if the device is missing, read-only, in use, too small, ..."""
    device = open_backing_device(path)
    if isinstance(device, OpenFailed):
        too_small = device.number in (111, ERR_MD_DISK_TOO_SMALL)
        raise AdminError(device.text, EXIT_SIZE if too_small else EXIT_DEVICE)
    try:
        yield MdDevice(device)
    finally:
        device.close()


def layouts_on(device: MdDevice, meta_disk: str, meta_index: int | None) -> LayoutOf:
    """Where metadata of this kind lie on the device, given the activity log's geometry."""
    if meta_disk == INTERNAL:
        return partial(Layout.internal, device.size_bytes)
    if meta_index is None:
        return partial(Layout.flexible, device.size_bytes)
    return partial(Layout.indexed, meta_index, device.size_bytes)


def default_layout(device: MdDevice, layout_of: LayoutOf) -> Layout:
    """The layout of new metadata; AdminError(10) if there is no room for it."""
    try:
        return layout_of(1, 8)
    except MetadataError as error:
        raise AdminError(f"{device.path}: {error}", EXIT_SIZE) from error
