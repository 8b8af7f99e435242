"""The seeded bugs: what each breaks, and the seed that brings it down.

``seed`` is the first seed, counted from 1, whose run fails with the bug planted: so it is also the
number of seeds that it took. A row with ``masked_by`` is survived because that second mechanism
does the same work; the row that switches both off names it in ``both``. A row with ``not_caught``
says what was tried. Everything else is to be caught, or ``make mutants`` fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutants.planting import Edit


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One seeded bug. profile: of the simulator, see ``replblk.sim.options``."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    seed: int = 0
    profile: str = "mixed"
    masked_by: str = ""
    both: str = ""
    not_caught: str = ""


def mutant(name: str, breaks: str, *edits: Edit, seed: int = 0, **more: str) -> Mutant:
    """A row."""
    return Mutant(name=name, breaks=breaks, edits=edits, seed=seed, **more)
