"""The handler fence-peer of a simulated cluster: never lies, but may find nothing out.

It looks at the peer past the network of the replication, and sees to it that the peer's data are
not used: asks it to call itself Outdated, or (resource-and-stonith) turns it off. As agents of real
clusters do, it remembers in the cluster who fenced whom (``favoured``): whoever was fenced must not
fence in turn, for its data are old. unfence-peer, or a pair that is in sync again, forgets it.

| exit | when |
|---|---|
| 3 | the peer is Inconsistent |
| 4 | the peer called itself Outdated |
| 5 | the peer is dead (resource-only) |
| 6 | the peer is Primary |
| 7 | the peer was turned off (resource-and-stonith) |
| 1 | nothing was found out: no answer in time, the peer is favoured, or the agent is broken |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.vocabulary import DiskState, Fencing, Role
from replblk.sim.handlers import HandlerEnds
from replblk.sim.world import MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from replblk.engine.ports import Answer, HandlerCall
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.operator import Operator
    from replblk.sim.options import Options

End = Callable[[HandlerEnds], None]
TRIES = 5
RETRY_NS = 300 * MILLI_NS
ANSWER_LIMIT_NS = 3 * SECOND_NS


class FenceAgent:
    """What both machines' handlers do. favoured: the only machine that may fence; "" for either."""

    def __init__(self, options: Options, network: Network, operator: Operator) -> None:
        self._network = network
        self._world = network.world
        self._operator = operator
        self._chance = self._world.chance("fence-agent")
        self._fails = options.policies.agent_fails
        self._stonith = options.policies.fencing is Fencing.RESOURCE_AND_STONITH
        self.favoured = ""
        for machine in network.machines:
            machine.handler_programs["fence-peer"] = self._program(machine)
            machine.handler_programs["unfence-peer"] = self._unfence

    def _program(self, machine: Machine) -> Callable[[HandlerCall, End], None]:
        return lambda call, end: self._fence(machine, end)

    def _unfence(self, call: HandlerCall, end: End) -> None:
        self.favoured = ""
        end(HandlerEnds())

    def _fence(self, machine: Machine, end: End) -> None:
        if self._chance.random() < self._fails:
            self._world.mark("fence-peer found nothing out")
            broken = self._chance.choice((1, 1, 127, 200))
            end(HandlerEnds(broken, after_ns=self._chance.randrange(20 * SECOND_NS)))
            return
        delay = self._chance.choice((5, 50, 800)) * MILLI_NS
        self._world.after(self._chance.randrange(delay), self._look, machine, end, TRIES)

    def _look(self, machine: Machine, end: End, tries: int) -> None:
        other = self._network.other(machine)
        if not machine.powered:
            return  # the agent died with its machine
        if self.favoured == other.name:
            self._end(end, 1)
        elif not other.alive:
            self._is_dead(machine, end)
        elif other.paused:
            self._no_answer(machine, end)
        elif other.serving_role is Role.PRIMARY:
            if self._stonith and self._chance.random() < 0.3:
                self._world.mark("a Primary was turned off by fencing")
                self._shoot(machine, end)
            else:
                self._end(end, 6)
        elif tries:
            self._ask(machine, end, tries)
        else:
            self._no_answer(machine, end)

    def _is_dead(self, machine: Machine, end: End) -> None:
        if self._stonith:
            self._shoot(machine, end)
            return
        if machine.up_to_date:
            self.favoured = machine.name
        self._end(end, 5)

    def _ask(self, machine: Machine, end: End, tries: int) -> None:
        """Tell the peer to be Outdated; look again if it refuses, as while it believes in us."""
        other = self._network.other(machine)
        life, open_ = other.life, True

        def late() -> None:
            nonlocal open_
            if open_:
                open_ = False
                self._no_answer(machine, end)

        def answered(_: Answer) -> None:
            nonlocal open_
            if not open_:
                return
            open_ = False
            disks = [state.disk for state in other.states.values()]
            if other.life is not life or self.favoured == other.name:
                self._world.after(RETRY_NS, self._look, machine, end, tries - 1)
            elif max(disks) <= DiskState.INCONSISTENT:
                self._succeed(machine, end, 3)
            elif max(disks) <= DiskState.OUTDATED:
                self._succeed(machine, end, 4)
            else:
                self._world.after(RETRY_NS, self._look, machine, end, tries - 1)

        other.command("outdate", answered)
        self._world.after(ANSWER_LIMIT_NS, late)

    def _no_answer(self, machine: Machine, end: End) -> None:
        if self._stonith:
            self._shoot(machine, end)
        else:
            self._end(end, 1)

    def _shoot(self, machine: Machine, end: End) -> None:
        other = self._network.other(machine)
        if self.favoured == other.name or not machine.powered:
            self._end(end, 1)
            return
        other.power_off()
        self._operator.bring_back(other, self._chance.choice((1, 5)) * SECOND_NS)
        self._succeed(machine, end, 7)

    def _succeed(self, machine: Machine, end: End, code: int) -> None:
        self.favoured = machine.name
        self._end(end, code)

    def _end(self, end: End, code: int) -> None:
        self._world.mark(f"fence-peer: exit {code}")
        end(HandlerEnds(code, after_ns=self._chance.randrange(1, 20) * MILLI_NS))
