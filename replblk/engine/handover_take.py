"""A switch-over on the Secondary: ready to become Primary the moment its peer is Secondary.

It lasts while the nodes stay connected and the Primary goes on handing over, at most ``READY_NS``:
a Primary that is demoted later for another reason must not find its peer promoted.
Source: decision 16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS
from replblk.engine.handover_give import ASK_NS, REFUSED
from replblk.engine.ports import Answer
from replblk.model.vocabulary import Code, ConnState, Role
from replblk.wire.packets import (
    UUID_FLAG_ASKS_FOR_ROLE,
    UUID_FLAG_DOES_NOT,
    UUID_FLAG_HANDS_OVER,
    UUID_FLAG_TAKES_OVER,
)

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.handover import Handover
    from replblk.engine.volume import Volume

Then = Callable[[Answer], None]

READY_NS = 120 * SECOND_NS
"""Longer than a Primary's time limit may be; it says so when it gives up before."""


class Taking:
    """One volume's role on its way to this node. withdrawn: the peer keeps it after all."""

    def __init__(self, ctx: Context, handover: Handover, volume: Volume) -> None:
        self._ctx = ctx
        self._handover = handover
        self._volume = volume
        self._timer = ("takeover", volume.number)
        self._ready = False
        self._promoting = False
        self._over = False
        self._began_ns = 0
        self._then: Then | None = None
        self.withdrawn = False

    def wish(self, then: Then) -> None:
        """The command was given here: the Primary is asked to begin."""
        self._then = then
        self._ctx.timers.set(self._timer, ASK_NS, self._on_time)
        self._handover.say(self._volume, UUID_FLAG_ASKS_FOR_ROLE)
        self._ctx.when(self._look)

    def peer_said(self, flags: int) -> None:
        """P_UUIDS of the Primary: it hands over, or does not any more."""
        if flags & UUID_FLAG_DOES_NOT:
            self.withdrawn = True
            if not self._promoting:
                self._end(f"{self._handover.peer_name} does not hand over: its log says why")
        elif flags & UUID_FLAG_HANDS_OVER and not self._ready:
            self._ready = True
            self._began_ns = self._ctx.now_ns()
            self._ctx.timers.set(self._timer, READY_NS, self._on_time)
            self._ctx.ports.clients.send_away(self._volume.number)
            self._handover.say(self._volume, UUID_FLAG_TAKES_OVER)
            self._ctx.when(self._look)

    def _look(self) -> bool:
        """After every change of state: is it our turn?"""
        state = self._volume.state
        if not self._over and not self._promoting:
            if state.conn is not ConnState.CONNECTED:
                self._end(f"the nodes are not Connected any more ({state.conn})")
            elif self._ready and state.peer is Role.SECONDARY:
                self._promoting = True
                self._handover.give("take-over", self._volume, self._promoted)
        return self._over or self._promoting

    def _promoted(self, answer: Answer) -> None:
        if answer.code == Code.NEED_CONNECTION:
            self._end("the connection was lost before the peer had agreed")
        elif answer.exit_code:
            self._end(answer.text)
        else:
            pause_ms = round((self._ctx.now_ns() - self._began_ns) / 1e6)
            self._end("", f"{self._handover.own_name} is Primary after a pause of {pause_ms} ms")

    def _on_time(self) -> None:
        if self._promoting:
            return
        if self._ready:
            self._end(f"{self._handover.peer_name} did not become Secondary in time")
        else:
            self._end(
                f"{self._handover.peer_name} does not answer, as DRBD in the kernel, which does "
                "not know this command; make it Secondary there, then 'replblk primary' here"
            )

    def _end(self, why: str, well: str = "") -> None:
        self._over = True
        self._ctx.timers.cancel(self._timer)
        text = f"can't switch over to {self._handover.own_name}: {why}" if why else well
        self._handover.tell(self._volume, text)
        self._handover.say(self._volume, UUID_FLAG_DOES_NOT if why and not self.withdrawn else 0)
        self._handover.ended(self._volume)
        if self._then is not None:
            self._then(Answer(REFUSED if why else 0, text, 0 if why else 1))
