"""Plants every bug of the table and runs the seed or test that brings it down: ``make mutants``.

Prints one line for each: the bug, how many seeds it took and which checker spoke, or which test
failed. A seed of the table is only as good as the program it was found with: where it passes by
now, seeds from 1 on are tried up to a limit, and the line says which one to put into the table.
Fails if a bug survives that the table does not explain, and if a test passes in spite of its bug.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from collections.abc import Iterator

from replblk.sim.run import run_seed
from replblk.sim.wider import draw_any
from tests.mutants.by_test import failed_with
from tests.mutants.commands import COMMANDS
from tests.mutants.metadata import METADATA
from tests.mutants.planting import planted
from tests.mutants.resyncs import RESYNCS
from tests.mutants.table import Mutant
from tests.mutants.writes import WRITES

MUTANTS: tuple[Mutant, ...] = (*WRITES, *RESYNCS, *METADATA, *COMMANDS)
BROKEN_MUTANT = ("NameError", "TypeError", "AttributeError", "UnboundLocalError", "SyntaxError")
SEARCH_MIN, SEARCH_FACTOR = 200, 4


def caught_by(mutant: Mutant, seed: int) -> str:
    """What the run of that seed fails with, in a few words; empty if it passes."""
    with planted(mutant.edits):
        failure = run_seed(draw_any(seed, mutant.profile)).failure
    if not failure:
        return ""
    last = failure.splitlines()[-1]
    if last.startswith(BROKEN_MUTANT):
        raise AssertionError(f"mutant {mutant.name} is itself broken: {failure}")
    found = re.match(r"(I\d+)\b", last)
    return found[1] if found else " ".join(last.split()[:9])


def first_killer(mutant: Mutant, seeds: range) -> tuple[int, str]:
    """The first of these seeds that fails, and with what; 0 if all pass."""
    for seed in seeds:
        if how := caught_by(mutant, seed):
            return seed, how
    return 0, ""


def judge(mutant: Mutant, limit: int) -> tuple[bool, str]:
    """Whether the row holds, and what to print about it."""
    if mutant.masked_by:
        return True, f"masked by {mutant.masked_by}; both off: {mutant.both}"
    if mutant.not_caught:
        return True, f"NOT CAUGHT: {mutant.not_caught}"
    if mutant.test:
        name = mutant.test.partition("::")[2]
        if how := failed_with(mutant, mutant.test):
            assert not how.startswith(BROKEN_MUTANT), (
                f"mutant {mutant.name} is itself broken: {how}"
            )
            return True, f"  test {name}: {' '.join(how.split()[:9])}"
        return False, f"SURVIVES its test {mutant.test}"
    if mutant.seed and (how := caught_by(mutant, mutant.seed)):
        return True, f"{mutant.seed:>6} seeds  {how}"
    seed, how = first_killer(mutant, range(1, limit + 1))
    if seed:
        return True, f"{seed:>6} seeds  {how}  (the table says {mutant.seed}: put {seed} there)"
    return False, f"SURVIVES {limit} seeds of profile {mutant.profile}, and the table has no reason"


def rows(names: list[str]) -> Iterator[Mutant]:
    """The rows of that name; all without names."""
    unknown = set(names) - {m.name for m in MUTANTS}
    if unknown:
        raise SystemExit(f"no such mutant: {', '.join(sorted(unknown))}")
    return (m for m in MUTANTS if not names or m.name in names)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 0 if every row holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants.run", description=__doc__)
    parser.add_argument("names", nargs="*", help="only these")
    parser.add_argument("--limit", type=int, default=0, help="seeds to try where the table is off")
    args = parser.parse_args(arguments)
    began, survivors, kinds = time.perf_counter(), [], Counter[str]()
    for mutant in rows(args.names):
        limit = args.limit or max(SEARCH_MIN, SEARCH_FACTOR * mutant.seed)
        holds, line = judge(mutant, limit)
        kinds[mutant.kind] += holds
        if not holds:
            survivors.append(mutant.name)
        print(f"{mutant.name:<34} {mutant.profile:<7} {line}", flush=True)
    print(
        f"{kinds.total()} mutants: {kinds['seed']} caught by seeds, {kinds['test']} by tests, "
        f"{kinds['masked']} masked, {kinds['not caught']} not caught with what was tried; "
        f"{len(survivors)} survive without a reason ({time.perf_counter() - began:.0f} s)"
    )
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
