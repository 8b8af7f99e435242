"""The UUID set of a data generation: current, bitmap and two history slots.

Bit 0 of a UUID is not part of its identity: in *current* it says "written while Primary".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

JUST_CREATED = 4
"""Current UUID of fresh metadata (UUID_JUST_CREATED)."""
SYNC_UUID_OFFSET = 0x0001_0000_0000_0000
"""Added to the bitmap UUID to form the sync UUID (UUID_NEW_BM_OFFSET)."""
UUID_MASK = (1 << 64) - 1


def same_generation(a: int, b: int) -> bool:
    """Whether two UUIDs name the same generation: bit 0 is masked out."""
    return (a | 1) == (b | 1)


@dataclass(frozen=True, slots=True)
class UuidSet:
    """Four 64-bit generation identifiers; *bitmap* 0: not recording for an absent peer."""

    current: int = JUST_CREATED
    bitmap: int = 0
    history0: int = 0
    history1: int = 0

    def pushed(self, value: int, keep: int = 0) -> UuidSet:
        """*value* becomes the younger history slot; of the two that were there the older one goes.

        keep: a generation that the peer may still have: it stays, if it is there.
        """
        older = keep and not same_generation(keep, value) and same_generation(keep, self.history1)
        return replace(self, history0=value, history1=self.history1 if older else self.history0)

    def new_current(self, fresh: int, *, primary: bool) -> UuidSet:
        """A new generation begins: bitmap := current, current := *fresh* (64 random bits)."""
        return replace(self, current=with_role(fresh, primary=primary), bitmap=self.current)

    def sync_started(self, fresh: int, target: int = 0) -> UuidSet:
        """The source starts a resync: the bitmap UUID becomes the sync UUID, the old one history.

        *fresh*: 64 random bits, used when there is no bitmap UUID to derive from. *target*: the
        current UUID of the target, which it keeps if the sync UUID never reaches it.
        """
        derive = self.bitmap not in (0, JUST_CREATED)
        sync = (self.bitmap + SYNC_UUID_OFFSET) & UUID_MASK if derive else fresh
        base = self.pushed(self.bitmap, target) if self.bitmap else self
        return replace(base, bitmap=sync)

    def sync_received(self, sync_uuid: int, *, primary: bool) -> UuidSet:
        """The target starts a resync: current becomes the sync UUID, bitmap 0."""
        return replace(self, current=with_role(sync_uuid, primary=primary), bitmap=0)

    def bitmap_cleared(self) -> UuidSet:
        """The source finished a resync: the bitmap UUID becomes history."""
        return replace(self.pushed(self.bitmap), bitmap=0) if self.bitmap else self

    def sync_finished(self, peer: UuidSet, *, primary: bool) -> UuidSet:
        """The target finished a resync and takes over the generation of its source *peer*."""
        taken = replace(peer, current=self.current)
        if taken.bitmap:
            taken = taken.pushed(taken.bitmap)
        taken = replace(
            taken, bitmap=self.current, current=with_role(peer.current, primary=primary)
        )
        return taken.bitmap_cleared()

    def with_role(self, *, primary: bool) -> UuidSet:
        """The same generation with bit 0 of *current* telling the role."""
        return replace(self, current=with_role(self.current, primary=primary))

    def __str__(self) -> str:
        return f"{self.current:016X}:{self.bitmap:016X}:{self.history0:016X}:{self.history1:016X}"


def with_role(uuid: int, *, primary: bool) -> int:
    """*uuid* with bit 0 set for a Primary and clear otherwise."""
    return (uuid | 1) if primary else (uuid & ~1)
