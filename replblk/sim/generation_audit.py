"""Judges every acknowledgement: would both nodes know after a power cut whose data are newer?

A write that only one node has for good is acknowledged only once that node's durable generation
follows the other's, or the other's metadata say themselves that its data are not whole. Otherwise a
crash of both at this instant leaves two disks of one generation, of which either may be chosen.

Marks do not count for a name: they tell which blocks differ, not who is right. Nor does the flag of
a crashed Primary: what went on after it was in sync, it does not say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.meta.superblock import MdFlag
from replblk.model.generation import JUST_CREATED, same_generation
from replblk.rules.uuid_compare import Outcome, Side, compare
from replblk.sim.metadata_audit import durable_superblock
from replblk.sim.world import SimulationError

if TYPE_CHECKING:
    from replblk.sim.disk import Drive

_NEVER_MERGED = {
    Outcome.SOURCE_BITMAP,
    Outcome.SOURCE_FULL,
    Outcome.SPLIT_BRAIN,
    Outcome.SPLIT_BRAIN_AMBIGUOUS,
    Outcome.UNRELATED,
}
"""Resynced from the holder, or refused and told: whatever the administrator says then, is said."""


def judge_acknowledged(drives: tuple[Drive, Drive], offset: int, data: bytes) -> None:
    """*data*, just acknowledged with durability "disk", belong at *offset* (bytes) of the device.

    SimulationError: one drive alone has them for good, and nothing durable tells that it is newer.
    """
    first, second = (d.store.read_durable(offset, len(data)) == data for d in drives)
    if first is second:
        return  # both have it, or what overlaps it has overwritten it on both
    holder, other = drives if first else drives[::-1]
    there = durable_superblock(other)
    if MdFlag.CONSISTENT not in there.flags or same_generation(there.uuids.current, JUST_CREATED):
        return
    here = durable_superblock(holder)
    whole = MdFlag.CONSISTENT in here.flags
    verdict = compare(
        *(Side(here.uuids), Side(there.uuids)), resolves_conflicts=False, apv=101, wsame=True
    )
    if not whole or verdict.outcome not in _NEVER_MERGED:
        raise SimulationError(
            f"I8: a write at byte {offset} is acknowledged and only {holder.machine} has it, with "
            f"{here.uuids}{'' if whole else ', Inconsistent'} beside {there.uuids}: after a power "
            f"cut of both the verdict would be {verdict.outcome.name} by rule {verdict.rule}"
        )
