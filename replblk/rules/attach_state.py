"""The disk state that metadata flags stand for at attach, and whether the data may be attached.

Source: attach procedure of metadata v08 (flags CONSISTENT, WAS_UP_TO_DATE, PEER_OUT_DATED).
"""

from __future__ import annotations

from collections.abc import Collection

from replblk.model.generation import same_generation
from replblk.model.vocabulary import DiskState, Fencing, Role


def initial_disk(
    consistent: bool, was_up_to_date: bool, peer_outdated: bool, fencing: Fencing
) -> tuple[DiskState, DiskState]:
    """Disk and peer disk after an attach without connection.

    Data that were good when last seen are only Consistent: the peer may have gone on alone. They
    count as UpToDate if the peer is known to be outdated, or if the administrator does not care
    (fencing dont-care). With a connection both are kept aside and decided with the peer.
    """
    pdsk = DiskState.OUTDATED if peer_outdated else DiskState.DUNKNOWN
    if not consistent:
        return DiskState.INCONSISTENT, pdsk
    if not was_up_to_date:
        return DiskState.OUTDATED, pdsk
    if peer_outdated or fencing == Fencing.DONT_CARE:
        return DiskState.UP_TO_DATE, pdsk
    return DiskState.CONSISTENT, pdsk


def may_attach(
    current_uuid: int,
    exposed: Collection[int],
    *,
    role: Role,
    peer: Role,
    pdsk: DiskState,
    written_elsewhere: bool = False,
) -> bool:
    """Whether data of this generation may come under a device that is in use (error 150 if not).

    exposed: the generations that have all that the device served last, empty for none. While a
    Primary is anywhere and no UpToDate peer could bring the disk up to date, only those may.
    written_elsewhere: what was written since then went to the peer alone.
    """
    in_use = Role.PRIMARY in (role, peer)
    if not exposed or not in_use or pdsk == DiskState.UP_TO_DATE:
        return True
    served = any(same_generation(current_uuid, generation) for generation in exposed)
    return served and not written_elsewhere
