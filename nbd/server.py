"""Serves exports to NBD clients over unix sockets and TCP, on asyncio's loop or uvloop's.

One ``Connection`` a client, no task a request. A client can only hold up itself, and what it does
wrong ends its own connection. All limits are the ``Server``'s. Times are seconds. Everything runs
in the loop's thread.
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

from nbd.activation import ActivationError, activated_sockets
from nbd.address import Address, AddressError, checked_path
from nbd.alignment import AlignedExport, RangeLocks
from nbd.connection import Connection
from nbd.export import Export, Exports
from nbd.handshake import Tls
from nbd.memory_budget import MemoryBudget
from nbd.payload import NewMemory
from nbd.socket_files import ListenError, remove_stale
from nbd.transmission import BYTES_MAX, DRAIN_MAX, REQUESTS_MAX

__all__ = ["Connection", "ListenError", "Server"]

HANDSHAKE_S = 10.0
LINGER_S = 10.0
BACKLOG = 512
TOTAL_BYTES_MAX = 512 << 20
RECEIVE_BYTES = 1 << 20

log = logging.getLogger("nbd.server")


class Server:
    """Listeners and connections for one set of exports.

    connections_max: more are closed at once. half_open_max: connections that have not finished
    their handshake; one more ends the oldest, so idle strangers never keep a client out.
    handshake_s: how long one may take; linger_s: how long a client may take to accept the last
    replies. requests_max, bytes_max: in flight for one connection, payload in and out.
    total_bytes_max: payload of all connections together, replies that are not taken included. tls:
    a context as nbd.tls makes it; it may be exchanged at any time, for connections to come.
    tls_required: nothing is told or served without TLS. soon: calls what it is given after all that
    is being done now, once, on the loop's thread; by default in the loop's next turn. parsed: told
    how many nanoseconds it took to make requests of what a client sent. new_memory: where long
    payloads are received; by default they are copied into plain bytes.
    """

    def __init__(
        self,
        exports: Exports,
        *,
        connections_max: int = 256,
        half_open_max: int = 64,
        handshake_s: float = HANDSHAKE_S,
        linger_s: float = LINGER_S,
        requests_max: int = REQUESTS_MAX,
        bytes_max: int = BYTES_MAX,
        total_bytes_max: int = TOTAL_BYTES_MAX,
        tls: ssl.SSLContext | None = None,
        tls_required: bool = False,
        soon: Callable[[Callable[[], None]], object] | None = None,
        parsed: Callable[[int], None] | None = None,
        new_memory: NewMemory | None = None,
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
        self.requests_max = requests_max
        self.bytes_max = bytes_max
        if total_bytes_max < DRAIN_MAX:
            raise ValueError(f"one payload may have {DRAIN_MAX} bytes, all {total_bytes_max}")
        self.budget = MemoryBudget(
            total_bytes_max, total_bytes_max // connections_max, linger_s, self._later
        )
        self.stopping = False
        self.soon = soon
        self.parsed = parsed
        self.new_memory = new_memory
        self._holds: set[str] = set()
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

    @property
    def holding(self) -> bool:
        """Whether there is a reason to let new connections wait."""
        return bool(self._holds)

    def hold(self, why: str = "") -> None:
        """Let connections wait for the greeting until ``release``: to them the server is slow.
        There may be several reasons, each with a word of its own; the last one counts."""
        self._holds.add(why)

    def release(self, why: str = "") -> None:
        """That reason is gone: without another, greet those who wait, and all that come."""
        if why in self._holds:
            self._holds.discard(why)
            for connection in list(self._half_open) if not self._holds else ():
                connection.greet()

    async def listen_unix(self, path: str, mode: int = 0o660, *, clear: bool = False) -> None:
        """Listen on a unix socket; a leading NUL means an abstract one. Raises ListenError.

        clear: TLS is not asked for here, whatever the server demands of other listeners' clients:
        the mode of the file says who may connect. A socket file that nobody answers on is
        replaced; any other file is left alone.
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
            make = partial(self._connection, clear)
            server = await loop.create_unix_server(make, sock=sock, backlog=BACKLOG)
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
            make = partial(self._connection, False)
            server = await loop.create_server(make, host, port, backlog=BACKLOG)
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
            make = partial(self._connection, False)
            if sock.family == socket.AF_UNIX:  # whose file belongs to systemd
                self._listeners.append(await loop.create_unix_server(make, sock=sock))
            else:
                self._listeners.append(await loop.create_server(make, sock=sock))
        return [name for name, _sock in found]

    def _connection(self, clear: bool) -> Connection:
        return Connection(self, Tls.OFF if clear else self.tls_offer)

    def _later(self, seconds: float, action: Callable[[], None]) -> None:
        if not self.stopping:
            asyncio.get_running_loop().call_later(seconds, action)

    @property
    def connections(self) -> int:
        """Connections of any kind at this moment."""
        return len(self._connections)

    def clients(self, chosen: Callable[[str], bool] = lambda name: True) -> int:
        """Connections that are in transmission on an export whose name is chosen."""
        names = [c.export_name for c in self._connections if c.export_name is not None]
        return sum(1 for name in names if chosen(name))

    def drop(
        self, chosen: Callable[[str], bool], grace_s: float = 0.0, *, silent: bool = False
    ) -> int:
        """Disconnect the clients of the chosen exports; returns how many there were.

        With a grace, requests in flight may finish within it while new ones get ESHUTDOWN;
        without, the connections end at once and what is in flight is in doubt for the client.
        silent: as for ``close``.
        """
        found = [
            c for c in self._connections if c.export_name is not None and chosen(c.export_name)
        ]
        for connection in found:
            connection.stop(grace_s, silent)
        return len(found)

    async def close(self, grace_s: float = 5.0, *, silent: bool = False) -> None:
        """Stop listening; let requests in flight finish within the grace, then end everything.

        silent: requests that have not begun are not refused but dropped, for clients that connect
        again and repeat them.
        """
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
            connection.stop(grace_s, silent)
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
        """A connection has finished its handshake.

        It may be its client's second: then what the first has sent and nobody has read yet must
        not be carried out any more, for the client says it again here, and may say something newer
        before the old was read.
        """
        self._half_open.pop(connection, None)
        self._none_served.clear()
        for other in list(self._connections):
            if other.export_name is not None and other is not connection and other.hung_up():
                other.abort("the client hung up")

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
