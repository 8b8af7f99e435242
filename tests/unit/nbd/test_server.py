"""The server on real sockets and both loops: order, limits, and clients that mean ill."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client, NbdError
from nbd.export import Refused
from nbd.memory import MemoryExports
from nbd.protocol import SIMPLE_REPLY, Command, Error, Reply
from nbd.server import ListenError, Server
from tests.support.nbd_bytes import CLIENT_FLAGS, go, option, option_replies, request
from tests.support.nbd_served import LOOPS, Served, reset, served, until_closed

SIZE = 64 << 20


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(SIZE, "disk")


@pytest.fixture(params=LOOPS)
def server(exports: MemoryExports, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(exports, request.param) as running:
        yield running


def raw(server: Served) -> socket.socket:
    """A connected socket that has read the greeting."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(server.path)
    assert exactly(sock, 18)[:8] == b"NBDMAGIC"
    return sock


def opened(server: Served) -> socket.socket:
    """A raw socket in transmission, without structured replies."""
    sock = raw(server)
    sock.sendall(CLIENT_FLAGS + go("disk"))
    replies = exactly(sock, 20 + 12 + 20 + 14 + 20)
    assert option_replies(replies)[-1][1] == Reply.ACK
    return sock


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"closed after {len(data)} of {count} bytes"
        data += piece
    return data


def disk_of(exports: MemoryExports):  # type: ignore[no-untyped-def]
    return exports.disks["disk"]


# --- the ordinary ---


def test_a_client_lists_looks_opens_writes_and_reads(server: Served) -> None:
    with server.connect() as client:
        assert client.list() == [("disk", "a disk in memory")]
        assert client.info("disk").size == SIZE
        assert client.open("disk") == client.export
        client.write(100, b"hello", fua=True)
        assert client.read(99, 7) == b"\0hello\0"
        client.zero(100, 2, no_hole=True)
        client.trim(0, 4096)
        client.cache(0, 4096)
        client.flush()
        client.disc()


def test_the_time_of_every_receive_is_told(server: Served) -> None:
    """Whatever way the requests take: those that arrive whole have one of their own."""
    told: list[int] = []
    server.server.parsed = told.append
    with server.connect() as client:
        client.open("disk")
        before = len(told)
        for block in range(20):
            client.write(block * 4096, b"x" * 4096)
        # The reply leaves before the receive that caused it has been timed.
        server.wait_until(lambda: len(told) >= before + 20)
    assert all(took_ns >= 0 for took_ns in told)


def test_tcp_and_export_name_work_as_well(server: Served) -> None:
    with Client.connect(("127.0.0.1", server.port)) as client:
        client.open_export_name("disk")
        client.write(SIZE - 3, b"end")
        assert client.read(SIZE - 3, 3) == b"end"
        client.disc()


def test_a_client_learns_what_is_allocated(server: Served, exports: MemoryExports) -> None:
    disk_of(exports).put(4096, b"x")
    with server.connect() as client:
        assert client.contexts("disk") == ["base:allocation"]
        assert client.contexts("disk", "unknown:") == []
        client.open("disk", contexts=["base:allocation", "unknown:leaf"])
        told = {"base:allocation": [(4096, 3), (4096, 0), (SIZE - 8192, 3)]}
        assert client.block_status(0, SIZE) == told
        assert client.block_status(0, SIZE, one=True) == {"base:allocation": [(4096, 3)]}
        assert client.block_status(5000, 100) == {"base:allocation": [(100, 0)]}


def test_errors_carry_sentences(server: Served, exports: MemoryExports) -> None:
    with server.connect() as client:
        client.open("disk")
        with pytest.raises(NbdError, match="reach beyond the export") as beyond:
            client.write(SIZE, b"x")
        assert beyond.value.code == Error.ENOSPC
        disk_of(exports).fail("read", 5)
        with pytest.raises(NbdError, match="input/output error"):
            client.read(0, 1)
        disk_of(exports).fail("read", 0)
        assert client.read(0, 1) == b"\0"


def test_refused_exports_answer_with_the_reason_and_the_connection_goes_on(
    server: Served, exports: MemoryExports
) -> None:
    with server.connect() as client:
        exports.refusal = Refused("disk is Secondary here")
        with pytest.raises(NbdError, match="disk is Secondary here"):
            client.open("disk")
        exports.refusal = None
        client.open("disk")


