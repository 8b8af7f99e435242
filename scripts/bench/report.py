"""What was measured, as text for a terminal and as docs/performance.md."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from scripts.bench.load import Figures
from scripts.bench.proof import Proof


@dataclass(slots=True)
class Row:
    """One kind of work. goal: of the ratio to *against*; lower: whether less is better."""

    name: str
    against: str
    must: float
    aim: float
    unit: str = "/s"
    lower: bool = False
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(mine / max(other, 1e-9) for mine, other in zip(self.ours, self.theirs))  # noqa: B905

    @property
    def verdict(self) -> str:
        """Which goal is reached."""
        reached = self.ratio.__le__ if self.lower else self.ratio.__ge__
        if reached(self.aim):
            return "aim"
        return "must" if reached(self.must) else "missed"


def machine() -> str:
    """What it was measured on, in a line."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return (
        f"{os.cpu_count()} cores {_processor()}, {memory} GiB, {platform.system()} "
        f"{platform.release()}, Python {platform.python_version()} ({_whose()})"
    )


def _whose() -> str:
    """Where this interpreter is from: distributions build theirs with profile-guided optimization,
    and the daemons take a sixth less CPU time with it."""
    return "the distribution's" if sys.base_prefix == "/usr" else "not the distribution's"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def goals_table(rows: Sequence[Row]) -> list[str]:
    """Markdown: each row's medians, ratio, goals and what is reached."""
    lines = [
        "| work | against | replblk | other | ratio | must | aim | reached |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        sign = "≤ " if row.lower else ""
        lines.append(
            f"| {row.name} | {row.against} | {median(row.ours):,.0f} {row.unit} "
            f"| {median(row.theirs):,.0f} {row.unit} | {row.ratio:.2f} | {sign}{row.must:g} "
            f"| {sign}{row.aim:g} | {row.verdict} |"
        )
    return lines


def beside_table(
    found: dict[tuple[str, str], list[Figures]], wanted: Callable[[str], bool]
) -> list[str]:
    """Markdown: the pair's rates beside those of contenders for whom no goal is set."""
    lines = ["| work | beside | replblk pair | other | ratio |", "|---|---|---|---|---|"]
    for (work, name), runs in found.items():
        if wanted(name) and (work, "replblk pair") in found:
            ours = [run.rate for run in found[work, "replblk pair"]]
            theirs = [run.rate for run in runs]
            row = Row(work, name, 0, 0, ours=ours, theirs=theirs)
            rates = f"{median(ours):,.0f} /s | {median(theirs):,.0f} /s"
            lines.append(f"| {work} | {name} | {rates} | {row.ratio:.2f} |")
    return lines


def detail_table(found: dict[tuple[str, str], list[Figures]]) -> list[str]:
    """Markdown: every contender's medians for every kind of work."""
    lines = [
        "| work | contender | rate /s | p50 µs | p99 µs | CPU µs of all daemons, each |",
        "|---|---|---|---|---|---|",
    ]
    for (work, name), runs in found.items():
        lines.append(
            f"| {work} | {name} | {median(run.rate for run in runs):,.0f} "
            f"| {median(run.p50_us for run in runs):,.0f} "
            f"| {median(run.p99_us for run in runs):,.0f} "
            f"| {median(run.cpu_us for run in runs):,.0f} |"
        )
    return lines


def proof_lines(proofs: dict[str, Proof]) -> list[str]:
    """Markdown: what was flushed for writes that came one by one."""
    lines = [
        "| contender | acknowledged writes | flush calls (strace) | ring submissions (strace) "
        "| flushes of each image (kernel) |",
        "|---|---|---|---|---|",
    ]
    for name, proof in proofs.items():
        files = "not to be had" if proof.file_flushes is None else _list(proof.file_flushes)
        lines.append(
            f"| {name} | {proof.writes} | {_list(proof.flush_calls)} | {_list(proof.ring_calls)} "
            f"| {files} |"
        )
    return lines


def _list(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts))


def replace_between(page: Path, begin: str, end: str, lines: Sequence[str]) -> None:
    """Put *lines* between the two marks of a page."""
    text = page.read_text()
    before, _, rest = text.partition(begin)
    _, _, after = rest.partition(end)
    page.write_text("\n".join([f"{before}{begin}", "", *lines, "", f"{end}{after}"]))
