"""Serves exports to NBD clients over unix sockets and TCP, on asyncio's loop or uvloop's.

One ``BufferedProtocol`` a connection, no task a request: every complete request of a receive is
carried out in one go, and the replies of a turn of the loop leave together. A connection stops
being read while its requests in flight, or the replies its client does not read, are at their
limit, so a client can only hold up itself. What a connection does wrong ends that connection.

Limits: 10 s for the handshake, 10 s for a client to take the last replies, and numbers of
connections as ``Server`` is told. Times are seconds. Everything runs in the loop's thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import Callable
from functools import partial
from typing import cast

from nbd.activation import ActivationError, activated_sockets
from nbd.address import Address, AddressError, checked_path
from nbd.alignment import AlignedExport, RangeLocks
from nbd.export import Export, Exports
from nbd.handshake import Handshake, Opened, Tls
from nbd.socket_files import ListenError, remove_stale
from nbd.transmission import REPLIES_MAX, Transmission

__all__ = ["Connection", "ListenError", "Server"]

HANDSHAKE_S = 10.0
LINGER_S = 10.0
BACKLOG = 512
RECEIVE_BYTES = 1 << 20
SOCKET_BUFFER_BYTES = 4 << 20
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 60, 10, 6
"""A TCP client whose host has vanished is noticed after two minutes, and its export let go."""

log = logging.getLogger("nbd.server")


class Server:
    """Listeners and connections for one set of exports.

    connections_max: more are closed at once. half_open_max: connections that have not finished
    their handshake; one more ends the oldest, so idle strangers never keep a client out. tls: a
    context as nbd.tls makes it; it may be exchanged at any time, for connections to come.
    tls_required: nothing is told or served without TLS. soon: calls what it is given after all that
    is being done now, once, on the loop's thread; by default in the loop's next turn.
    """

    def __init__(
        self,
        exports: Exports,
        *,
        connections_max: int = 256,
        half_open_max: int = 64,
        handshake_s: float = HANDSHAKE_S,
        linger_s: float = LINGER_S,
        tls: ssl.SSLContext | None = None,
        tls_required: bool = False,
        soon: Callable[[Callable[[], None]], object] | None = None,
    ) -> None:
        if tls_required and tls is None:
            raise ValueError("TLS can't be required without a context for it")
        self.tls = tls
        self.tls_required = tls_required
        self.exports = exports
        self.handshake_s = handshake_s
        self.linger_s = linger_s
        self.connections_max = connections_max
        self.half_open_max = half_open_max
        self.stopping = False
        self.soon = soon
        self._listeners: list[asyncio.AbstractServer] = []
        self._socket_files: list[tuple[str, tuple[int, int]]] = []
        self._connections: dict[Connection, None] = {}
        self._half_open: dict[Connection, None] = {}  # oldest first
        self._locks: dict[str, RangeLocks] = {}
        self._none_served = asyncio.Event()
        self._none_left = asyncio.Event()
        self._none_served.set()
        self._none_left.set()
        # One buffer for all connections: each is filled and used up within one callback.
        self.receive_buffer = memoryview(bytearray(RECEIVE_BYTES))

    async def listen(self, address: Address) -> Address:
        """Listen on a parsed address; returns it with the port that port 0 became."""
        if address.path:
            await self.listen_unix(address.path)
            return address
        return Address(host=address.host, port=await self.listen_tcp(address.host, address.port))

    async def listen_unix(self, path: str, mode: int = 0o660) -> None:
        """Listen on a unix socket; a leading NUL means an abstract one. Raises ListenError.

        A socket file that nobody answers on is replaced; any other file is left alone.
        """
        shown = str(Address(path=path))
        try:
            checked_path(shown, path)
        except AddressError as bad:
            raise ListenError(f"cannot listen on {bad}") from bad
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            if path.startswith("\0"):
                sock.bind(path)
            else:
                remove_stale(path)
                sock.bind(path)
                os.chmod(path, mode)
                found = os.stat(path)
                self._socket_files.append((path, (found.st_dev, found.st_ino)))
            loop = asyncio.get_running_loop()
            server = await loop.create_unix_server(
                partial(Connection, self), sock=sock, backlog=BACKLOG
            )
        except OSError as bad:
            sock.close()
            raise ListenError(f"cannot listen on {shown}: {bad.strerror or bad}") from bad
        except ListenError:
            sock.close()
            raise
        self._listeners.append(server)

    async def listen_tcp(self, host: str, port: int) -> int:
        """Listen on every address of *host*, IPv4 or IPv6; returns the port (0 asks for a free
        one). Raises ListenError."""
        loop = asyncio.get_running_loop()
        try:
            server = await loop.create_server(
                partial(Connection, self), host, port, backlog=BACKLOG
            )
        except OSError as bad:
            shown = Address(host=host, port=port)
            raise ListenError(f"cannot listen on {shown}: {bad.strerror or bad}") from bad
        self._listeners.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def listen_activated(self) -> list[str]:
        """Listen on the sockets that systemd has opened for this process; returns their names, one
        each, "" where it gave none. Raises ListenError."""
        try:
            found = activated_sockets()
        except ActivationError as bad:
            raise ListenError(f"cannot listen on what socket activation gave: {bad}") from bad
        loop = asyncio.get_running_loop()
        for _name, sock in found:
            make = partial(Connection, self)
            if sock.family == socket.AF_UNIX:  # whose file belongs to systemd
                self._listeners.append(await loop.create_unix_server(make, sock=sock))
            else:
                self._listeners.append(await loop.create_server(make, sock=sock))
        return [name for name, _sock in found]

    @property
    def connections(self) -> int:
        """Connections of any kind at this moment."""
        return len(self._connections)

    def clients(self, chosen: Callable[[str], bool] = lambda name: True) -> int:
        """Connections that are in transmission on an export whose name is chosen."""
        names = [c.export_name for c in self._connections if c.export_name is not None]
        return sum(1 for name in names if chosen(name))

    def drop(self, chosen: Callable[[str], bool], grace_s: float = 0.0) -> int:
        """Disconnect the clients of the chosen exports; returns how many there were.

        With a grace, requests in flight may finish within it while new ones get ESHUTDOWN;
        without, the connections end at once and what is in flight is in doubt for the client.
        """
        found = [
            c for c in self._connections if c.export_name is not None and chosen(c.export_name)
        ]
        for connection in found:
            connection.stop(grace_s)
        return len(found)

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop listening; let requests in flight finish within the grace, then end everything."""
        self.stopping = True
        for server in self._listeners:
            server.close()
        self._listeners.clear()
        for path, identity in self._socket_files:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(path)
                if (found.st_dev, found.st_ino) == identity:
                    os.unlink(path)
        self._socket_files.clear()
        for connection in list(self._connections):
            connection.stop(grace_s)
        await self._none_served.wait()
        for connection in list(self._connections):  # those who were still in the handshake
            connection.abort("the server is shutting down")
        await self._none_left.wait()

    @property
    def tls_offer(self) -> Tls:
        """What a new connection is offered."""
        if self.tls is None:
            return Tls.OFF
        return Tls.REQUIRED if self.tls_required else Tls.OFFERED

    def admit(self, connection: Connection) -> bool:
        """A new connection: is there room for it?"""
        if self.stopping or len(self._connections) >= self.connections_max:
            log.info("a connection was refused: %d are open", len(self._connections))
            return False
        if len(self._half_open) >= self.half_open_max:
            oldest = next(iter(self._half_open))
            del self._half_open[oldest]
            oldest.abort("too many clients are idle in the handshake")
        self._connections[connection] = None
        self._half_open[connection] = None
        self._none_left.clear()
        return True

    def entered(self, connection: Connection) -> None:
        """A connection has finished its handshake."""
        self._half_open.pop(connection, None)
        self._none_served.clear()

    def forget(self, connection: Connection) -> None:
        """A connection has ended."""
        self._half_open.pop(connection, None)
        self._connections.pop(connection, None)
        if not self.clients():
            self._none_served.set()
        if not self._connections:
            self._none_left.set()

    def aligned(self, export: Export) -> Export:
        """The export as a client of any alignment may use it."""
        if export.geometry.minimum_block == 1:
            return export
        locks = self._locks.setdefault(export.geometry.identity, RangeLocks())
        return AlignedExport(export, locks)


