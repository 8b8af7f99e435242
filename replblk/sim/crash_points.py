"""A power cut of one node at each of its disk operations, one run for each; the other lives on.

The run of a seed without its faults is the story. It is told again and again, each time with one
fault more late: when the node asks for its Nth disk operation, its power fails, in the middle of
its step; what was in a volatile cache or in flight is kept, dropped or torn as the seed says. The
other node goes on, the operator does what is to be done, and all invariants are watched to the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from replblk.sim.options import Fault, Options
from replblk.sim.run import Outcome, run_seed
from replblk.sim.setup import NAMES
from replblk.sim.world import SECOND_NS

_ASKED = ("read #", "write #", "zero #", "flush #")


def crash_points(options: Options, stride: int = 1) -> Iterator[tuple[str, int, Outcome]]:
    """Node, number of the operation, and outcome of each run. stride: every so many operations."""
    story = replace(options, faults=())
    told = run_seed(story)
    if told.failure:
        yield "nobody", 0, told
        return
    for name in NAMES:
        for number in range(1, _operations(told, name) + 1, stride):
            fault = Fault(
                kind="power",
                target=name,
                trigger="submit",
                count=number,
                zone="any",
                duration_ns=SECOND_NS // 2,
                operation="write",
                forever=False,
            )
            yield name, number, run_seed(replace(story, faults=(fault,)))


def _operations(told: Outcome, name: str) -> int:
    """How many disk operations the node asked for while clients wrote."""
    asked, counting = 0, False
    for line in told.transcript.lines():
        counting = counting or "client 0" in line
        if "everything is mended" in line:
            break
        who, _, what = line.strip().split(" ", 1)[1].strip().partition(" ")
        if counting and who == name and what.strip().startswith("disk "):
            asked += what.strip().removeprefix("disk ").startswith(_ASKED)
    return asked
