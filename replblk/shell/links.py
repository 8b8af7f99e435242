"""The Links port: TCP connections between the two configured addresses.

Outgoing connections are bound to our own address (any port) and go to the peer's address; the
listener takes connections at our address and port, and only from the peer's address: DRBD itself
does not look, so anyone who reaches the port could speak; here they are closed at once, counted,
and told in the log at most once a minute. Source of the socket options: DRBD 8.4 protocol, 2.6.

``send`` gathers and ``end_step`` writes everything of a step with one call for each link.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import time
from collections.abc import Callable, Coroutine

from replblk.engine.ports import Buffer
from replblk.model.config import Address
from replblk.shell.link import LINGER_S, Link
from replblk.shell.socket_address import resolve
from replblk.shell.turns import EventSink

LISTEN_BACKLOG = 5
"""As DRBD's listener."""
STRANGER_LOG_S = 60.0
"""Refused connections are told of at most this often."""
_NS = 1_000_000_000


class TcpLinks:
    """``engine.ports.Links`` between *own* and *peer*; events go to *events*, warnings to *warn*.

    sndbuf_bytes, rcvbuf_bytes: socket buffers; 0 leaves them to the kernel, which then grows them
    as needed (a fixed size is capped at net.core.wmem_max).
    """

    def __init__(
        self,
        own: Address,
        peer: Address | None,
        loop: asyncio.AbstractEventLoop,
        events: EventSink,
        warn: Callable[[str], None],
        *,
        sndbuf_bytes: int = 0,
        rcvbuf_bytes: int = 0,
    ) -> None:
        self._loop = loop
        self._events = events
        self._warn = warn
        self._buffers = (sndbuf_bytes, rcvbuf_bytes)
        self._own = resolve(own)
        self._peer = resolve(peer) if peer is not None else None
        self._own_text, self._peer_text = str(own), str(peer)
        self._numbers = itertools.count(1)
        self._links: dict[int, Link] = {}
        self._lingering: set[Link] = set()
        self._connecting: dict[int, asyncio.Task[None]] = {}
        self.due: list[Link] = []
        """Links with something to send."""
        self._listener: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps only weak references
        self.strangers = 0
        self._strangers_told_s = -STRANGER_LOG_S

    def listen(self, on: bool) -> None:
        """Accept connections from now on, or no more."""
        if not on:
            if self._listener is not None:
                self._loop.remove_reader(self._listener.fileno())
                self._listener.close()
                self._listener = None
            return
        if self._listener is not None:
            return
        listener = self._new_socket()
        try:
            listener.bind(self._own)
            listener.listen(LISTEN_BACKLOG)
        except OSError as error:
            listener.close()
            why = (
                f"can't listen on {self._own_text}: {os.strerror(error.errno or 0)}; is another "
                "program on that port, or is the address not one of this machine?"
            )
            self._loop.call_soon(self._events.on_listen_failed, why)
            return
        self._listener = listener
        self._loop.add_reader(listener.fileno(), self._accept, listener)

    def connect(self, timeout_ns: int) -> int:
        """Start a connection to the peer."""
        number = next(self._numbers)
        self._connecting[number] = self._start(self._connect(number, timeout_ns / _NS))
        return number

    def send(self, link: int, data: Buffer) -> None:
        """Append to the byte stream; a link that was lost meanwhile takes nothing."""
        if (open_link := self._links.get(link)) is not None:
            if not open_link.gathered:
                self.due.append(open_link)
            open_link.gathered.append(data)

    def close(self, link: int) -> None:
        """Close; what was given to ``send`` is still delivered if the peer goes on reading."""
        if (task := self._connecting.pop(link, None)) is not None:
            task.cancel()
        if (open_link := self._links.pop(link, None)) is not None:
            self._lingering.add(open_link)
            open_link.close()
            self._loop.call_later(LINGER_S, open_link.abort)

    def pause(self, link: int, on: bool) -> None:
        """Stop, or go on, reading."""
        if (open_link := self._links.get(link)) is not None:
            open_link.pause(on)

    def end_step(self) -> None:
        """Write what the step gathered."""
        due, self.due = self.due, []
        for link in due:
            link.flush()

    async def shut(self, linger_s: float) -> None:
        """Close everything, waiting up to *linger_s* for the peer to take what was sent."""
        self.listen(False)
        for number in [*self._connecting, *self._links]:
            self.close(number)
        deadline_s = time.monotonic() + linger_s
        while self._lingering and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        for link in list(self._lingering):
            link.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.sleep(0.01)  # the aborted ones hear of their end in a later turn

    def _new_socket(self) -> socket.socket:
        family = socket.AF_INET6 if len(self._own) == 4 else socket.AF_INET
        new = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for option, size in zip((socket.SO_SNDBUF, socket.SO_RCVBUF), self._buffers, strict=True):
            if size:
                new.setsockopt(socket.SOL_SOCKET, option, size)
        return new

    async def _connect(self, number: int, timeout_s: float) -> None:
        connected = await self._try_connect(timeout_s)
        # From here on a close() finds the link among the open ones, not this task.
        del self._connecting[number]
        if isinstance(connected, str):
            self._events.on_link_lost(number, connected)
        else:
            await self._adopt(number, connected, accepted=False)

    async def _try_connect(self, timeout_s: float) -> socket.socket | str:
        """A connected socket, or why there is none."""
        if self._peer is None:
            return "no peer is configured"
        new = self._new_socket()
        done = False
        try:
            new.bind((self._own[0], 0, *self._own[2:]))
            async with asyncio.timeout(timeout_s):
                await self._loop.sock_connect(new, self._peer)
            done = True
            return new
        except TimeoutError:
            return f"connect to {self._peer_text}: no answer within {timeout_s:g} s"
        except OSError as error:
            why = os.strerror(error.errno or 0)
            return f"connect from {self._own[0]} to {self._peer_text}: {why}"
        finally:
            if not done:
                new.close()

    def _accept(self, listener: socket.socket) -> None:
        try:
            new, address = listener.accept()
        except OSError as error:
            # Aborted by the peer, or out of descriptors: the next one may go better.
            self._warn_seldom(f"accepting a connection: {os.strerror(error.errno or 0)}")
            return
        if self._peer is None or address[0] != self._peer[0]:
            new.close()
            self.strangers += 1
            self._warn_seldom(
                f"closed a connection from {address[0]}, which is not the peer "
                f"({self._peer_text}); {self.strangers} such so far"
            )
            return
        new.setblocking(False)
        self._start(self._adopt(next(self._numbers), new, accepted=True))

    async def _adopt(self, number: int, new: socket.socket, *, accepted: bool) -> None:
        """Make a connected socket a link whose bytes arrive as events."""
        events = self._events
        made = events.on_link_accepted if accepted else events.on_link_connected
        link = self._links[number] = Link(number, made, events.on_link_bytes, self._lost)
        try:
            new.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if accepted:
                await self._loop.connect_accepted_socket(lambda: link, new)
            else:
                await self._loop.create_connection(lambda: link, sock=new)
        except OSError as error:
            # Dead before it was ours. An accepted one the node never heard of just vanishes.
            new.close()
            if self._links.pop(number, None) is not None and not accepted:
                events.on_link_lost(number, os.strerror(error.errno or 0))

    def _start(self, work: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _lost(self, link: Link, why: str) -> None:
        self._lingering.discard(link)
        if self._links.pop(link.number, None) is not None:
            self._events.on_link_lost(link.number, why)

    def _warn_seldom(self, text: str) -> None:
        if time.monotonic() - self._strangers_told_s >= STRANGER_LOG_S:
            self._strangers_told_s = time.monotonic()
            self._warn(text)
