"""Everything a seed decides, drawn once and printed before anything happens (swarm testing).

Each class of faults is on or off for a whole run, speeds and probabilities are drawn once, and a
run has few faults, so that runs differ much from each other and little within. A profile narrows
the draw: ``calm`` (no faults), ``careful`` (a cluster manager with perfect fencing), ``erring``
(both nodes get promoted during a partition), ``mixed`` (the seed chooses). What came later is drawn
by ``wider`` from a stream of its own, so that a seed of these four stays the run it was.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, fields

from replblk.model.vocabulary import Protocol
from replblk.sim.client import WorkloadOptions
from replblk.sim.disk import DriveSpeed
from replblk.sim.links import NetworkSpeed
from replblk.sim.policies import PolicyOptions
from replblk.sim.world import MICRO_NS, MILLI_NS, SECOND_NS

PROFILES = (
    *("mixed", "careful", "erring", "calm", "kernel", "wide", "lies", "storm", "harsh"),
    *("policies", "fenced", "metadata-lies", "resize", "handover", "runs", "all"),
)
NARROW = ("careful", "erring", "calm")

FAULTS = (
    *("cut", "cut-one", "stall", "stall-one-way"),
    *("kill", "kill-both", "power", "power-both", "pause"),
    *("disk-error", "disk-slow", "switchover", "reconnect", "restart"),
)
"""Classes of faults; see ``faults`` for what each does."""
TRIGGERS = ("time", "write", "state", "submit", "send")
"""What a fault waits for: time, client writes, state changes, disk operations, things sent."""
TARGETS = ("primary", "secondary", "alpha", "beta")
ZONES = ("data", "bitmap", "al", "superblock", "any")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault of a run: it waits for *trigger* to happen *count* times.

    zone: for triggers and errors of the disk. duration_ns: until what it broke is mended.
    """

    kind: str
    target: str
    trigger: str
    count: int
    zone: str
    duration_ns: int
    operation: str  # read, write, flush: of a disk error
    forever: bool

    def __str__(self) -> str:
        where = f" {self.zone} {self.operation}" if self.kind == "disk-error" else ""
        lasting = " for ever" if self.forever and self.kind == "disk-error" else ""
        zone = f" ({self.zone})" if self.trigger == "submit" else ""
        when = f"after {self.count} {self.trigger}{zone}"
        return (
            f"{self.kind}{where}{lasting} of {self.target} {when}, "
            f"{self.duration_ns / SECOND_NS:.3f} s"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """A run, fully described. Sizes in bytes, times in ns or as the option of DRBD has them."""

    seed: int
    profile: str = "careful"
    volumes: int = 1
    device_bytes: int = 4 << 20
    fresh: bool = False
    """Start from create-md and a forced promotion (full sync) instead of a pair in sync."""
    al_extents: int = 67
    connect_int: int = 1
    ping_int: int = 1
    ping_timeout: int = 5
    timeout: int = 60
    ko_count: int = 7
    max_epoch_size: int = 2048
    use_rle: bool = True
    step_gap_ns: int = 0
    gather_ns: int = 0
    """Clients' requests come together that are made within that time; 0: each alone."""
    poll_ns: int = 200 * MILLI_NS
    patience_ns: int = 30 * SECOND_NS
    """How long the first promotion waits for the pair to be connected."""
    writes_goal: int = 100
    network: NetworkSpeed = field(default_factory=NetworkSpeed)
    drives: DriveSpeed = field(default_factory=DriveSpeed)
    workload: WorkloadOptions = field(default_factory=WorkloadOptions)
    faults: tuple[Fault, ...] = ()
    sick: str = "beta"
    """The only machine whose disk fails: one copy of everything stays recoverable."""
    protocol: Protocol = Protocol.C
    durability: str = "disk"
    csums_alg: str = ""
    integrity_alg: str = ""
    verify_alg: str = ""
    policies: PolicyOptions = field(default_factory=PolicyOptions)

    @property
    def weak(self) -> bool:
        """Whether an acknowledged write is safe only once it was flushed."""
        return self.durability != "disk" or self.protocol is not Protocol.C

    def lines(self) -> list[str]:
        """All of it, one option a line."""
        shown = []
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name == "faults":
                shown += [f"  fault {n}: {fault}" for n, fault in enumerate(value, 1)]
            else:
                shown.append(f"  {option.name} = {value}")
        return shown


def draw(seed: int, profile: str = "mixed") -> Options:
    """The options of a seed."""
    chance = random.Random(f"{seed}/options")
    errs = chance.random() < 0.15  # drawn in every profile: a seed is the same run by any name
    if profile not in NARROW:
        profile = "erring" if errs and profile == "mixed" else "careful"
    large = chance.random() < 0.4
    fresh = profile != "erring" and chance.random() < 0.1
    device_bytes = chance.randrange(256, 1025 if fresh else 2049) * 4096
    al_extents = 67
    if large and not fresh:
        device_bytes = chance.randrange(4, 13) * (4 << 20) + chance.randrange(64) * 4096
        al_extents = chance.randrange(2, 6)
    step_gap_ns = chance.choice((0, 0, 20 * MICRO_NS, 200 * MICRO_NS, MILLI_NS))
    return Options(
        seed=seed,
        profile=profile,
        volumes=2 if chance.random() < 0.1 else 1,
        device_bytes=device_bytes,
        fresh=fresh,
        al_extents=al_extents,
        connect_int=chance.randrange(1, 4),
        ping_int=chance.randrange(1, 11),
        ping_timeout=chance.randrange(2, 11),
        timeout=chance.choice((10, 30, 60)),
        ko_count=chance.choice((0, 2, 7)),
        max_epoch_size=chance.choice((1, 2, 16, 2048)),
        use_rle=chance.random() < 0.5,
        step_gap_ns=step_gap_ns,
        poll_ns=chance.randrange(20, 300) * MILLI_NS,
        patience_ns=0 if chance.random() < 0.15 else 30 * SECOND_NS,
        writes_goal=chance.randrange(40, 140),
        network=_network(chance),
        drives=_drives(chance),
        workload=_workload(chance, large),
        faults=() if profile != "careful" else draw_faults(chance, FAULTS),
        sick=chance.choice(("alpha", "beta")),
    )


def _network(chance: random.Random) -> NetworkSpeed:
    latency = chance.choice((20, 100, 500, 3000)) * MICRO_NS
    return NetworkSpeed(
        latency_ns=latency,
        jitter_ns=chance.choice((1, latency // 4, latency * 3)),
        cut_piece=chance.choice((0.0, 0.05, 0.3)),
        spike=chance.choice((0.0, 0.0, 0.02, 0.1)),
        spike_ns=chance.choice((5, 50, 400)) * MILLI_NS,
    )


def _drives(chance: random.Random) -> DriveSpeed:
    return DriveSpeed(
        floor_ns=chance.choice((5, 20, 100)) * MICRO_NS,
        spread_ns=chance.choice((50, 300, 3000, 20000)) * MICRO_NS,
        flush_ns=chance.choice((20, 200, 3000)) * MICRO_NS,
    )


def _workload(chance: random.Random, large: bool) -> WorkloadOptions:
    return WorkloadOptions(
        clients=chance.randrange(1, 4),
        depth=chance.choice((1, 2, 4, 8)),
        extents=chance.randrange(4, 10) if large else chance.randrange(1, 5),
        blocks=chance.randrange(2, 9),
        sectors_max=chance.choice((1, 8, 16, 40)),
        think_ns=chance.choice((50, 500, 5000)) * MICRO_NS,
        overlap=chance.random() < 0.3,
        write=10,
        read=chance.randrange(2, 10),
        flush=chance.randrange(3),
        zero=chance.randrange(3),
        trim=chance.randrange(3),
        fua=chance.choice((0.0, 0.1, 0.5)),
    )


def draw_faults(chance: random.Random, kinds: tuple[str, ...]) -> tuple[Fault, ...]:
    """A few faults of some of these kinds."""
    enabled = [kind for kind in kinds if chance.random() < 0.4] or [chance.choice(kinds)]
    count = chance.choice((1, 1, 2, 2, 3, 4, 6, 10))
    return tuple(_fault(chance, chance.choice(enabled)) for _ in range(count))


def _fault(chance: random.Random, kind: str) -> Fault:
    trigger = chance.choice(TRIGGERS)
    count = {
        "time": chance.randrange(1, 1500),
        "write": chance.randrange(1, 40),
        "state": chance.randrange(1, 8),
        "submit": chance.randrange(1, 40),
        "send": chance.randrange(1, 60),
    }[trigger]
    return Fault(
        kind=kind,
        target=chance.choice(TARGETS),
        trigger=trigger,
        count=count,
        zone=chance.choice(ZONES),
        duration_ns=int(
            chance.choice((0.02, 0.5, 3.0, 15.0)) * SECOND_NS * (0.1 + chance.random())
        ),
        operation=chance.choice(("read", "write", "write", "flush")),
        forever=chance.random() < 0.5,
    )
