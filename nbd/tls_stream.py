"""A TLS stream for the blocking client: what ``link.Stream`` wants, over a non-blocking socket.

The bytes are OpenSSL's business, in memory; the socket's are done here, so that Link's one poll
serves both directions. ``recv_into`` hands out everything that was decrypted, for poll knows
nothing of it; ``sendmsg`` counts bytes as sent once their ciphertext has left.
"""

from __future__ import annotations

import select
import socket
import ssl
import time

SEND_BYTES = 256 << 10
"""Encrypted at once."""
RECEIVE_BYTES = 256 << 10
"""Received at once: less than what Link offers room for."""


class TlsStream:
    """TLS over a connected, non-blocking socket. Raises OSError (ssl.SSLError is one)."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, hostname: str, timeout_s: float
    ) -> None:
        """Shake hands within *timeout_s*. hostname: what the certificate must name, if checked."""
        self._sock = sock
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=hostname or None)
        self._unsent = b""
        self._taken = 0
        self._handshake(time.monotonic() + timeout_s)

    def fileno(self) -> int:
        """The socket's."""
        return self._sock.fileno()

    def close(self) -> None:
        """End, without a word."""
        self._sock.close()

    def recv_into(self, buffer: memoryview, /) -> int:
        """Receive and decrypt; BlockingIOError if that made nothing whole. 0 at the end."""
        data = self._sock.recv(RECEIVE_BYTES)
        if data:
            self._in.write(data)
        else:
            self._in.write_eof()
        got = 0
        try:
            while got < len(buffer):
                data = self._tls.read(len(buffer) - got)
                if not data:
                    break
                buffer[got : got + len(data)] = data
                got += len(data)
        except ssl.SSLWantReadError:
            if not got:
                raise BlockingIOError from None
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            pass
        return got

    def sendmsg(self, buffers: list[memoryview], /) -> int:
        """Encrypt and send; BlockingIOError until all of that has left: then call it again, with
        the same bytes."""
        if not self._taken:
            taken = bytearray()
            for buffer in buffers:
                taken += buffer[: SEND_BYTES - len(taken)]
                if len(taken) >= SEND_BYTES:
                    break
            self._tls.write(taken)
            self._unsent += self._out.read()
            self._taken = len(taken)
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        taken_bytes, self._taken = self._taken, 0
        return taken_bytes

    def _handshake(self, deadline: float) -> None:
        poller = select.poll()
        while True:
            try:
                self._tls.do_handshake()
                done = True
            except ssl.SSLWantReadError:
                done = False
            self._unsent += self._out.read()
            while self._unsent or not done:
                poller.register(self._sock, select.POLLOUT if self._unsent else select.POLLIN)
                if not poller.poll(max(0.0, deadline - time.monotonic()) * 1000):
                    raise TimeoutError("the server did not finish the TLS handshake in time")
                if self._unsent:
                    self._unsent = self._unsent[self._sock.send(self._unsent) :]
                    continue
                data = self._sock.recv(RECEIVE_BYTES)
                if not data:
                    raise ConnectionError("the server closed the connection in the TLS handshake")
                self._in.write(data)
                break
            if done:
                return
