"""Where a write's time goes: what both daemons counted of each phase while a work was measured."""

from __future__ import annotations

from scripts.bench.contenders import ReplblkPair

Counted = dict[tuple[str, str], tuple[int, float]]
"""By node and phase: how often, and how many microseconds in all."""
NODES = ("alpha", "beta")
PHASES = ("write", "disk", "peer", "parse", "step", "send", "submit", "reply", "turn")


def counted(pair: ReplblkPair) -> Counted:
    """What ``replblk latency`` says now."""
    found: Counted = {}
    for node in NODES:
        for line in pair.ask(node, "latency").text.splitlines():
            words = line.split()
            if words and words[0] in PHASES:
                found[node, words[0]] = int(words[1]), int(words[1]) * float(words[2])
    return found


def phase_lines(work: str, before: Counted, after: Counted) -> list[str]:
    """Markdown: a row for each node; what happened between *before* and *after*."""
    writes = after["alpha", "write"][0] - before["alpha", "write"][0]
    lines = []
    for node, role in zip(NODES, ("Primary", "Secondary"), strict=True):
        cells = []
        for phase in PHASES:
            (count, took_us), (had, had_us) = after[node, phase], before[node, phase]
            cells.append(f"{(took_us - had_us) / (count - had):,.0f}" if count > had else "–")
        turns = after[node, "turn"][0] - before[node, "turn"][0]
        cells.append(f"{turns / max(writes, 1):.2f}")
        lines.append(f"| {work} | {role} | {' | '.join(cells)} |")
    return lines


HEADING = (
    "",
    "Where the time goes, in µs: means of what `replblk latency` counted in the rounds above. A "
    "write is parsed, begun in a turn of the daemon, then on both disks and on its way at once, "
    "and answered in a turn. `write`, `disk` and `peer` are of a write, the others of a turn; "
    "`submit` has the wait for a lone write's disk in it.",
    "",
    f"| work | node | {' | '.join(PHASES)} | turns a write |",
    "|---|---|" + "---|" * (len(PHASES) + 1),
)
