"""Holes that other NBD servers had, tried on this one. The table is in docs/testing.md."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from nbd.memory import MemoryExports
from nbd.protocol import Command
from tests.support.nbd_bytes import CLIENT_FLAGS, go, option, request
from tests.support.nbd_served import Served, served

MIB = 1 << 20
GREETING_BYTES = 18
REPLY_HEAD = struct.Struct(">QIII")
REPLY_MAGIC = 0x3E889045565A9
REPLY_MAX = 4096 + 64
SIMPLE_BYTES = 16
RESET = struct.pack("ii", 1, 0)


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(16 * MIB)


@pytest.fixture
def server(exports: MemoryExports) -> Iterator[Served]:
    with served(exports) as made:
        yield made
        with made.connect() as client:  # whatever happened: others are served
            client.open("memory")
            client.write(0, b"alive")
            assert client.read(0, 5) == b"alive"
            client.disc()


def dial(server: Served) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    sock.connect(server.path)
    return sock


def tcp(server: Served) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=10)


def exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count and (piece := sock.recv(count - len(found))):
        found += piece
    return found


def named(name: bytes) -> bytes:
    """NBD_OPT_GO for a name of any bytes."""
    return option(7, struct.pack(">I", len(name)) + name + bytes(2))


@pytest.mark.parametrize(
    "name",
    [b"x" * n for n in (0, 1, 255, 256, 257, 4095, 4096, 4097, 65535)]
    + [b"\0", b"memory\0", b"\xff\xfe", b"../../etc/passwd", b"%s%n"],
    ids=lambda name: f"{len(name)} {name[:8]!r}",
)
def test_names_of_any_length_and_kind(server: Served, name: bytes) -> None:
    """qemu CVE-2017-15118: a stack buffer of 256 bytes. CVE-2020-10761: an error reply with the
    client's name in it was too long for an assertion."""
    with dial(server) as sock:
        exactly(sock, GREETING_BYTES)
        sock.sendall(CLIENT_FLAGS + named(name) + option(2))
        while head := exactly(sock, REPLY_HEAD.size):
            magic, _, _, length = REPLY_HEAD.unpack(head)
            assert magic == REPLY_MAGIC
            assert length <= REPLY_MAX
            if name != b"":
                assert name not in exactly(sock, length) or len(name) < 256
            else:
                break  # the default export: transmission follows


@pytest.mark.parametrize("length", [1 << 16, (1 << 31) - 1, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("number", [1, 3, 5, 7, 9, 99])
def test_lengths_that_nobody_can_mean(server: Served, number: int, length: int) -> None:
    """qemu CVE-2017-15119, nbd CVE-2022-26495 and 26496: the length was allocated, or wrapped."""
    with dial(server) as sock:
        exactly(sock, GREETING_BYTES)
        sock.sendall(CLIENT_FLAGS + b"IHAVEOPT" + struct.pack(">II", number, length))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            sock.sendall(bytes(1 << 16))
            assert len(sock.recv(1 << 16)) <= REPLY_MAX


@pytest.mark.parametrize("inner", [7, 1 << 16, (1 << 32) - 1, (1 << 32) - 6])
def test_a_name_longer_than_the_option_that_holds_it(server: Served, inner: int) -> None:
    """The same holes, one level down: 4 + inner + 2 wraps."""
    with dial(server) as sock:
        exactly(sock, GREETING_BYTES)
        sock.sendall(CLIENT_FLAGS + option(7, struct.pack(">I", inner) + b"memory" + bytes(2)))
        sock.sendall(option(2))
        with contextlib.suppress(ConnectionResetError):
            head = exactly(sock, REPLY_HEAD.size)
            if head:
                assert REPLY_HEAD.unpack(head)[2] & 0x8000_0000, "an error"


def test_a_client_that_goes_at_every_byte_of_its_handshake(server: Served) -> None:
    """qemu CVE-2017-9524, nbd CVE-2013-7441: an abrupt end in the negotiation ended the server."""
    said = CLIENT_FLAGS + option(8) + go("memory") + request(Command.WRITE, 0, data=bytes(512))
    for count in range(len(said) + 1):
        for rude in (False, True):
            with tcp(server) as sock:
                sock.sendall(said[:count])
                if rude:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def test_an_end_while_a_hundred_clients_say_nothing(exports: MemoryExports) -> None:
    """qemu CVE-2024-7409: clients that never negotiate, and a server that is ended meanwhile."""
    with contextlib.ExitStack() as stack:
        with served(exports) as server:
            for number in range(100):
                sock = stack.enter_context(dial(server))
                sock.sendall((CLIENT_FLAGS + go("memory"))[: number % 30])
            began = time.monotonic()
        assert time.monotonic() - began < 15


def test_no_disk_is_opened_before_it_is_chosen(server: Served, exports: MemoryExports) -> None:
    """nbdkit CVE-2019-14850: the back end was opened for whoever connected."""
    with dial(server) as sock:
        exactly(sock, GREETING_BYTES)
        sock.sendall(CLIENT_FLAGS + option(3) + go("memory", number=6))
        sock.recv(4096)
        assert exports.disks["memory"].open_count == 0


@pytest.mark.parametrize("early", [request(Command.READ, 0, 512), request(Command.DISC)])
def test_commands_before_anything_was_agreed(server: Served, early: bytes) -> None:
    """nbdkit CVE-2019-14851: an order of messages met an assertion."""
    with dial(server) as sock:
        exactly(sock, GREETING_BYTES)
        sock.sendall(CLIENT_FLAGS + early + go("memory"))
        with contextlib.suppress(ConnectionResetError):
            assert exactly(sock, 1) == b""


@pytest.mark.parametrize("command", [3, 4, 5, 6, 7, 0, 99], ids=str)
@pytest.mark.parametrize("offset", [0, 512, 16 * MIB - 512, (1 << 64) - 512])
def test_the_longest_length_of_every_command(server: Served, command: int, offset: int) -> None:
    """nbdkit CVE-2025-47711 and 47712: BLOCK_STATUS near 4 GiB; and offset + length that wraps."""
    length = (1 << 32) - 1
    with dial(server) as sock:
        exactly(sock, GREETING_BYTES)
        sock.sendall(CLIENT_FLAGS + go("memory"))
        while REPLY_HEAD.unpack(head := exactly(sock, REPLY_HEAD.size))[2] != 1:
            exactly(sock, REPLY_HEAD.unpack(head)[3])
        if command == 3:  # a flush has neither offset nor length
            offset, length = 0, 0
        sock.sendall(request(command, offset, length) + request(Command.READ, 0, 512, cookie=2))
        first = exactly(sock, SIMPLE_BYTES)
        assert struct.unpack(">IIQ", first)[2] == 1
        assert (struct.unpack(">IIQ", first)[1] == 0) == (command == 3)
        assert struct.unpack(">IIQ", exactly(sock, SIMPLE_BYTES))[1:] == (0, 2), "in step"


def test_reads_that_nobody_takes_and_a_reset(server: Served) -> None:
    """nbdkit 1.32.5 as in Debian 12 aborts here: raw_send_socket, Assertion `sock >= 0'."""
    for _ in range(5):
        with tcp(server) as sock:
            sock.sendall(CLIENT_FLAGS + go("memory") + request(Command.READ, 0, MIB) * 200)
            exactly(sock, GREETING_BYTES + 2 * MIB)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
