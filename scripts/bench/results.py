"""What a run has found so far: figures by work and contender, rows with goals, proofs, texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.bench.contenders import Contender
from scripts.bench.load import Figures, fio
from scripts.bench.proof import Proof, flushes_of
from scripts.bench.report import Row

PAIR, MIRROR, QEMU_NBD, PLAIN = "replblk pair", "QEMU mirror", "qemu-nbd", "plain disk"
RAW = "raw disk, group commit"
PROVEN_WRITES = 300


@dataclass(frozen=True, slots=True)
class Work:
    """What fio does. pattern, block: fio's words."""

    name: str
    pattern: str
    block: str
    depth: int


@dataclass(slots=True)
class Setting:
    """How long and how often everything is measured, and where. size: of the usual device."""

    seconds: float
    rounds: int
    size: int
    disk: Path
    memory: Path


@dataclass(slots=True)
class Results:
    """Filled by the parts of the bench, read by the report."""

    found: dict[tuple[str, str], list[Figures]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    proofs: dict[str, Proof] = field(default_factory=dict)
    others: list[str] = field(default_factory=list)
    phases: list[str] = field(default_factory=list)
    scale: list[str] = field(default_factory=list)

    def note(self, work: str, name: str, figures: Figures) -> None:
        """One measurement, told at once."""
        self.found.setdefault((work, name), []).append(figures)
        print(
            f"{work:44} {name:22} {figures.rate:10,.0f} /s  p50 {figures.p50_us:8,.0f} us  "
            f"p99 {figures.p99_us:8,.0f} us  CPU {figures.cpu_us:6,.0f} us",
            flush=True,
        )

    def measure(
        self, setting: Setting, work: Work, it: Contender, *, part: int, ramp_s: float = 0
    ) -> None:
        """*work* on the first *part* bytes of a contender's device, once. ramp_s: see ``fio``."""
        figures = fio(
            it.target(),
            it.processes(),
            pattern=work.pattern,
            block=work.block,
            depth=work.depth,
            seconds=setting.seconds,
            size=part,
            ramp_s=ramp_s,
        )
        self.note(work.name, it.name, figures)

    def prove(self, label: str, it: Contender, *, kernel: bool = True) -> None:
        """That every acknowledged write of a contender is flushed wherever it has to be.

        kernel: its tracepoint can tell, because the images are on ext4.
        """
        images: Sequence[Path] | None = it.images() if kernel else None
        proof = flushes_of(it.target(), it.processes(), images, PROVEN_WRITES)
        self.proofs[label] = proof
        print(f"{label}: {'every write was flushed' if proof.holds else 'NOT PROVEN'}", flush=True)

    def row(
        self,
        work: str,
        against: str,
        must: float,
        aim: float,
        value: Callable[[Figures], float] = lambda figures: figures.rate,
        *,
        than: str = "",
        share: float = 1,
        name: str = "",
        unit: str = "/s",
        lower: bool = False,
    ) -> None:
        """A goal: the pair's *value* in *work* against another contender's, or than another work.

        share: of the other's value that counts.
        """
        ours = [value(run) for run in self.found.get((work, PAIR), ())]
        other = self.found.get((than or work, PAIR if than else against), ())
        theirs = [share * value(run) for run in other]
        if ours and theirs:
            told = against if share == 1 else f"half of: {against}"
            self.rows.append(
                Row(name or work, told, must, aim, unit, lower, ours=ours, theirs=theirs)
            )
