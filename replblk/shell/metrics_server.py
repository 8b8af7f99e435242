"""A small HTTP server for ``GET /metrics``, on the loop's thread so that a scrape sees one moment.

A request's head may have 8 KiB and 5 seconds; each answer ends the connection. At most 16 scrapes
are served at a time; others are closed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from replblk.model.errors import AdminError
from replblk.shell.metrics import CONTENT_TYPE

HEAD_BYTES_MAX = 8 << 10
HEAD_S = 5.0
SCRAPES_MAX = 16


class MetricsServer:
    """Listens on one address. page: makes the text of a scrape."""

    def __init__(self, page: Callable[[], bytes]) -> None:
        self._page = page
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def listen(self, host: str, port: int) -> int:
        """Start; returns the port (0 asks for a free one). Raises AdminError."""
        try:
            self._server = await asyncio.start_server(self._serve, host, port, limit=HEAD_BYTES_MAX)
        except OSError as error:
            raise AdminError(
                f"metrics_listen: can't listen on {host}:{port}: {error.strerror or error}; "
                "choose another address or end the program that uses it",
                exit_code=20,
            ) from error
        return int(self._server.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Stop listening and end the scrapes under way."""
        if self._server is not None:
            self._server.close()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        try:
            if len(self._serving) <= SCRAPES_MAX:
                async with asyncio.timeout(HEAD_S):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._respond(head))
                    await writer.drain()
        except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
            pass  # a client that is slow, rude or gone only loses its connection
        finally:
            self._serving.discard(task)
            writer.close()

    def _respond(self, head: bytes) -> bytes:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        method, target = (words[0], words[1]) if len(words) == 3 else (b"", b"")
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", b"only GET\n", "text/plain")
        if target.split(b"?")[0] not in (b"/metrics", b"/"):
            return _response("404 Not Found", b"see /metrics\n", "text/plain")
        body = self._page()
        return _response("200 OK", body, CONTENT_TYPE, head_only=method == b"HEAD")


def _response(status: str, body: bytes, content_type: str, *, head_only: bool = False) -> bytes:
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (b"" if head_only else body)
