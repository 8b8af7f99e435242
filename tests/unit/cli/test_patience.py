"""Which of the three timeouts of ``startup { }`` a wait obeys."""

from __future__ import annotations

import pytest

from replblk.cli.resource_commands import patience_s
from replblk.model.state import State
from replblk.model.status import VolumeStatus
from replblk.model.vocabulary import DiskState


def volume(number: int = 0, *, degraded: bool = False, outdated: bool = False) -> VolumeStatus:
    return VolumeStatus(
        number=number,
        minor=number,
        device="",
        disk_path="",
        state=State(pdsk=DiskState.OUTDATED if outdated else DiskState.DUNKNOWN),
        size_sectors=0,
        uuids=(0, 0, 0, 0),
        degraded=degraded,
    )


@pytest.mark.parametrize(
    ("waits", "degraded", "outdated", "expected"),
    [
        ((30, 20, 10), False, False, 30),
        ((30, 20, 10), True, False, 20),
        ((30, 20, 10), False, True, 10),
        ((30, 20, 10), True, True, 10),
        ((0, 20, 10), False, False, 0),
        ((0, 20, 10), True, False, 20),
        ((0, 0, 10), True, False, 0),
        ((30, 0, 0), True, False, 30),  # never longer than wfc-timeout
        ((30, 90, 0), True, False, 30),
        ((30, 20, 90), False, True, 30),
        ((0, 0, 0), True, True, 0),
    ],
)
def test_the_timeout_that_counts(
    waits: tuple[int, int, int], degraded: bool, outdated: bool, expected: int
) -> None:
    assert patience_s(waits, [volume(degraded=degraded, outdated=outdated)], None) == expected


def test_of_several_volumes_the_longest_wait_counts() -> None:
    both = [volume(0, degraded=True), volume(1)]
    assert patience_s((30, 20, 10), both, None) == 30
    assert patience_s((30, 20, 10), both, 0) == 20
    assert patience_s((0, 20, 10), both, None) == 0
