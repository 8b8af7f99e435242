"""The unix socket by which an administrator's commands reach the daemon: one JSON object a line.

Requests are judged here (verb, options and their types), so that nothing but well-formed commands
gets into the node. A bad line is answered and costs the connection. The socket's mode is 0600.
Whoever holds the daemon's lock may replace a socket file that a dead daemon left.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

from replblk.admin.messages import Lines, Reply, Request, decode_request, encode_reply
from replblk.model.errors import AdminError

CONNECTIONS_MAX = 64
"""Each waiting command holds one. More are turned away, twice as many closed at once."""

Options = dict[str, type[bool] | type[int]]
FORCE: Options = {"force": bool}
WAIT: Options = {"timeout_s": int, "wait_after_sb": bool}
VERBS: dict[str, Options] = {
    "status": {},
    "latency": {},
    "up": {},
    "down": FORCE,
    "attach": {},
    "detach": FORCE,
    "connect": {"discard_my_data": bool},
    "disconnect": FORCE,
    "primary": FORCE,
    "secondary": {},
    "switchover": {"to_peer": bool, "timeout_s": int},
    "invalidate": {},
    "invalidate-remote": {},
    "outdate": {},
    "pause-sync": {},
    "resume-sync": {},
    "suspend-io": {},
    "resume-io": {},
    "new-current-uuid": {"clear_bitmap": bool},
    "verify": {"start": int, "stop": int},
    "resize": {
        "size_sectors": int,
        "assume_peer": bool,
        "assume_clean": bool,
        "al_stripes": int,
        "al_stripe_size_kib": int,
    },
    "get-gi": {},
    "show-gi": {},
    "dump-md": {},
    "wait-connect": WAIT,
    "wait-sync": WAIT,
}
"""Every verb and the options it takes."""

Done = Callable[[Reply], None]
Handler = Callable[[Request, Done], None]


def judge(request: Request) -> str:
    """What is wrong with a request; "" if nothing."""
    options = VERBS.get(request.verb)
    if options is None:
        return f"Unknown command '{request.verb}'"
    for name, value in request.options.items():
        wanted = options.get(name)
        if wanted is None:
            return f"{request.verb}: unknown option '{name}'"
        if type(value) is not wanted:
            return f"{request.verb}: option '{name}' must be of type {wanted.__name__}"
        if isinstance(value, int) and value < 0:
            return f"{request.verb}: option '{name}' can't be negative"
    timeout_s = request.options.get("timeout_s", 0)
    if isinstance(timeout_s, int) and not 0 <= timeout_s <= 1 << 31:
        return f"{request.verb}: a timeout of {timeout_s} s is out of range"
    return ""


class ControlServer:
    """Listens on one path; every request is given to *handle* with a callback for its reply."""

    def __init__(self, handle: Handler) -> None:
        self._handle = handle
        self._server: asyncio.AbstractServer | None = None
        self._path: Path | None = None
        self.connections: set[_Connection] = set()

    async def listen(self, path: Path) -> None:
        """Start; the caller holds the daemon's lock. Raises AdminError."""
        loop = asyncio.get_running_loop()
        path.unlink(missing_ok=True)  # of a dead daemon: we hold the lock
        mask = os.umask(0o177)
        try:
            self._server = await loop.create_unix_server(
                lambda: _Connection(self, self._handle), str(path)
            )
        except OSError as error:
            raise AdminError(
                f"can't listen on the control socket {path}: {error.strerror or error}",
                exit_code=20,
            ) from error
        finally:
            os.umask(mask)
        self._path = path

    def stop_listening(self) -> None:
        """No new connections; the socket file goes. Those that wait for a reply stay."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    async def close(self) -> None:
        """End every connection, after what was written to it has left."""
        self.stop_listening()
        for connection in list(self.connections):
            connection.end()
        for _ in range(100):
            if not self.connections:
                break
            await asyncio.sleep(0.01)


class _Connection(asyncio.Protocol):
    """One client; its requests may be answered in any order, usually it asks one."""

    def __init__(self, server: ControlServer, handle: Handler) -> None:
        self._server = server
        self._handle = handle
        self._lines = Lines()
        self._transport: asyncio.Transport | None = None
        self._turned_away = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        connections = self._server.connections
        if len(connections) >= 2 * CONNECTIONS_MAX:
            self._transport.abort()
            return
        self._turned_away = len(connections) >= CONNECTIONS_MAX
        connections.add(self)

    def data_received(self, data: bytes) -> None:
        if self._turned_away:
            # Told only now: closed with its request unread, the client would see a reset instead.
            self._reply(Reply(20, f"the daemon has {CONNECTIONS_MAX} commands waiting already", 0))
            self.end()
            return
        try:
            for line in self._lines.feed(data):
                self._on_request(decode_request(line))
        except AdminError as bad:
            self._reply(Reply(bad.exit_code, str(bad), 0))
            self.end()

    def connection_lost(self, exc: Exception | None) -> None:
        # Commands under way go on; their replies find no one.
        self._transport = None
        self._server.connections.discard(self)

    def end(self) -> None:
        """Close after what was written has left."""
        if self._transport is not None:
            self._transport.close()

    def _on_request(self, request: Request) -> None:
        if wrong := judge(request):
            self._reply(Reply(1, wrong, 0))
        else:
            self._handle(request, self._reply)

    def _reply(self, reply: Reply) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(encode_reply(reply))
