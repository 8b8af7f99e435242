"""Handlers of a simulated machine: they end as the test or the run says, after a while."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from replblk.engine.ports import HandlerCall
    from replblk.sim.machine import Life


@dataclass(frozen=True, slots=True)
class HandlerEnds:
    """How a handler ends. trouble: why the exit code means nothing, or "". never: it hangs."""

    exit_code: int = 0
    after_ns: int = 1_000_000
    trouble: str = ""
    never: bool = False


class SimHandlers:
    """The Handlers port of one life; a handler outlives the process but answers nobody."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def call(self, number: int, call: HandlerCall) -> None:
        """Note the call; it ends as ``machine.handlers`` says, at the latest by its timeout."""
        machine = self._life.machine
        machine.handler_calls.append(call)
        machine.world.note(machine.name, "handler #{} {} starts", number, call.name)
        machine.world.mark(f"handler {call.name}")
        program = machine.handler_programs.get(call.name)
        if program is not None:
            program(call, lambda ends: self._end(number, call, ends))
        else:
            self._end(number, call, machine.handlers.get(call.name, HandlerEnds()))

    def _end(self, number: int, call: HandlerCall, ends: HandlerEnds) -> None:
        machine = self._life.machine
        after_ns, trouble = ends.after_ns, ends.trouble
        if ends.never or after_ns > call.timeout_s * 1_000_000_000:
            after_ns = call.timeout_s * 1_000_000_000
            trouble = f"it did not end within {call.timeout_s} s and was killed"
        machine.world.after(
            after_ns,
            machine.deliver,
            self._life,
            "on_handler_done",
            number,
            ends.exit_code,
            trouble,
        )
