"""Texts made of metadata (compared with drbdmeta's own in tests/conformance)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replblk.meta.dump import dump_text, gi_text, human_size, show_gi_text
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.generation import UuidSet

LAYOUT = Layout.internal(16 << 20)
FRESH = Superblock.fresh(LAYOUT)


def rows(bitmap: bytes) -> list[str]:
    text = dump_text(FRESH, LAYOUT, bitmap, ("d", "c"))
    return text.split("bm {")[1].split("}")[0].splitlines()[1:]


@pytest.mark.parametrize(
    ("kib", "text"),
    [(0, "0 KB"), (9999, "9999 KB"), (10000, "10 MB"), (61440, "60 MB"), (45004, "44 MB")],
)
def test_human_sizes(kib: int, text: str) -> None:
    assert human_size(kib) == text


def test_big_human_sizes() -> None:
    assert human_size(1 << 40) == "1024 TB"


def test_eight_equal_words_are_a_row_and_sixteen_a_run() -> None:
    assert rows(bytes(32) + b"\1" * 32) == [
        "   # at 0kB",
        "    0x0000000000000000; 0x0000000000000000; 0x0000000000000000; 0x0000000000000000;",
        "    0x0101010101010101; 0x0101010101010101; 0x0101010101010101; 0x0101010101010101;",
    ]
    assert rows(bytes(64)) == ["   # at 0kB", "    8 times 0x0000000000000000;"]


def test_long_runs_are_one_row() -> None:
    assert rows(bytes(1 << 20)) == ["   # at 0kB", "    131072 times 0x0000000000000000;"]


def test_devices_never_attached_have_no_bitmap() -> None:
    assert "# bm-bytes 0;\nbm {\n}\n# bits-set 0;\n" in dump_text(FRESH, LAYOUT, b"", ("d", "c"))


def test_unclean_dumps_can_not_be_restored() -> None:
    unclean = replace(FRESH, clean=False)
    assert "Don't_trust_the_bitmap." in dump_text(unclean, LAYOUT, b"", ("d", "c"))
    assert "Don't_trust_the_bitmap." not in dump_text(FRESH, LAYOUT, b"", ("d", "c"))


def test_true_flags_are_shown() -> None:
    assert "    flags 0x00000080;\n" in dump_text(FRESH, LAYOUT, b"", ("d", "c"))


def test_flag_digits_stand_in_drbds_order() -> None:
    uuids = UuidSet(1, 2, 3, 4)
    digits = {
        flag: gi_text(replace(FRESH, uuids=uuids, flags=flag)).split(":", 4)[4] for flag in MdFlag
    }
    assert digits == {
        MdFlag.CONSISTENT: "1:0:0:0:0:0:0",
        MdFlag.WAS_UP_TO_DATE: "0:1:0:0:0:0:0",
        MdFlag.PRIMARY_IND: "0:0:1:0:0:0:0",
        MdFlag.CONNECTED_IND: "0:0:0:1:0:0:0",
        MdFlag.FULL_SYNC: "0:0:0:0:1:0:0",
        MdFlag.PEER_OUT_DATED: "0:0:0:0:0:1:0",
        MdFlag.CRASHED_PRIMARY: "0:0:0:0:0:0:1",
        MdFlag.AL_CLEAN: "0:0:0:0:0:0:0",
        MdFlag.AL_DISABLED: "0:0:0:0:0:0:0",
    }


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (0x000, "flags: Secondary, StandAlone, Inconsistent\nmeta-data: need apply-al\n"),
        (0x081, "flags: Secondary, StandAlone, Outdated\nmeta-data: clean\n"),
        (0x0F7, "flags: crashed Primary, Connected, UpToDate, peer Outdated\nmeta-data: clean\n"),
        (0x08D, "flags: Secondary, Connected, Outdated, need full sync\nmeta-data: clean\n"),
    ],
)
def test_flags_in_words(flags: int, words: str) -> None:
    assert f"\n{words}zero size device" in show_gi_text(replace(FRESH, flags=MdFlag(flags)))
