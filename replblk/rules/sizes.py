"""How large the device is: what both nodes can hold, remember and want. All sizes in sectors.

0 means unknown, absent or no limit throughout, as in P_SIZES.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from replblk.model.units import kib
from replblk.model.vocabulary import DiskState

FORCED_WITHOUT_PEER: Final = "Resize while not connected was forced by the user!"


def agreed_size(
    own_max: int,
    peer_max: int,
    last_agreed: int,
    user: int,
    *,
    connected: bool,
    assume_peer_has_space: bool,
) -> tuple[int, str | None]:
    """The size of the device, and DRBD's warning about it if there is one.

    own_max, peer_max: usable data size of each backing device (the peer's as last heard of).
    last_agreed: from the superblock. user: the configured limit.
    """
    warnings: list[str] = []
    if assume_peer_has_space and not connected:
        warnings.append(FORCED_WITHOUT_PEER)
        peer_max = own_max
    known = [size for size in (own_max, peer_max) if size]
    if len(known) < 2 and last_agreed:
        known.append(last_agreed)
    size = min(known, default=0)
    if user and user > size:
        warnings.append(f"Requested disk size is too big ({kib(user)} > {kib(size)}) KiB")
    elif user:
        size = user
    return size, "; ".join(warnings) or None


def effective_user_size(own_user: int, peer_user: int) -> int:
    """The limit that counts while connecting: the smaller one of those that are set."""
    return min((size for size in (own_user, peer_user) if size), default=0)


def peer_too_small(
    new_size: int,
    current_size: int,
    own_disk: DiskState,
    connected: bool,
    peer_disk: DiskState,
) -> bool:
    """Whether the peer would shrink a device with data on it, which only a resize may do.

    connected: the volume had finished its handshake before these sizes came.
    """
    return (
        new_size < current_size
        and own_disk >= DiskState.OUTDATED
        and (not connected or peer_disk == DiskState.DISKLESS)
    )


@dataclass(frozen=True, slots=True)
class DisklessSize:
    """The size of a device without local disk. drop: refuse the peer (StandAlone) instead."""

    size: int
    warning: str | None = None
    drop: bool = False


def diskless_size(
    c_size: int, u_size: int, d_size: int, *, current: int, primary: bool
) -> DisklessSize:
    """What P_SIZES of the peer means to a node without a local disk.

    c_size, u_size, d_size: the peer's current size, user limit and disk size. current: our device's
    size now. A device in use never shrinks under its users. A peer that asks for our sizes (c_size
    0, a resize) has not grown: for that it would have to know of a disk here. DRBD takes the size
    of the peer's disk then, and writes behind the end of the peer's device.
    """
    candidate = c_size or u_size or d_size
    if current and not c_size and candidate > current:
        return DisklessSize(current)
    if candidate in (0, current):
        return DisklessSize(current)
    if current and not d_size:
        return DisklessSize(
            current,
            f"Ignored diskless peer's device size ({candidate} sectors), still using {current}",
        )
    if candidate < current and primary:
        return DisklessSize(
            current,
            f"The peer's device size ({candidate} sectors) is smaller than the {current} sectors "
            "in use here: the connection is refused. Connect a peer with the data in use, or make "
            "this node secondary first.",
            drop=True,
        )
    return DisklessSize(candidate)