def test_pipelined_helpers_move_much_at_any_depth(server: Served) -> None:
    with server.connect() as client:
        client.open("disk")
        blocks = [(i * 4096, i.to_bytes(4) * 1024) for i in range(2000)]
        assert client.write_many(blocks, depth=300) == 2000
        found = client.read_many([(offset, 4096) for offset, _ in blocks], depth=500)
        assert found == [data for _, data in blocks]
        big = bytes(range(256)) * (1 << 14)  # 4 MiB
        for i in range(12):
            client.submit_write(i * len(big), big)
            client.submit_read(i * len(big), len(big))
        answers = client.collect()
        assert [a.error for a in answers] == [0] * 24
        assert client.read(SIZE - len(big), len(big)) == bytes(len(big))


def test_open_and_closed_exports_balance(server: Served, exports: MemoryExports) -> None:
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.open("disk")
    server.wait_until(lambda: disk_of(exports).open_count == 5)
    assert server.run(lambda: server.server.clients(lambda name: name == "disk")) == 5
    clients[0].disc()
    for client in clients[1:]:
        client.close()
    server.wait_until(lambda: disk_of(exports).open_count == server.server.connections == 0)


def test_abort_is_answered_then_closed(server: Served) -> None:
    with raw(server) as sock:
        sock.sendall(CLIENT_FLAGS + option(2))
        assert option_replies(until_closed(sock)) == [(2, Reply.ACK, b"")]


# --- held answers: ends of connections with requests in flight ---


def test_disc_waits_for_everything_in_flight(server: Served, exports: MemoryExports) -> None:
    disk = disk_of(exports)
    with opened(server) as sock:
        server.run(disk.hold)
        sock.sendall(request(Command.WRITE, 0, data=b"x", cookie=9) + request(Command.DISC))
        server.wait_until(lambda: disk.held == 1)
        server.run(disk.release)
        assert SIMPLE_REPLY.unpack(until_closed(sock))[1:] == (0, 9)


def test_half_close_answers_what_was_received(server: Served, exports: MemoryExports) -> None:
    disk = disk_of(exports)
    with opened(server) as sock:
        server.run(disk.hold)
        many = 300  # more than may be in flight, so some still wait to be parsed
        sock.sendall(b"".join(request(Command.FLUSH, cookie=i) for i in range(many)))
        sock.shutdown(socket.SHUT_WR)
        server.wait_until(lambda: disk.held == 128)
        server.run(disk.release)
        answers = until_closed(sock)
        assert [c for _, _, c in SIMPLE_REPLY.iter_unpack(answers)] == list(range(many))


def test_close_lets_requests_in_flight_finish(exports: MemoryExports) -> None:
    disk = disk_of(exports)
    for loop in LOOPS:
        with served(exports, loop) as server:
            busy, idle, haggling = opened(server), opened(server), raw(server)
            server.run(disk.hold)
            busy.sendall(request(Command.WRITE, 0, data=b"x", cookie=3))
            server.wait_until(lambda: disk.held == 1)
            closing = threading.Thread(target=server.run, args=(server.server.close,))
            closing.start()
            assert until_closed(idle) == b""
            haggling.sendall(CLIENT_FLAGS + go("disk"))
            ((_, kind, _),) = option_replies(haggling.recv(1000))
            assert kind == Reply.ERR_SHUTDOWN
            server.run(disk.release)
            assert SIMPLE_REPLY.unpack(until_closed(busy))[1:] == (0, 3)
            assert until_closed(haggling) == b""
            closing.join(10)
            assert not os.path.exists(server.path)
            for sock in (busy, idle, haggling):
                sock.close()
        assert disk.open_count == 0


def test_close_does_not_wait_for_ever(exports: MemoryExports) -> None:
    with served(exports) as server, opened(server) as sock:
        server.run(disk_of(exports).hold)
        sock.sendall(request(Command.FLUSH))
        server.wait_until(lambda: disk_of(exports).held == 1)
        server.run(lambda: server.server.close(grace_s=0.05))
        assert until_closed(sock) == b""


def test_drop_ends_the_clients_of_one_export_only(exports: MemoryExports) -> None:
    exports.disks["other"] = MemoryExports.single(4096).disks["memory"]
    with served(exports) as server, server.connect() as one, server.connect() as two:
        one.open("disk")
        two.open("other")
        assert server.run(lambda: server.server.drop(lambda name: name == "disk")) == 1
        with pytest.raises(NbdError, match=r"closed|failed"):
            one.read(0, 1)
        assert two.read(0, 1) == b"\0"


