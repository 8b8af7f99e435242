"""The graceful disconnect: with the peer's consent, and with a disk outdated where fencing asks.

    we, plain ─► the peer agrees ─► StandAlone
    a Primary with fencing asks the peer to be Outdated from now on
    a Secondary whose Primary refuses (it may not be left like that) says that its own data are
    Outdated from now on; not if they are all that the Primary has

Source: states, disconnect.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.answers import refusal
from replblk.engine.context import SECOND_NS
from replblk.engine.ports import Answer, Command
from replblk.model.vocabulary import Code, ConnState
from replblk.rules.transitions import (
    DISCONNECT,
    DISCONNECT_OUTDATE_PEER,
    DISCONNECT_OUTDATE_SELF,
    StateRequest,
    outdated_by,
)

if TYPE_CHECKING:
    from replblk.engine.connection import Connection
    from replblk.engine.context import Context
    from replblk.engine.state_change import StateRequests

Then = Callable[[Answer], None]


class Disconnect:
    """Runs the command ``disconnect``."""

    def __init__(self, ctx: Context, connection: Connection, requests: StateRequests) -> None:
        self._ctx = ctx
        self._connection = connection
        self._requests = requests

    def run(self, command: Command, then: Then) -> None:
        """Leave the peer; force: without asking anybody."""
        if self._ctx.states.connection is ConnState.STANDALONE:
            then(
                Answer(10, "Invalid configuration request: unknown connection, not connected", 162)
            )
        elif command.options.get("force"):
            self._alone(None, then)
        else:
            self._attempt(DISCONNECT, then)

    def _attempt(self, wish: StateRequest, then: Then) -> None:
        code = self._judge(wish)
        if code is Code.PRIMARY_NOP and wish is DISCONNECT:
            self._attempt(DISCONNECT_OUTDATE_PEER, then)
        elif code is Code.OUTDATE_WO_CONN:
            self._alone(None, then)
        elif code < Code.SUCCESS and code is not Code.IN_TRANSIENT_STATE:
            then(refusal(code))
        elif self._ctx.states.connection is ConnState.WF_REPORT_PARAMS:
            self._requests.leave(wish, lambda answer: self._answered(wish, answer, then))
        else:
            self._alone(None, then)

    def _judge(self, wish: StateRequest) -> Code:
        """The first volume's objection, or SUCCESS."""
        for volume in self._ctx.volumes.values():
            wanted = outdated_by(volume.state.but(conn=ConnState.DISCONNECTING), wish)
            verdict = self._ctx.states.judge(volume, wanted)
            if isinstance(verdict, Code):
                return verdict
        return Code.SUCCESS

    def _answered(self, wish: StateRequest, code: Code, then: Then) -> None:
        if code >= Code.SUCCESS:
            self._alone(wish, then)
        elif code is Code.NEED_CONNECTION and wish is DISCONNECT_OUTDATE_SELF:
            # It was lost meanwhile. The Primary may have taken us for Outdated already, and begun
            # a generation on the strength of it: then so we are.
            self._alone(wish, then)
        elif code is Code.NEED_CONNECTION:  # lost meanwhile: nothing was agreed
            self._attempt(DISCONNECT, then)
        elif code is Code.CW_FAILED_BY_PEER and wish is DISCONNECT and not self._only_data():
            self._attempt(DISCONNECT_OUTDATE_SELF, then)
        elif code is Code.CW_FAILED_BY_PEER:
            then(refusal(code))
        else:
            again = "leave", SECOND_NS
            self._ctx.timers.set(*again, lambda: self._attempt(DISCONNECT, then))

    def _only_data(self) -> bool:
        """Whether the peer is a Primary that has no disk: Outdated, ours would be lost to it."""
        return any(volume.state.serves_diskless for volume in self._ctx.volumes.values())

    def _alone(self, wish: StateRequest | None, then: Then) -> None:
        self._connection.stand_alone("disconnected", wish)

        def standing() -> bool:
            if self._ctx.states.connection is not ConnState.STANDALONE:
                return False
            self._make_durable(then)
            return True

        self._ctx.when(standing)

    def _make_durable(self, then: Then) -> None:
        """Who may be promoted now is a promise: it outlasts a power cut after the answer."""
        metas = [v.meta for v in self._ctx.volumes.values() if v.meta is not None and v.has_disk]
        left = len(metas)

        def durable(_: bool) -> None:
            nonlocal left
            left -= 1
            if not left:
                then(Answer())

        for meta in metas:
            meta.sync(durable)
        if not metas:
            then(Answer())
