"""A switch-over on the Primary, from the wish to its answer.

    ASKED ─ the peer is ready ─► DRAINS ─ clients are gone ─► DEMOTES ─► WAITS ─ it serves ─► OVER
      └─────────────┴─ stays Primary                                       └─► TAKES_BACK ─► OVER

Until DEMOTES nothing has happened that a client would not get over. Whoever waits in vain takes the
role back, with the peer's consent; if the connection is lost while the peer was to be promoted,
as soon as a daemon that was Primary might (``resume``). Source: decision 16.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from itertools import pairwise
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS
from replblk.engine.ports import Answer, Command
from replblk.model.vocabulary import ConnState, Role
from replblk.rules.handover import hinders_giving
from replblk.wire.packets import (
    UUID_FLAG_DOES_NOT,
    UUID_FLAG_HANDS_OVER,
    UUID_FLAG_TAKES_OVER,
)

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.handover import Handover
    from replblk.engine.role_change import RoleChange
    from replblk.engine.volume import Volume

Then = Callable[[Answer], None]

ASK_NS = 5 * SECOND_NS
"""How long the peer may take to say that it is ready. Clients are served meanwhile."""
TIMEOUT_S = 30
"""How long clients' requests, and then the peer's promotion, may take, together."""
TAKE_BACK_TRIES = 5
REFUSED, TOO_LATE = 11, 5
"""Exit statuses."""


class _Step(Enum):
    ASKED = auto()
    DRAINS = auto()
    DEMOTES = auto()
    WAITS = auto()
    TAKES_BACK = auto()
    OVER = auto()


class Giving:
    """One volume's role on its way to the peer."""

    def __init__(
        self,
        ctx: Context,
        handover: Handover,
        roles: RoleChange,
        volume: Volume,
        command: Command,
        then: Then,
    ) -> None:
        self._ctx = ctx
        self._handover = handover
        self._roles = roles
        self._volume = volume
        self._command = command
        self._then = then
        seconds = command.options.get("timeout_s", TIMEOUT_S)
        assert isinstance(seconds, int)
        self._limit_s = seconds
        self._timer = ("handover", volume.number)
        self._step = _Step.ASKED
        self._began_ns = self._drained_ns = self._demoted_ns = 0
        self._late = False
        self._why = ""
        self._tries = 0
        self._peer_serves = False

    def begin(self) -> None:
        """Is the peer one that understands, and ready?"""
        self._ctx.timers.set(self._timer, ASK_NS, self._on_time)
        self._handover.say(self._volume, UUID_FLAG_HANDS_OVER)
        self._ctx.when(self._look)

    def peer_said(self, flags: int) -> None:
        """P_UUIDS: ready, or not; after its promotion, nothing any more."""
        if flags & UUID_FLAG_DOES_NOT:
            self._refused(f"{self._handover.peer_name} can't take over: its log says why")
        elif self._step is _Step.ASKED and flags & UUID_FLAG_TAKES_OVER:
            self._send_away()
        elif not flags & UUID_FLAG_TAKES_OVER and self._volume.state.peer is Role.PRIMARY:
            self._peer_serves = True
            self._look()

    # -- forth --------------------------------------------------------------------------------

    def _send_away(self) -> None:
        self._began_ns = self._ctx.now_ns()
        why = hinders_giving(self._volume.state)
        why = why or self._ctx.ports.clients.send_away(self._volume.number)
        if why:
            self._stays(why)
            return
        self._step = _Step.DRAINS
        self._volume.serving = False
        self._ctx.timers.set(self._timer, self._limit_s * SECOND_NS, self._on_time)
        self._ctx.when(self._gone)

    def _gone(self) -> bool:
        if self._step is _Step.DRAINS and not self._volume.open_count:
            self._drained_ns = self._ctx.now_ns()
            self._step = _Step.DEMOTES
            self._ctx.defer(self._demote)
        return self._step is not _Step.DRAINS

    def _demote(self) -> None:
        self._roles.secondary(self._volume, self._command, self._demoted)

    def _demoted(self, answer: Answer) -> None:
        self._demoted_ns = self._ctx.now_ns()
        if answer.exit_code:
            self._stays(answer.text)
            return
        self._step = _Step.WAITS
        if self._why:
            self._take_back(self._why)
        elif self._late:
            self._on_time()
        else:
            self._look()

    def _look(self) -> bool:
        """After every change of state: is it done, or is the connection lost?"""
        state = self._volume.state
        if self._over:
            return True
        if state.conn < ConnState.CONNECTED:
            if self._step in (_Step.ASKED, _Step.DRAINS):
                self._stays("the connection was lost")
            elif self._step is _Step.WAITS:
                self._lost()
        elif self._step is _Step.WAITS and self._peer_serves and state.peer is Role.PRIMARY:
            self._done()
        return self._over

    def _done(self) -> None:
        moments = (self._began_ns, self._drained_ns, self._demoted_ns, self._ctx.now_ns())
        gone, secondary, primary = (round((end - begin) / 1e6) for begin, end in pairwise(moments))
        text = (
            f"{self._handover.peer_name} is Primary after a pause of {self._pause_ms} ms "
            f"(clients {gone}, secondary {secondary}, primary {primary})"
        )
        self._end(Answer(0, text))

    # -- not --------------------------------------------------------------------------------

    def _on_time(self) -> None:
        peer = self._handover.peer_name
        if self._step is _Step.ASKED:
            self._stays(
                f"{peer} does not answer, as DRBD in the kernel, which does not know this command; "
                "take the clients off, then 'replblk secondary' here and make it Primary there"
            )
            return
        self._late = True
        if self._step is _Step.DRAINS:
            self._stays(f"clients' requests did not end within {self._limit_s} s")
        elif self._step is _Step.WAITS:
            self._take_back(f"{peer} did not become Primary within {self._limit_s} s")

    def _refused(self, why: str) -> None:
        if self._step in (_Step.ASKED, _Step.DRAINS):
            self._stays(why)
        elif self._step is _Step.DEMOTES:
            self._why = why
        elif self._step is _Step.WAITS:
            self._take_back(why)

    def _stays(self, why: str) -> None:
        """Still Primary: as if nothing had happened."""
        self._volume.serving = self._volume.primary
        self._handover.say(self._volume, UUID_FLAG_DOES_NOT)
        text = f"can't switch over to {self._handover.peer_name}: {why}; this node stays Primary"
        self._end(Answer(TOO_LATE if self._late else REFUSED, text, 0))

    def _take_back(self, why: str) -> None:
        self._why = why
        self._step = _Step.TAKES_BACK
        self._handover.say(self._volume, UUID_FLAG_DOES_NOT)  # before our request, on one socket
        self._try_back()

    def _try_back(self) -> None:
        self._tries += 1
        state = self._volume.state
        if state.conn < ConnState.CONNECTED:
            self._lost()
        elif state.peer is not Role.PRIMARY:
            options: dict[str, object] = {"with_peer": True}
            command = Command(self._command.number, "primary", self._volume.number, options)
            self._roles.primary(self._volume, command, self._back)
        elif self._peer_serves or self._tries > TAKE_BACK_TRIES:
            self._done()  # it came about after all
        else:
            self._ctx.timers.set(self._timer, SECOND_NS, self._try_back)

    def _back(self, answer: Answer) -> None:
        if not answer.exit_code:
            text = f"{self._why}; this node is Primary again after a pause of {self._pause_ms} ms"
            self._end(Answer(TOO_LATE if self._late else REFUSED, text, 0))
        elif self._tries < TAKE_BACK_TRIES:
            self._ctx.timers.set(self._timer, SECOND_NS, self._try_back)
        else:
            text = f"{self._why}; and this node can't become Primary again: {answer.text}"
            self._end(Answer(REFUSED, text, 0))

    def _lost(self) -> None:
        """Whether the peer was promoted is not known: what ``resume_primary`` does is safe."""
        self._handover.resume(self._volume, self._resumed)
        text = (
            f"the connection was lost while {self._handover.peer_name} was to become Primary: this "
            "node is Secondary, and becomes Primary again once the nodes are connected and the "
            "peer is not Primary"
        )
        self._end(Answer(REFUSED, text, 0))

    def _resumed(self, answer: Answer) -> None:
        self._handover.tell(self._volume, answer.text or "this node is Primary again")

    # -- the end ------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self._step is _Step.OVER

    @property
    def _pause_ms(self) -> int:
        return round((self._ctx.now_ns() - self._began_ns) / 1e6)

    def _end(self, answer: Answer) -> None:
        self._step = _Step.OVER
        self._ctx.timers.cancel(self._timer)
        self._handover.tell(self._volume, answer.text)
        self._handover.ended(self._volume)
        self._then(answer)
