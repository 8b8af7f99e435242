"""The life of the connection: StandAlone, connecting, established, broken, back again.

StandAlone ─ start ─► Unconnected ─► WFConnection ─ sockets, features ─► WFReportParams
broken: BrokenPipe | NetworkFailure | ProtocolError | Timeout | TearDown ─► writes settled, old
disk I/O of the peer drained ─► Unconnected ─► WFConnection, by itself
StandAlone again: on disconnect, and when the nodes can't agree; then only a command helps
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS
from replblk.engine.link_setup import Candidate, LinkSetup
from replblk.model.notices import Level
from replblk.model.vocabulary import ConnState

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.rules.transitions import StateRequest

REFUSALS_TOLD_NS = 60 * SECOND_NS
"""How often the same reason to refuse a connection is told while nothing else happens."""
PARTING_NS = SECOND_NS
"""How long sockets stay open after a verdict that the peer has to reach by itself."""


class Connection:
    """begin(data, meta): the features exchange takes over.

    ends(): the connection is about to go, paths may look at what was under way; settle(): they drop
    what they had.
    """

    def __init__(
        self,
        ctx: Context,
        begin: Callable[[Candidate, Candidate], None],
        ends: Callable[[], None],
        settle: Callable[[], None],
    ) -> None:
        self._ctx = ctx
        self._begin = begin
        self._ends = ends
        self._settle = settle
        self.setup = LinkSetup(ctx, self._established)
        self.after_drain: Callable[[], None] | None = None
        """While there is anything, ``check_drained`` is to be asked at the end of every step."""
        self._parting: set[int] = set()
        """Sockets of a connection that was given up and that the peer may still read from."""
        self._refusals = 0
        """Connections in a row that ended before anything was agreed."""
        self._told_ns = 0
        self.last_failure = ""
        """Why the connection ended last, for people."""

    # -- up -----------------------------------------------------------------------------------

    def start(self, why: str) -> None:
        """Leave StandAlone and look for the peer."""
        assert self._ctx.states.connection is ConnState.STANDALONE
        self._ctx.states.set_connection(ConnState.UNCONNECTED, why)
        self._wait_for_peer()

    def _wait_for_peer(self) -> None:
        self._ctx.states.set_connection(ConnState.WF_CONNECTION, "")
        self.setup.start()

    def _established(self, data: Candidate, meta: Candidate) -> None:
        self._begin(data, meta)

    def retry(self, why: str) -> None:
        """Nothing was agreed yet: close the sockets; listen at once, call again a little later.

        So the peer itself gets through while somebody else keeps knocking.
        """
        again, self._refusals = why == self.last_failure, self._refusals + 1
        now_ns = self._ctx.now_ns()
        if not again or now_ns - self._told_ns >= REFUSALS_TOLD_NS:
            more = f" (attempt {self._refusals} in a row)" if self._refusals > 1 else ""
            self._ctx.tell(Level.WARNING, why + more)
            self._told_ns = now_ns
        self.last_failure = why
        self._ctx.peer.drop()
        self.setup.start(call=False)

    # -- down ---------------------------------------------------------------------------------

    def broken(self, state: ConnState, why: str) -> None:
        """The connection failed: settle, then look for the peer again."""
        connection = self._ctx.states.connection
        if connection is ConnState.WF_CONNECTION:
            if self._ctx.peer.up:
                self.retry(why)
            return
        if connection is not ConnState.WF_REPORT_PARAMS:
            return
        self._refusals = 0
        self.last_failure = why
        self._end(state, why)
        self._when_drained(self._reconnect)

    def tear_down(self, why: str) -> None:
        """The peer asked for a graceful disconnect and was answered."""
        self.broken(ConnState.TEAR_DOWN, why)

    def stand_alone(self, why: str, wish: StateRequest | None = None) -> None:
        """Give the connection up until an administrator says ``connect``.

        wish: the graceful disconnect that the peer agreed to, which may outdate a disk.
        """
        if self._ctx.states.connection in (ConnState.STANDALONE, ConnState.DISCONNECTING):
            return
        self.last_failure = why
        self.setup.stop()
        self._end(ConnState.DISCONNECTING, why, wish)
        self._when_drained(lambda: self._ctx.states.set_connection(ConnState.STANDALONE, why))

    def disagree(self, why: str) -> None:
        """Both nodes know by now that they can't agree: StandAlone, and let the peer find out.

        A peer that sees a socket closed before it has read what we sent takes that for a failure
        of the network, and tries again for ever instead of standing alone too.
        """
        links = [link for link in (self._ctx.peer.data, self._ctx.peer.meta) if link is not None]
        self._parting.update(links)
        self._ctx.peer.forget()
        self.stand_alone(why)
        if links:
            self._ctx.timers.set(("parting", *links), PARTING_NS, lambda: self._part(links))

    def _part(self, links: list[int]) -> None:
        for link in links:
            if link in self._parting:
                self._parting.remove(link)
                self._ctx.ports.links.close(link)

    def _end(self, state: ConnState, why: str, wish: StateRequest | None = None) -> None:
        self._ends()
        self._ctx.peer.drop()
        for volume in self._ctx.volumes.values():
            volume.handshaking = False
            volume.consider_resync = False
        self._ctx.states.set_connection(state, why, wish)
        self._settle()
        for volume in self._ctx.volumes.values():
            if volume.meta is not None and volume.has_disk:
                volume.meta.write_bitmap()

    def _reconnect(self) -> None:
        self._ctx.states.set_connection(ConnState.UNCONNECTED, "")
        self._wait_for_peer()

    # -- draining -----------------------------------------------------------------------------

    def _when_drained(self, then: Callable[[], None]) -> None:
        """Nothing the old connection writes to our disks may still be running in the new one.

        Its reads may: they can wait for a suspended write, and nobody hears of what they read.
        """
        self.after_drain = then
        self.check_drained()

    def check_drained(self) -> None:
        """What waits for the peer's requests to be answered goes on when they are."""
        if self.after_drain is not None and not any(
            volume.unacked > volume.peer_reads for volume in self._ctx.volumes.values()
        ):
            then, self.after_drain = self.after_drain, None
            then()

    # -- events of links ----------------------------------------------------------------------

    def on_link_connected(self, link: int) -> None:
        """An outgoing connection was made."""
        if not self.setup.on_connected(link):
            self._ctx.ports.links.close(link)

    def on_link_accepted(self, link: int) -> None:
        """An incoming connection was made."""
        self.setup.on_accepted(link)

    def on_link_bytes(self, link: int, data: bytes) -> None:
        """Bytes came in: for the established pair, or for a connection being set up."""
        if not self._ctx.peer.received(link, data):
            self.setup.on_bytes(link, data)

    def on_link_lost(self, link: int, why: str) -> None:
        """A connection ended without our doing."""
        if link in self._parting:
            self._parting.remove(link)
            return
        peer = self._ctx.peer
        if link == peer.data:
            self.broken(ConnState.BROKEN_PIPE, f"data socket: {why}")
        elif link == peer.meta:
            self.broken(ConnState.NETWORK_FAILURE, f"meta socket: {why}")
        else:
            self.setup.on_lost(link, why)

    def on_listen_failed(self, why: str) -> None:
        """Our address can't be had: without it the peer can't reach us, so say so and give up."""
        self._ctx.tell(Level.ERROR, f"can't listen: {why}")
        self.stand_alone(f"can't listen: {why}")
