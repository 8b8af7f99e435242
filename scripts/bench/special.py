"""Works of their own: a slow flush, more than the activity log holds, eight resources, 16 TiB."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from pathlib import Path

from scripts.bench.contenders import ReplblkPair
from scripts.bench.load import Figures, cpu_s, fio_many
from scripts.bench.mirror import Mirror
from scripts.bench.results import MIRROR, Results, Setting, Work

SLOWER_US = 2000
AL_EXTENTS = 67
"""The fewest that DRBD takes: 268 MiB."""
EIGHT = 8
MEMORY_BYTES = 256 << 20
HUGE_BYTES = (16 << 40) - (1 << 30)
"""A GiB less than ext4's largest file."""


def slow_flush(results: Results, setting: Setting) -> None:
    """Both contenders on files whose every flush takes two milliseconds longer."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        results.others.append("Slow flush: not measured, there is no C compiler (Debian: gcc).")
        return
    with contextlib.ExitStack() as stack:
        folder = setting.disk / "slow"
        folder.mkdir()
        library = folder / "slow_flush.so"
        source = Path(__file__).with_name("slow_flush.c")
        words = ["-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
        subprocess.run([compiler, *words], check=True)
        late = {"LD_PRELOAD": str(library), "REPLBLK_BENCH_FLUSH_US": str(SLOWER_US)}
        pair = ReplblkPair(folder / "pair", setting.size, environment=late)
        stack.callback(pair.close)
        mirror = Mirror(folder / "mirror", setting.size, environment=late)
        stack.callback(mirror.close)
        for it in (pair, mirror):
            results.prove(f"{it.name}, slow flush", it)
        for depth, must, aim in ((1, 1.8, 1.95), (32, 8, 19)):
            name = f"4 KiB random write, QD {depth}, flush 2 ms slower"
            work = Work(name, "randwrite", "4k", depth)
            for _ in range(setting.rounds):
                for it in (pair, mirror):
                    results.measure(setting, work, it, part=setting.size // 2)
            results.row(name, MIRROR, must, aim)


def working_set(results: Results, setting: Setting) -> None:
    """Random writes over ten times what the activity log holds, and inside it, in turns."""
    log_bytes = AL_EXTENTS * (4 << 20)
    size = 10 * log_bytes + (32 << 20)
    disk = f"al-extents {AL_EXTENTS};"
    pair = ReplblkPair(setting.disk / "set", size, synced=False, disk=disk)
    inside = Work("4 KiB random write, QD 32, inside the activity log", "randwrite", "4k", 32)
    beyond = Work("4 KiB random write, QD 32, ten activity logs", "randwrite", "4k", 32)
    try:
        for _ in range(setting.rounds):
            results.measure(setting, inside, pair, part=log_bytes // 2)
            results.measure(setting, beyond, pair, part=10 * log_bytes)
    finally:
        pair.close()
    results.row(beyond.name, "the same inside it", 0.5, 0.8, than=inside.name)


def eight(results: Results, setting: Setting) -> None:
    """Eight resources at once, in memory: the sum of their rates, and that of one alone."""
    one = Work("4 KiB random write, QD 32, tmpfs, one resource", "randwrite", "4k", 32)
    many = Work("4 KiB random write, QD 32, tmpfs, eight resources", "randwrite", "4k", 32)
    with contextlib.ExitStack() as stack:
        pairs = []
        for number in range(EIGHT):
            folder = setting.memory / f"eight-{number}"
            pairs.append(ReplblkPair(folder, MEMORY_BYTES // 2, synced=False))
            stack.callback(pairs[-1].close)
        results.prove("replblk pair, one of eight, tmpfs", pairs[0], kernel=False)
        for _ in range(setting.rounds):
            results.measure(setting, one, pairs[0], part=MEMORY_BYTES // 4)
            figures = together(pairs, setting.seconds, depth=32, part=MEMORY_BYTES // 4)
            results.note(many.name, pairs[0].name, figures)
    results.row(many.name, "one resource", 1.5, 1.8, than=one.name)


def together(pairs: list[ReplblkPair], seconds: float, *, depth: int, part: int) -> Figures:
    """4 KiB random writes to several resources at once; the rate is the sum."""
    return fio_many(
        [pair.target() for pair in pairs],
        [process for pair in pairs for process in pair.processes()],
        pattern="randwrite",
        block="4k",
        depth=depth,
        seconds=seconds,
        size=part,
    )


def huge(results: Results, setting: Setting) -> None:
    """Memory of the nodes of a sparse device of 16 TiB, in the middle of a full sync."""
    pair = ReplblkPair(setting.disk / "huge", HUGE_BYTES, filled=False, synced=False)
    try:
        pair.ask("beta", "wait-connect")
        pair.ask("beta", "invalidate")
        before, began = cpu_s(pair.processes()), time.monotonic()
        time.sleep(3)
        share = (cpu_s(pair.processes()) - before) / (time.monotonic() - began) * 100
        highest = pair.memory_mib()
        pair.ask("alpha", "disconnect", force=True)
    finally:
        pair.close()
    results.others.append(
        f"A sparse device of 16 TiB, in a full sync ({share:.0f} % of a core for both daemons): "
        f"{' and '.join(f'{mib:.0f}' for mib in highest)} MiB; a daemon at most 700 MB: "
        f"{'reached' if max(highest) * 1.048576 <= 700 else 'missed'}."
    )


def free_mib(folder: Path) -> int:
    """What is free where the files go."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize >> 20
