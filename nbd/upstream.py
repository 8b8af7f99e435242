"""A connection to the first of several servers that serves, made again whenever it ends.

Requests that were not answered are sent again over the next connection, in the order they came;
to who waits, the server was slow. So it needs servers that show the same disk, one at a time, and
keep what they answered. Servers are tried in turn, the one that served last first. Without a
server for ``patience_s`` seconds, requests fail with EIO until there is one. If all are reached and
all refuse by policy ("not Primary here"), it ends for good: somebody else may write now, and what
this side still holds must not be written over that. On asyncio's loop or uvloop's; times are
seconds.
"""

from __future__ import annotations

import asyncio
import errno
import itertools
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from nbd.address import AddressError
from nbd.client import ExportInfo
from nbd.dial import dial
from nbd.export import Buffer, Done
from nbd.protocol import COMPACT_REQUEST, REQUEST_MAGIC, Command, Error, Reply, TransmissionFlag
from nbd.replies import NbdError, Replies, Request
from nbd.tls import TlsError

RETRY_S = (0.02, 1.0)
"""Between two rounds through the servers: at first, and at most."""
HANDSHAKE_S = 60.0
"""A server may let its clients wait for the greeting while it is about to serve."""

log = logging.getLogger("nbd.upstream")


@dataclass(slots=True)
class _Waiting:
    """A request that has no answer yet."""

    command: int
    flags: int
    offset: int
    length: int
    data: Buffer
    done: Done


def reach(uri: str) -> tuple[socket.socket, ExportInfo]:
    """A connected socket in the transmission phase with simple replies; blocks. Raises NbdError."""
    try:
        client, name = dial(uri, timeout_s=HANDSHAKE_S)
    except TlsError as bad:
        raise NbdError(str(bad)) from bad
    try:
        info = client.open(name, structured=False, block_sizes=True)
        return client.hand_over(), info
    except BaseException:
        client.close()
        raise


