"""``make bench``: replblk, qemu-nbd and QEMU's mirror side by side, every write durable.

Contenders take turns within a round, and a row's ratio is the median of the rounds' ratios,
because such machines are noisy: the figures are of this machine and this hour, only the ratios
travel. Needs fio, strace, qemu-system-common (qemu-storage-daemon), qemu-utils and libnbd-bin; root
for the mirror's repair; a C compiler for the slow flush.
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

from scripts.bench import resyncs, special, works
from scripts.bench.contenders import NATIVE, ReplblkPair
from scripts.bench.report import (
    beside_table,
    detail_table,
    goals_table,
    machine,
    proof_lines,
    replace_between,
)
from scripts.bench.results import PLAIN, Results, Setting
from scripts.bench.scale import PLOT, scale

PROGRAMS = {
    "fio": "fio",
    "strace": "strace",
    "qemu-nbd": "qemu-utils",
    "qemu-storage-daemon": "qemu-system-common",
    "nbdcopy": "libnbd-bin",
}
PARTS: dict[str, Callable[[Results, Setting], str | None]] = {
    "disk": works.on_disk,
    "tmpfs": works.in_memory,
    "slow-flush": special.slow_flush,
    "working-set": special.working_set,
    "resync": resyncs.full_resync,
    "beside": resyncs.beside_application,
    "durability": works.looser,
    "eight": special.eight,
    "huge": special.huge,
    "scale": scale,
}
"""What can be measured by itself, in the order of a whole run."""
DISK_MIB = 12 << 10
MARKS = ("<!-- measured: begin -->", "<!-- measured: end -->")


def main() -> int:
    """Run everything, or the parts asked for; print the tables, write the page."""
    args = _arguments()
    missing = {program: of for program, of in PROGRAMS.items() if shutil.which(program) is None}
    if missing:
        print(f"bench needs {', '.join(missing)} (Debian: {', '.join(missing.values())})")
        return 1
    parts = {name: PARTS[name] for name in args.only or PARTS}
    results = Results()
    print(machine(), flush=True)
    load_before, began = os.getloadavg()[0], time.monotonic()
    plot = ""
    failures: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="replblk-bench-", dir=args.dir) as disk,
        tempfile.TemporaryDirectory(prefix="replblk-bench-", dir=args.tmpfs) as memory,
    ):
        free = special.free_mib(Path(disk))
        if free < DISK_MIB:
            print(f"bench needs {DISK_MIB} MiB free in {disk}, there are {free}: see --dir")
            return 1
        setting = Setting(args.seconds, args.rounds, args.size << 20, Path(disk), Path(memory))
        for name, part in parts.items():
            print(f"-- {name}", flush=True)
            try:
                plot = part(results, setting) or plot
            except SystemExit as failed:
                failures.append(f"{name}: not measured: {failed}")
                print(failures[-1], flush=True)
    lines = [
        f"Measured {datetime.now(UTC):%Y-%m-%d} on {machine()}; {args.rounds} rounds of "
        f"{args.seconds:g} s, device {args.size} MiB, {time.monotonic() - began:.0f} s in all.",
        f"Load average before {load_before:.1f}, after {os.getloadavg()[0]:.1f}; of the bench "
        "alone it is 2 to 3, more means that others were at work.",
        *("", *goals_table(results.rows)),
        *("", *results.others, *failures),
        *("", *beside_table(results.found, lambda name: name.endswith(NATIVE))),
        *("", *beside_table(results.found, lambda name: name == PLAIN)),
        *("", *detail_table(results.found)),
        *results.phases,
        *("", *proof_lines(results.proofs)),
    ]
    if results.scale:
        about = "How cost grows, with all images in memory (4 KiB random writes, each point once):"
        lines += ["", about, *results.scale, "", f"![the same as plots]({PLOT})"]
    print("\n".join(lines))
    if args.page is not None and not args.only:
        replace_between(args.page, *MARKS, lines)
        if plot:
            args.page.with_name(PLOT).write_text(plot)
    unproven = [name for name, proof in results.proofs.items() if not proof.holds]
    if unproven:
        print(f"not every acknowledged write was seen flushed: {', '.join(unproven)}")
    ours = any(name.startswith(ReplblkPair.name) for name in unproven)
    return 1 if ours or failures else 0


def _arguments() -> argparse.Namespace:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="make bench", description=about)
    parser.add_argument("--seconds", type=float, default=2, help="for each row and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the device")
    parser.add_argument("--dir", type=Path, help="where the files go (default: a temporary folder)")
    parser.add_argument("--tmpfs", type=Path, default=Path("/dev/shm"), help="a folder in memory")
    parser.add_argument("--page", type=Path, help="write the tables into this page, too")
    parser.add_argument(
        "--only",
        action="append",
        choices=PARTS,
        help="measure this part alone (may be given again); the page stays as it is",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
