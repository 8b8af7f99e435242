"""One TCP connection to the peer: gathers what is sent, passes on what arrives, tells its end.

Closing is gentle. A plain close() with unread bytes in the receive buffer makes the kernel send a
reset, which can destroy what we sent last in the peer's buffer. So a closed link sends its end of
file, reads and drops what still comes, and goes away when the peer has closed, too, or after
``LINGER_S``.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable
from typing import cast

from replblk.engine.ports import Buffer

LINGER_S = 5.0
"""How long a closed link waits for the peer to take the rest."""


class Link(asyncio.Protocol):
    """The asyncio protocol of one link. Bytes arrive in chunks of up to 256 KiB."""

    def __init__(
        self,
        number: int,
        on_made: Callable[[int], None],
        on_bytes: Callable[[int, bytes], None],
        on_lost: Callable[[Link, str], None],
    ) -> None:
        self.number = number
        self.gathered: list[Buffer] = []
        self._on_made = on_made
        self._on_bytes = on_bytes
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._closing = False
        self._paused = False
        self._ended_by_peer = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is ours."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one by likeness only
        if self._closing:
            self.abort()
        else:
            self._on_made(self.number)

    def data_received(self, data: bytes) -> None:
        """Bytes of the peer; dropped once we have closed."""
        if not self._closing:
            self._on_bytes(self.number, data)

    def eof_received(self) -> bool:
        """The peer sends no more: the transport closes itself."""
        self._ended_by_peer = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over, by whomever."""
        self._transport = None
        self.gathered.clear()
        self._on_lost(self, self._reason(exc))

    def flush(self) -> None:
        """Write everything gathered with one call."""
        if self._transport is not None and self.gathered:
            self._transport.writelines(self.gathered)
        self.gathered = []

    def close(self) -> None:
        """Send the rest and the end of file; the caller aborts it after ``LINGER_S``."""
        self.flush()
        self._closing = True
        transport = self._transport
        if transport is None:
            return
        if transport.is_closing() or not transport.can_write_eof():
            transport.abort()
            return
        transport.write_eof()
        self._resume(transport)

    def abort(self) -> None:
        """End at once, whatever is unsent."""
        if self._transport is not None:
            self._transport.abort()

    def pause(self, on: bool) -> None:
        """Stop, or go on, reading."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if on and not self._paused:
            self._paused = True
            transport.pause_reading()
        elif not on:
            self._resume(transport)

    def _resume(self, transport: asyncio.Transport) -> None:
        if self._paused:
            self._paused = False
            transport.resume_reading()

    def _reason(self, exc: Exception | None) -> str:
        if isinstance(exc, OSError) and exc.errno == errno.ECONNRESET:
            return "the peer reset the connection"
        if isinstance(exc, OSError):
            return os.strerror(exc.errno) if exc.errno else str(exc)
        if self._ended_by_peer:
            return "the peer closed the connection"
        return "the connection was closed"
