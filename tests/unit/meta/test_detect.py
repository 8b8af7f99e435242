"""What lives on a device already, and whether metadata may be made beside it."""

from __future__ import annotations

import struct

import pytest

from replblk.meta.detect import HEAD_BYTES, Found, existing_data, judge
from replblk.meta.layout import Layout

SIZE = 16 << 20
INTERNAL = Layout.internal(SIZE)
EXTERNAL = Layout.flexible(SIZE)


def head(*parts: tuple[int, bytes]) -> bytes:
    block = bytearray(HEAD_BYTES)
    for at, data in parts:
        block[at : at + len(data)] = data
    return bytes(block)


def ext(
    blocks: int, *, compat: int = 0, incompat: int = 0, high: int = 0, log_size: int = 2
) -> bytes:
    return head(
        (1024 + 4, struct.pack("<I", blocks)),
        (1024 + 24, struct.pack("<I", log_size)),
        (1024 + 56, b"\x53\xef"),
        (1024 + 92, struct.pack("<II", compat, incompat)),
        (1024 + 336, struct.pack("<I", high)),
    )


def reiser(magic: bytes) -> bytes:
    return head((65536, struct.pack("<I", 2000)), (65580, b"\x00\x10"), (65588, magic))


JFS = struct.pack("<4sIQIHHI", b"JFS1", 1, 20000, 4096, 12, 3, 512)
LVM = b"LABELONE" + bytes(16) + b"LVM2 001"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (ext(4096), Found("ext2 filesystem", 16384)),
        (ext(4096, log_size=0), Found("ext2 filesystem", 4096)),
        (ext(4096, compat=4), Found("ext3 filesystem", 16384)),
        (ext(0, compat=4, incompat=0x80, high=1), Found("ext3 filesystem", 4 << 32)),
        (ext(1, log_size=99), Found("ext2 filesystem", None)),
        (head((0, b"XFSB" + struct.pack(">IQ", 4096, 1000))), Found("xfs filesystem", 4000)),
        (head((32768, JFS)), Found("JFS filesystem", 10000)),
        (reiser(b"ReIsErFs"), Found("reiser filesystem", 8000)),
        (reiser(b"ReIsEr2Fs"), Found("reiser filesystem", 8000)),
        (reiser(b"ReIsEr3Fs"), Found("reiser filesystem", 8000)),
        (head((4086, b"SWAPSPACE2")), Found("swap space signature")),
        (head((65526, b"SWAP-SPACE")), Found("swap space signature")),
        (head((512, LVM)), Found("LVM2 physical volume signature")),
        (head((1536, LVM)), Found("LVM2 physical volume signature")),
        (head((65600, b"_BHRfS_M")), Found("some data")),
        (head((HEAD_BYTES - 1, b"x")), Found("some data")),
        (head(), None),
        (b"", None),
    ],
)
def test_content_is_recognised(content: bytes, found: Found | None) -> None:
    assert existing_data(content, SIZE) == found


def test_a_file_system_that_would_lose_its_end_is_refused() -> None:
    judged = judge(Found("ext3 filesystem", 16384), INTERNAL)
    assert judged.refused
    assert judged.text == (
        "md_offset 16773120\n"
        "al_offset 16740352\n"
        "bm_offset 16736256\n"
        "\n"
        "Found ext3 filesystem\n"
        "       16384 kB data area apparently used\n"
        "       16344 kB left usable by current configuration\n"
        "\n"
        "Device size would be truncated, which\n"
        "would corrupt data and result in\n"
        "'access beyond end of device' errors.\n"
        "You need to either\n"
        "   * use external meta data (recommended)\n"
        "   * shrink that filesystem first\n"
        "   * zero out the device (destroy the filesystem)\n"
        "Operation refused."
    )


def test_a_file_system_that_leaves_room_is_only_asked_about() -> None:
    judged = judge(Found("xfs filesystem", 16344), INTERNAL)
    assert not judged.refused
    assert "Even though it looks like" in judged.text
    assert judge(Found("xfs filesystem", 16345), INTERNAL).refused


@pytest.mark.parametrize(
    ("found", "layout"),
    [
        (Found("swap space signature"), INTERNAL),
        (Found("LVM2 physical volume signature"), INTERNAL),
        (Found("ext2 filesystem", None), INTERNAL),
        (Found("swap space signature"), EXTERNAL),
        (Found("xfs filesystem", 1), EXTERNAL),
    ],
)
def test_known_content_of_unknown_size_is_refused(found: Found, layout: Layout) -> None:
    judged = judge(found, layout)
    assert judged.refused
    assert judged.text.endswith("Operation refused.")


@pytest.mark.parametrize("layout", [INTERNAL, EXTERNAL])
def test_unknown_content_is_asked_about(layout: Layout) -> None:
    judged = judge(Found("some data"), layout)
    assert not judged.refused
    assert judged.text.endswith("Found some data\n\n ==> This might destroy existing data! <==")
