"""One client of a server: moves bytes between a transport and its Handshake, then its Transmission.

A ``BufferedProtocol``: every complete request of a receive is carried out in one go, and the
replies of a turn of the loop leave together. It is not read while its requests in flight, or the
replies its client does not read, are at their limit. Runs in the loop's thread; times are seconds.
"""

from __future__ import annotations

import asyncio
import logging
import select
import socket
import time
from typing import TYPE_CHECKING, cast

from nbd.handshake import Handshake, Opened, Tls
from nbd.transmission import REPLIES_MAX, Transmission

if TYPE_CHECKING:
    from nbd.server import Server

SOCKET_BUFFER_BYTES = 4 << 20
KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_COUNT = 60, 10, 6
"""A TCP client whose host has vanished is noticed after two minutes, and its export let go."""

log = logging.getLogger("nbd.server")


class Connection(asyncio.BufferedProtocol):
    """One client, from its first byte to its last."""

    def __init__(self, server: Server, tls: Tls) -> None:
        """tls: what this listener's clients are offered."""
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._handshake = Handshake(server.exports, tls)
        self._transmission: Transmission | None = None
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._rest: bytes | memoryview = b""
        """Received and not yet used; long only while reading is paused."""
        self._direct = False
        """Whether what is being received goes where a payload belongs."""
        self._reading = True
        self._writable = True
        self._turn_due = False
        self._received = 0
        self._accounted = 0
        self._moved = (0, 0)
        """Bytes received and bytes not taken, when the budget asked last."""
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
        if self._server.holding:
            self._stop_reading()
        else:
            self.greet()

    def greet(self) -> None:
        """Begin the handshake; a server that holds its clients does it when it lets them go on."""
        if self._gone:
            return
        self._arm(self._server.handshake_s, "the handshake took too long")
        self._send()
        self._settle()

    def get_buffer(self, sizehint: int) -> memoryview:
        rest, transmission = self._rest, self._transmission
        self._direct = False
        if not rest:
            if transmission is not None and transmission.payload.missing:
                room = transmission.payload.room
                if room is not None:
                    self._direct = True
                    return room
            return self._server.receive_buffer
        self._server.receive_buffer[: len(rest)] = rest
        return self._server.receive_buffer[len(rest) :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._gone or self._ending:
            return
        self._received += nbytes
        server, transmission = self._server, self._transmission
        began_ns = time.monotonic_ns()
        if self._direct:
            assert transmission is not None
            transmission.payload_filled(nbytes)
            if not transmission.quiet:
                self._turn()
        elif transmission is not None and not self._rest:
            # Most often whole requests arrive, none is answered at once, and nothing is full.
            filled = server.receive_buffer[:nbytes]
            used = transmission.receive(filled)
            if used < nbytes:
                self._rest = bytes(filled[used:])
            if used < nbytes or not transmission.quiet:
                self._turn()
        else:
            self._take(nbytes)
        if server.parsed is not None:
            server.parsed(time.monotonic_ns() - began_ns)

    def _take(self, nbytes: int) -> None:
        """What was received continues what had come before, or is of the handshake."""
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
        self._account()

    def resume_writing(self) -> None:
        self._writable = True
        self._turn()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._lost:
            return
        self._gone = self._lost = True
        self._disarm()
        self._server.budget.forget(self)
        if self._transmission is not None:
            if exc is not None:
                log.info("a client of export %r is gone: %s", self.export_name, exc)
            self._transmission.close()
        self._server.forget(self)

    # --- what the server asks ---

    def hung_up(self) -> bool:
        """Can the client hear nothing any more? Found out also while it is not read."""
        number = self._transport.get_extra_info("socket").fileno()
        if self._gone or number < 0:
            return True
        poller = select.poll()
        poller.register(number, 0)
        return bool(poller.poll(0))

    def stop(self, grace_s: float, silent: bool = False) -> None:
        """Answer no more requests but with SHUTDOWN, and end within *grace_s* seconds. silent: not
        even that; the client finds out by itself, and asks the next server again."""
        self._handshake.stopping = True
        if grace_s <= 0:
            self.abort("")
        elif self._transmission is None or self._gone:
            return  # it is over, or not begun
        elif self._ending:
            self._arm(grace_s, "requests of a client that has gone did not finish in time")
        else:
            if silent:
                self._transmission.ended = ""
            else:
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
            if self._transmission is not None:
                self._transmission.allowance = self._allowance()
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
            requests_max=self._server.requests_max,
            bytes_max=self._server.bytes_max,
            new_memory=self._server.new_memory,
        )

    # --- the memory that all connections share ---

    def _allowance(self) -> int:
        """Payload that requests may hold now, beside the replies that were not taken."""
        self._account()
        return self._server.budget.allowance(self) - self._unsent

    @property
    def _unsent(self) -> int:
        return self._transport.get_write_buffer_size()

    def _account(self) -> None:
        """Tell the budget what is held here, if that is another amount than it was told last."""
        transmission = self._transmission
        if transmission is None or self._lost:
            return
        held = transmission.held_bytes + self._transport.get_write_buffer_size()
        if held != self._accounted:
            self._accounted = held
            self._server.budget.holds(self, held)

    def room_again(self) -> None:
        """The budget: there may be room for the request that had to wait."""
        self._wake()

    def moved_nothing(self) -> bool:
        """The budget: whether the client is to go on, and did not since this was asked last."""
        before, self._moved = self._moved, (self._received, self._unsent)
        owes = not self._writable or (
            self._transmission is not None and self._transmission.payload.missing > 0
        )
        return owes and before == self._moved

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
        if (
            self._reading
            and self._writable
            and not self._rest
            and not self._ending
            and not self._no_more_input
            and (transmission := self._transmission) is not None
            and transmission.quiet
        ):
            self._account()  # it reads on, as before: sending what was ready makes nothing full
            return
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
        if self._transmission is not None:
            self._account()
            self._transmission.allowance = self._server.budget.share  # needs no asking
            if self._transmission.wants:
                self._server.budget.waits(self)
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
