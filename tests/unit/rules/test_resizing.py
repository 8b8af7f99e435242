"""Who may resize, to what size, and who copies the new part."""

from __future__ import annotations

import pytest

from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.rules.resizing import awaits_primary, may_have_size, may_resize, new_part_source

GOOD = State().but(
    conn=ConnState.CONNECTED,
    role=Role.PRIMARY,
    peer=Role.SECONDARY,
    disk=DiskState.UP_TO_DATE,
    pdsk=DiskState.UP_TO_DATE,
)
ALONE = GOOD.but(conn=ConnState.WF_CONNECTION, peer=Role.UNKNOWN, pdsk=DiskState.DUNKNOWN)


def refused(state: State, **more: object) -> int:
    asked = {"apv": 101, "assume_clean": False, "moves_log": False, "assume_peer_has_space": False}
    verdict = may_resize(state, **{**asked, **more})  # type: ignore[arg-type]
    return 0 if verdict is None else verdict.number


@pytest.mark.parametrize(
    ("state", "asked", "number"),
    [
        (GOOD, {}, 0),
        (GOOD.but(role=Role.SECONDARY, peer=Role.PRIMARY), {}, 0),
        (GOOD.but(role=Role.SECONDARY), {}, 131),
        (GOOD.but(conn=ConnState.SYNC_SOURCE), {}, 130),
        (GOOD.but(conn=ConnState.VERIFY_S), {}, 130),
        (GOOD.but(disk=DiskState.DISKLESS), {}, 138),
        (GOOD.but(disk=DiskState.NEGOTIATING), {}, 138),
        (GOOD, {"assume_clean": True}, 0),
        (GOOD, {"assume_clean": True, "apv": 92}, 153),
        (ALONE, {"assume_clean": True, "apv": 0}, 0),
        (ALONE, {}, 0),
        (ALONE.but(role=Role.SECONDARY), {}, 0),
        (ALONE, {"moves_log": True}, 166),
        (ALONE, {"moves_log": True, "assume_peer_has_space": True}, 0),
        (GOOD, {"moves_log": True}, 0),
    ],
)
def test_who_may_resize(state: State, asked: dict[str, object], number: int) -> None:
    assert refused(state, **asked) == number


@pytest.mark.parametrize(
    ("new", "usable", "wanted", "changes_log", "number"),
    [
        (1000, 1000, 0, False, 0),
        (1200, 1200, 0, False, 0),
        (800, 800, 0, False, 170),
        (800, 800, 800, False, 0),
        (800, 1000, 800, False, 0),
        (800, 800, 900, False, 170),
        (800, 800, 0, True, 169),
    ],
)
def test_smaller_only_by_name(
    new: int, usable: int, wanted: int, changes_log: bool, number: int
) -> None:
    verdict = may_have_size(new, 1000, usable=usable, wanted=wanted, changes_log=changes_log)
    assert (verdict.number if verdict is not None else 0) == number


def test_a_secondary_shrinks_after_its_primary() -> None:
    secondary = GOOD.but(role=Role.SECONDARY, peer=Role.PRIMARY)
    assert awaits_primary(secondary, 800, 1000)
    assert not awaits_primary(secondary, 1200, 1000)
    assert not awaits_primary(GOOD, 800, 1000)
    assert not awaits_primary(ALONE.but(role=Role.SECONDARY), 800, 1000)


@pytest.mark.parametrize("own", list(Role))
@pytest.mark.parametrize("peer", list(Role))
@pytest.mark.parametrize("disk", list(DiskState))
@pytest.mark.parametrize("pdsk", list(DiskState))
@pytest.mark.parametrize("resolves", [True, False])
def test_two_nodes_never_both_copy_the_new_part(
    own: Role, peer: Role, disk: DiskState, pdsk: DiskState, resolves: bool
) -> None:
    here = new_part_source(
        GOOD.but(role=own, peer=peer, disk=disk, pdsk=pdsk), resolves_conflicts=resolves
    )
    there = new_part_source(
        GOOD.but(role=peer, peer=own, disk=pdsk, pdsk=disk), resolves_conflicts=not resolves
    )
    if own is peer or Role.UNKNOWN not in (own, peer):
        assert (here is None) == (there is None)
        assert here is None or here is not there
