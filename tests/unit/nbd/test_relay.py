"""``python -m nbd.relay``: its clients see a pause where the server behind it ends, no error."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nbd.client import Client, NbdError
from nbd.export import Refused
from nbd.memory import MemoryExports
from nbd.protocol import Error, TransmissionFlag
from tests.support.nbd_served import Served, served

MIB = 1 << 20
BLOCK = 4096


class Relay:
    """The program, and paths that point to whatever servers there are."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("here",), *options: str) -> None:
        self.folder = folder
        self.path = str(folder / "relay.sock")
        uris = [f"nbd+unix:///?socket={folder / name}" for name in names]
        command = [sys.executable, "-m", "nbd.relay", "--unix", self.path, *options, *uris]
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()

    def connect(self) -> Client:
        return Client.connect(self.path, timeout_s=20)

    def told(self, text: str) -> bool:
        return text in (self.folder / "log").read_text()

    def end(self) -> int:
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(20)
        self.process.stdout.close()
        return status


@contextlib.contextmanager
def relayed(folder: Path, names: tuple[str, ...] = ("here",), *options: str) -> Iterator[Relay]:
    made = Relay(folder, names, *options)
    try:
        yield made
        assert made.end() == 0
    finally:
        if made.process.poll() is None:
            made.process.kill()
            made.end()


@contextlib.contextmanager
def serving(
    exports: MemoryExports, folder: Path, name: str = "here", **options: object
) -> Iterator[Served]:
    """A server, found at *name* in the folder while it is there."""
    with served(exports, **options) as server:
        (folder / f"{name}.new").symlink_to(server.path)
        os.replace(folder / f"{name}.new", folder / name)
        yield server
    # The disk outlives its server; what it was asked and has not done dies with it.
    for disk in exports.disks.values():
        disk._held.clear()
        disk.holding = False


def until(happened: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not happened():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.01)


def test_every_request_is_passed_on(tmp_path: Path) -> None:
    exports = MemoryExports.single(8 * MIB, "disk", minimum_block=512)
    disk = exports.disks["disk"]
    disk.recording = True
    with serving(exports, tmp_path), relayed(tmp_path) as relay:
        assert relay.said == f"nbd+unix:///?socket={relay.path}\n"
        with relay.connect() as client:
            info = client.open("")
            assert (info.size, info.minimum_block) == (8 * MIB, 512)
            assert info.description == "a disk in memory"
            assert info.flags & TransmissionFlag.CAN_MULTI_CONN
            client.write(4096, b"x" * 8192, fua=True)
            assert client.read(4096, 8192) == b"x" * 8192
            client.zero(4096, 4096, no_hole=True)
            client.trim(8192, 4096, fua=True)
            client.flush()
            assert client.read(4096, 8192) == bytes(8192)
            client.disc()
    kinds = [(call.kind, call.fua, call.may_unmap) for call in disk.calls]
    assert kinds == [
        ("write", True, False),
        ("read", False, False),
        ("zero", False, False),
        ("trim", True, False),
        ("flush", False, False),
        ("read", False, False),
    ]


def test_errors_of_the_server_reach_the_client(tmp_path: Path) -> None:
    exports = MemoryExports.single(MIB, "disk")
    exports.disks["disk"].fail("write", 28)
    with serving(exports, tmp_path), relayed(tmp_path) as relay, relay.connect() as client:
        client.open("")
        with pytest.raises(NbdError) as bad:
            client.write(0, b"x")
        assert bad.value.code == Error.ENOSPC


def test_what_was_not_answered_is_asked_again_of_the_next_server(tmp_path: Path) -> None:
    exports = MemoryExports.single(MIB, "disk")
    disk = exports.disks["disk"]
    with contextlib.ExitStack() as stack:
        with serving(exports, tmp_path) as first:
            relay = stack.enter_context(relayed(tmp_path))
            client = stack.enter_context(relay.connect())
            client.open("")
            client.write(0, b"before")
            first.run(disk.hold)
            for at in range(20):
                client.submit_write(at * BLOCK, bytes([at + 1]) * BLOCK)
            client.submit_read(0, 5)
            client._exchange()
            first.wait_until(lambda: disk.held == 21)
        until(lambda: relay.told("21 requests wait"))
        with serving(exports, tmp_path):
            answers = client.collect(21)
            assert [answer.error for answer in answers] == [0] * 21
            for at in range(20):
                assert client.read(at * BLOCK, BLOCK) == bytes([at + 1]) * BLOCK


def test_a_server_that_stops_politely_and_comes_back_is_not_noticed(tmp_path: Path) -> None:
    """Its ESHUTDOWN is not for the client, who works all the time."""
    exports = MemoryExports.single(MIB, "disk")
    errors: list[str] = []
    numbers = [0]
    ending = threading.Event()

    def work(relay: Relay) -> None:
        with relay.connect() as client:
            client.open("")
            try:
                while not ending.is_set():
                    data = numbers[0].to_bytes(8, "big")
                    client.write(0, data)
                    assert client.read(0, 8) == data
                    numbers[0] += 1
                client.disc()
            except NbdError as bad:
                errors.append(str(bad))

    with contextlib.ExitStack() as stack:
        with serving(exports, tmp_path):
            relay = stack.enter_context(relayed(tmp_path))
            worker = threading.Thread(target=work, args=(relay,), daemon=True)
            worker.start()
            until(lambda: numbers[0] > 20)
        for _ in range(5):
            before = numbers[0]
            with serving(exports, tmp_path):
                until(lambda before=before: numbers[0] > before + 20)  # type: ignore[misc]
        with serving(exports, tmp_path):
            ending.set()
            worker.join(20)
    assert errors == []


