"""What the later profiles add to a seed, drawn from a stream of its own.

* ``kernel``: DRBD's own contract: durability "kernel", or protocol A or B. Only what was flushed is
  safe.
* ``harsh``: careful, with many faults in quick succession: more of them for the time it takes.
* ``wide``: careful, with checksums, integrity digests, verify, and the faults of ``wider_faults``.
* ``lies``: the Secondary's disk loses, misplaces or spoils writes silently: online verify has to
  find it.
* ``storm``: the administrator gives random commands, forced ones too; afterwards one node's data
  count.
* ``metadata-lies``: it does so with its metadata; most of that nothing can tell.
* ``policies``: careful, with other policies for errors, missing data and slow disks, and handlers.
* ``fenced``: fencing, and an operator who promotes anybody at any moment, but never by force.
* ``resize``: careful, and the backing devices grow and the device is resized at bad moments.
* ``handover``: careful, and the role moves by ``switchover`` again and again, while things break.
* ``runs``: careful, or harsh, wide, kernel or policies, with clients' requests that come together.
* ``all``: the seed chooses one of these, or ``mixed``.
"""

from __future__ import annotations

import random
from dataclasses import replace

from replblk.model.vocabulary import Fencing, OnIoError, OnNoData, Protocol
from replblk.sim.options import FAULTS, Fault, Options, draw, draw_faults
from replblk.sim.policies import POLICY_FAULTS, PolicyOptions
from replblk.sim.resizes import RESIZE_FAULTS
from replblk.sim.world import MICRO_NS, MILLI_NS, SECOND_NS

WIDER_FAULTS = (
    *("stranger", "flip", "no-space", "clock-jump", "invalidate", "verify", "detach"),
    *("pause-sync", "empty-disk", "rollback"),
)
"""Classes of faults of profile wide; see ``wider_faults``."""
SHARES = (
    *(("mixed", 24), ("harsh", 16), ("wide", 20), ("kernel", 12), ("storm", 6), ("lies", 4)),
    *(("policies", 10), ("fenced", 8), ("metadata-lies", 3), ("resize", 8), ("handover", 6)),
    ("runs", 16),
)
QUICK = ("submit", "submit", "send", "state", "time")
WITH_HANDLERS = ("erring", "lies", "storm")
"""Profiles in whose every fourth run there are handlers: only there some of them are called."""
ALGORITHMS = ("md5", "sha1", "crc32c")


def draw_any(seed: int, profile: str = "mixed") -> Options:
    """The options of a seed, of whichever profile."""
    chance = random.Random(f"{seed}/wider")
    pick = chance.choices([name for name, _ in SHARES], [share for _, share in SHARES])[0]
    if profile == "all":
        profile = pick
    widen = _WIDENED.get(profile)
    if widen is None:
        options = draw(seed, profile)
    else:
        options = widen(replace(draw(seed, "careful"), profile=profile), chance)
    if options.profile in WITH_HANDLERS and not seed % 4:
        return replace(options, policies=replace(options.policies, handlers=True))
    return options


def _harsh(options: Options, chance: random.Random) -> Options:
    faults = [
        replace(
            fault,
            trigger=chance.choice(("write", "state", "submit", "submit", "send")),
            count=chance.randrange(1, 15),
            duration_ns=min(fault.duration_ns, 2 * SECOND_NS),
        )
        for _ in range(chance.randrange(3, 8))
        for fault in draw_faults(chance, FAULTS)
    ][:24]
    load = options.workload
    return replace(
        options,
        connect_int=1,
        ping_int=min(options.ping_int, 2),
        ping_timeout=min(options.ping_timeout, 4),
        poll_ns=min(options.poll_ns, 60 * MILLI_NS),
        writes_goal=max(options.writes_goal, 3 * len(faults)),
        workload=replace(load, blocks=max(load.blocks, 5), depth=max(load.depth, 4)),
        faults=tuple(faults),
    )


def _kernel(options: Options, chance: random.Random) -> Options:
    protocol = chance.choice((Protocol.A, Protocol.B, Protocol.C, Protocol.C))
    durability = chance.choice(("kernel", "kernel", "disk"))
    if protocol is Protocol.C:
        durability = "kernel"
    kinds = (*FAULTS, "power", "power-both", "power-both", "switchover")
    return replace(
        options,
        protocol=protocol,
        durability=durability,
        workload=replace(options.workload, flush=chance.randrange(1, 6)),
        faults=draw_faults(chance, kinds),
    )


def _wide(options: Options, chance: random.Random) -> Options:
    def maybe() -> str:
        return chance.choice(ALGORITHMS) if chance.random() < 0.6 else ""

    faults = (*draw_faults(chance, WIDER_FAULTS), *draw_faults(chance, FAULTS)[:4])
    return replace(
        options,
        csums_alg=maybe(),
        integrity_alg=maybe(),
        verify_alg=maybe(),
        faults=tuple(chance.sample(faults, len(faults))),
    )