def test_drop_with_grace_finishes_what_is_in_flight(exports: MemoryExports) -> None:
    disk = disk_of(exports)
    with served(exports) as server, opened(server) as sock:
        server.run(disk.hold)
        sock.sendall(request(Command.FLUSH, cookie=5))
        server.wait_until(lambda: disk.held == 1)
        server.run(lambda: server.server.drop(lambda name: True, grace_s=5))
        server.run(disk.release)
        assert SIMPLE_REPLY.unpack(until_closed(sock))[1:] == (0, 5)


# --- hostile clients ---


def test_a_client_that_never_reads_is_bounded_and_hurts_only_itself(
    server: Served, exports: MemoryExports
) -> None:
    with opened(server) as sock, server.connect() as other:
        other.open("disk")
        sock.setblocking(False)
        batch = request(Command.READ, 0, 1 << 20) * 200
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 64 << 20:
                sent += sock.send(batch)
        assert sent < 64 << 20, "the server stopped reading"
        other.write(0, b"alive")
        assert other.read(0, 5) == b"alive"


def test_a_reset_with_replies_on_the_way_disturbs_nobody(server: Served) -> None:
    """200 reads of 1 MiB, none read, then RST: other servers have died of this."""
    with server.connect() as other:
        other.open("disk")
        for _ in range(5):
            with Client.connect(("127.0.0.1", server.port)) as client:
                client.open("disk")
                sock = client._link.stream
                assert isinstance(sock, socket.socket)
                sock.setblocking(True)
                sock.sendall(request(Command.READ, 0, 1 << 20) * 200)
                reset(sock)
            assert other.read(0, 5) == bytes(5)
        server.wait_until(lambda: server.server.connections == 1)


def test_a_client_that_vanishes_inside_a_write_applies_nothing(
    server: Served, exports: MemoryExports
) -> None:
    disk_of(exports).recording = True
    for cut in (10, 28, 1000, 3 << 20):
        sock = opened(server)
        sock.sendall(request(Command.WRITE, 0, data=b"x" * (4 << 20))[:cut])
        sock.close()
    server.wait_until(lambda: server.server.connections == 0)
    assert disk_of(exports).calls == []
    assert disk_of(exports).content(0, 4) == bytes(4)


def test_connect_and_go_away_at_every_byte_of_the_handshake(server: Served) -> None:
    talk = CLIENT_FLAGS + option(3) + go("disk") + request(Command.READ, 0, 512)
    for cut in range(len(talk) + 1):
        with socket.create_connection(("127.0.0.1", server.port)) as sock:
            sock.sendall(talk[:cut])
            if cut % 2:
                reset(sock)
    server.wait_until(lambda: server.server.connections == 0)
    with server.connect() as client:
        client.open("disk")


def test_three_hundred_connects_leave_no_descriptor_behind(server: Served) -> None:
    def descriptors() -> int:
        return len(os.listdir("/proc/self/fd"))

    with server.connect() as client:
        client.list()
    server.wait_until(lambda: server.server.connections == 0)
    before = descriptors()
    for _ in range(300):
        with raw(server) as sock:
            sock.sendall(CLIENT_FLAGS)
    server.wait_until(lambda: server.server.connections == 0)
    assert descriptors() <= before + 2


def test_idle_strangers_in_the_handshake_keep_nobody_out(exports: MemoryExports) -> None:
    for loop in LOOPS:
        with served(exports, loop, half_open_max=20) as server, server.connect() as client:
            client.open("disk")
            strangers = [raw(server) for _ in range(60)]
            with server.connect() as other:
                other.open("disk")
                assert other.read(0, 1) == b"\0"
            assert client.read(0, 1) == b"\0", "established clients are not touched"
            assert until_closed(strangers[0]) == b"", "the oldest stranger had to go"
            for sock in strangers:
                sock.close()


def test_too_many_connections_are_closed_at_once(exports: MemoryExports) -> None:
    with served(exports, connections_max=2) as server:
        with server.connect() as one, server.connect() as two:
            one.open("disk")
            two.open("disk")
            with pytest.raises(NbdError):
                server.connect()
            assert one.read(0, 1) == b"\0"
        server.wait_until(lambda: server.server.connections == 0)
        with server.connect() as again:
            again.open("disk")


def test_a_handshake_has_a_deadline_and_transmission_has_none(exports: MemoryExports) -> None:
    for loop in LOOPS:
        with served(exports, loop, handshake_s=0.1) as server, server.connect() as client:
            client.open("disk")
            begun = time.monotonic()
            with raw(server) as sock:
                sock.sendall(CLIENT_FLAGS)
                assert until_closed(sock) == b""
            assert 0.05 < time.monotonic() - begun < 5
            assert client.read(0, 1) == b"\0"