def test_the_role_moves_to_the_other_server_and_back(tmp_path: Path) -> None:
    """Two servers with one disk; the one that is not Primary refuses."""
    one = MemoryExports.single(MIB, "disk")
    other = MemoryExports(one.disks)
    other.refusal = Refused("only a Primary serves clients")
    with (
        serving(one, tmp_path, "here") as here,
        serving(other, tmp_path, "there") as there,
        relayed(tmp_path, ("here", "there")) as relay,
        relay.connect() as client,
    ):
        client.open("")
        for number in range(6):
            data = b"round %d" % number
            client.write(0, data)
            old, new = ((here, one), (there, other))[:: 1 if number % 2 == 0 else -1]
            old[1].refusal = Refused("only a Primary serves clients")
            new[1].refusal = None
            old[0].run(lambda old=old: old[0].server.drop(lambda _: True))  # type: ignore[misc]
            assert client.read(0, len(data)) == data
            assert new[0].run(lambda new=new: new[0].server.clients()) == 1  # type: ignore[misc]


def test_patience_ends_and_begins_anew(tmp_path: Path) -> None:
    exports = MemoryExports.single(MIB, "disk")
    with contextlib.ExitStack() as stack:
        with serving(exports, tmp_path):
            relay = stack.enter_context(relayed(tmp_path, ("here",), "--patience", "0.3"))
            client = stack.enter_context(relay.connect())
            client.open("")
            client.write(0, b"before")
        for _ in range(2):
            with pytest.raises(NbdError) as bad:
                client.read(0, 6)
            assert bad.value.code == Error.EIO
        with serving(exports, tmp_path):
            until(lambda: relay.told("0 requests are sent again"))

            def works() -> bool:
                try:
                    return client.read(0, 6) == b"before"
                except NbdError:
                    return False

            until(works)


def test_when_all_refuse_it_ends_for_good(tmp_path: Path) -> None:
    """Somebody else may write now. A server that says "later", or none, is waited for."""
    exports = MemoryExports.single(MIB, "disk")
    with serving(exports, tmp_path) as server:
        made = Relay(tmp_path)
        with made.connect() as client:
            client.open("")
            client.write(0, b"before")
            exports.refusal = Refused("about to be Primary", later=True)
            server.run(lambda: server.server.drop(lambda _: True))
            time.sleep(0.3)
            assert made.process.poll() is None
            exports.refusal = None
            assert client.read(0, 6) == b"before"
            exports.refusal = Refused("only a Primary serves clients")
            server.run(lambda: server.server.drop(lambda _: True))
            with pytest.raises(NbdError):
                client.read(0, 6)
        assert made.process.wait(20) == 1
        assert made.told("only a Primary serves clients")
        assert made.process.stdout is not None
        made.process.stdout.close()


@pytest.mark.parametrize("what", ["smaller", "read-only"])
def test_a_server_with_another_disk_is_passed_over(tmp_path: Path, what: str) -> None:
    exports = MemoryExports.single(MIB, "disk")
    wrong = MemoryExports.single(MIB // 2 if what == "smaller" else MIB, "disk")
    if what == "read-only":
        wrong = MemoryExports.single(MIB, "disk", read_only=True)
    wrong.disks["disk"].recording = True
    with contextlib.ExitStack() as stack:
        with serving(exports, tmp_path):
            relay = stack.enter_context(relayed(tmp_path))
            client = stack.enter_context(relay.connect())
            client.open("")
            client.write(0, b"the right one")
        with serving(wrong, tmp_path) as server:
            cookie = client.submit_read(0, 13)
            client._exchange()
            time.sleep(0.3)
            server.wait_until(lambda: server.server.clients() == 0)
            assert wrong.disks["disk"].calls == []
        with serving(exports, tmp_path):
            (answer,) = client.collect(1)
            assert (answer.cookie, answer.data) == (cookie, b"the right one")


def test_nonsense_from_a_server_costs_its_connection(tmp_path: Path) -> None:
    """It greets well, answers with rubbish, and is left; the next one is asked again."""
    exports = MemoryExports.single(MIB, "disk")
    disk = exports.disks["disk"]
    with contextlib.ExitStack() as stack:
        with serving(exports, tmp_path) as server:
            relay = stack.enter_context(relayed(tmp_path))
            client = stack.enter_context(relay.connect())
            client.open("")
            server.run(disk.hold)
            client.submit_read(0, 5)
            client._exchange()
            server.wait_until(lambda: disk.held == 1)
            (connection,) = server.run(lambda: list(server.server._connections))
            server.run(lambda: connection._transport.write(b"\xff" * 64))
            until(lambda: relay.told("something that is not an NBD reply"))
        with serving(exports, tmp_path):
            assert [answer.error for answer in client.collect(1)] == [0]


def test_who_serves_nobody_is_named(tmp_path: Path) -> None:
    for arguments, sentence in (
        (["nbd+unix:///?socket=/nowhere"], "cannot connect to /nowhere"),
        (["http://example"], "http"),
    ):
        command = [sys.executable, "-m", "nbd.relay", "--unix", str(tmp_path / "r"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 1
        assert sentence in done.stderr
        assert not (tmp_path / "r").exists()


def test_its_end_while_nobody_serves_is_clean(tmp_path: Path) -> None:
    exports = MemoryExports.single(MIB, "disk")
    with contextlib.ExitStack() as stack:
        with serving(exports, tmp_path):
            relay = stack.enter_context(relayed(tmp_path))
        sock = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        sock.connect(relay.path)
        until(lambda: relay.told("requests wait"))
