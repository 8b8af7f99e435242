"""What has to happen sometimes in a long run of profile all: proof that the faults reach far.

``make soak REQUIRE=1`` fails if one of them never did.
"""

from __future__ import annotations

from replblk.sim.options import FAULTS
from replblk.sim.policies import HANDLERS, POLICY_FAULTS
from replblk.sim.wider import WIDER_FAULTS

_CIRCUMSTANCES = ("of the Primary", "while writing", "during a resync")

REQUIRED: tuple[str, ...] = (
    *(f"fault: {kind}" for kind in (*FAULTS, *WIDER_FAULTS, *POLICY_FAULTS)),
    *(f"{kind} {where}" for kind in FAULTS for where in _CIRCUMSTANCES),
    *("promoted", "demoted", "fenced", "became SyncSource", "became SyncTarget"),
    *("resync interrupted", "write acknowledged without the peer", "read served by the peer"),
    *("activity log evicted an extent", "node died with writes in doubt"),
    *("power cut with writes that were not durable", "disk mended after a failure"),
    *("error told to a client", "split brain detected", "split brain resolved"),
    *("taken down and up", "a bit was flipped on the way", "a swapped disk is in sync"),
    *("disk replaced by an empty one", "rollback that generations tell"),
    *("rollback that nothing can tell", "invalidate done", "verify done", "detach done"),
    *("pause-sync done", "verify found a difference", "storm over"),
    *("drive lies: lost", "drive lies: misdirected", "drive lies: spoilt"),
    *(f"drive lies: {kind} metadata" for kind in ("lost", "misdirected", "spoilt")),
    *("spoilt metadata: attached", "spoilt metadata: refused"),
    *("spoilt metadata: mended by invalidate", "spoilt metadata: mended by create-md"),
    *(f"handler {name}" for name in HANDLERS),
    *(f"fence-peer: exit {code}" for code in (1, 4, 5, 6, 7)),
    *("I/O frozen by fencing", "frozen I/O goes on, the peer is back"),
    *("frozen I/O goes on, the peer is fenced", "promoted alone, the peer fenced"),
    *("fenced: primary refused", "fencing: nothing lost", "a Primary was turned off by fencing"),
    *("fence-peer found nothing out", "resource-only: a gap before the peer was fenced"),
    *("disk-timeout gave a disk up", "ko-count gave the peer up", "I/O suspended by hand"),
    *("an error was passed on, nothing else", "local-io-error turned the machine off"),
    *("a handler forbade a resync", "new-current-uuid done", "first sync skipped"),
    "requests came together",
    *("switchover: done", "switchover: refused", "switchover: not in time"),
    *(f"disk error: {kind} {zone}" for kind in ("read", "write") for zone in ("data",)),
    *(f"disk error: write {zone}" for zone in ("bitmap", "al", "superblock")),
    *(f"disk full: write {zone}" for zone in ("data", "bitmap", "al", "superblock")),
)


def missing(marks: set[str]) -> list[str]:
    """The required ones that are not among *marks*."""
    return [name for name in REQUIRED if name not in marks]
