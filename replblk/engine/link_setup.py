"""From no connection to two proven sockets: connect, accept, sort out crossed attempts.

Both nodes connect and listen. The side that opened a TCP connection says first what it is for:
P_INITIAL_DATA, then P_INITIAL_META. A node that was given the data socket opens the meta socket at
once; one that opened the data socket waits for it. When both nodes opened the same kind of socket
at the same moment ("crossed"), the node with the lower address keeps its own, the other keeps both
until one of them ends: two replblk nodes agree at once, and a kernel, which always takes the
newest, agrees with either. Nothing is believed until both sockets have stayed open for the check
time. Source: protocol, connect algorithm (drbd_receiver.c conn_connect, 8.4).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.context import SECOND_NS, TENTH_NS
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.wire.commands import Socket
from replblk.wire.framing import Deframer, frame_header
from replblk.wire.packets import Cmd

if TYPE_CHECKING:
    from replblk.engine.context import Context

ACCEPTED_MAX = 16
"""Accepted connections that may wait for their first packet; more are closed at once."""
EARLY_BYTES_MAX = 4096
"""What a socket may bring before both are there: no more than a peer's first few packets."""

_INITIAL: dict[Cmd, Socket] = {Cmd.P_INITIAL_DATA: "data", Cmd.P_INITIAL_META: "meta"}


class Candidate:
    """A TCP connection that may become a socket of the connection."""

    __slots__ = ("deframer", "early_bytes", "link", "ours")

    def __init__(self, link: int, ours: bool, deframer: Deframer) -> None:
        self.link = link
        self.ours = ours
        self.deframer = deframer
        self.early_bytes = 0