class Upstream:
    """uris: where the export is served, any of them. on_ended: told why, if it ends for good."""

    def __init__(
        self,
        uris: Sequence[str],
        *,
        patience_s: float = 600.0,
        on_ended: Callable[[str], None] = lambda why: None,
    ) -> None:
        if not uris:
            raise AddressError("no server is named")
        self._uris = list(uris)
        self._patience_s = patience_s
        self._on_ended = on_ended
        self._loop = asyncio.get_running_loop()
        self._cookies = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._wire: _Wire | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._hopeless = False
        self._closed = False
        self._patience: asyncio.TimerHandle | None = None
        self.info: ExportInfo | None = None
        """What the first server told; a server with less is passed over."""

    async def start(self) -> ExportInfo:
        """Connect for the first time, to whichever server serves. Raises NbdError if none does."""
        reasons = []
        for uri in list(self._uris):
            try:
                await self._try(uri)
            except (NbdError, OSError) as bad:
                reasons.append(f"{uri}: {bad}")
            else:
                assert self.info is not None
                return self.info
        raise NbdError("; ".join(reasons))

    def submit(
        self, command: int, flags: int, offset: int, length: int, data: Buffer, done: Done
    ) -> None:
        """Have a request carried out; ``done`` as for an export. *data* must not change."""
        if self._hopeless or self._closed:
            done(errno.EIO, None)
            return
        cookie = next(self._cookies)
        waiting = self._waiting[cookie] = _Waiting(command, flags, offset, length, data, done)
        if self._wire is not None:
            self._wire.send(cookie, waiting)

    @property
    def unanswered(self) -> int:
        """Requests without an answer."""
        return len(self._waiting)

    def close(self) -> None:
        """End: what is not answered fails."""
        self._closed = True
        if self._patience is not None:
            self._patience.cancel()
        if self._connecting is not None and self._connecting is not asyncio.current_task():
            self._connecting.cancel()
        if self._wire is not None:
            self._wire.goodbye()
        self._fail_all()

    def answered(self, cookie: int, error: int, data: bytes) -> None:
        """The server has answered. One that goes away has not: the next will."""
        if error == Error.ESHUTDOWN:
            return
        waiting = self._waiting.pop(cookie, None)
        assert waiting is not None, "answered, and not asked"
        waiting.done(error, data if waiting.command == Command.READ and not error else None)

    def lost(self, wire: _Wire, why: str) -> None:
        """The connection has ended: make the next."""
        if wire is not self._wire:
            return
        self._wire = None
        if self._closed:
            return
        log.info("%s: %s; %d requests wait", self._uris[0], why, len(self._waiting))
        self._patience = self._loop.call_later(self._patience_s, self._give_up)
        self._connecting = self._loop.create_task(self._connect_again())

    async def _connect_again(self) -> None:
        """Round and round, until one serves."""
        wait_s = RETRY_S[0]
        while not self._closed:
            refusals = []
            for uri in list(self._uris):
                try:
                    await self._try(uri)
                except (NbdError, OSError) as bad:
                    log.debug("%s: %s", uri, bad)
                    if isinstance(bad, NbdError) and bad.code == Reply.ERR_POLICY:
                        refusals.append(f"{uri}: {bad}")
                else:
                    return
            if len(refusals) == len(self._uris):
                self.close()
                self._on_ended("; ".join(refusals))
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_S[1])

    async def _try(self, uri: str) -> None:
        reaching = self._loop.run_in_executor(None, reach, uri)
        try:
            sock, info = await asyncio.shield(reaching)
        except asyncio.CancelledError:
            reaching.add_done_callback(_discard)
            raise
        try:
            if self._closed:
                raise NbdError("closed meanwhile")
            if wrong := self._unlike(info):
                raise NbdError(wrong)
            sock.setblocking(False)
            wire = _Wire(self)
            await self._loop.create_connection(lambda: wire, sock=sock)
        except BaseException:
            sock.close()
            raise
        self._serve(uri, wire, info)

    def _serve(self, uri: str, wire: _Wire, info: ExportInfo) -> None:
        if wire.gone:
            raise NbdError("the server closed the connection")
        self.info = self.info or info
        self._uris.remove(uri)
        self._uris.insert(0, uri)
        if self._patience is not None:
            self._patience.cancel()
        self._hopeless = False
        self._wire = wire
        log.info("%s serves; %d requests are sent again", uri, len(self._waiting))
        for cookie, waiting in list(self._waiting.items()):
            wire.send(cookie, waiting)

    def _unlike(self, info: ExportInfo) -> str:
        """Why this can't be the same disk; "" if it can."""
        if self.info is None:
            return ""
        if info.size < self.info.size:
            return f"the export has {info.size} bytes, fewer than {self.info.size}"
        lost = self.info.flags & ~info.flags & ~TransmissionFlag.READ_ONLY
        if lost or info.flags & ~self.info.flags & TransmissionFlag.READ_ONLY:
            return "the export is read-only, or can do less than the one before"
        return ""

    def _give_up(self) -> None:
        self._hopeless = True
        log.warning("no server for %g s: requests fail now", self._patience_s)
        self._fail_all()

    def _fail_all(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for request in waiting.values():
            request.done(errno.EIO, None)


def _discard(reached: asyncio.Future[tuple[socket.socket, ExportInfo]]) -> None:
    """Nobody waits for this connection any more."""
    if not reached.cancelled() and reached.exception() is None:
        reached.result()[0].close()


class _Wire(asyncio.Protocol):
    """One connection in the transmission phase: requests out, simple replies in."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._replies = Replies(structured=False)
        self._received = bytearray()
        self._transport: asyncio.Transport
        self.gone = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def send(self, cookie: int, waiting: _Waiting) -> None:
        """Send a request, for the first time or again."""
        if self.gone:
            return
        request = (waiting.flags, waiting.command, cookie, waiting.offset, waiting.length)
        self._replies.pending[cookie] = Request(waiting.command, waiting.offset, waiting.length)
        self._transport.write(COMPACT_REQUEST.pack(REQUEST_MAGIC, *request))
        if waiting.data:
            self._transport.write(waiting.data)

    def goodbye(self) -> None:
        """Let the server finish, and close."""
        self._transport.write(COMPACT_REQUEST.pack(REQUEST_MAGIC, 0, Command.DISC, 0, 0, 0))
        self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._received += data
        try:
            used = self._replies.receive(self._received, 0)
        except NbdError as bad:
            self._transport.abort()
            self._end(str(bad))
            return
        del self._received[:used]
        answers, self._replies.answers = self._replies.answers, []
        for answer in answers:
            self._upstream.answered(answer.cookie, answer.error, answer.data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(str(exc or "the server closed the connection"))

    def _end(self, why: str) -> None:
        if not self.gone:
            self.gone = True
            self._upstream.lost(self, why)