def test_a_client_that_does_not_take_its_last_replies_is_let_go(exports: MemoryExports) -> None:
    disk = disk_of(exports)
    for loop in LOOPS:
        with served(exports, loop, linger_s=0.1) as server, opened(server) as sock:
            server.run(disk.hold)
            # The socket's buffer takes less than this, so the end waits for the client: in vain.
            sock.sendall(request(Command.READ, 0, 30 << 20) + request(Command.DISC))
            server.wait_until(lambda: disk.held == 1)
            server.run(disk.release)
            server.wait_until(lambda: server.server.connections == 0)


@pytest.mark.parametrize(
    "nonsense", [b"GET / HTTP/1.1\r\n\r\n" * 3, bytes(100), b"\xff" * 100, b"\0\0\0\3" + b"x" * 50]
)
def test_nonsense_costs_the_connection_only(server: Served, nonsense: bytes) -> None:
    with raw(server) as sock, server.connect() as other:
        sock.sendall(nonsense)
        until_closed(sock)
        other.open("disk")
        assert other.read(0, 1) == b"\0"


def test_slow_client_one_byte_at_a_time(server: Served) -> None:
    talk = CLIENT_FLAGS + go("disk")
    with raw(server) as sock:
        for byte in talk:
            sock.sendall(bytes((byte,)))
        exactly(sock, 86)
        for byte in request(Command.WRITE, 0, data=b"slow") + request(Command.READ, 0, 4):
            sock.sendall(bytes((byte,)))
        assert exactly(sock, 36)[-4:] == b"slow"


# --- listening ---


def test_a_stale_socket_file_is_replaced_and_a_live_one_is_not(
    server: Served, exports: MemoryExports, tmp_path: Path
) -> None:
    stale = tmp_path / "nbd.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(str(stale))

    async def listen(path: str) -> None:
        second = Server(exports)
        try:
            await second.listen_unix(path)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o660
        finally:
            await second.close()

    server.run(lambda: listen(str(stale)))
    assert not stale.exists()
    with pytest.raises(ListenError, match="another server answers there"):
        server.run(lambda: listen(server.path))
    stale.write_text("precious")
    with pytest.raises(ListenError, match="not a socket"):
        server.run(lambda: listen(str(stale)))
    assert stale.read_text() == "precious"
    with pytest.raises(ListenError, match="No such file"):
        server.run(lambda: listen(str(tmp_path / "missing" / "nbd.sock")))
    with pytest.raises(ListenError, match="107"):
        server.run(lambda: listen("/tmp/" + "x" * 200))


def test_an_abstract_socket_needs_no_file(server: Served) -> None:
    name = f"\0nbd-test-{os.getpid()}-{id(server)}"
    server.run(lambda: server.server.listen_unix(name))
    with Client.connect(name) as client:
        client.open("disk")


def test_a_port_in_use_is_told(server: Served, exports: MemoryExports) -> None:
    async def listen() -> None:
        await Server(exports).listen_tcp("127.0.0.1", server.port)

    with pytest.raises(ListenError, match=f"127.0.0.1:{server.port}.*in use"):
        server.run(listen)


def test_ipv6(server: Served) -> None:
    try:
        port = server.run(lambda: server.server.listen_tcp("::1", 0))
    except ListenError as none:
        pytest.skip(f"this machine has no IPv6: {none}")
    with Client.connect(("::1", port)) as client:
        client.open("disk")


# --- several connections to one disk ---


def test_unaligned_writers_on_several_connections_keep_each_others_bytes() -> None:
    exports = MemoryExports.single(1 << 20, "disk", minimum_block=4096)
    with served(exports) as server:
        clients = [server.connect() for _ in range(4)]
        for client in clients:
            client.open("disk", block_sizes=False)
        for i in range(2000):
            clients[i % 4].submit_write(i, bytes((i % 251,)))
        for client in clients:
            assert not any(answer.error for answer in client.collect())
        assert clients[0].read(0, 2000) == bytes(i % 251 for i in range(2000))
        for client in clients:
            client.disc()


def test_a_write_answered_on_one_connection_is_read_on_another(server: Served) -> None:
    with server.connect() as one, server.connect() as two:
        one.open("disk")
        two.open("disk")
        for i in range(200):
            (one if i % 2 else two).write(0, i.to_bytes(4))
            assert (two if i % 2 else one).read(0, 4) == i.to_bytes(4)
