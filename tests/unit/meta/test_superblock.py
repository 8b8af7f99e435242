"""The superblock: what is accepted, what is refused with which words, and its flags."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import partial

import pytest

from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock, flags_of
from replblk.model.errors import MetadataError
from replblk.model.generation import UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role

SIZE = 64 << 20
INTERNAL = partial(Layout.internal, SIZE)
LAYOUT = INTERNAL(1, 8)
GOOD = Superblock.fresh(LAYOUT)
FLEXIBLE = partial(Layout.flexible, 4 << 20)


def refusal(block: bytes) -> MetadataError:
    with pytest.raises(MetadataError) as refused:
        Superblock.decode(block, INTERNAL)
    return refused.value


def test_every_field_has_its_place() -> None:
    superblock = replace(
        GOOD,
        la_size_sect=0x11,
        uuids=UuidSet(0xA, 0xB, 0xC, 0xD),
        device_uuid=0xE,
        flags=MdFlag(0x97),
        clean=False,
        al_nr_extents=67,
        la_peer_max_bio_size=1 << 20,
    )
    block = superblock.encode()
    assert struct.unpack_from(">7Q2IIiIi4I", block) == (
        *(0x11, 0xA, 0xB, 0xC, 0xD, 0xE, 0),
        *(0x97, 0x8374026C, 80, -64, 67, -72, 4096, 1 << 20, 1, 8),
    )
    assert not any(block[96:])
    assert Superblock.decode(block, INTERNAL) == superblock


def test_fresh_metadata_are_just_created_and_clean() -> None:
    fresh = Superblock.decode(Superblock.fresh(LAYOUT, device_uuid=7).encode(), INTERNAL)
    assert (fresh.uuids, fresh.flags, fresh.clean) == (UuidSet(4, 0, 0, 0), MdFlag.AL_CLEAN, True)
    assert (fresh.la_size_sect, fresh.al_nr_extents, fresh.device_uuid) == (0, 257, 7)
    fresh.check_applied()


def test_nothing_at_all_is_told_from_something_else() -> None:
    nothing, foreign = refusal(bytes(4096)), refusal(b"\x7fELF" + bytes(4092))
    assert str(nothing).startswith("no metadata found: byte offset 67104768 is all zeroes")
    assert "holds something else (it starts with 7f454c46" in str(foreign)
    assert nothing.number == foreign.number == 119


@pytest.mark.parametrize(
    ("at", "magic", "text"),
    [
        (60, 0x8374026D, "DRBD 9"),
        (60, 0x8374026A, "8.0 or older"),
        (28, 0x8374026A, "8.0 or older"),
    ],
)
def test_other_versions_are_named(at: int, magic: int, text: str) -> None:
    block = bytearray(4096)
    struct.pack_into(">I", block, at, magic)
    assert text in str(refusal(bytes(block)))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"bm_bytes_per_bit": 8192}, "8192 bytes per bitmap bit"),
        ({"al_offset": 8}, "the activity log at sector 8, but on this device it must be -64"),
        ({"bm_offset": -80}, "the bitmap at sector -80, but on this device it must be -72"),
        ({"md_size_sect": 81}, "a size in sectors of 81"),
        ({"la_size_sect": LAYOUT.usable_sectors + 1}, "last agreed size of 130993 sectors"),
        ({"al_stripes": 0}, "are damaged: an activity log of 0 stripes"),
        ({"al_stripes": 2, "al_stripe_size_4k": 3}, "32 KiB to 16 GiB"),
        ({"al_stripe_size_4k": 0xFFFFFFFF}, "32 KiB to 16 GiB"),
        ({"al_stripe_size_4k": 4 << 20}, "are damaged: the device has only"),
    ],
)
def test_what_does_not_fit_the_device_is_refused(change: dict[str, int], text: str) -> None:
    refused = refusal(replace(GOOD, **change).encode())  # type: ignore[arg-type]
    assert text in str(refused)
    assert refused.number == 119


def test_metadata_of_a_resized_device_do_not_pass_for_those_of_the_new_size() -> None:
    with pytest.raises(MetadataError, match="made for another size"):
        Superblock.decode(GOOD.encode(), partial(Layout.internal, 512 << 20))


def test_external_metadata_must_have_room_for_their_bitmap() -> None:
    superblock = Superblock.fresh(FLEXIBLE(1, 8))
    fits = replace(superblock, la_size_sect=FLEXIBLE(1, 8).usable_sectors)
    assert Superblock.decode(fits.encode(), FLEXIBLE) == fits
    for bad in (
        replace(fits, la_size_sect=fits.la_size_sect + 1),
        replace(fits, md_size_sect=fits.md_size_sect - 8),
    ):
        with pytest.raises(MetadataError, match="sectors"):
            Superblock.decode(bad.encode(), FLEXIBLE)


def test_no_stripe_fields_mean_the_default_geometry() -> None:
    block = replace(GOOD, al_stripes=0, al_stripe_size_4k=0).encode()
    assert Superblock.decode(block, INTERNAL) == GOOD


@pytest.mark.parametrize(
    ("clean", "flags"),
    [(False, MdFlag.CONSISTENT), (False, MdFlag.AL_CLEAN), (True, MdFlag.CONSISTENT)],
)
def test_unclean_metadata_are_read_but_not_attached(clean: bool, flags: MdFlag) -> None:
    superblock = Superblock.decode(replace(GOOD, clean=clean, flags=flags).encode(), INTERNAL)
    assert superblock.needs_apply_al
    with pytest.raises(MetadataError, match="apply-al") as refused:
        superblock.check_applied()
    assert refused.value.number == 165


PRIMARY = State(
    role=Role.PRIMARY,
    peer=Role.SECONDARY,
    conn=ConnState.CONNECTED,
    disk=DiskState.UP_TO_DATE,
    pdsk=DiskState.UP_TO_DATE,
)


@pytest.mark.parametrize(
    ("state", "crashed", "flags"),
    [
        (PRIMARY, False, 0x017),
        (PRIMARY, True, 0x057),
        (PRIMARY.but(conn=ConnState.WF_CONNECTION, pdsk=DiskState.DUNKNOWN), False, 0x013),
        (PRIMARY.but(conn=ConnState.WF_CONNECTION, pdsk=DiskState.OUTDATED), False, 0x033),
        (PRIMARY.but(pdsk=DiskState.INCONSISTENT), False, 0x037),
        (PRIMARY.but(role=Role.SECONDARY, disk=DiskState.INCONSISTENT), False, 0x004),
        (PRIMARY.but(role=Role.SECONDARY, disk=DiskState.OUTDATED), False, 0x005),
        (PRIMARY.but(role=Role.SECONDARY, disk=DiskState.CONSISTENT), False, 0x015),
        (
            PRIMARY.but(role=Role.SECONDARY, peer=Role.PRIMARY, pdsk=DiskState.DISKLESS),
            False,
            0x017,
        ),
    ],
)
def test_flags_follow_the_state(state: State, crashed: bool, flags: int) -> None:
    assert flags_of(state, crashed, MdFlag.AL_CLEAN) == flags


def test_flags_about_bitmap_and_log_are_not_the_states_business() -> None:
    old = MdFlag.FULL_SYNC | MdFlag.AL_DISABLED | MdFlag.CRASHED_PRIMARY | MdFlag(0x8000)
    assert flags_of(PRIMARY, False, old) == 0x8000 | 0x108 | 0x017


@pytest.mark.parametrize("disk", [DiskState.DISKLESS, DiskState.FAILED, DiskState.ATTACHING])
def test_detach_keeps_the_flags_of_the_attached_disk(disk: DiskState) -> None:
    old = MdFlag(0x017)
    assert flags_of(PRIMARY.but(role=Role.SECONDARY, disk=disk), False, old) == old
