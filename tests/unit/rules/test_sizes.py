"""The size both nodes agree on, with and without a local disk."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import DiskState as D
from replblk.rules.sizes import (
    DisklessSize,
    agreed_size,
    diskless_size,
    effective_user_size,
    peer_too_small,
)


@pytest.mark.parametrize(
    ("own", "peer", "last", "user", "size"),
    [
        (1000, 800, 0, 0, 800),
        (800, 1000, 900, 0, 800),
        (1000, 1200, 500, 0, 1000),  # both known: the last agreed size is history
        (1000, 0, 600, 0, 600),
        (500, 0, 600, 0, 500),
        (0, 500, 600, 0, 500),
        (0, 0, 600, 0, 600),
        (1000, 0, 0, 0, 1000),
        (0, 700, 0, 0, 700),
        (0, 0, 0, 0, 0),
        (1000, 800, 0, 640, 640),
        (1000, 800, 0, 800, 800),
    ],
)
def test_agreed_size(own: int, peer: int, last: int, user: int, size: int) -> None:
    answer = agreed_size(own, peer, last, user, connected=True, assume_peer_has_space=False)
    assert answer == (size, None)


def test_a_wish_too_large_is_refused_with_kib() -> None:
    answer = agreed_size(1000, 800, 0, 900, connected=True, assume_peer_has_space=False)
    assert answer == (800, "Requested disk size is too big (450 > 400) KiB")


def test_assume_peer_has_space_counts_only_while_not_connected() -> None:
    size, warning = agreed_size(1000, 800, 0, 0, connected=False, assume_peer_has_space=True)
    assert size == 1000
    assert warning == "Resize while not connected was forced by the user!"
    connected = agreed_size(1000, 800, 0, 0, connected=True, assume_peer_has_space=True)
    assert connected == (800, None)


def test_both_warnings_are_told() -> None:
    size, warning = agreed_size(1000, 0, 0, 2000, connected=False, assume_peer_has_space=True)
    assert size == 1000
    assert warning is not None
    assert "forced" in warning
    assert "too big" in warning


@pytest.mark.parametrize(
    ("own", "peer", "effective"), [(0, 0, 0), (5, 0, 5), (0, 7, 7), (5, 7, 5), (9, 7, 7)]
)
def test_the_smaller_wish_counts(own: int, peer: int, effective: int) -> None:
    assert effective_user_size(own, peer) == effective


@pytest.mark.parametrize(
    ("new", "disk", "connected", "pdsk", "refused"),
    [
        (900, D.UP_TO_DATE, False, D.DUNKNOWN, True),
        (900, D.OUTDATED, False, D.DUNKNOWN, True),
        (900, D.INCONSISTENT, False, D.DUNKNOWN, False),
        (900, D.UP_TO_DATE, True, D.DISKLESS, True),
        (900, D.UP_TO_DATE, True, D.UP_TO_DATE, False),
        (1000, D.UP_TO_DATE, False, D.DUNKNOWN, False),
        (1100, D.UP_TO_DATE, False, D.DUNKNOWN, False),
    ],
)
def test_a_device_with_data_shrinks_only_by_resize(
    new: int, disk: D, connected: bool, pdsk: D, refused: bool
) -> None:
    assert peer_too_small(new, 1000, disk, connected, pdsk) is refused


@pytest.mark.parametrize(
    ("sizes", "current", "primary", "answer"),
    [
        ((0, 0, 0), 1000, True, DisklessSize(1000)),
        ((1000, 0, 900), 1000, True, DisklessSize(1000)),
        ((1200, 0, 1300), 1000, True, DisklessSize(1200)),
        ((0, 800, 1300), 0, True, DisklessSize(800)),
        ((0, 0, 1300), 0, False, DisklessSize(1300)),
        ((900, 0, 900), 1000, False, DisklessSize(900)),
        ((900, 0, 0), 0, False, DisklessSize(900)),
    ],
)
def test_without_a_disk_the_peers_size_is_taken(
    sizes: tuple[int, int, int], current: int, primary: bool, answer: DisklessSize
) -> None:
    assert diskless_size(*sizes, current=current, primary=primary) == answer


def test_a_diskless_peer_has_no_say() -> None:
    answer = diskless_size(900, 0, 0, current=1000, primary=True)
    assert (answer.size, answer.drop) == (1000, False)
    assert answer.warning is not None


def test_a_diskless_primary_refuses_a_smaller_peer() -> None:
    answer = diskless_size(900, 0, 900, current=1000, primary=True)
    assert (answer.size, answer.drop) == (1000, True)
    assert answer.warning is not None
