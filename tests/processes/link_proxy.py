"""A proxy between the two nodes' ports that knows packets, and spoils one of them or what follows.

alpha (127.0.0.1) takes 127.0.0.4 for its peer, beta (127.0.0.2) takes 127.0.0.3; the proxy stands
at both and calls each node from the address that it expects. Packets are found by their headers,
in their three forms; a connection that does not look like one is passed on as it is.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from tests.support.site import CONFIG, Site

ADDRESSES = {"alpha": "127.0.0.1", "beta": "127.0.0.2"}
STANDS_FOR = {"alpha": "127.0.0.3", "beta": "127.0.0.4"}
"""Where the proxy stands for a node."""
OTHER = {"alpha": "beta", "beta": "alpha"}
MAGIC_80, MAGIC_95, MAGIC_100 = 0x83740267, 0x835A, 0x8620EC20
INITIAL = {0xFFF1: "meta", 0xFFF2: "data"}
P_DATA = 0
DATA_FIELDS = 24 + 4
"""Sector, block_id, sequence number and flags of a P_DATA, then a CRC-32C, before the data."""
PIECE_MAX = 7
CHUNK = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """What happens at a packet. kind: see ``Proxy._met``. sender: whose packets are counted; sock:
    data or meta; at: the number of the packet, counted from 1 since the trouble was planted."""

    kind: str
    sender: str
    sock: str
    at: int = 1


class _Socket:
    """One connection between the nodes: two real ones and what is known of it."""

    def __init__(self, caller: str, writers: dict[str, asyncio.StreamWriter]) -> None:
        self.caller = caller
        self.kind = ""
        self.writers = writers  # by the node that it leads to
        self.lossy = False

    def reset(self) -> None:
        """RST to both."""
        for writer in self.writers.values():
            sock = writer.get_extra_info("socket")
            if sock.fileno() < 0:
                continue  # it has ended already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        """FIN to both."""
        for writer in self.writers.values():
            writer.close()


class Proxy:
    """Runs in a thread of its own until ``close``."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._sockets: list[_Socket] = []
        self._trouble: Trouble | None = None
        self._count = 0
        self._flowing = asyncio.Event()
        self._silent: set[str] = set()  # nodes whose packets get lost
        self._late_s = 0.0
        self._small = False
        self._refusing = False
        self._chance = random.Random(port)
        self._servers: list[asyncio.AbstractServer] = []
        self.hit = threading.Event()
        self.passed: Counter[str] = Counter()
        self._flowing.set()
        self._thread.start()
        self._do(self._listen())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    async def _listen(self) -> None:
        for node, address in STANDS_FOR.items():
            server = await asyncio.start_server(
                lambda reader, writer, node=node: self._called(node, reader, writer),  # type: ignore[misc]
                address,
                self._port,
            )
            self._servers.append(server)

    def plant(self, trouble: Trouble) -> None:
        """From now on."""

        async def plant() -> None:
            self._trouble, self._count = trouble, 0

        self.hit.clear()
        self._do(plant())

    def heal(self) -> None:
        """The network works again. A connection that lost something is dead, as TCP would say."""

        async def heal() -> None:
            self._trouble = None
            self._late_s, self._small, self._refusing = 0.0, False, False
            self._silent.clear()
            for sock in self._sockets:
                if sock.lossy:
                    sock.reset()
            self._flowing.set()

        self._do(heal())

    def close(self) -> None:
        """The nodes must have ended."""

        async def close() -> None:
            for server in self._servers:
                server.close()
            for sock in self._sockets:
                sock.reset()
            await asyncio.sleep(0)
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self._do(close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()

    async def _called(
        self, called: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        caller = OTHER[called]
        if self._refusing:
            writer.transport.abort()
            return
        try:
            onward = await asyncio.open_connection(
                ADDRESSES[called], self._port, local_addr=(STANDS_FOR[caller], 0)
            )
        except OSError:
            writer.transport.abort()
            return
        sock = _Socket(caller, {called: onward[1], caller: writer})
        self._sockets.append(sock)
        try:
            await asyncio.gather(
                self._pump(sock, caller, reader, onward[1]),
                self._pump(sock, called, onward[0], writer),
            )
        except (OSError, asyncio.IncompleteReadError):
            sock.reset()
        finally:
            sock.close()
            self._sockets.remove(sock)

    async def _pump(
        self, sock: _Socket, sender: str, reader: asyncio.StreamReader, to: asyncio.StreamWriter
    ) -> None:
        while True:
            packet = await _packet(reader)
            if not packet:
                to.write_eof()
                return
            if not sock.kind and sender == sock.caller:
                sock.kind = INITIAL.get(_command(packet), "data")
            self.passed[sock.kind] += 1
            if self._is_the_one(sock, sender, packet):
                packet = self._met(sock, packet)
                self.hit.set()
            await self._flowing.wait()
            if self._late_s:
                await asyncio.sleep(self._late_s)
            if sender in self._silent:
                sock.lossy = True
                continue
            step = self._chance.randint(1, PIECE_MAX) if self._small else len(packet)
            for at in range(0, len(packet), step or 1):
                to.write(packet[at : at + step])
                await to.drain()
                if self._small:
                    await asyncio.sleep(0)

    def _is_the_one(self, sock: _Socket, sender: str, packet: bytes) -> bool:
        trouble = self._trouble
        if trouble is None or self.hit.is_set():
            return False
        if (trouble.sender, trouble.sock) != (sender, sock.kind):
            return False
        if trouble.kind == "flip" and not _has_block(packet):
            return False  # nothing has a digest but the data of a write
        self._count += 1
        return self._count >= trouble.at

    def _met(self, sock: _Socket, packet: bytes) -> bytes:
        """What becomes of the packet, and of what comes after it."""
        assert self._trouble is not None
        kind, sender = self._trouble.kind, self._trouble.sender
        if kind == "cut":
            for one in list(self._sockets):
                one.close()
        elif kind == "reset":
            sock.reset()
        elif kind == "half":  # the connection ends in the middle of the packet
            sock.writers[OTHER[sender]].write(packet[: len(packet) // 2])
            sock.close()
        elif kind == "one way":
            self._silent.add(sender)
        elif kind == "silence":
            self._silent.update(ADDRESSES)
        elif kind == "stall":
            self._flowing.clear()
        elif kind == "late":
            self._late_s = 0.02
        elif kind == "pieces":
            self._small = True
        elif kind == "flapping":
            self._refusing = True
            sock.reset()
        else:
            assert kind == "flip", kind
            return self._flipped(packet)
        return packet

    def _flipped(self, packet: bytes) -> bytes:
        """One bit of the data of a write."""
        start = 16 + DATA_FIELDS
        spoilt = bytearray(packet)
        spoilt[self._chance.randrange(start, len(packet))] ^= 1 << self._chance.randrange(8)
        return bytes(spoilt)


def _has_block(packet: bytes) -> bool:
    return _command(packet) == P_DATA and len(packet) > 16 + DATA_FIELDS


class ProxiedSite(Site):
    """Each node has a configuration of its own, in which the proxy is the peer."""

    def __init__(self, folder: Any, port: int, size_bytes: int = 4 << 20) -> None:
        super().__init__(folder, port, size_bytes)
        text = CONFIG.format(port=port, folder=folder)
        net = "net { connect-int 1; ping-int 2; ping-timeout 20; data-integrity-alg crc32c;"
        text = text.replace("net { connect-int 1;", net)
        for node, other in OTHER.items():
            own = text.replace(f"{ADDRESSES[other]}:", f"{STANDS_FOR[other]}:")
            (folder / f"{node}.conf").write_text(own)

    def command(self, node: str, *arguments: str) -> list[str]:
        """With the node's own file."""
        words = super().command(node, *arguments)
        words[words.index(str(self.config))] = str(self.folder / f"{node}.conf")
        return words


def _command(packet: bytes) -> int:
    """The number in a packet's header, whatever its form; -1 if it is none."""
    if int.from_bytes(packet[:2], "big") == MAGIC_95:
        return int.from_bytes(packet[2:4], "big")
    magic = int.from_bytes(packet[:4], "big")
    if magic == MAGIC_80:
        return int.from_bytes(packet[4:6], "big")
    return int.from_bytes(packet[6:8], "big") if magic == MAGIC_100 else -1


async def _packet(reader: asyncio.StreamReader) -> bytes:
    """The next packet; what does not begin like one as it comes; b"" at the end."""
    head = await _exactly(reader, 8)
    if len(head) < 8:
        return head
    if int.from_bytes(head[:2], "big") == MAGIC_95:
        length = int.from_bytes(head[4:8], "big")
    elif int.from_bytes(head[:4], "big") == MAGIC_80:
        length = int.from_bytes(head[6:8], "big")
    elif int.from_bytes(head[:4], "big") == MAGIC_100:
        head += await _exactly(reader, 8)
        length = int.from_bytes(head[8:12], "big")
    else:
        return head + await reader.read(CHUNK)
    return head + await _exactly(reader, length)


async def _exactly(reader: asyncio.StreamReader, length: int) -> bytes:
    try:
        return await reader.readexactly(length)
    except asyncio.IncompleteReadError as error:
        return error.partial