class Connection(asyncio.BufferedProtocol):
    """One client: moves bytes between a transport and its Handshake, then its Transmission."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._handshake = Handshake(server.exports, server.tls_offer)
        self._transmission: Transmission | None = None
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._rest: bytes | memoryview = b""
        """Received and not yet used; long only while reading is paused."""
        self._reading = True
        self._writable = True
        self._turn_due = False
        self._no_more_input = False  # the client's side is closed, or the server is stopping
        self._ending = False  # nothing more is parsed: the last replies, then the end
        self._gone = False
        self._lost = False
        self._tls_context = server.tls
        self._tls: asyncio.Task[None] | None = None  # set from STARTTLS on
        self._tls_listens = False  # what comes from here on has come through TLS
        self.export_name: str | None = None

    # --- what the transport tells ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport = cast(asyncio.Transport, transport)
        if not self._server.admit(self):
            self.abort("")
            return
        _tune(transport.get_extra_info("socket"))
        transport.set_write_buffer_limits(high=REPLIES_MAX)
        self._arm(self._server.handshake_s, "the handshake took too long")
        self._send()

    def get_buffer(self, sizehint: int) -> memoryview:
        rest = self._rest
        if not rest:
            return self._server.receive_buffer
        self._server.receive_buffer[: len(rest)] = rest
        return self._server.receive_buffer[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._gone or self._ending:
            return
        filled = self._server.receive_buffer[: len(self._rest) + nbytes]
        if self._handshake.starting_tls:
            if self._tls_listens:  # already through TLS, before start_tls has told that it is done
                self._rest = bytes(filled)
            else:
                self.abort("the client sent bytes in clear after STARTTLS")
            return
        used = self._feed(filled)
        self._rest = bytes(filled[used:])
        if self._handshake.starting_tls:
            self._start_tls()
        else:
            self._settle()

    def eof_received(self) -> bool:
        """The client will send no more: answer what it sent, then close."""
        self._no_more_input = True
        if not self._gone:
            self._settle()
        return self._tls is None  # TLS has no half of a connection

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._gone = self._lost = True
        self._disarm()
        if self._transmission is not None:
            if exc is not None:
                log.info("a client of export %r is gone: %s", self.export_name, exc)
            self._transmission.close()
        self._server.forget(self)

    # --- what the server asks ---

    def stop(self, grace_s: float) -> None:
        """Answer no more requests but with SHUTDOWN, and end within *grace_s* seconds."""
        self._handshake.stopping = True
        if grace_s <= 0:
            self.abort("")
        elif self._transmission is not None and not self._ending and not self._gone:
            self._transmission.stopping = True
            self._arm(grace_s, "requests did not finish before the end of service")
            self._stop_reading()
            self._no_more_input = True
            self._turn()

    def abort(self, why: str) -> None:
        """End at once."""
        if why:
            log.debug("a connection was ended: %s", why)
        self._gone = True
        self._transport.abort()

    # --- the work ---

    def _start_tls(self) -> None:
        if self._rest:
            self.abort("the client sent bytes in clear after STARTTLS")
        else:
            self._tls = self._loop.create_task(self._make_tls())

    async def _make_tls(self) -> None:
        """The acknowledgement leaves here, in one step with what start_tls does first: so nothing
        that answers it can arrive before TLS listens."""
        assert self._tls_context is not None, "STARTTLS was agreed to without a context"
        try:
            if self._gone:
                return
            self._send()
            self._tls_listens = True
            transport = await self._loop.start_tls(
                self._transport,
                self,
                self._tls_context,
                server_side=True,
                ssl_handshake_timeout=self._server.handshake_s,
                ssl_shutdown_timeout=self._server.linger_s,
            )
        except OSError as bad:  # ssl.SSLError is one
            self.abort(f"TLS did not come about: {bad}")
            self.connection_lost(None)  # which nobody else will say
            return
        if self._gone or transport is None:  # aborted meanwhile, which start_tls takes lightly
            self.connection_lost(None)
            return
        self._transport = transport
        transport.set_write_buffer_limits(high=REPLIES_MAX)
        self._handshake.tls_is_running()
        self._turn()

    def _feed(self, data: memoryview) -> int:
        """Use up received bytes as far as the limits allow; returns how many were used."""
        used = 0
        while True:
            stage = self._transmission or self._handshake
            used += stage.receive(data[used:])
            if self._handshake.starting_tls:
                return used
            was_full = stage.full
            self._send()
            if stage is self._handshake and self._handshake.opened is not None:
                self._enter(self._handshake.opened)
            elif not was_full or stage.full or not self._writable:
                return used
            # else: it was full of replies only, which have left

    def _enter(self, opened: Opened) -> None:
        self._disarm()
        self._server.entered(self)
        self.export_name = opened.name
        self._transmission = Transmission(
            self._server.aligned(opened.export),
            structured=opened.structured,
            promised_alignment=opened.keeps_block_sizes,
            wake=self._wake,
            contexts=opened.contexts,
            extended=opened.extended,
        )

    def _wake(self) -> None:
        """Replies are ready: send them, with all others of this turn of the loop."""
        if not self._turn_due and not self._gone:
            self._turn_due = True
            (self._server.soon or self._loop.call_soon)(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self._gone:
            return
        self._send()
        if self._rest and self._writable and not self._ending:
            rest = memoryview(self._rest)
            self._rest = rest[self._feed(rest) :]
        self._settle()

    def _send(self) -> None:
        replies = (self._transmission or self._handshake).take()
        if not replies:
            return
        if len(replies) == 1:
            self._transport.write(replies[0])
        else:
            self._transport.writelines(replies)

    def _settle(self) -> None:
        """After any work: is it time to end, to stop reading, or to read on?"""
        stage = self._transmission or self._handshake
        held = stage.full or not self._writable
        if not self._ending and (stage.ended is not None or (self._no_more_input and not held)):
            if stage.ended:
                level = logging.INFO if self._transmission else logging.DEBUG
                log.log(level, "a connection was ended: %s", stage.ended)
            self._ending = True
            self._rest = b""
        if self._ending:
            self._stop_reading()
            if self._transmission is None or not self._transmission.in_flight:
                self._transport.close()  # after what is written has left
                if self._timer is None:
                    self._arm(self._server.linger_s, "the client does not take its last replies")
        elif held:
            self._stop_reading()
        elif not self._reading and not self._no_more_input:
            self._reading = True
            self._transport.resume_reading()

    def _stop_reading(self) -> None:
        if self._reading and not self._no_more_input:
            self._reading = False
            self._transport.pause_reading()

    def _arm(self, seconds: float, why: str) -> None:
        self._disarm()
        self._timer = self._loop.call_later(seconds, self.abort, why)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _tune(sock: socket.socket) -> None:
    """Large buffers for bulk data; keepalive for TCP. asyncio has set TCP_NODELAY already."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BUFFER_BYTES)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_COUNT)
