"""How cost grows: with depth, volumes, resources and the size of the device; all in memory.

In memory, because a disk would bound everything at the same rate; each point is measured once.
"""

from __future__ import annotations

import contextlib
import time

from scripts.bench.contenders import ReplblkPair
from scripts.bench.load import Figures, fio_many
from scripts.bench.plot import Panel, svg
from scripts.bench.results import Results, Setting
from scripts.bench.special import together

DEPTHS = (1, 2, 4, 8, 16, 32, 64, 128)
COUNTS = (1, 2, 4, 8)
SIZES = {"256 MiB": 256 << 20, "16 GiB": 16 << 30, "256 GiB": 256 << 30, "4 TiB": 4 << 40}
PART_BYTES = 64 << 20
DEVICE_BYTES = 128 << 20
DEPTH_EACH = 16
PLOT = "performance-scale.svg"


def scale(results: Results, setting: Setting) -> str:
    """Fills ``results.scale`` with tables; the plot."""
    return svg(
        [
            _depths(results, setting),
            _volumes(results, setting),
            _resources(results, setting),
            _sizes(results, setting),
        ]
    )


def _load(targets: list[list[str]], processes: list[int], setting: Setting, depth: int) -> Figures:
    return fio_many(
        targets,
        processes,
        pattern="randwrite",
        block="4k",
        depth=depth,
        seconds=min(setting.seconds, 2),
        size=PART_BYTES,
    )


def _depths(results: Results, setting: Setting) -> Panel:
    pair = ReplblkPair(setting.memory / "depth", DEVICE_BYTES, synced=False)
    try:
        runs = [_load([pair.target()], pair.processes(), setting, depth) for depth in DEPTHS]
    finally:
        pair.close()
    return _told(results, "requests in flight", [str(depth) for depth in DEPTHS], runs)


def _volumes(results: Results, setting: Setting) -> Panel:
    runs = []
    for count in COUNTS:
        folder = setting.memory / f"volumes-{count}"
        pair = ReplblkPair(folder, DEVICE_BYTES, synced=False, volumes=count)
        try:
            targets = [pair.target(volume) for volume in range(count)]
            runs.append(_load(targets, pair.processes(), setting, DEPTH_EACH))
        finally:
            pair.close()
    about = f"volumes of one resource, QD {DEPTH_EACH} each"
    return _told(results, about, [str(count) for count in COUNTS], runs)


def _resources(results: Results, setting: Setting) -> Panel:
    runs = []
    with contextlib.ExitStack() as stack:
        pairs: list[ReplblkPair] = []
        for count in COUNTS:
            while len(pairs) < count:
                folder = setting.memory / f"resource-{len(pairs)}"
                pairs.append(ReplblkPair(folder, DEVICE_BYTES, synced=False))
                stack.callback(pairs[-1].close)
            seconds = min(setting.seconds, 2)
            runs.append(together(pairs, seconds, depth=DEPTH_EACH, part=PART_BYTES))
    about = f"resources, QD {DEPTH_EACH} each"
    return _told(results, about, [str(count) for count in COUNTS], runs)


def _sizes(results: Results, setting: Setting) -> Panel:
    lines = [
        "",
        "| size of the device | until it is up | rate /s | CPU µs each | MiB of each daemon |",
        "|---|---|---|---|---|",
    ]
    rates, memory = [], []
    for name, size in SIZES.items():
        began = time.monotonic()
        folder = setting.memory / name.replace(" ", "")
        pair = ReplblkPair(folder, size, filled=False, synced=False)
        took = time.monotonic() - began
        try:
            run = _load([pair.target()], pair.processes(), setting, DEPTH_EACH)
            highest = max(pair.memory_mib())
        finally:
            pair.close()
        rates.append(max(run.rate, 1))
        memory.append(highest)
        lines.append(
            f"| {name} | {took:.1f} s | {run.rate:,.0f} | {run.cpu_us:.0f} | {highest:.0f} |"
        )
    results.scale += lines
    found = (("writes/s", rates), ("MiB of a daemon", memory))
    return Panel("size of the device", "size", list(SIZES), found)


def _told(results: Results, about: str, labels: list[str], runs: list[Figures]) -> Panel:
    results.scale += [
        *("", f"| {about} | rate /s | p50 µs | p99 µs | CPU µs of all daemons, each |"),
        "|---|---|---|---|---|",
        *(
            f"| {label} | {run.rate:,.0f} | {run.p50_us:,.0f} | {run.p99_us:,.0f} "
            f"| {run.cpu_us:,.0f} |"
            for label, run in zip(labels, runs, strict=True)
        ),
    ]
    rates = [max(run.rate, 1) for run in runs]
    costs = [max(run.cpu_us, 1) for run in runs]
    lines = (("writes/s", rates), ("CPU µs for a write", costs))
    return Panel(about.split(",")[0], about, labels, lines)
