"""The seeded bugs: what each breaks, and what brings it down: a seed of the simulator, or a test.

``seed`` is the first seed, counted from 1, whose run fails with the bug planted: so it is also the
number of seeds that it took. ``test`` names a test that fails with it and passes without: for what
chance meets too seldom. A row with ``masked_by`` is survived because that second mechanism does the
same work; the row that switches both off names it in ``both``. A row with ``not_caught`` says what
was tried. Everything else is to be caught, or ``make mutants`` fails.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.mutants.planting import Edit


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One seeded bug. profile: of the simulator, see ``replblk.sim.options``; test: FILE::NAME."""

    name: str
    breaks: str
    edits: tuple[Edit, ...]
    seed: int = 0
    profile: str = "mixed"
    test: str = ""
    masked_by: str = ""
    both: str = ""
    not_caught: str = ""

    @property
    def kind(self) -> str:
        """Which of the reasons the row has."""
        if self.masked_by:
            return "masked"
        if self.not_caught:
            return "not caught"
        return "test" if self.test else "seed"


def mutant(name: str, breaks: str, *edits: Edit, seed: int = 0, **more: str) -> Mutant:
    """A row."""
    return Mutant(name=name, breaks=breaks, edits=edits, seed=seed, **more)
