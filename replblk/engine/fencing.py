"""Fencing: a Primary that lost its peer makes sure, by a handler, that nobody uses the peer's data.

    connection lost ─► [resource-and-stonith: I/O frozen] ─► handler fence-peer ─► its exit status:
    3, 4, 5, 7: the peer's data are not used ─► new generation durable ─► I/O goes on
    6: the peer is Primary; others: not known ─► nothing changes, frozen I/O stays frozen
    peer back first ─► its answer is ignored, frozen writes are sent again

Also the ways in which suspended I/O goes on (``thaw``). Source: states, fencing; suspending I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.notices import Level
from replblk.model.vocabulary import Code, ConnState, DiskState, Fencing

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.engine.write_origin import WriteOrigin
    from replblk.rules.generations import Rotation

Then = Callable[[bool], None]
BeginGeneration = Callable[["Volume", "Rotation"], None]


class PeerFencing:
    """One fence-peer at a time; whoever needs its outcome meanwhile waits for the same one."""

    def __init__(self, ctx: Context, writes: WriteOrigin, begin: BeginGeneration) -> None:
        self._ctx = ctx
        self._writes = writes
        self._begin = begin
        self._waiting: list[Then] = []
        self._due = False

    @property
    def policy(self) -> Fencing | None:
        """The strongest policy of the volumes whose data are worth protecting; None: none is."""
        policies = [
            volume.config.options.fencing
            for volume in self._ctx.volumes.values()
            if volume.state.disk >= DiskState.CONSISTENT
        ]
        return max(policies, default=None)

    # -- fence and unfence --------------------------------------------------------------------

    def lost_peer(self) -> None:
        """A Primary lost its peer: fence it, once every volume knows of the loss."""
        if not self._due:
            self._due = True
            self._ctx.defer(self._fence_after_loss)

    def _fence_after_loss(self) -> None:
        self._due = False
        if self.policy is not Fencing.DONT_CARE:
            self.outdate_peer(lambda ok: None)

    def outdate_peer(self, then: Then) -> None:
        """Have the peer fenced; *then* hears whether its data are known not to be used."""
        ctx, policy = self._ctx, self.policy
        if ctx.states.connection >= ConnState.WF_REPORT_PARAMS:
            then(False)  # it is there: ask it instead
        elif policy is None:
            ctx.tell(Level.WARNING, "Not fencing peer, I'm not even Consistent myself.")
            for volume in ctx.volumes.values():
                if volume.state.susp_fen:
                    self.thaw(volume, "not fencing", susp_fen=False)
            then(False)
        elif policy is Fencing.DONT_CARE:
            then(True)
        else:
            self._waiting.append(then)
            if len(self._waiting) == 1:
                connects = ctx.states.connects
                ctx.handlers.call("fence-peer", None, lambda code: self._answered(code, connects))

    def _answered(self, exit_code: int, connects: int) -> None:
        states = self._ctx.states
        if states.connects != connects or states.connection >= ConnState.WF_REPORT_PARAMS:
            self._ctx.tell(Level.INFO, "Ignoring fence-peer exit code: the peer is back")
            frozen = any(volume.state.susp_fen for volume in self._ctx.volumes.values())
            if frozen and states.connection < ConnState.WF_REPORT_PARAMS:
                self.lost_peer()  # and gone once more
        else:
            self._judge(exit_code)
        volumes = self._ctx.volumes.values()
        fenced = all(volume.state.pdsk <= DiskState.OUTDATED for volume in volumes)
        waiting, self._waiting = self._waiting, []
        for then in waiting:
            then(fenced)

    def _judge(self, exit_code: int) -> None:
        """What fence-peer found out, as states."""
        mine = [volume.state.disk for volume in self._ctx.volumes.values()]
        if exit_code == 3:
            self._peer_is(DiskState.INCONSISTENT, 3, "peer is inconsistent or worse")
        elif exit_code == 4:
            self._peer_is(DiskState.OUTDATED, 4, "peer was fenced")
        elif exit_code == 5 and DiskState.UP_TO_DATE in mine:
            self._peer_is(DiskState.OUTDATED, 5, "peer is unreachable, assumed to be dead")
        elif exit_code == 5:
            self._say(5, "peer unreachable, doing nothing since disk != UpToDate")
        elif exit_code == 6:
            self._say(6, "peer is active")
            self._outdate_self()
        elif exit_code == 7:
            if self.policy is not Fencing.RESOURCE_AND_STONITH:
                self._ctx.tell(
                    Level.ERROR, "fence-peer helper returned 7 although fencing is not stonith"
                )
            self._peer_is(DiskState.OUTDATED, 7, "peer was stonithed")
        elif not self._ctx.handlers.configured("fence-peer"):
            self._ctx.tell(
                Level.ERROR,
                f"fencing is {self.policy}, but no handler fence-peer is configured: nobody can "
                "tell whether the peer's data are in use",
            )
        else:
            self._ctx.tell(Level.ERROR, f"fence-peer helper broken, returned {exit_code}")
        if any(volume.state.susp_fen for volume in self._ctx.volumes.values()):
            self._ctx.tell(
                Level.ERROR,
                "I/O stays frozen: the peer is not known to be fenced. It goes on when the peer is "
                "back; or make sure that the peer is down, then use resume-io",
            )

    def _say(self, exit_code: int, meaning: str) -> None:
        self._ctx.tell(Level.WARNING, f"fence-peer helper returned {exit_code} ({meaning})")

    def _peer_is(self, disk: DiskState, exit_code: int, meaning: str) -> None:
        self._say(exit_code, meaning)
        for volume in self._ctx.volumes.values():
            if volume.state.pdsk > disk:
                wanted = volume.state.but(pdsk=disk)
                self._ctx.states.propose(volume, wanted, f"fence-peer: {meaning}")

    def _outdate_self(self) -> None:
        """The peer is Primary: our data are old, unless we are Primary, too."""
        volumes = list(self._ctx.volumes.values())
        wanted = [volume.state.but(disk=DiskState.OUTDATED) for volume in volumes]
        for volume, state in zip(volumes, wanted, strict=True):
            if isinstance(self._ctx.states.judge(volume, state), Code):
                self._ctx.states.propose(volume, state, "fence-peer: peer is active")
                return
        for volume, state in zip(volumes, wanted, strict=True):
            self._ctx.states.propose(volume, state, "fence-peer: peer is active")

    def resync_finished(self) -> None:
        """We made the peer UpToDate again: whoever fenced it may let it go."""
        good = DiskState.UP_TO_DATE
        whole = all(v.state.disk is v.state.pdsk is good for v in self._ctx.volumes.values())
        if whole and self.policy not in (None, Fencing.DONT_CARE):
            self._ctx.handlers.call("unfence-peer")

    # -- suspended I/O ------------------------------------------------------------------------

    def thaw(self, volume: Volume, why: str, **susp: bool) -> None:
        """I/O goes on without the peer: a planned generation begins, frozen writes are settled.

        susp: the flags to clear, e.g. ``susp_fen=False``.
        """
        planned, volume.generation_planned = volume.generation_planned, None
        if planned is not None:
            self._begin(volume, planned)
        self._writes.thaw(volume, resend=False)
        self._ctx.states.force(volume, why, **susp)

    def peer_restarted(self, volume: Volume) -> None:
        """It is there, and may lack what it acknowledged: a new generation, so that it is resynced.

        I/O stays frozen until that has begun, or somebody fences it: it is lost once more, now.
        """
        planned, volume.generation_planned = volume.generation_planned, None
        if planned is not None:
            self._begin(volume, planned)

    def peer_is_back(self, volume: Volume) -> None:
        """Connected again before anything was decided: nothing happened that the peer missed.

        Unless it came back without good data: then it misses what is frozen, and the generation
        that tells so begins before that is answered.
        """
        state = volume.state
        if state.conn is ConnState.CONNECTED and state.pdsk is not DiskState.UP_TO_DATE:
            self.peer_restarted(volume)
        volume.generation_planned = None
        self._writes.thaw(volume, resend=True)
