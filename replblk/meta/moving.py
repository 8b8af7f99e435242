"""Moving metadata to another place of the same device: which steps, in which order.

Internal metadata lie at the end of their device; when it has another size they must move. ``plan``
says what is to be written, each step durable before the next begins, so that a power cut after any
of them finds either the old metadata whole or new ones that are safe:

    apart      bitmap, activity log, superblock (from here on the new ones count), old ones erased
    in place   superblock that says "full sync" (and its place noted), activity log, bitmap,
               superblock, old ones erased

*apart* costs nothing at a power cut: the old metadata stay as they are until the new ones are
whole. It needs room: where new and old overlap, or the old ones lie behind the end of the device,
the superblock goes first and says that every block counts as out of sync until the bitmap stands.
What is erased are the old metadata alone, so that they are never taken for valid ones later, and so
that a block that becomes data reads as zeroes on both nodes. Source: metadata, resize and moving.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from replblk.meta.layout import BLOCK_BYTES, Layout


class Step(Enum):
    """One thing to make durable."""

    WARN = "superblock at the new place: everything counts as out of sync"
    BITMAP = "bitmap at the new place"
    ACTIVITY_LOG = "activity log at the new place"
    SUPERBLOCK = "superblock at the new place"
    REMEMBER = "note for a later attach of what size the device is"
    ERASE = "zeroes over the old metadata"


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps in their order. erase: (offset, length) in bytes of what was metadata and is not."""

    steps: tuple[Step, ...]
    erase: tuple[tuple[int, int], ...]

    @property
    def counts_after(self) -> Step:
        """The step from which on the new metadata are the valid ones."""
        return Step.WARN if Step.WARN in self.steps else Step.SUPERBLOCK


def plan(old: Layout, new: Layout) -> Plan:
    """How to get from *old* to *new*. old may reach behind the end of the device (it shrank)."""
    old_area, new_area = area(old), area(new)
    overlap = old_area.start < new_area.stop and new_area.start < old_area.stop
    gone = old_area.stop > new.device_bytes
    steps: tuple[Step, ...]
    if overlap or gone:
        # Noted before the old ones are spoilt: the device may grow again before the next attach.
        steps = (Step.WARN, Step.REMEMBER, Step.ACTIVITY_LOG, Step.BITMAP, Step.SUPERBLOCK)
        steps = (*steps, Step.ERASE)
    else:
        steps = (Step.BITMAP, Step.ACTIVITY_LOG, Step.SUPERBLOCK, Step.REMEMBER, Step.ERASE)
    return Plan(steps, () if gone else tuple(_without(old_area, new_area)))


def area(layout: Layout) -> range:
    """Bytes of internal metadata: bitmap, activity log, superblock."""
    assert layout.kind == "internal", "only internal metadata move with their device"
    return range(layout.bm_offset_bytes, layout.md_offset_bytes + BLOCK_BYTES)


def _without(whole: range, part: range) -> list[tuple[int, int]]:
    """What of *whole* is not in *part*, as (offset, length)."""
    pieces = (
        (whole.start, min(whole.stop, part.start)),
        (max(whole.start, part.stop), whole.stop),
    )
    return [(start, stop - start) for start, stop in pieces if start < stop]
