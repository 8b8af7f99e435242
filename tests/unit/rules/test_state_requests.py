"""Masks and values on the wire, the peer's point of view, and what a peer may ask for."""

from __future__ import annotations

import pytest

from replblk.model.state import State
from replblk.model.vocabulary import ConnState as C
from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Role
from replblk.rules import transitions as t

GOOD = State(
    role=Role.SECONDARY, peer=Role.SECONDARY, conn=C.CONNECTED, disk=D.UP_TO_DATE, pdsk=D.UP_TO_DATE
)
TABLE = [
    (t.PROMOTE, 0x00000003, 0x00000001),
    (t.PROMOTE_UPTODATE, 0x00001E03, 0x00001001),
    (t.DETACH, 0x00001E00, 0x00000400),
    (t.INVALIDATE, 0x000001F0, 0x000000C0),
    (t.INVALIDATE_REMOTE, 0x000001F0, 0x000000B0),
    (t.VERIFY, 0x000001F0, 0x00000120),
    (t.DISCONNECT, 0x000001F0, 0x00000010),
    (t.DISCONNECT_OUTDATE_PEER, 0x0001E1F0, 0x0000A010),
    (t.DISCONNECT_OUTDATE_SELF, 0x00001FF0, 0x00000A10),
]


@pytest.mark.parametrize(("request_", "mask", "val"), TABLE)
def test_requests_have_the_kernels_numbers(request_: t.StateRequest, mask: int, val: int) -> None:
    assert request_ == (mask, val)


@pytest.mark.parametrize(
    ("request_", "seen"),
    [
        (t.PROMOTE, GOOD.but(peer=Role.PRIMARY)),
        (t.PROMOTE_UPTODATE, GOOD.but(peer=Role.PRIMARY, pdsk=D.UP_TO_DATE)),
        (t.DETACH, GOOD.but(pdsk=D.FAILED)),
        (t.INVALIDATE, GOOD.but(conn=C.STARTING_SYNC_S)),
        (t.INVALIDATE_REMOTE, GOOD.but(conn=C.STARTING_SYNC_T)),
        (t.VERIFY, GOOD.but(conn=C.VERIFY_T)),
        (t.DISCONNECT, GOOD.but(conn=C.TEAR_DOWN)),
        (t.DISCONNECT_OUTDATE_PEER, GOOD.but(conn=C.TEAR_DOWN, disk=D.OUTDATED)),
        (t.DISCONNECT_OUTDATE_SELF, GOOD.but(conn=C.TEAR_DOWN, pdsk=D.OUTDATED)),
    ],
)
def test_a_request_of_the_peer_seen_from_here(request_: t.StateRequest, seen: State) -> None:
    mirrored = t.mirror(*request_)
    assert t.allowed_remote_request(*mirrored)
    assert t.apply_mask(GOOD, *mirrored) == seen


@pytest.mark.parametrize(
    ("mask", "val"),
    [
        (0xC, 0x4),  # "you are Primary"
        (0x3, 0x2),  # demotion is nobody's business
        (0x1E000, 8 << 13),  # "your disk is UpToDate"
        (0x1E000, 0),
        (0x1F0, 16 << 4),
        (0x1F0, 0),
        (0x3, 0x3),
        (0, 0),
        (0xFFFFFFFF, 0),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0x13, 0x1),
    ],
)
def test_anything_else_is_not_allowed(mask: int, val: int) -> None:
    assert not t.allowed_remote_request(*t.mirror(mask, val))


def test_what_is_allowed_is_allowed_from_the_peers_view_only() -> None:
    """A request applied without mirroring would change our own role."""
    assert not t.allowed_remote_request(*t.PROMOTE)


@pytest.mark.parametrize("conn", list(C))
def test_states_without_a_mirror_image_become_standalone(conn: C) -> None:
    images = {9: 9, 10: 10, 11: 12, 12: 11, 1: 7, 18: 19}
    assert t.mirror(0, conn << 4).val == images.get(conn, 0) << 4


def test_a_pause_of_the_peer_is_our_peer_isp() -> None:
    for flag in (1 << 18, 1 << 20):
        assert t.mirror(flag, flag) == (flag | 1 << 19, flag | 1 << 19)
    assert t.mirror(1 << 19, 0).mask == 0


def test_apply_mask_tells_a_word_that_names_no_state() -> None:
    with pytest.raises(ValueError, match="is not a valid"):
        t.apply_mask(GOOD, 0x1F0, 0x1F0)
