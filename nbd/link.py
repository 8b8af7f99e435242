"""Moves a blocking client's bytes in both directions at once, so that no depth of pipelining hangs.

A server stops reading when its client does not take the replies; a client that only sent would
wait for ever. ``Link.exchange`` therefore receives while it sends. Times are seconds.
Raises LinkError when the peer closes, fails or is silent for too long.
"""

from __future__ import annotations

import select
import socket
import time
from typing import Protocol

from nbd.export import Buffer

RECEIVE_BYTES = 1 << 20
JOIN_BYTES = 512 << 10
"""Gathered pieces up to this total are copied together, so that a batch is one send."""
BACKLOG_FULL_S = 0.01
"""Until the next try to connect to a server that has more callers than it can take."""
PIECES_MAX = 256
"""Pieces handed to one sendmsg; the kernel takes 1024 (UIO_MAXIOV)."""


class LinkError(Exception):
    """The connection is of no more use; the text says why."""


class Stream(Protocol):
    """What is used of a connected, non-blocking socket."""

    def recv_into(self, buffer: memoryview, /) -> int:
        """Receive; returns how many bytes came, 0 at the end."""

    def sendmsg(self, buffers: list[memoryview], /) -> int:
        """Send from several buffers; returns how many bytes went."""

    def fileno(self) -> int:
        """For poll."""

    def close(self) -> None:
        """End."""


def connected(where: str | tuple[str, int], timeout_s: float) -> socket.socket:
    """A socket that is connected to the path of a unix socket (a leading NUL: abstract), or to
    (host, port). Raises LinkError."""
    try:
        if isinstance(where, str):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout_s)
            try:
                _connect_unix(sock, where, time.monotonic() + timeout_s)
            except OSError:
                sock.close()
                raise
        else:
            sock = socket.create_connection(where, timeout_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except OSError as bad:
        raise LinkError(f"cannot connect to {where}: {bad.strerror or bad}") from bad
    return sock


def _connect_unix(sock: socket.socket, path: str, deadline: float) -> None:
    """Wait for room in the server's backlog: a unix socket with a timeout does not by itself."""
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
            time.sleep(BACKLOG_FULL_S)
        else:
            return


class Link:
    """Buffers around a stream. ``received`` from ``at`` on is what nobody has used yet."""

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        self.stream = stream
        self._buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._number = stream.fileno()
        self._poller = select.poll()
        self._poller.register(self._number)
        self._timeout_s = timeout_s
        self._out: list[Buffer] = []
        self.out_bytes = 0
        self.received = bytearray()
        self.at = 0

    @property
    def unused(self) -> int:
        """Received bytes that nobody has used yet."""
        return len(self.received) - self.at

    def replace_stream(self, stream: Stream) -> None:
        """Go on over another stream of the same socket; nothing may be under way."""
        assert not self._out and not self.unused, "bytes in clear beside TLS"
        self.stream = stream

    def close(self) -> None:
        """Drop the connection."""
        self.stream.close()

    def put(self, piece: Buffer) -> None:
        """Gather bytes to send; they must not change until the next exchange has ended."""
        self._out.append(piece)
        self.out_bytes += len(piece)

    def take(self, count: int) -> bytes:
        """Send what has gathered and wait for *count* bytes."""
        self.exchange(count)
        data = bytes(self.received[self.at : self.at + count])
        self.used(count)
        return data

    def used(self, count: int) -> None:
        """The first *count* unused bytes are done with."""
        self.at += count
        if self.at == len(self.received):
            self.received.clear()
            self.at = 0
        elif self.at > RECEIVE_BYTES:
            del self.received[: self.at]
            self.at = 0

    def exchange(self, want_bytes: int = 0) -> None:
        """Send what has gathered, and receive until *want_bytes* unused bytes are here."""
        if self.out_bytes <= JOIN_BYTES:
            pieces: list[Buffer] = [b"".join(self._out)] if self._out else []
        else:
            pieces = self._out
        views = [memoryview(piece) for piece in pieces]
        self._out, self.out_bytes = [], 0
        deadline = time.monotonic() + self._timeout_s
        try:
            while views or self.unused < want_bytes:
                ready = self._wait(bool(views), deadline)
                if ready & ~select.POLLOUT:
                    self._receive_some()
                if views:
                    self._send_some(views)
                deadline = time.monotonic() + self._timeout_s
        except OSError as bad:
            raise LinkError(f"the connection failed: {bad.strerror or bad}") from bad

    def _receive_some(self) -> None:
        try:
            count = self.stream.recv_into(self._buffer)
        except BlockingIOError:  # of TLS: what came is no whole record yet
            return
        if not count:
            raise LinkError("the server closed the connection")
        self.received += self._buffer[:count]

    def _send_some(self, views: list[memoryview]) -> None:
        try:
            sent = self.stream.sendmsg(views[:PIECES_MAX])
        except BlockingIOError:
            return
        while views and sent >= len(views[0]):
            sent -= len(views.pop(0))
        if sent:
            views[0] = views[0][sent:]

    def _wait(self, to_send: bool, deadline: float) -> int:
        """Returns what poll says the stream is ready for, or raises after the deadline."""
        self._poller.modify(self._number, select.POLLIN | (select.POLLOUT if to_send else 0))
        ready = self._poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise LinkError(f"the server did not answer within {self._timeout_s:g} s")
        return ready[0][1]
