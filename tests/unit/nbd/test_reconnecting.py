"""A server whose clients come again, and whose disks get another size: on both loops."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace

import pytest

from nbd.client import NbdError
from nbd.export import Refused
from nbd.memory import MemoryExports
from nbd.protocol import Command, Reply
from tests.support.nbd_bytes import request
from tests.support.nbd_served import LOOPS, Served, served

SIZE = 1 << 20


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(SIZE, "disk")


@pytest.fixture(params=LOOPS)
def server(exports: MemoryExports, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(exports, request.param) as running:
        yield running


def test_a_client_that_comes_again_is_not_overtaken_by_what_it_said_before(
    exports: MemoryExports,
) -> None:
    """The kernel gives a connection up, asks again on another, and may then write newer data: the
    old request, which nobody has read yet, must not be carried out after them."""
    disk = exports.disks["disk"]
    for loop in LOOPS:
        with served(exports, loop, requests_max=1) as server, server.connect() as again:
            before = server.connect()
            before.open("disk", structured=False)
            with before.hand_over() as old:
                old.setblocking(True)
                server.run(disk.hold)
                old.sendall(request(Command.WRITE, 0, data=b"first"))
                old.sendall(request(Command.WRITE, 4096, data=b"stale"))
                server.wait_until(lambda: disk.held == 1)
                old.shutdown(socket.SHUT_RDWR)  # as the kernel does
                again.open("disk")
                server.run(lambda: setattr(disk, "holding", False))  # but the first write stays
                again.write(4096, b"stale")
                again.write(4096, b"newer")
                server.run(disk.release)
            server.wait_until(lambda: server.server.connections == 1)
            assert again.read(0, 5) == b"first", "what was in flight is carried out"
            assert again.read(4096, 5) == b"newer"


def test_clients_may_use_what_was_added_to_a_disk(server: Served, exports: MemoryExports) -> None:
    disk = exports.disks["disk"]
    small, whole = replace(disk.geometry, size=SIZE // 2), disk.geometry
    disk.geometry = small
    with server.connect() as client:
        assert client.open("disk").size == SIZE // 2
        with pytest.raises(NbdError, match="beyond the export"):
            client.write(SIZE // 2, b"x")
        disk.geometry = whole
        client.write(SIZE // 2, b"x")
        assert client.read(SIZE - 1, 1) == b"\0"
        disk.geometry = small
        with pytest.raises(NbdError, match="beyond the export"):
            client.read(SIZE - 1, 1)
    with server.connect() as client:
        assert client.info("disk").size == SIZE // 2


def test_a_refusal_for_now_is_told_from_one_for_good(
    server: Served, exports: MemoryExports
) -> None:
    with server.connect() as client:
        for later, code in ((False, Reply.ERR_POLICY), (True, Reply.ERR_SHUTDOWN)):
            exports.refusal = Refused("not Primary", later=later)
            with pytest.raises(NbdError, match="not Primary") as refused:
                client.open("disk")
            assert refused.value.code == code
