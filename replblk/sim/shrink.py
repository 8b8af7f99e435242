"""Makes a failing run smaller: fewer faults, clients, writes, volumes, less chance in its timing.

Each step leaves one thing out and keeps the smaller run if it still fails in the same way (the same
invariant, or the same kind of exception). A smaller run is described by what was left out, in the
order of ``Shrunk.steps``, because a seed alone can't name it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from replblk.sim.links import NetworkSpeed
from replblk.sim.options import Options
from replblk.sim.run import Outcome, run_seed

RUNS_MAX = 400


@dataclass(frozen=True)
class Shrunk:
    """The smallest run found. steps: what was left out; runs: how many it took."""

    outcome: Outcome
    steps: tuple[str, ...]
    runs: int


def signature(failure: str) -> str:
    """What makes two failures the same: the invariant, or the first word of the last line."""
    return failure.splitlines()[-1].split()[0] if failure else ""


def shrink(options: Options, run: Callable[[Options], Outcome] = run_seed) -> Shrunk:
    """Leave out whatever can be left out. *options* must fail."""
    best = run(options)
    wanted, runs = signature(best.failure), 1
    assert wanted, "a run that passes can't be made smaller"
    steps: list[str] = []
    again = True
    while again and runs < RUNS_MAX:
        again = False
        for step, smaller in _smaller(best.options):
            runs += 1
            outcome = run(smaller)
            if signature(outcome.failure) == wanted:
                best, again = outcome, True
                steps.append(step)
                break
            if runs >= RUNS_MAX:
                break
    return Shrunk(best, tuple(steps), runs)


def _smaller(options: Options) -> Iterator[tuple[str, Options]]:
    """Runs that have one thing less, the most promising first."""
    faults = options.faults
    if len(faults) > 1:
        half = len(faults) // 2
        yield f"faults after number {half}", replace(options, faults=faults[:half])
    for number, fault in enumerate(faults):
        left = faults[:number] + faults[number + 1 :]
        yield f"fault {fault}", replace(options, faults=left)
    if options.volumes > 1:
        yield "the second volume", replace(options, volumes=1)
    load = options.workload
    for name, least in (("clients", 1), ("depth", 1), ("blocks", 2), ("extents", 1)):
        if getattr(load, name) > least:
            changed: dict[str, Any] = {name: least}
            fewer = replace(load, **changed)
            yield f"{name} beyond {least}", replace(options, workload=fewer)
    if load.overlap:
        yield "overlapping requests", replace(options, workload=replace(load, overlap=False))
    for kind in ("trim", "zero", "flush"):
        if getattr(load, kind):
            none: dict[str, Any] = {kind: 0}
            yield f"{kind} requests", replace(options, workload=replace(load, **none))
    if options.writes_goal > 10:
        goal = max(options.writes_goal // 2, 10)
        yield f"writes beyond {goal}", replace(options, writes_goal=goal)
    steady = NetworkSpeed(options.network.latency_ns, 1, 0.0)
    if options.network != steady:
        yield "chance of the network", replace(options, network=steady)
    if options.step_gap_ns:
        yield "gaps before steps", replace(options, step_gap_ns=0)
