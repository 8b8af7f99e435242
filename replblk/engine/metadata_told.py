"""The metadata of an attached disk as text: what it would say if it were written this moment.

Questions of the shell between two steps; nothing changes. Offline the same texts come from the
device (``shell.offline_md``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from replblk.meta.dump import dump_text, gi_text, show_gi_text
from replblk.meta.layout import Layout
from replblk.model.errors import MetadataError

if TYPE_CHECKING:
    from replblk.engine.volume import Volume

METADATA_TEXTS: Final = ("get-gi", "show-gi", "dump-md")
DUMP_BYTES_MAX: Final = 1 << 20
"""Bitmap of 32 GiB: making a text of more would keep clients waiting."""
ERR_NO_DISK: Final = 138


def text(volume: Volume, verb: str, header: Sequence[str]) -> str:
    """One of METADATA_TEXTS, without a newline at its end. Raises MetadataError."""
    meta, layout, bitmap = volume.meta, volume.layout, volume.bitmap
    if meta is None or layout is None or bitmap is None:
        raise MetadataError("Device has no disk: it is being attached or given up", ERR_NO_DISK)
    superblock = meta.superblock()
    if verb == "get-gi":
        return gi_text(superblock)
    if verb == "show-gi":
        return show_gi_text(superblock).removesuffix("\n")
    size = Layout.bm_bytes(len(bitmap))
    if size > DUMP_BYTES_MAX:
        raise MetadataError(
            f"dump-md of an attached disk: its bitmap of {size >> 20} MiB is too large to be told "
            f"while it is in use (at most {DUMP_BYTES_MAX >> 20} MiB); detach it first",
            ERR_NO_DISK,
        )
    pages = b"".join(bitmap.look_at(page) for page in range(bitmap.page_count))
    return dump_text(superblock, layout, pages[:size], header).removesuffix("\n")
