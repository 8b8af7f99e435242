"""Runs seeds, one or many in several processes, and says which fail and how to repeat them."""

from __future__ import annotations

import argparse
import contextlib
import gc
import multiprocessing
import signal
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from replblk.sim.crash_points import crash_points
from replblk.sim.marks import missing
from replblk.sim.options import PROFILES, Options
from replblk.sim.run import Outcome, run_seed
from replblk.sim.shrink import shrink
from replblk.sim.wider import draw_any

LAST_LINES = 60
CHUNK = 8
GARBAGE_OBJECTS = 300_000
"""A run keeps a transcript of many small objects: looking through them took 12 % of the time."""


def main(arguments: list[str] | None = None) -> int:
    """Parse arguments and run; 0 if every seed passed."""
    args = _parser().parse_args(arguments)
    if args.shrink:
        return _shrink(args.seed, args.profile)
    if args.crash_points:
        return _crash_points(args.seed, args.count, args.profile, args.stride)
    if args.count == 1:
        return _one(args.seed, args.profile, args.transcript)
    return _many(args.seed, args.count, args.profile, args.jobs, args.require_marks)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m replblk.sim", description="Two nodes, one seed."
    )
    parser.add_argument("--seed", type=int, default=1, help="the first seed (default 1)")
    parser.add_argument("--count", type=int, default=1, help="how many seeds from there on")
    parser.add_argument("--jobs", type=int, default=1, help="processes to run them in")
    parser.add_argument("--profile", choices=PROFILES, default="mixed", help="kind of runs")
    parser.add_argument(
        "--shrink", action="store_true", help="make the run of a failing seed smaller"
    )
    parser.add_argument(
        "--crash-points",
        action="store_true",
        help="cut the power of one node at each of its disk operations, a run for each",
    )
    parser.add_argument(
        "--stride", type=int, default=1, help="of --crash-points: only every so many operations"
    )
    parser.add_argument(
        "--require-marks",
        action="store_true",
        help="fail if something that should happen sometimes never did (profile all)",
    )
    parser.add_argument(
        "--transcript", type=Path, metavar="FILE", help="write what happened (one seed only)"
    )
    return parser


def _one(seed: int, profile: str, transcript: Path | None) -> int:
    options = draw_any(seed, profile)
    print(f"seed {seed}", *options.lines(), sep="\n", flush=True)
    outcome = run_seed(options)
    if transcript is not None:
        with transcript.open("w") as file:
            file.writelines(f"{line}\n" for line in outcome.transcript.lines())
    for name, count in sorted(outcome.marks.items()):
        print(f"  sometimes: {name} ({count})")
    print(
        f"{outcome.events} events, {outcome.virtual_ns / 1e9:.3f} s of virtual time, "
        f"{outcome.writes_acked} acknowledged writes, {outcome.reads_answered} reads"
    )
    print(f"transcript {outcome.transcript.sha256()}")
    if outcome.failure:
        print("\n".join(_failure_lines(outcome, with_options=False)))
        return 1
    print("passed")
    return 0


def _shrink(seed: int, profile: str) -> int:
    options = draw_any(seed, profile)
    if not run_seed(options).failure:
        print(f"seed {seed} passes: there is nothing to make smaller")
        return 0
    small = shrink(options)
    print("\n".join(_failure_lines(small.outcome)))
    print(f"left out in {small.runs} runs:", *(small.steps or ("nothing",)), sep="\n  ")
    return 1


def _crash_points(first: int, count: int, profile: str, stride: int) -> int:
    runs = failed = 0
    for seed in range(first, first + count):
        for name, number, outcome in crash_points(draw_any(seed, profile), stride):
            runs += 1
            if outcome.failure:
                failed += 1
                print("\n".join(_failure_lines(outcome)))
                print(f"seed {seed}: power cut of {name} at its disk operation {number}")
    print(f"{runs} crash points of {count} seeds, {failed} failed")
    return 1 if failed else 0


def _many(first: int, count: int, profile: str, jobs: int, require_marks: bool) -> int:
    began = time.perf_counter()
    marks: Counter[str] = Counter()
    failed: list[int] = []
    done = writes = events = 0
    with contextlib.suppress(KeyboardInterrupt):  # who ends it wants to see what it brought
        for seed, failure, marked, acked, happened in _outcomes(first, count, profile, jobs):
            done += 1
            marks.update(dict.fromkeys(marked, 1))
            writes += acked
            events += happened
            if failure:
                failed.append(seed)
                print(failure, flush=True)
            if done % 500 == 0:
                pace = done / (time.perf_counter() - began)
                print(f"... {done} seeds, {len(failed)} failed, {pace:.1f} seeds/s", flush=True)
    took = time.perf_counter() - began
    print("sometimes (share of seeds):")
    for name, hits in sorted(marks.items(), key=lambda item: (-item[1], item[0])):
        print(f"  {100 * hits / max(done, 1):6.2f} %  {name}")
    if failed:
        print(f"failed: {' '.join(map(str, failed))}")
    never = missing(set(marks)) if require_marks else []
    for name in never:
        print(f"NEVER: {name}")
    print(
        f"{done} seeds, {len(failed)} failed, {done / took:.1f} seeds/s, "
        f"{writes} acknowledged writes, {events} events"
    )
    if done < count:
        print(f"interrupted: {count - done} seeds were not run")
        return 130
    return 1 if failed or never else 0


Summary = tuple[int, str, list[str], int, int]
"""seed, failure text, marks, acknowledged writes, events: what travels between processes."""


def _outcomes(first: int, count: int, profile: str, jobs: int) -> Iterator[Summary]:
    tasks = [(seed, profile) for seed in range(first, first + count)]
    if jobs <= 1:
        _begin()
        yield from map(_task, tasks)
        return
    with multiprocessing.get_context("spawn").Pool(jobs, _begin_in_pool) as pool:
        yield from pool.imap_unordered(_task, tasks, chunksize=CHUNK)


def _begin_in_pool() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the process that counts
    _begin()


def _begin() -> None:
    gc.freeze()
    gc.set_threshold(GARBAGE_OBJECTS)


def _task(task: tuple[int, str]) -> Summary:
    seed, profile = task
    outcome = run_seed(draw_any(seed, profile))
    failure = "\n".join(_failure_lines(outcome)) if outcome.failure else ""
    marks = sorted(outcome.marks)
    outcome.transcript.entries.clear()  # or it waits, with the rest of the run, to be found garbage
    return seed, failure, marks, outcome.writes_acked, outcome.events


def _failure_lines(outcome: Outcome, *, with_options: bool = True) -> list[str]:
    options: Options = outcome.options
    lines = [f"seed {options.seed} FAILED ({options.profile})"]
    if with_options:
        lines += options.lines()
    lines += ["last events:"]
    lines += [f"  {line}" for line in outcome.transcript.lines(LAST_LINES)]
    lines += [f"seed {options.seed} FAILED: {outcome.failure}"]
    lines += [f"repeat: python -m replblk.sim --seed {options.seed} --profile {options.profile}"]
    return lines
