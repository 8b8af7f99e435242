"""A TCP proxy between two nodes: it records what passes, and cuts, silences or refuses on command.

Each node gets one to reach the other by. ``talks`` holds every connection ever made, in order, with
each piece of bytes as it passed. Times in seconds of the monotonic clock.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import socket
import struct
import threading
import time
from dataclasses import dataclass, field

_numbers = itertools.count()
FIRST_PACKETS = {0xFFF1: "meta", 0xFFF2: "data"}
"""Command of the first packet: what the opener wants the connection for."""
PIECE_BYTES = 1 << 18
LOOK_S = 0.02
"""How often it is looked whether the acceptor listens."""
ABORT = struct.pack("ii", 1, 0)
"""SO_LINGER for a reset instead of an orderly end."""


@dataclass(eq=False)
class Talk:
    """One connection. opener: who made it; pieces: (time, sender, bytes), no bytes: its end."""

    number: int
    opener: str
    opened: float
    sides: dict[str, socket.socket]
    pieces: list[tuple[float, str, bytes]] = field(default_factory=list)

    def said_by(self, node: str) -> bytes:
        """All that *node* sent."""
        return b"".join(data for _, sender, data in self.pieces if sender == node)

    @property
    def kind(self) -> str:
        """data, meta, or nothing as long as its first packet has not passed."""
        first = self.said_by(self.opener)[:8]
        return FIRST_PACKETS.get(int.from_bytes(first[4:6]), "") if len(first) == 8 else ""

    def reset(self, *nodes: str) -> None:
        """Break the connection towards these nodes (none: both); the others notice nothing."""
        for node in nodes or tuple(self.sides):
            side = self.sides[node]
            with contextlib.suppress(OSError):
                side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            if not nodes:
                side.close()


def somebody_listens(port: int) -> bool:
    """Whether a program of this host listens on that port, asked without connecting."""
    with socket.socket() as probe:
        # With SO_REUSEADDR on all sides a port can be taken twice, as long as nobody listens on it.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return True
            raise
    return False


class Recorder:
    """The way from *opener* to *acceptor*. port: where opener connects to; target: the other.

    It listens only while the acceptor listens: a connection to a node that is not there must be
    refused, not accepted and reset.
    """

    def __init__(self, opener: str, acceptor: str, target: int) -> None:
        self.opener, self.acceptor, self.target = opener, acceptor, target
        self.talks: list[Talk] = []
        self.attempts = 0
        """Connections that were accepted, those reset at once included."""
        self.resetting = False
        """Whether newcomers are reset instead of joined."""
        self._passing = threading.Event()
        self._passing.set()
        self._lock = threading.Lock()
        self._living: set[Talk] = set()
        self._half: set[Talk] = set()
        self._refusing = False
        self._closed = False
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = int(probe.getsockname()[1])
        self._keeper = threading.Thread(target=self._keep_listening, daemon=True)
        self._keeper.start()

    # -- faults -------------------------------------------------------------------------------

    def silence(self, on: bool) -> None:
        """Nothing passes and nothing is closed, as if the cable were pulled; kept for later."""
        (self._passing.clear if on else self._passing.set)()

    def refuse(self, on: bool) -> None:
        """Whether nobody listens."""
        self._refusing = on

    def cut(self, kind: str = "") -> int:
        """Reset every connection of a kind (or all); how many there were."""
        with self._lock:
            chosen = [talk for talk in self._living if kind in ("", talk.kind)]
        for talk in chosen:
            talk.reset()
        return len(chosen)

    def half_open(self, node: str) -> int:
        """Reset every connection towards *node*; the other still believes in it."""
        with self._lock:
            chosen = list(self._living)
            self._half.update(chosen)
        for talk in chosen:
            talk.reset(node)
        return len(chosen)

    def close(self) -> None:
        """Stop, and reset what still lives."""
        self._closed = True
        self._keeper.join()
        self._passing.set()
        self.cut()

    # -- copying ------------------------------------------------------------------------------

    def _keep_listening(self) -> None:
        listener: socket.socket | None = None
        while not self._closed:
            wanted = not self._refusing and somebody_listens(self.target)
            if wanted and listener is None:
                listener = socket.create_server(("127.0.0.1", self.port), backlog=16)
                listener.settimeout(LOOK_S)
            elif not wanted and listener is not None:
                listener.close()
                listener = None
            if listener is None:
                time.sleep(LOOK_S)
                continue
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            self.attempts += 1
            threading.Thread(target=self._join, args=(near,), daemon=True).start()
        if listener is not None:
            listener.close()

    def _join(self, near: socket.socket) -> None:
        self._passing.wait()
        try:
            if self.resetting or self._refusing or self._closed:
                raise ConnectionRefusedError
            far = socket.create_connection(("127.0.0.1", self.target), 5)
        except OSError:
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
            near.close()
            return
        for side in (near, far):
            side.settimeout(None)
            side.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sides = {self.opener: near, self.acceptor: far}
        talk = Talk(next(_numbers), self.opener, time.monotonic(), sides)
        with self._lock:
            self.talks.append(talk)
            self._living.add(talk)
        copiers = [
            threading.Thread(target=self._copy, args=(talk, *way), daemon=True)
            for way in ((self.opener, self.acceptor), (self.acceptor, self.opener))
        ]
        for copier in copiers:
            copier.start()
        for copier in copiers:
            copier.join()
        with self._lock:
            self._living.discard(talk)
        for side in sides.values():
            side.close()

    def _copy(self, talk: Talk, sender: str, receiver: str) -> None:
        source, sink = talk.sides[sender], talk.sides[receiver]
        try:
            while data := source.recv(PIECE_BYTES):
                self._passing.wait()
                talk.pieces.append((time.monotonic(), sender, data))
                if (
                    talk not in self._half
                ):  # else the other side is gone, and this one must not know
                    sink.sendall(data)
        except OSError:
            pass  # reset: by a node, or by us; the other side hears of it below
        self._passing.wait()
        talk.pieces.append((time.monotonic(), sender, b""))
        if talk not in self._half:
            with contextlib.suppress(OSError):
                sink.shutdown(socket.SHUT_WR)