def _lies(options: Options, chance: random.Random) -> Options:
    return replace(
        options,
        fresh=False,
        faults=(),
        verify_alg=chance.choice(ALGORITHMS),
        volumes=1,
        device_bytes=min(options.device_bytes, chance.randrange(256, 1025) * 4096),
    )


def _storm(options: Options, chance: random.Random) -> Options:
    kinds = ("cut", "stall", "kill", "power", "pause", "disk-slow", "cut-one")
    return replace(
        options, fresh=False, faults=draw_faults(chance, kinds), verify_alg="md5", volumes=1
    )


def _policies(options: Options, chance: random.Random) -> Options:
    """Profile policies: what errors and missing data lead to, with a careful operator."""
    skips = chance.random() < 0.15
    policies = PolicyOptions(
        on_io_error=chance.choice(list(OnIoError)),
        on_no_data=chance.choice(list(OnNoData)),
        disk_timeout=chance.choice((0, 20, 40)),
        handlers=chance.random() < 0.8,
        io_error_ends_node=chance.random() < 0.4,
        vetoes=chance.choice((0, 0, 1, 3)),
        skip_first_sync=skips,
    )
    kinds = (*FAULTS, *POLICY_FAULTS, *POLICY_FAULTS, "disk-error", "disk-error")
    return replace(
        options,
        policies=policies,
        fresh=options.fresh or skips,
        device_bytes=min(options.device_bytes, 4 << 20) if skips else options.device_bytes,
        timeout=chance.choice((10, 20)),
        ko_count=chance.choice((0, 1, 2, 3)),
        faults=draw_faults(chance, kinds),
    )


def _fenced(options: Options, chance: random.Random) -> Options:
    """Profile fenced: fencing, and promotions of anybody at any moment, never forced."""
    policies = PolicyOptions(
        fencing=chance.choice((Fencing.RESOURCE_ONLY, *(Fencing.RESOURCE_AND_STONITH,) * 2)),
        on_no_data=chance.choice(list(OnNoData)),
        handlers=True,
        agent_fails=chance.choice((0.0, 0.0, 0.2, 0.5)),
    )
    kinds = ("cut", "cut-one", "stall", "stall-one-way", "kill", "power", "pause", "kill-both")
    return replace(options, policies=policies, fresh=False, faults=draw_faults(chance, kinds))


def _resize(options: Options, chance: random.Random) -> Options:
    kinds = (
        *("cut", "stall", "kill", "kill-both", "power", "power", "power-both", "disk-slow"),
        *("switchover", "reconnect", "restart", "disk-error", "pause"),
    )
    resizes = draw_faults(chance, RESIZE_FAULTS)[:4]
    others = [
        replace(fault, count=chance.randrange(1, 40), trigger=chance.choice(QUICK))
        for fault in draw_faults(chance, kinds)[:5]
    ]
    mixed = (*resizes, *others)
    return replace(
        options,
        fresh=False,
        device_bytes=max(options.device_bytes, 1 << 20),
        faults=tuple(chance.sample(mixed, len(mixed))),
    )


def _handover(options: Options, chance: random.Random) -> Options:
    """Pairs of a switch-over and something that breaks soon after it began, or instead of it."""
    kinds = tuple(kind for kind in FAULTS if kind not in ("switchover", "restart"))
    faults: list[Fault] = []
    for fault in draw_faults(chance, kinds)[:6]:
        move = replace(fault, kind="switchover", trigger="write", count=chance.randrange(1, 20))
        soon = replace(
            fault,
            trigger=chance.choice(QUICK),
            count=chance.randrange(1, 30),
            duration_ns=min(fault.duration_ns, 5 * SECOND_NS),
        )
        faults += [move, soon] if chance.random() < 0.9 else [move]
    return replace(options, volumes=1, fresh=False, faults=tuple(faults))


def _runs(options: Options, chance: random.Random) -> Options:
    """Many clients in a hurry, and what they ask for reaches the node many at a time."""
    faults = draw_faults(chance, FAULTS)
    widen = chance.choice((None, None, _harsh, _wide, _kernel, _policies))
    options = replace(options, fresh=False, faults=faults)
    if widen is not None:
        options = widen(options, chance)
    workload = replace(
        options.workload,
        clients=chance.randrange(2, 5),
        depth=chance.choice((4, 8, 16)),
        blocks=chance.randrange(8, 25),
        think_ns=chance.choice((10, 100, 1000)) * MICRO_NS,
        read=chance.randrange(1, 4),
    )
    return replace(
        options,
        writes_goal=3 * options.writes_goal,
        gather_ns=chance.choice((50 * MICRO_NS, 500 * MICRO_NS, 3 * MILLI_NS)),
        workload=workload,
    )


_WIDENED = {
    "harsh": _harsh,
    "kernel": _kernel,
    "wide": _wide,
    "lies": _lies,
    "storm": _storm,
    "policies": _policies,
    "fenced": _fenced,
    "metadata-lies": _lies,
    "resize": _resize,
    "handover": _handover,
    "runs": _runs,
}
