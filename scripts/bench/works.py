"""The usual works: writes and reads of several sizes and depths, on a disk and in memory."""

from __future__ import annotations

import contextlib
import time

from scripts.bench.contenders import Contender, PlainDisk, QemuNbd, ReplblkPair
from scripts.bench.load import cpu_s, raw_group_commit
from scripts.bench.mirror import Mirror
from scripts.bench.phases import HEADING, counted, phase_lines
from scripts.bench.results import MIRROR, PAIR, PLAIN, QEMU_NBD, RAW, Results, Setting, Work

Q1, Q8, Q32 = (
    Work(f"4 KiB random write, QD {depth}", "randwrite", "4k", depth) for depth in (1, 8, 32)
)
BLOCKS = Work("64 KiB random write, QD 8", "randwrite", "64k", 8)
LARGE = Work("1 MiB sequential write, QD 4", "write", "1M", 4)
SMALL = Work("4 KiB sequential write, QD 32", "write", "4k", 32)
READ1, READ32 = (
    Work(f"4 KiB random read, QD {depth}", "randread", "4k", depth) for depth in (1, 32)
)
WORKS = (Q1, Q8, Q32, BLOCKS, LARGE, SMALL, READ1, READ32)
MEMORY = Work("4 KiB random write, QD 32, tmpfs", "randwrite", "4k", 32)
MEMORY_BYTES = 256 << 20
IDLE_S = 10.0


def on_disk(results: Results, setting: Setting) -> None:
    """Everything that is measured on a disk, beside the mirror, qemu-nbd and the disk itself."""
    with contextlib.ExitStack() as stack:
        folder, size = setting.disk / "works", setting.size
        contenders: list[Contender] = []

        def begin(it: Contender) -> None:
            stack.callback(it.close)
            contenders.append(it)
            results.prove(it.name, it)

        pair = ReplblkPair(folder / "pair", size)
        begin(pair)
        begin(Mirror(folder / "mirror", size))
        begin(Mirror(folder / "mirror-native", size, native=True))
        single = QemuNbd(folder / "qemu-nbd", size)
        begin(single)
        begin(QemuNbd(folder / "qemu-nbd-native", size, native=True))
        begin(PlainDisk(folder / "plain", size))
        results.phases += HEADING
        for work in WORKS:
            before = counted(pair)
            for _ in range(setting.rounds):
                for it in contenders:
                    if "read" not in work.pattern or not it.name.startswith(MIRROR):
                        results.measure(setting, work, it, part=size // 2)
                if work is Q32:
                    raw = raw_group_commit(single.path, 32, setting.seconds)
                    results.note(work.name, RAW, raw)
            if "write" in work.pattern:
                results.phases += phase_lines(work.name, before, counted(pair))
        _idle(results, pair)
        highest = pair.memory_mib()
        results.others.append(
            f"Memory of the daemons at its highest under this load: "
            f"{' and '.join(f'{mib:.0f}' for mib in highest)} MiB; both together at most 150 MB: "
            f"{'reached' if sum(highest) < 143 else 'missed'}."
        )
    _rows(results)


def _rows(results: Results) -> None:
    row = results.row
    row(Q1.name, MIRROR, 1.35, 1.6)
    row(Q8.name, MIRROR, 1.15, 1.4)
    row(Q32.name, MIRROR, 1.3, 1.6)
    row(Q32.name, RAW, 0.8, 0.95, share=0.5)
    row(Q1.name, QEMU_NBD, 0.7, 0.85)
    row(BLOCKS.name, MIRROR, 1.2, 1.5)
    row(LARGE.name, MIRROR, 2, 2.5)
    row(SMALL.name, MIRROR, 5, 10)
    row(READ1.name, QEMU_NBD, 1, 1.3)
    row(READ32.name, QEMU_NBD, 0.9, 1.1)
    for work, must, aim in ((Q32, 0.4, 0.25), (Q1, 0.65, 0.5)):
        about = f"CPU of both daemons for one: {work.name}"
        row(work.name, MIRROR, must, aim, lambda f: f.cpu_us, name=about, unit="µs", lower=True)
    about = f"p99 latency: {Q8.name}"
    row(Q8.name, MIRROR, 0.9, 0.5, lambda f: f.p99_us, name=about, unit="µs", lower=True)


def _idle(results: Results, pair: ReplblkPair) -> None:
    before = cpu_s(pair.processes())
    time.sleep(IDLE_S)
    share = (cpu_s(pair.processes()) - before) / IDLE_S * 100
    results.others.append(
        f"The idle pair uses {share:.2f} % of a core; at most 0.5 %: "
        f"{'reached' if share <= 0.5 else 'missed'}."
    )


def in_memory(results: Results, setting: Setting) -> None:
    """Without a disk: what the programs themselves cost."""
    with contextlib.ExitStack() as stack:
        folder = setting.memory / "tmpfs"
        pair = ReplblkPair(folder / "pair", MEMORY_BYTES)
        stack.callback(pair.close)
        mirror = Mirror(folder / "mirror", MEMORY_BYTES, direct=False)
        stack.callback(mirror.close)
        for it in (pair, mirror):
            results.prove(f"{it.name}, tmpfs", it, kernel=False)
        for _ in range(setting.rounds):
            for it in (pair, mirror):
                results.measure(setting, MEMORY, it, part=MEMORY_BYTES // 2)
    results.row(MEMORY.name, MIRROR, 2.5, 3.5)


def looser(results: Results, setting: Setting) -> None:
    """The second column: acknowledged when both devices have it, flushed at barriers."""
    with contextlib.ExitStack() as stack:
        folder, size = setting.disk / "looser", setting.size
        pairs = {}
        for name, durability in (("disk", "disk"), ("kernel", "kernel")):
            settings = f'durability = "{durability}"\n'
            pairs[name] = ReplblkPair(folder / name, size, settings=settings)
            stack.callback(pairs[name].close)
        for work in (Q1, Q8, Q32, BLOCKS, LARGE, SMALL):
            for _ in range(setting.rounds):
                for name, pair in pairs.items():
                    named = Work(f"{work.name}, durability {name}", *_fields(work))
                    results.measure(setting, named, pair, part=size // 2)
    results.others += [
        "",
        "| work | durability `disk` | durability `kernel` | ratio |",
        "|---|---|---|---|",
    ]
    for work in (Q1, Q8, Q32, BLOCKS, LARGE, SMALL):
        disk, kernel = (
            [run.rate for run in results.found[f"{work.name}, durability {name}", PAIR]]
            for name in ("disk", "kernel")
        )
        ratio = _median([b / max(a, 1e-9) for a, b in zip(disk, kernel, strict=True)])
        results.others.append(
            f"| {work.name} | {_median(disk):,.0f} /s | {_median(kernel):,.0f} /s | {ratio:.2f} |"
        )
    results.others.append("")


def _fields(work: Work) -> tuple[str, str, int]:
    return work.pattern, work.block, work.depth


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


__all__ = ["PLAIN", "WORKS", "in_memory", "looser", "on_disk"]
