"""``make bench``: replblk, qemu-nbd and QEMU's mirror side by side, every write durable.

Contenders take turns within a round, and a row's ratio is the median of the rounds' ratios,
because such machines are noisy: the figures are of this machine and this hour, only the ratios
travel. Needs fio, strace, qemu-system-common (qemu-storage-daemon) and qemu-utils; root for the
mirror's repair.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from scripts.bench.contenders import Contender, PlainDisk, QemuNbd, ReplblkPair
from scripts.bench.load import Figures, cpu_s, fio, raw_group_commit
from scripts.bench.mirror import Mirror
from scripts.bench.proof import Proof, flushes_of
from scripts.bench.report import (
    Row,
    detail_table,
    goals_table,
    machine,
    plain_table,
    proof_lines,
    replace_between,
)

PROGRAMS = {
    "fio": "fio",
    "strace": "strace",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
}
WORKS = {
    "4 KiB random write, QD 1": ("randwrite", "4k", 1),
    "4 KiB random write, QD 8": ("randwrite", "4k", 8),
    "4 KiB random write, QD 32": ("randwrite", "4k", 32),
    "64 KiB random write, QD 8": ("randwrite", "64k", 8),
    "1 MiB sequential write, QD 4": ("write", "1M", 4),
    "4 KiB sequential write, QD 32": ("write", "4k", 32),
    "4 KiB random read, QD 1": ("randread", "4k", 1),
    "4 KiB random read, QD 32": ("randread", "4k", 32),
}
TMPFS_WORK = "4 KiB random write, QD 32, tmpfs"
RAW = "raw disk, group commit"
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")


class Bench:
    """One run: the figures by (work, contender)."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._seconds: float = args.seconds
        self._rounds: int = args.rounds
        self._size: int = args.size << 20
        self.found: dict[tuple[str, str], list[Figures]] = {}
        self.proofs: dict[str, Proof] = {}
        self.others: list[str] = []

    def on_disk(self, folder: Path) -> None:
        """Everything that is measured on a disk."""
        pair = ReplblkPair(folder / "pair", self._size)
        contenders: list[Contender] = [pair]
        try:
            contenders.append(Mirror(folder / "mirror", self._size))
            contenders.append(QemuNbd(folder / "qemu-nbd", self._size))
            images = {
                "replblk pair": [pair.image("alpha"), pair.image("beta")],
                "QEMU mirror": [folder / "mirror" / f"{n}.img" for n in ("source", "target")],
                "qemu-nbd": [folder / "qemu-nbd" / "disk.img"],
            }
            for it in contenders:
                self.proofs[it.name] = flushes_of(it.target(), it.processes(), images[it.name], 500)
            plain = PlainDisk(folder / "plain", self._size)
            contenders.append(plain)
            self._full_sync(pair, plain)
            for work in WORKS:
                for _ in range(self._rounds):
                    for it in contenders:
                        if "read" not in work or it.name != "QEMU mirror":
                            self._one(work, it)
                    if work == "4 KiB random write, QD 32":
                        image = folder / "qemu-nbd" / "disk.img"
                        raw = raw_group_commit(image, 32, self._seconds)
                        self._note(work, RAW, raw)
            self._idle(pair)
            highest = ", ".join(f"{mib:.0f}" for mib in pair.memory_mib())
            self.others.append(f"Memory of the daemons at its highest: {highest} MiB.")
        finally:
            for it in contenders:
                it.close()

    def on_tmpfs(self, folder: Path) -> None:
        """Without a disk: what the programs themselves cost."""
        contenders: list[Contender] = [ReplblkPair(folder / "pair", 256 << 20)]
        try:
            contenders.append(Mirror(folder / "mirror", 256 << 20, direct=False))
            for _ in range(self._rounds):
                for it in contenders:
                    self._one(TMPFS_WORK, it)
        finally:
            for it in contenders:
                it.close()

    def of_a_tebibyte(self, folder: Path) -> None:
        """Memory of two nodes with a sparse device of 1 TiB each, in the middle of a full sync."""
        pair = ReplblkPair(folder / "tib", 1 << 40, filled=False)
        try:
            pair.run("alpha", "primary", "--force", "r0")
            time.sleep(3)
            highest = ", ".join(f"{mib:.0f}" for mib in pair.memory_mib())
            self.others.append(f"The same with a device of 1 TiB: {highest} MiB.")
            pair.run("alpha", "disconnect", "--force", "r0")
        finally:
            pair.close()

    def _full_sync(self, pair: ReplblkPair, plain: PlainDisk) -> None:
        mib = self._size >> 20
        copy_s = plain.copy_s()
        self.others.append(
            f"First full sync: {mib / pair.sync_s:,.0f} MiB/s; dd with a flush at its end copies "
            f"{mib / copy_s:,.0f} MiB/s on the same disk: {copy_s / pair.sync_s:.2f} of it."
        )

    def _one(self, work: str, it: Contender) -> None:
        pattern, block, depth = WORKS.get(work, WORKS["4 KiB random write, QD 32"])
        figures = fio(
            it.target(),
            it.processes(),
            pattern=pattern,
            block=block,
            depth=depth,
            seconds=self._seconds,
            size=(128 << 20) if work == TMPFS_WORK else self._size // 2,
        )
        self._note(work, it.name, figures)

    def _note(self, work: str, name: str, figures: Figures) -> None:
        self.found.setdefault((work, name), []).append(figures)
        print(
            f"{work:34} {name:24} {figures.rate:10,.0f} /s  p50 {figures.p50_us:8,.0f} us  "
            f"p99 {figures.p99_us:8,.0f} us  CPU {figures.cpu_us:6,.0f} us",
            flush=True,
        )

    def _idle(self, pair: ReplblkPair) -> None:
        seconds, before = 10.0, cpu_s(pair.processes())
        time.sleep(seconds)
        share = (cpu_s(pair.processes()) - before) / seconds * 100
        self.others.append(f"The idle pair uses {share:.2f} % of a core.")

    def rows(self) -> list[Row]:
        """The goals, as far as they were measured here."""
        q1, q8, q32 = (f"4 KiB random write, QD {depth}" for depth in (1, 8, 32))
        reads = "4 KiB random read, QD"
        rows = [
            self._row(q1, "QEMU mirror", 1.35, 1.6),
            self._row(q8, "QEMU mirror", 1.15, 1.4),
            self._row(q32, "QEMU mirror", 1.3, 1.6),
            self._row(q32, RAW, 0.8, 0.95, lambda f: f.rate, share=0.5),
            self._row(q1, "qemu-nbd", 0.7, 0.85),
            self._row("64 KiB random write, QD 8", "QEMU mirror", 1.2, 1.5),
            self._row("1 MiB sequential write, QD 4", "QEMU mirror", 2, 2.5),
            self._row("4 KiB sequential write, QD 32", "QEMU mirror", 5, 10),
            self._row(TMPFS_WORK, "QEMU mirror", 2.5, 3.5),
            self._row(f"{reads} 1", "qemu-nbd", 1, 1.3),
            self._row(f"{reads} 32", "qemu-nbd", 0.9, 1.1),
        ]
        for work, must, aim in ((q32, 0.4, 0.25), (q1, 0.65, 0.5)):
            row = self._row(work, "QEMU mirror", must, aim, lambda f: f.cpu_us)
            row.name, row.unit, row.lower = f"CPU of both daemons for one: {work}", "µs", True
            rows.append(row)
        row = self._row(q8, "QEMU mirror", 0.9, 0.5, lambda f: f.p99_us)
        row.name, row.unit, row.lower = f"p99 latency: {q8}", "µs", True
        return [*rows, row]

    def _row(
        self,
        work: str,
        against: str,
        must: float,
        aim: float,
        value: Callable[[Figures], float] = lambda figures: figures.rate,
        *,
        share: float = 1,
    ) -> Row:
        name = against if share == 1 else f"half of: {against}"
        ours = [value(run) for run in self.found[work, "replblk pair"]]
        theirs = [share * value(run) for run in self.found[work, against]]
        return Row(work, name, must, aim, ours=ours, theirs=theirs)


