"""Switch-overs by the command that moves the role, on either node, while things break.

Clients are played as a server does it: those of a node that hands over go once what they asked for
is answered, and none comes while the node wants none. Never two Primaries, every command has an
answer, and whoever holds the role in the end serves: the operator and the checkers see to that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.vocabulary import Role
from replblk.sim.world import MILLI_NS

if TYPE_CHECKING:
    from replblk.engine.ports import Answer
    from replblk.sim.client import Client
    from replblk.sim.links import Network
    from replblk.sim.machine import Machine
    from replblk.sim.operator import Operator

TIMES_S = (1, 3, 30)
"""How long the command may take."""


class Handovers:
    """Gives the commands, and sends clients away."""

    def __init__(self, network: Network, clients: list[Client], operator: Operator) -> None:
        self._network = network
        self._world = network.world
        self._clients = clients
        self._operator = operator
        self._chance = self._world.chance("handovers")
        self._look_ns = self._chance.choice((1, 5, 30)) * MILLI_NS

    def begin(self) -> None:
        """From now on the operator's switch-overs are ours."""
        self._operator.hand_over = self._move
        self._world.after(self._look_ns, self._look)

    def _look(self) -> None:
        self._world.after(self._look_ns, self._look)
        for client in self._clients:
            if client.machine is not None and client.machine.sent_away:
                client.stop(_nothing)

    def _move(self, primary: Machine, promoted: Callable[[Machine], None]) -> None:
        target = self._network.other(primary)
        on = self._chance.choice((primary, target))
        if not self._operator.free(on):
            on = primary

        def told(answer: Answer) -> None:
            self._world.mark(f"switchover: {_OUTCOMES.get(answer.exit_code, 'refused')}")
            if answer.exit_code == 0 and target.serving_role is Role.PRIMARY:
                promoted(target)

        limit_s = self._chance.choice(TIMES_S)
        self._operator.command(on, "switchover", told, to_peer=on is primary, timeout_s=limit_s)


_OUTCOMES = {0: "done", 5: "not in time"}


def _nothing() -> None:
    """Nobody waits for a client to have gone."""
