"""The UUID set of a data generation: current, bitmap and two history slots.

Bit 0 of a UUID is not part of its identity: in *current* it says "written while Primary".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

JUST_CREATED = 4
"""Current UUID of fresh metadata (UUID_JUST_CREATED)."""
SYNC_UUID_OFFSET = 0x0001_0000_0000_0000
"""Added to the bitmap UUID to form the sync UUID (UUID_NEW_BM_OFFSET)."""
SYNC_UUID_STEPS = 0x4000
"""Where DRBD would take 64 random bits for a sync UUID it is added more often, so that it can be
seen what that was made of: less often than this to the target's UUID, at least so often to ours."""
UUID_MASK = (1 << 64) - 1


def same_generation(a: int, b: int) -> bool:
    """Whether two UUIDs name the same generation: bit 0 is masked out."""
    return (a | 1) == (b | 1)


def steps_from(uuid: int, sync: int) -> int:
    """How often SYNC_UUID_OFFSET was added to *uuid* to make *sync* of it; 0: it was not."""
    steps, rest = divmod(((sync | 1) - (uuid | 1)) & UUID_MASK, SYNC_UUID_OFFSET)
    return 0 if rest else steps


def made_of(sync: int, uuid: int) -> bool:
    """Whether *sync* is a sync UUID for a target of the generation *uuid*."""
    return 0 < steps_from(uuid, sync) < SYNC_UUID_STEPS


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

        *fresh*: 64 random bits. *target*: the current UUID of the target, as it told it. The
        younger history slot of a source always names what its target had, and keeps if the sync
        UUID never reaches it; what begins next pushes that into the older slot, not out. So a full
        sync of a target of an older generation makes the sync UUID of that one, not of the bitmap
        UUID, which no disk is known to bear. Where there is neither, it is made of the current
        UUID, so that it is known for a sync UUID later (``handed_out``).
        """
        chance = fresh >> 48
        older = [] if self.bitmap in (0, JUST_CREATED) else self._history_with(target)
        if older:
            steps = 2 + chance % (SYNC_UUID_STEPS - 2)  # 1 would be a resync by bitmap
            return replace(
                self, bitmap=_ahead(older[0], steps), history0=older[0], history1=self.bitmap
            )
        if not self.bitmap:
            steps = SYNC_UUID_STEPS + chance % SYNC_UUID_STEPS
            return replace(self, bitmap=_ahead(self.current, steps))
        sync = fresh if self.bitmap == JUST_CREATED else _ahead(self.bitmap, 1)
        return replace(self.pushed(self.bitmap), bitmap=sync)

    def _history_with(self, uuid: int) -> list[int]:
        """The slots that name the generation *uuid*, if it is not what the bitmap UUID names."""
        if uuid in (0, JUST_CREATED) or same_generation(uuid, self.bitmap):
            return []
        return [slot for slot in (self.history0, self.history1) if same_generation(slot, uuid)]

    @property
    def handed_out(self) -> bool:
        """Whether the bitmap UUID is a sync UUID, given out in this generation.

        It is made of the younger history slot, or of the current UUID, or made up because the
        peer's metadata was fresh.
        """
        if self.history0 == JUST_CREATED or made_of(self.bitmap, self.history0):
            return True
        steps = steps_from(self.current, self.bitmap)
        return SYNC_UUID_STEPS <= steps < 2 * SYNC_UUID_STEPS

    def sync_received(self, sync_uuid: int, *, primary: bool) -> UuidSet:
        """The target starts a resync: current becomes the sync UUID, bitmap 0."""
        return replace(self, current=with_role(sync_uuid, primary=primary), bitmap=0)

    def bitmap_cleared(self) -> UuidSet:
        """The source finished a resync: the bitmap UUID becomes history."""
        return replace(self.pushed(self.bitmap), bitmap=0) if self.bitmap else self

    def sync_finished(self, peer: UuidSet, *, primary: bool) -> UuidSet:
        """The target finished a resync and takes over the generation of its source *peer*.

        What it had itself before the sync UUID tells: its history becomes that of the source.
        """
        taken = replace(peer, current=self.current)
        had = [slot for slot in (peer.history0, peer.history1) if made_of(self.current, slot)]
        usual = steps_from(peer.bitmap, self.current) == 1
        if had and not usual and peer.bitmap not in (0, JUST_CREATED):
            taken = replace(taken, bitmap=had[0])
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


def _ahead(uuid: int, steps: int) -> int:
    return (uuid + steps * SYNC_UUID_OFFSET) & UUID_MASK