class LinkSetup:
    """Runs while the connection state is WFConnection; ``established`` gets the proven pair."""

    def __init__(
        self,
        ctx: Context,
        established: Callable[[Candidate, Candidate], None],
    ) -> None:
        self._ctx = ctx
        self._established = established
        self.running = False
        self._attempt: int | None = None
        self._fresh: dict[int, Deframer] = {}
        """Accepted, first packet not yet in."""
        self._sockets: dict[Socket, list[Candidate]] = {"data": [], "meta": []}

    @property
    def keeps_own(self) -> bool:
        """Whether of two crossed connections ours is the one to keep."""
        resource = self._ctx.resource
        assert resource.peer is not None
        own, peer = resource.local.address, resource.peer.address
        return (own.host, own.port) < (peer.host, peer.port)

    # -- life ---------------------------------------------------------------------------------

    def start(self, *, call: bool = True) -> None:
        """Begin to listen, and to connect: now, or (call=False) after the usual wait."""
        if self.running:
            return
        self.running = True
        self._ctx.ports.links.listen(True)
        if call:
            self._try()
        else:
            self._retry_later()

    def stop(self) -> None:
        """Give up: close whatever was begun, stop listening."""
        self.running = False
        links = self._ctx.ports.links
        links.listen(False)
        self._ctx.timers.cancel("connect-retry")
        self._ctx.timers.cancel("socket-check")
        if self._attempt is not None:
            links.close(self._attempt)
            self._attempt = None
        for link in list(self._fresh):
            self._close_fresh(link)
        for held in self._sockets.values():
            for candidate in held:
                links.close(candidate.link)
            held.clear()

    # -- events -------------------------------------------------------------------------------

    def on_connected(self, link: int) -> bool:
        """Our attempt succeeded: it becomes the socket that is still missing."""
        if link != self._attempt:
            return False
        self._attempt = None
        kind: Socket = "meta" if self._sockets["data"] else "data"
        if self._sockets[kind]:
            self._ctx.ports.links.close(link)  # the peer was faster
            return True
        cmd = Cmd.P_INITIAL_META if kind == "meta" else Cmd.P_INITIAL_DATA
        self._ctx.ports.links.send(link, frame_header(cmd, 0, 0, 80))
        self._sockets[kind].append(
            Candidate(link, True, Deframer(kind, self._ctx.ports.new_payload))
        )
        self._progress()
        return True

    def on_accepted(self, link: int) -> None:
        """Somebody connected: nothing is believed before the first packet."""
        if not self.running or len(self._fresh) >= ACCEPTED_MAX:
            self._ctx.ports.links.close(link)
            return
        self._fresh[link] = Deframer("data", self._ctx.ports.new_payload)
        wait = 4 * self._ctx.net.ping_timeout * TENTH_NS
        self._ctx.timers.set(("initial", link), wait, lambda: self._close_fresh(link))

    def on_bytes(self, link: int, data: bytes) -> bool:
        """Bytes on a connection that is being set up; False if it is none of ours."""
        begun = self._fresh.get(link)
        if begun is None:
            for candidates in self._sockets.values():
                for candidate in candidates:
                    if candidate.link == link:
                        candidate.early_bytes += len(data)
                        if candidate.early_bytes > EARLY_BYTES_MAX:
                            candidates.remove(candidate)
                            self._ctx.ports.links.close(link)
                            self._progress()
                        else:
                            candidate.deframer.feed(data)
                        return True
            return False
        begun.feed(data)
        try:
            packet = begun.next()
            if packet is not None and packet.cmd not in _INITIAL:
                raise PeerError(f"{packet.cmd.name} before the initial packet")
        except PeerError as error:
            self._ctx.tell(Level.WARNING, f"Error receiving initial packet: {error}")
            self._close_fresh(link)
            return True
        if packet is None:
            return True
        self._ctx.timers.cancel(("initial", link))
        del self._fresh[link]
        self._offered(Candidate(link, False, begun), _INITIAL[packet.cmd])
        return True

    def on_lost(self, link: int, why: str) -> bool:
        """A connection ended; False if it is none of ours."""
        if link == self._attempt:
            self._attempt = None
            self._retry_later()
            return True
        if link in self._fresh:
            self._ctx.timers.cancel(("initial", link))
            del self._fresh[link]
            return True
        for candidates in self._sockets.values():
            for candidate in candidates:
                if candidate.link == link:
                    candidates.remove(candidate)
                    self._ctx.timers.cancel("socket-check")
                    self._progress()
                    return True
        return False

    # -- steps --------------------------------------------------------------------------------

    def _offered(self, candidate: Candidate, kind: Socket) -> None:
        """The peer opened a socket of this kind."""
        candidate.deframer.socket = kind
        held = self._sockets[kind]
        if held:
            self._ctx.tell(Level.WARNING, f"initial packet {'SM'[kind == 'meta']} crossed")
        if any(c.ours for c in held) and self.keeps_own:
            self._ctx.ports.links.close(candidate.link)
            return
        for older in [c for c in held if not c.ours]:  # the peer began anew: the last one wins
            self._ctx.ports.links.close(older.link)
            held.remove(older)
        held.append(candidate)
        self._progress()

    def _progress(self) -> None:
        """Look at what is there now and do the next thing."""
        if not self.running:
            return
        timers = self._ctx.timers
        if self._sockets["data"] and self._sockets["meta"]:
            timers.cancel("connect-retry")
            net = self._ctx.net
            tenths = net.socket_check_timeout or net.ping_timeout
            timers.set("socket-check", tenths * TENTH_NS, self._check)
            return
        if self._sockets["data"] and not any(c.ours for c in self._sockets["data"]):
            if self._attempt is None:
                timers.cancel("connect-retry")
                self._try()
            return
        if self._attempt is None and not timers.pending("connect-retry"):
            self._retry_later()

    def _check(self) -> None:
        """Both sockets lived through the check time: of crossed ones the peer's is the survivor."""
        if not all(self._sockets.values()):
            self._progress()
            return
        chosen = []
        for held in self._sockets.values():
            best = next((c for c in held if not c.ours), held[0])
            chosen.append(best)
            for other in held:
                if other is not best:
                    self._ctx.ports.links.close(other.link)
            held.clear()
        self.stop()
        self._established(chosen[0], chosen[1])

    def _try(self) -> None:
        timeout = self._ctx.net.connect_int * SECOND_NS
        self._attempt = self._ctx.ports.links.connect(timeout)

    def _retry_later(self) -> None:
        """Wait about connect-int, one seventh more or less by chance, then try again."""
        base = self._ctx.net.connect_int * SECOND_NS
        spread = base // 7
        jitter = self._ctx.ports.clock.random_bits(32) % (2 * spread) - spread
        self._ctx.timers.set("connect-retry", base + jitter, self._retry)

    def _retry(self) -> None:
        if self.running and self._attempt is None:
            if self._sockets["data"] and self._sockets["meta"]:
                return
            self._try()

    def _close_fresh(self, link: int) -> None:
        del self._fresh[link]
        self._ctx.timers.cancel(("initial", link))
        self._ctx.ports.links.close(link)
