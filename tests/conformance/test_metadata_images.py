"""Metadata made by drbdmeta: the same bytes read into values, and the same values into bytes."""

from __future__ import annotations

import pytest

from replblk.meta.al_transaction import Transaction, initialised_block, replay
from replblk.meta.bitmap import Bitmap
from replblk.meta.dump import dump_text, gi_text, show_gi_text
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.errors import MetadataError
from tests.conformance.metadata.images import ABOUT, DIRTY, V08, Image, image, true_flags

TRUE_FLAGS = {"fresh": 0x80, "uuids": 0xB5, "bits": 0x91, "flex": 0xB5, "index1": 0xB5}
HEADER = ("DATE", "COMMAND")


def dump_of(recorded: Image) -> str:
    return dump_text(recorded.superblock(), recorded.layout(), recorded.bitmap(), HEADER)


@pytest.mark.parametrize("name", V08)
def test_superblock_is_read_and_written_back_byte_for_byte(name: str) -> None:
    recorded = image(name)
    superblock = recorded.superblock()
    assert superblock.encode() == recorded.read(recorded.layout().md_offset_bytes, 4096)
    assert superblock.needs_apply_al == (name in DIRTY)


@pytest.mark.parametrize(("name", "flags"), TRUE_FLAGS.items())
def test_flags_are_those_that_were_set(name: str, flags: int) -> None:
    assert image(name).superblock().flags == flags


@pytest.mark.parametrize("name", V08)
def test_dump_and_generation_texts_are_drbdmetas(name: str) -> None:
    recorded, about = image(name), ABOUT[name]
    superblock = recorded.superblock()
    assert dump_of(recorded) == true_flags(about["dump"], superblock.flags)
    assert gi_text(superblock) == about["gi"]
    assert show_gi_text(superblock) == about["show_gi"]


@pytest.mark.parametrize("name", sorted(set(V08) - set(DIRTY)))
def test_fresh_ring_is_the_one_drbdmeta_writes(name: str) -> None:
    ring = image(name).ring()
    assert ring == [initialised_block()] * len(ring)
    assert replay(ring).extents == []


@pytest.mark.parametrize("name", DIRTY)
def test_replay_marks_what_drbdmetas_apply_al_marked(name: str) -> None:
    """Bits and superblock after our replay are the bytes that apply-al left on disk."""
    crashed, applied = image(name), image(f"{name}.applied")
    log = replay(crashed.ring())
    assert log.usable
    bitmap = Bitmap(len(crashed.bitmap()) * 8)
    bitmap.load(crashed.bitmap())
    if MdFlag.PRIMARY_IND in crashed.superblock().flags:
        for extent in log.extents:
            bitmap.set(1024 * extent, 1024 * (extent + 1))
    assert bitmap.bits.tobytes() == applied.bitmap()
    assert dump_of(applied) == true_flags(
        ABOUT[name]["apply_al"]["dump"], applied.superblock().flags
    )
    assert applied.superblock().flags == crashed.superblock().flags | MdFlag.AL_CLEAN
    assert applied.ring() == [initialised_block()] * len(applied.ring())


def test_torn_newest_transaction_is_skipped_and_loses_nothing() -> None:
    torn, whole = replay(image("dirty-torn").ring()), replay(image("dirty").ring())
    assert (torn.corrupt, whole.corrupt) == (1, 0)
    assert torn.extents == whole.extents
    assert 77 not in torn.extents


def test_transactions_are_read_and_written_back_byte_for_byte() -> None:
    for name in ("dirty-contexts", "dirty-evicted", "dirty-stripes"):
        for block in image(name).ring():
            assert Transaction.decode(block).encode() == block


def test_metadata_of_drbd_9_are_named_and_refused() -> None:
    recorded = image("drbd9")
    with pytest.raises(MetadataError, match=r"byte offset 16773120 holds metadata of DRBD 9"):
        recorded.superblock()
    with pytest.raises(MetadataError) as refused:
        Superblock.parse(recorded.read(16773120, 4096))
    assert refused.value.number == 119
