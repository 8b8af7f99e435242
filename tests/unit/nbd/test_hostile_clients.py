"""Clients that mean ill, many at a time, against a server in a process of its own: its memory stays
bounded, and a client that means well is served all the while."""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client
from nbd.memory import MemoryExports
from nbd.protocol import Command
from tests.support.nbd_bytes import CLIENT_FLAGS, extended, go, meta, option, request
from tests.support.nbd_served import LOOPS, served

MIB = 1 << 20
GROWTH_MAX = 64 * MIB
"""What a server may grow by under attack, its disk of 64 MiB included where it is written."""


class Victim:
    """``python -m nbd`` on a unix socket."""

    def __init__(self, folder: Path, *options: str, growth_max: int = GROWTH_MAX) -> None:
        self.path = str(folder / "nbd.sock")
        self.growth_max = growth_max
        command = [sys.executable, "-m", "nbd", "--memory", "64M", "--unix", self.path, *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("nbd+unix:")
        self.begin = self.resident

    @property
    def resident(self) -> int:
        """Bytes of memory in use."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(self.path)  # blocking: it waits while the backlog is full
        except OSError:
            sock.close()
            raise
        sock.settimeout(10)
        return sock

    def serves(self) -> None:
        """A well-meaning client finds it in order, and it has not grown."""
        with Client.connect(self.path, timeout_s=10) as client:
            client.open("memory")
            client.write(0, b"alive")
            assert client.read(0, 5) == b"alive"
            client.disc()
        assert self.resident - self.begin < self.growth_max

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Victim]:
    made = Victim(tmp_path)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def many_descriptors() -> Iterator[int]:
    """Room for a few thousand sockets; how many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3500 if hard == resource.RLIM_INFINITY else min(3500, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield max(soft, wanted) - 300
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_thousands_of_connections_at_once(victim: Victim, many_descriptors: int) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(min(3000, many_descriptors)):
            stack.enter_context(victim.connect())
        victim.serves()
    victim.serves()


def test_slow_strangers_hold_nobody_up(victim: Victim) -> None:
    """Each sends a byte of its handshake now and then; half_open_max of them may wait."""
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(victim.connect()) for _ in range(100)]
        for byte in CLIENT_FLAGS + go("memory")[:8]:
            for sock in slow:
                with contextlib.suppress(OSError):  # the oldest were let go
                    sock.send(bytes([byte]))
            victim.serves()


def test_announced_lengths_reserve_nothing(victim: Victim) -> None:
    """60 clients announce 32 MiB each, and send none of it."""
    with contextlib.ExitStack() as stack:
        for _ in range(60):
            sock = stack.enter_context(victim.connect())
            sock.sendall(CLIENT_FLAGS + go("memory") + request(Command.WRITE, 0, 16 * MIB))
            sock.sendall(bytes(1000))
        victim.serves()


def test_clients_that_ask_and_never_read(victim: Victim) -> None:
    with Client.connect(victim.path) as client:
        client.open("memory")
        client.write(0, random.Random(1).randbytes(4 * MIB))
        client.disc()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock = stack.enter_context(victim.connect())
            sock.sendall(CLIENT_FLAGS + go("memory"))
            sock.setblocking(False)
            batch = request(Command.READ, 0, MIB) * 100
            with contextlib.suppress(BlockingIOError):
                for _ in range(100):
                    sock.send(batch)
        deadline = time.monotonic() + 2
        while time.monotonic() < deadline:
            victim.serves()


def test_payloads_that_are_never_finished_share_one_limit(tmp_path: Path) -> None:
    """60 clients send 24 MiB each and keep the last byte: 1440 MiB, where 128 are allowed. A client
    that needs no more than its share is served all the while."""
    victim = Victim(tmp_path, "--total-bytes", "128M", growth_max=192 * MIB)
    try:
        with contextlib.ExitStack() as stack:
            socks = []
            for _ in range(60):
                sock = stack.enter_context(victim.connect())
                sock.sendall(CLIENT_FLAGS + go("memory") + request(Command.WRITE, 0, 24 * MIB))
                sock.setblocking(False)
                socks.append(sock)
            piece = bytes(MIB)
            sent = dict.fromkeys(socks, 0)
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                for sock in socks:
                    room = 24 * MIB - 1 - sent[sock]
                    with contextlib.suppress(OSError):  # it is full, or was let go
                        sent[sock] += sock.send(piece[:room]) if room else 0
                victim.serves()
            print(f"grown by {(victim.resident - victim.begin) / MIB:.0f} MiB")
            assert victim.resident - victim.begin < 192 * MIB
    finally:
        victim.end()


@pytest.mark.parametrize("loop", LOOPS)
def test_replies_nobody_takes_are_counted_and_let_go(loop: str) -> None:
    """Four clients ask for much and read nothing: together they hold what is allowed, and end."""
    exports = MemoryExports.single(16 * MIB, "memory")
    exports.disks["memory"].put(0, random.Random(1).randbytes(16 * MIB))
    options = {"total_bytes_max": 64 * MIB, "connections_max": 16, "linger_s": 2}
    with served(exports, loop, **options) as server, contextlib.ExitStack() as stack:
        for _ in range(4):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            sock.connect(server.path)
            sock.sendall(CLIENT_FLAGS + go("memory") + request(Command.READ, 0, 16 * MIB) * 20)
        server.wait_until(lambda: server.server.budget.held_bytes > 32 * MIB)
        with server.connect() as client:
            client.open("memory")
            for at in range(50):
                assert len(client.read(at * 4096, 4096)) == 4096
                assert server.run(lambda: server.server.budget.held_bytes) <= 96 * MIB
            for _ in range(4):  # more than its share: it waits until they are let go
                assert len(client.read(0, 16 * MIB)) == 16 * MIB
        stack.close()
        server.wait_until(lambda: server.server.budget.held_bytes == 0)
        assert server.run(lambda: server.server.connections) == 0


@pytest.mark.parametrize("loop", LOOPS)
def test_a_slow_disk_is_nobodys_fault(loop: str) -> None:
    """Clients whose requests the disk does not answer are not let go, however many wait."""
    exports = MemoryExports.single(16 * MIB, "memory")
    disk = exports.disks["memory"]
    options = {"total_bytes_max": 64 * MIB, "connections_max": 64, "linger_s": 0.5}
    with served(exports, loop, **options) as server, contextlib.ExitStack() as stack:
        server.run(disk.hold)
        clients = [stack.enter_context(server.connect()) for _ in range(6)]
        for client in clients:
            client.open("memory")
            client.submit_read(0, 16 * MIB)
            client._exchange()
        server.wait_until(lambda: disk.held == 4)
        time.sleep(2.5)
        assert server.run(lambda: server.server.connections) == 6
        server.run(disk.release)
        for client in clients:
            (answer,) = client.collect(1)
            assert len(answer.data) == 16 * MIB


STAGES = {
    "nothing": b"",
    "flags": CLIENT_FLAGS,
    "half a flag": CLIENT_FLAGS[:2],
    "an option": CLIENT_FLAGS + option(3),
    "half an option": CLIENT_FLAGS + go("memory")[:13],
    "structured replies": CLIENT_FLAGS + option(8),
    "a context": CLIENT_FLAGS + option(8) + meta(10, "memory", "base:allocation"),
    "transmission": CLIENT_FLAGS + go("memory"),
    "extended transmission": CLIENT_FLAGS + option(11) + go("memory"),
    "half a request": CLIENT_FLAGS + go("memory") + request(Command.READ, 0, 512)[:20],
    "half a payload": CLIENT_FLAGS + go("memory") + request(Command.WRITE, 0, 4096) + bytes(100),
    "a write": CLIENT_FLAGS + go("memory") + request(Command.WRITE, 0, data=bytes(512)),
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("stage", STAGES)
def test_nonsense_and_half_closes_at_every_stage(stage: str, loop: str) -> None:
    """From every point on: random bytes, zeroes, a request of the other form, or no more at all."""
    rng = random.Random(stage)
    after = [
        rng.randbytes(300),
        bytes(300),
        b"\xff" * 300,
        request(Command.READ, 0, 512) + extended(Command.READ, 0, 512) + bytes(64),
        b"",
    ]
    with served(MemoryExports.single(MIB, "memory"), loop) as server:
        for tail in after:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(10)
                sock.connect(server.path)
                with contextlib.suppress(OSError):  # the server may have closed by now
                    sock.sendall(STAGES[stage] + tail)
                    sock.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while sock.recv(1 << 16):
                        pass
            with server.connect() as client:
                client.open("memory")
                assert len(client.read(0, 5)) == 5
        server.wait_until(lambda: server.server.connections == 0)


@pytest.mark.parametrize("loop", LOOPS)
def test_the_limits_in_flight_are_the_servers_to_choose(loop: str) -> None:
    exports = MemoryExports.single(MIB, "memory")
    disk = exports.disks["memory"]
    for limits, most in (({"requests_max": 3}, 3), ({"bytes_max": 8192}, 2)):
        with served(exports, loop, **limits) as server, server.connect() as client:
            client.open("memory")
            server.run(disk.hold)
            cookies = [client.submit_read(at * 4096, 4096) for at in range(10)]
            client._exchange()
            server.wait_until(lambda most=most: disk.held == most)  # type: ignore[misc]
            server.run(disk.release)
            assert len(client.collect()) == len(cookies)


def test_a_server_that_holds_its_clients_greets_them_once_it_lets_go() -> None:
    for loop in LOOPS:
        with served(MemoryExports.single(MIB, "memory"), loop, handshake_s=5) as server:
            server.run(server.server.hold)
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
                sock.settimeout(0.2)
                sock.connect(server.path)
                with pytest.raises(TimeoutError):
                    sock.recv(1)
                server.run(server.server.release)
                sock.settimeout(10)
                assert sock.recv(8) == b"NBDMAGIC"
            with server.connect() as client:
                assert client.info("memory").size == MIB


@pytest.mark.parametrize("loop", LOOPS)
def test_the_end_does_not_wait_for_a_client_that_left_requests_behind(loop: str) -> None:
    """It closed its side while its request was in flight, and the disk never answers."""
    exports = MemoryExports.single(MIB, "memory")
    disk = exports.disks["memory"]
    with (
        served(exports, loop) as server,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock,
    ):
        server.run(disk.hold)
        sock.connect(server.path)
        sock.sendall(CLIENT_FLAGS + go("memory") + request(Command.READ, 0, 512))
        server.wait_until(lambda: disk.held == 1)
        sock.shutdown(socket.SHUT_WR)
        server.wait_until(lambda: all(c._ending for c in server.server._connections))
        began = time.monotonic()
        server.run(lambda: server.server.close(grace_s=0.1))
        assert time.monotonic() - began < 5
        server.run(disk.release)
