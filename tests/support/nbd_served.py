"""A real NBD server on a loop in a thread, for tests that need sockets or foreign programs."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvloop

from nbd.client import Client
from nbd.export import Exports
from nbd.server import Server

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "stdlib": asyncio.new_event_loop,
}


class Served:
    """A running server: where it listens, and a way to run code in its loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, server: Server, path: str, port: int):
        self.loop = loop
        self.server = server
        self.path = path
        self.port = port
        self.problems: list[dict[str, Any]] = []
        """What the loop's exception handler heard of; a test ends with an assertion that it is
        empty."""

    def uri(self, name: str = "") -> str:
        return f"nbd+unix:///{quote(name)}?socket={self.path}"

    def connect(self) -> Client:
        return Client.connect(self.path, timeout_s=10)

    def run(self, work: Callable[[], Any]) -> Any:
        """Run *work* in the loop's thread, and wait for what it returns (or for its coroutine)."""

        async def call() -> Any:
            result = work()
            return await result if asyncio.iscoroutine(result) else result

        return asyncio.run_coroutine_threadsafe(call(), self.loop).result(20)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until something holds in the loop's thread."""

        async def poll() -> None:
            async with asyncio.timeout(10):
                while not condition():
                    await asyncio.sleep(0.002)

        self.run(poll)


@contextlib.contextmanager
def served(exports: Exports, loop_name: str = "uvloop", **options: Any) -> Iterator[Served]:
    """Serve on a unix socket and on a free port of 127.0.0.1 until the block ends."""
    loop = LOOPS[loop_name]()
    thread = threading.Thread(target=loop.run_forever, name="nbd server", daemon=True)
    with tempfile.TemporaryDirectory(prefix="nbd-") as folder:
        path = str(Path(folder) / "nbd.sock")

        async def start() -> tuple[Server, int]:
            server = Server(exports, **options)
            await server.listen_unix(path)
            return server, await server.listen_tcp("127.0.0.1", 0)

        thread.start()
        try:
            server, port = asyncio.run_coroutine_threadsafe(start(), loop).result(20)
            found = Served(loop, server, path, port)
            loop.set_exception_handler(lambda _loop, context: found.problems.append(context))
            try:
                yield found
            finally:
                asyncio.run_coroutine_threadsafe(server.close(grace_s=0.2), loop).result(20)
            assert not found.problems
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(20)
            loop.close()


def until_closed(sock: socket.socket) -> bytes:
    """What still comes until the other side ends, in whatever way."""
    data = b""
    try:
        while piece := sock.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        pass  # as good an end as any
    return data


def reset(sock: socket.socket) -> None:
    """End a TCP connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
