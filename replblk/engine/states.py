"""The state of the volumes: proposals judged by ``rules``, granted here, told to everybody.

A change is committed at once, its consequences run afterwards, in commit order: a consequence that
proposes another change does not overtake those still to run. ``after`` is the node's second table.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.notices import Level, StateChanged
from replblk.model.state import State
from replblk.model.vocabulary import CODE_TEXT, Code, ConnState, DiskState, Role
from replblk.rules.transitions import Accepted, Facts, StateRequest, change, outdated_by

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.model.config import Resource

After = Callable[["Volume", State, State], None]


class States:
    """Proposes, grants and announces state changes of all volumes of the resource."""

    def __init__(self, ctx: Context, after: After) -> None:
        self._ctx = ctx
        self._after = after
        self._changes: deque[tuple[Volume, State, State]] = deque()
        self._running = False
        self.connection = ConnState.STANDALONE
        """State of the connection itself: never above WFReportParams."""
        self.connects = 0
        """How often the parameters were exchanged."""

    def facts(self, volume: Volume) -> Facts:
        """What the rules need to know beside the state."""
        resource: Resource = self._ctx.resource
        others = [v for v in self._ctx.volumes.values() if v is not volume]
        return Facts(
            two_primaries=self._ctx.net.allow_two_primaries,
            fencing=volume.config.options.fencing,
            on_no_data=resource.on_no_data_accessible,
            verify_alg=self._ctx.net.verify_alg,
            apv=self._ctx.peer.apv,
            device_open=volume.open_count > 0,
            other_volume_peer_primary=any(v.state.peer is Role.PRIMARY for v in others),
            handshake_pending=any(v.handshaking for v in self._ctx.volumes.values()),
            has_net=resource.peer is not None,
            exposed_is_current=not volume.written_elsewhere
            and volume.was_exposed(volume.uuids.current),
            kept_disk=volume.kept_disk,
            kept_pdsk=volume.kept_pdsk,
        )

    def judge(self, volume: Volume, wanted: State, *, hard: bool = False) -> Accepted | Code:
        """What the rules say of a proposal, without carrying it out."""
        verdict = change(volume.state, wanted, self.facts(volume), hard=hard)
        return verdict if isinstance(verdict, Accepted) else verdict.code

    def propose(
        self, volume: Volume, wanted: State, why: str, *, hard: bool = False, quiet: bool = False
    ) -> Code:
        """Change a volume's state if the rules let it; the code says what became of it."""
        verdict = self.judge(volume, wanted, hard=hard)
        if not isinstance(verdict, Accepted):
            if not quiet:
                self._tell_refusal(volume, wanted, verdict)
            return verdict
        if verdict.state == volume.state:
            return Code.NOTHING_TO_DO
        for warning in verdict.warnings:
            self._ctx.tell(Level.WARNING, warning, volume.number)
        self._commit(volume, verdict.state, why)
        return Code.SUCCESS

    def force(self, volume: Volume, why: str, **changes: object) -> Code:
        """A fact, not a wish: only impossible transitions are refused."""
        return self.propose(volume, volume.state.but(**changes), why, hard=True)

    def set_connection(self, conn: ConnState, why: str, wish: StateRequest | None = None) -> None:
        """The connection itself changed, up to WFReportParams: all volumes go with it.

        wish: what was agreed about the disks beside, as part of a graceful disconnect.
        """
        assert conn <= ConnState.WF_REPORT_PARAMS
        if conn is not self.connection:
            self._ctx.tell(Level.INFO, f"conn( {self.connection} -> {conn} ) {why}".rstrip())
            self.connects += conn is ConnState.WF_REPORT_PARAMS
        self.connection = conn
        for volume in self._ctx.volumes.values():
            wanted = volume.state.but(conn=conn)
            if wish is not None:
                wanted = outdated_by(wanted, wish)
            self.propose(volume, wanted, why, hard=True)

    def _commit(self, volume: Volume, new: State, why: str) -> None:
        old, volume.state = volume.state, new
        self._ctx.ports.observer.notice(StateChanged(volume.number, old, new, why))
        self._changes.append((volume, old, new))
        if self._running:
            return
        self._running = True
        try:
            while self._changes:
                self._after(*self._changes.popleft())
        finally:
            self._running = False
        self._ctx.defer(self._ctx.ask_watchers)

    def _tell_refusal(self, volume: Volume, wanted: State, code: Code) -> None:
        tell = self._ctx.tell
        text = CODE_TEXT.get(code, str(int(code)))
        tell(Level.WARNING, f"State change failed: {text}", volume.number)
        tell(Level.WARNING, f"  state = {volume.state}", volume.number)
        tell(Level.WARNING, f" wanted = {wanted}", volume.number)


def disk_of_report(state: State, flags_inconsistent: bool) -> DiskState:
    """The peer's real disk state: one that negotiates counts as Inconsistent or Consistent."""
    if state.disk is not DiskState.NEGOTIATING:
        return state.disk
    return DiskState.INCONSISTENT if flags_inconsistent else DiskState.CONSISTENT
