"""``switchover``: the Primary role of a volume moves to the connected peer; either node is told.

    Primary (handover_give)                                Secondary (handover_take)
    P_UUIDS, flag HANDS_OVER    ───────────────────►    can it? lets no client in, is ready
    clients are sent away       ◄───────────────────    P_UUIDS, flag TAKES_OVER
    demoted, durable; P_STATE   ───────────────────►    promoted with our consent, durable
    done; clients are let in    ◄───────────────────    P_STATE, P_UUIDS without flags

A Secondary that was given the command says ASKS_FOR_ROLE first, and the Primary begins. Either may
say DOES_NOT, at any time. DRBD passes over these flags: it is silent, and nothing happens. There
are never two Primaries: every promotion here needs the consent of a connected peer, so at most one
of them succeeds. Source: decision 16.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from replblk.engine.handover_give import Giving
from replblk.engine.handover_take import Taking
from replblk.engine.handshake import send_uuids
from replblk.engine.ports import Answer, Command
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState, Role
from replblk.rules.handover import hinders_giving, hinders_taking
from replblk.wire.packets import (
    UUID_FLAG_ASKS_FOR_ROLE,
    UUID_FLAG_DOES_NOT,
    UUID_FLAG_HANDS_OVER,
)

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.role_change import RoleChange
    from replblk.engine.volume import Volume

Then = Callable[[Answer], None]
Give = Callable[[str, "Volume", Then], None]
Resume = Callable[["Volume", Then], None]

REFUSED = 11
"""Exit status of a refusal."""


class Handover:
    """Both sides of it, for all volumes. ``give`` and ``resume`` are set by who runs commands."""

    give: Give
    """(verb, volume, then): a command of our own, in turn with the administrator's."""
    resume: Resume
    """Become Primary again as soon as that is safe."""

    def __init__(self, ctx: Context, roles: RoleChange) -> None:
        self._ctx = ctx
        self._roles = roles
        self._giving: dict[int, Giving] = {}
        self._taking: dict[int, Taking] = {}
        self._asked_for: set[int] = set()
        """Volumes whose role the peer asks for, and has not said that it does not any more."""

    @property
    def peer_name(self) -> str:
        """The other node, as the configuration calls it."""
        peer = self._ctx.resource.peer
        return peer.names[0] if peer is not None else "another node"

    @property
    def own_name(self) -> str:
        """This node, as the configuration calls it."""
        return self._ctx.resource.local.names[0]

    def hinders(self, volumes: Sequence[Volume]) -> str:
        """Why not all of these can be handed over; those that the peer has need not be."""
        for volume in volumes:
            if volume.state.peer is not Role.PRIMARY and (why := hinders_giving(volume.state)):
                return f"can't switch over to {self.peer_name}: {why}"
        return ""

    def hand_over(self, volume: Volume, command: Command, then: Then) -> None:
        """The wish of the administrator, or of the peer, on the Primary."""
        if command.verb == "hand-over" and volume.number not in self._asked_for:
            then(Answer(REFUSED, f"{self.peer_name} does not ask for it any more", 0))
            return
        self._asked_for.discard(volume.number)
        if volume.state.peer is Role.PRIMARY and not volume.primary:
            then(Answer(0, f"{self.peer_name} is Primary already"))
        elif why := self.hinders([volume]):
            self.say(volume, UUID_FLAG_DOES_NOT)
            self.tell(volume, why)
            then(Answer(REFUSED, why, 0))
        else:
            giving = Giving(self._ctx, self, self._roles, volume, command, then)
            self._giving[volume.number] = giving
            giving.begin()

    def take_over(self, volume: Volume, command: Command, then: Then) -> None:
        """The administrator's wish on the Secondary."""
        here = self.own_name
        if volume.primary:
            then(Answer(0, f"{here} is Primary already"))
        elif why := hinders_taking(volume.state):
            then(Answer(REFUSED, f"can't switch over to {here}: {why}", 0))
        elif volume.number in self._taking:
            then(Answer(REFUSED, f"{here} is about to become Primary already", 0))
        else:
            self._take(volume).wish(then)

    def promote(self, volume: Volume, command: Command, then: Then) -> None:
        """It is a ready Secondary's turn, unless it was withdrawn meanwhile."""
        taking = self._taking.get(volume.number)
        if taking is None or taking.withdrawn:
            then(Answer(REFUSED, f"{self.peer_name} does not hand over any more", 0))
        else:
            self._roles.primary(volume, command, then)

    def peer_said(self, volume: Volume) -> None:
        """P_UUIDS: its flags may concern us."""
        if volume.state.conn < ConnState.CONNECTED or volume.peer_uuids is None:
            return
        flags = volume.peer_uuids.flags
        if flags & UUID_FLAG_DOES_NOT:
            self._asked_for.discard(volume.number)
        giving, taking = self._giving.get(volume.number), self._taking.get(volume.number)
        if giving is not None:
            giving.peer_said(flags)
        elif taking is not None:
            taking.peer_said(flags)
        elif flags & UUID_FLAG_HANDS_OVER:
            if why := hinders_taking(volume.state):
                self.tell(volume, f"can't switch over to {self.own_name}: {why}")
                self.say(volume, UUID_FLAG_DOES_NOT)
            else:
                self._take(volume).peer_said(flags)
        elif flags & UUID_FLAG_ASKS_FOR_ROLE and volume.number not in self._asked_for:
            self._asked_for.add(volume.number)
            self.tell(volume, f"{self.peer_name} asks for the Primary role")
            self.give("hand-over", volume, lambda answer: None)

    def say(self, volume: Volume, flags: int) -> None:
        """Tell the peer; DOES_NOT is said once, other flags with every P_UUIDS from now on."""
        volume.handover_flags = flags
        if volume.state.conn >= ConnState.CONNECTED:
            send_uuids(self._ctx, volume)
        if flags == UUID_FLAG_DOES_NOT:
            volume.handover_flags = 0

    def tell(self, volume: Volume, text: str) -> None:
        """A line for the log."""
        self._ctx.tell(Level.INFO, f"switch-over: {text}", volume.number)

    def ended(self, volume: Volume) -> None:
        """It is over, whichever way."""
        self._giving.pop(volume.number, None)
        self._taking.pop(volume.number, None)
        volume.handover_flags = 0
        self._ctx.ports.clients.let_in(volume.number)

    def _take(self, volume: Volume) -> Taking:
        taking = self._taking[volume.number] = Taking(self._ctx, self, volume)
        return taking
