"""When a new data generation begins: the moments from which the nodes' data may differ.

DRBD's rules G1 to G4 begin one only while the bitmap UUID is 0, that is, while no older generation
of the peer is being recorded for. That leaves a hole: a sync source that lost its target may not
know that the resync *was* finished. If it then takes writes, and the target is promoted and takes
writes too, both histories fit together and one side's writes are silently overwritten. ``BRANCH``
closes it: a new current UUID while the bitmap UUID stays, the old current UUID in the history. A
target that had not finished continues by bitmap as before; one that had finished is resynced whole;
one that was promoted meanwhile is a split brain, or refused as unrelated, but never merged. A
source that never sent some of the blocks knows that its target is not done: then nothing begins.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import Final

from replblk.model.generation import UuidSet, with_role
from replblk.model.state import State
from replblk.model.vocabulary import SOURCE_STATES, ConnState, DiskState, Role

_D = DiskState
_READABLE: Final = frozenset({_D.INCONSISTENT, _D.CONSISTENT, _D.UP_TO_DATE})
_GONE: Final = frozenset(
    {_D.DISKLESS, _D.ATTACHING, _D.FAILED, _D.NEGOTIATING, _D.DUNKNOWN, _D.OUTDATED}
)
_GONE_FOR_SURE: Final = frozenset({_D.DISKLESS, _D.FAILED, _D.OUTDATED})


class Rotation(Enum):
    """What happens to the UUIDs."""

    KEEP = "keep"
    NEW_CURRENT = "new current UUID"  # UuidSet.new_current: bitmap := current, current := random
    BRANCH = "new current UUID beside an unfinished resync"


def rotated(
    uuids: UuidSet, rotation: Rotation, fresh: int, *, primary: bool, target: int = 0
) -> UuidSet:
    """The UUIDs after the rotation. fresh: 64 random bits; target: the peer's UUID, last we heard.

    A target that never got the sync UUID still has that one: it stays in the history.
    """
    if rotation == Rotation.NEW_CURRENT:
        return uuids.new_current(fresh, primary=primary)
    if rotation == Rotation.BRANCH:
        current = with_role(fresh, primary=primary)
        return replace(uuids.pushed(uuids.current, target), current=current)
    return uuids


def lost_peer_data(old: State, new: State) -> bool:
    """The part of G1 and G4 that needs no UUIDs: data written from now on will miss at the peer."""
    if new.disk != _D.UP_TO_DATE:
        return False
    if old.conn in SOURCE_STATES and new.conn < ConnState.CONNECTED and new.role == Role.PRIMARY:
        return True  # it may have finished the resync, unseen
    attached = old.disk in (_D.ATTACHING, _D.NEGOTIATING) and new.role == Role.PRIMARY
    if attached and (new.conn < ConnState.CONNECTED or new.pdsk < _D.INCONSISTENT):
        return True  # the peer, or its disk, was lost while there was no disk to begin one on
    if _turned_bad(old, new):
        return True
    lost = (old.pdsk in _READABLE and new.pdsk in _GONE) or (
        old.pdsk == _D.DUNKNOWN and new.pdsk in _GONE_FOR_SURE
    )
    in_use = Role.PRIMARY in (new.role, new.peer)
    diskless_primary = old.peer != Role.PRIMARY and new.serves_diskless
    return (lost and in_use) or diskless_primary


def _turned_bad(old: State, new: State) -> bool:
    """The peer of a Primary passed a disk error on: it stays, Inconsistent, and gets no writes.

    DRBD begins no generation then. If both nodes die before that state is durable at the peer, its
    data look as good as ours.
    """
    return (
        new.role == Role.PRIMARY
        and old.conn == new.conn == ConnState.CONNECTED
        and (old.pdsk, new.pdsk) == (_D.UP_TO_DATE, _D.INCONSISTENT)
    )


def rotation_after(
    old: State, new: State, uuids: UuidSet, *, target_unfinished: bool = False
) -> Rotation:
    """What a committed change does to the generation (G1, G4, and the branch of a sync source).

    target_unfinished: the target of the resync that was cut off can't have finished it.
    While I/O is suspended the rotation is planned, and carried out when I/O resumes.
    """
    if not lost_peer_data(old, new):
        return Rotation.KEEP
    if uuids.bitmap == 0:
        return Rotation.NEW_CURRENT
    written = new.role == Role.PRIMARY or new.serves_diskless
    branches = old.conn in SOURCE_STATES and written and not target_unfinished
    return Rotation.BRANCH if branches else Rotation.KEEP


def rotation_at_promotion(
    state: State, uuids: UuidSet, *, forced: bool, target_unfinished: bool = False
) -> Rotation:
    """What becoming Primary does to the generation (G2, G3, and the branch of a sync source).

    state: the new one. forced: our disk was declared UpToDate for it. target_unfinished: as in
    ``rotation_after``. Nodes without a local disk have no generation to rotate. A peer that stays,
    Inconsistent since it passed a disk error on, gets no writes (``_turned_bad``).
    """
    if forced:
        return Rotation.NEW_CURRENT
    if state.conn == ConnState.CONNECTED and state.pdsk == _D.INCONSISTENT:
        return Rotation.KEEP if uuids.bitmap else Rotation.NEW_CURRENT
    if state.conn >= ConnState.CONNECTED and state.pdsk > _D.FAILED:
        return Rotation.KEEP
    return rotation_alone(uuids, target_unfinished=target_unfinished)


def rotation_alone(uuids: UuidSet, *, target_unfinished: bool = False) -> Rotation:
    """What the first write does that only our disk gets, be it a diskless Primary's (G4), where no
    change of the state began a generation. target_unfinished: as in ``rotation_after``."""
    if uuids.bitmap == 0:
        return Rotation.NEW_CURRENT
    branches = uuids.handed_out and not target_unfinished
    return Rotation.BRANCH if branches else Rotation.KEEP


def needs_new_current_uuid(old: State, new: State, uuids: UuidSet) -> bool:
    """Whether DRBD's rules G1 and G4 ask for a new current UUID (``rotation_after`` says more)."""
    return rotation_after(old, new, uuids) == Rotation.NEW_CURRENT


def promotion_needs_new_uuid(state: State, uuids: UuidSet, forced: bool) -> bool:
    """Whether G2 or G3 asks for a new current UUID (``rotation_at_promotion`` says more)."""
    return rotation_at_promotion(state, uuids, forced=forced) == Rotation.NEW_CURRENT
