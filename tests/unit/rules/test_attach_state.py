"""Metadata flags to disk states."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import DiskState as D
from replblk.model.vocabulary import Fencing, Role
from replblk.rules.attach_state import initial_disk, may_attach

CARE, FENCED = Fencing.DONT_CARE, Fencing.RESOURCE_ONLY


@pytest.mark.parametrize(
    ("consistent", "up_to_date", "outdated", "fencing", "disk", "pdsk"),
    [
        (False, False, False, CARE, D.INCONSISTENT, D.DUNKNOWN),
        (False, True, True, CARE, D.INCONSISTENT, D.OUTDATED),
        (True, False, False, CARE, D.OUTDATED, D.DUNKNOWN),
        (True, False, True, FENCED, D.OUTDATED, D.OUTDATED),
        (True, True, False, CARE, D.UP_TO_DATE, D.DUNKNOWN),
        (True, True, False, FENCED, D.CONSISTENT, D.DUNKNOWN),
        (True, True, False, Fencing.RESOURCE_AND_STONITH, D.CONSISTENT, D.DUNKNOWN),
        (True, True, True, FENCED, D.UP_TO_DATE, D.OUTDATED),
    ],
)
def test_disk_after_attach(
    consistent: bool, up_to_date: bool, outdated: bool, fencing: Fencing, disk: D, pdsk: D
) -> None:
    assert initial_disk(consistent, up_to_date, outdated, fencing) == (disk, pdsk)


@pytest.mark.parametrize(
    ("current", "role", "peer", "pdsk", "allowed"),
    [
        (0x1001, Role.PRIMARY, Role.SECONDARY, D.DISKLESS, True),
        (0x2000, Role.PRIMARY, Role.SECONDARY, D.DISKLESS, False),
        (0x2000, Role.SECONDARY, Role.PRIMARY, D.CONSISTENT, False),
        (0x2000, Role.PRIMARY, Role.SECONDARY, D.UP_TO_DATE, True),
        (0x2000, Role.SECONDARY, Role.SECONDARY, D.DISKLESS, True),
    ],
)
def test_other_data_do_not_slip_under_a_device_in_use(
    current: int, role: Role, peer: Role, pdsk: D, allowed: bool
) -> None:
    assert may_attach(current, [0x1000], role=role, peer=peer, pdsk=pdsk) is allowed
    assert may_attach(current, [], role=role, peer=peer, pdsk=pdsk)


def test_what_was_written_elsewhere_is_missing_in_the_same_generation() -> None:
    states = {"peer": Role.SECONDARY, "pdsk": D.DUNKNOWN, "written_elsewhere": True}
    assert not may_attach(0x1000, [0x3000, 0x1000], role=Role.PRIMARY, **states)
    assert may_attach(0x1000, [0x3000, 0x1000], role=Role.SECONDARY, **states)