def main() -> int:
    """Run everything, print the tables, write the page."""
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="make bench", description=about)
    parser.add_argument("--seconds", type=float, default=4, help="for each row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the device")
    parser.add_argument("--dir", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="a folder in memory")
    parser.add_argument("--page", type=Path, help="write the tables into this page, too")
    args = parser.parse_args()
    missing = {program: of for program, of in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        print(f"bench needs {', '.join(missing)} (Debian: {', '.join(missing.values())})")
        return 1
    bench = Bench(args)
    print(machine(), flush=True)
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="replblk-bench-", dir=args.dir) as name:
        bench.on_disk(Path(name))
        bench.of_a_tebibyte(Path(name))
    with tempfile.TemporaryDirectory(prefix="replblk-bench-", dir=args.tmpfs) as name:
        bench.on_tmpfs(Path(name))
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}; {args.rounds} rounds of "
        f"{args.seconds:g} s, device {args.size} MiB.",
        f"Load average before {load_before:.1f}, after {os.getloadavg()[0]:.1f}; of the bench "
        "alone it is 2 to 3, more means that others were at work.",
        *("", *goals_table(bench.rows())),
        *("", *plain_table(bench.found)),
        *("", *detail_table(bench.found)),
        *("", *bench.others),
        *("", *proof_lines(bench.proofs)),
    ]
    print("\n".join(lines))
    if args.page is not None:
        replace_between(args.page, *MARKS, lines)
    return 0 if bench.proofs["replblk pair"].holds else 1


if __name__ == "__main__":
    sys.exit(main())
