"""STARTTLS: the option row by row, then a server that speaks TLS on real sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.handshake import Handshake, Tls
from nbd.memory import MemoryExports
from nbd.protocol import Command, Option, Reply
from nbd.server import Server
from nbd.tls import TlsError, server_context
from tests.support.nbd_bytes import CLIENT_FLAGS, fed, go, meta, option, option_replies, request
from tests.support.nbd_certificates import certificates
from tests.support.nbd_served import LOOPS, Served, served

SIZE = 8 << 20
STARTTLS = option(Option.STARTTLS)


def handshake(tls: Tls) -> Handshake:
    return Handshake(MemoryExports.single(SIZE, "disk"), tls)


def types(raw: bytes) -> list[int]:
    return [kind for _, kind, _ in option_replies(raw)]


# --- 1.3, 5.3 the option ---


def test_without_certificates_starttls_is_unsupported() -> None:
    h = handshake(Tls.OFF)
    assert types(fed(h, CLIENT_FLAGS, STARTTLS, option(3))) == [Reply.ERR_UNSUP, 2, 1]


@pytest.mark.parametrize("mode", [Tls.OFFERED, Tls.REQUIRED])
def test_starttls_is_acknowledged_and_nothing_more_is_read_in_clear(mode: Tls) -> None:
    h = handshake(mode)
    h.take()
    raw = CLIENT_FLAGS + STARTTLS + option(3)
    assert h.receive(memoryview(raw)) == len(CLIENT_FLAGS + STARTTLS)
    assert types(b"".join(h.take())) == [Reply.ACK]
    assert h.starting_tls
    assert h.receive(memoryview(option(3))) == 0


def test_starttls_with_data_is_invalid() -> None:
    h = handshake(Tls.REQUIRED)
    raw = option(Option.STARTTLS, b"x")
    assert types(fed(h, CLIENT_FLAGS, raw, STARTTLS)) == [Reply.ERR_INVALID, Reply.ACK]


def test_starttls_inside_tls_is_invalid_and_tls_reqd_is_never_said_there() -> None:
    h = handshake(Tls.REQUIRED)
    fed(h, CLIENT_FLAGS, STARTTLS)
    h.tls_is_running()
    h.receive(memoryview(STARTTLS + option(3) + go("disk")))
    kinds = types(b"".join(h.take()))
    assert kinds[0] == Reply.ERR_INVALID
    assert Reply.ERR_TLS_REQD not in kinds
    assert h.opened is not None


def test_starttls_forgets_everything_that_was_agreed_in_clear() -> None:
    h = handshake(Tls.OFFERED)
    agreed = option(8) + option(11) + meta(10, "disk", "base:allocation")
    fed(h, CLIENT_FLAGS, agreed, STARTTLS)
    h.tls_is_running()
    h.receive(memoryview(go("disk")))
    assert h.opened is not None
    assert (h.opened.structured, h.opened.extended, h.opened.contexts) == (False, False, {})


@pytest.mark.parametrize("number", [3, 4, 6, 7, 8, 9, 10, 11, 12, 0, 0xFFFFFFFF])
def test_where_tls_is_required_everything_else_is_tls_reqd(number: int) -> None:
    h = handshake(Tls.REQUIRED)
    out = fed(h, CLIENT_FLAGS, option(number, b"any data"), STARTTLS)
    assert types(out) == [Reply.ERR_TLS_REQD, Reply.ACK]


def test_where_tls_is_required_abort_is_acknowledged() -> None:
    h = handshake(Tls.REQUIRED)
    assert types(fed(h, CLIENT_FLAGS, option(Option.ABORT))) == [Reply.ACK]
    assert h.ended == ""


def test_where_tls_is_required_export_name_closes() -> None:
    h = handshake(Tls.REQUIRED)
    assert fed(h, CLIENT_FLAGS, option(Option.EXPORT_NAME, b"disk")) == b""
    assert h.ended
    assert h.opened is None


def test_a_client_without_fixed_newstyle_gets_no_tls() -> None:
    h = handshake(Tls.OFFERED)
    assert types(fed(h, bytes(4), STARTTLS)) == [Reply.ERR_INVALID]
    assert not h.starting_tls


# --- certificates ---


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("tls") / "pki")


def test_missing_or_useless_certificates_are_named(pki: Path, tmp_path: Path) -> None:
    with pytest.raises(TlsError, match=r"server-cert\.pem"):
        server_context(tmp_path)
    for name in ("server-cert.pem", "server-key.pem"):
        (tmp_path / name).write_bytes((pki / name).read_bytes())
    server_context(tmp_path)
    with pytest.raises(TlsError, match=r"ca-cert\.pem"):
        server_context(tmp_path, verify_peer=True)
    (tmp_path / "ca-cert.pem").write_text("rubbish")
    with pytest.raises(TlsError, match=r"ca-cert\.pem is of no use"):
        server_context(tmp_path, verify_peer=True)
    (tmp_path / "server-key.pem").write_bytes((pki / "client-key.pem").read_bytes())
    with pytest.raises(TlsError, match="are of no use"):
        server_context(tmp_path)


def test_required_tls_without_a_context_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="required"):
        Server(MemoryExports.single(SIZE), tls_required=True)


# --- on sockets ---


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(SIZE, "disk")


@pytest.fixture(params=LOOPS)
def server(exports: MemoryExports, pki: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    context = server_context(pki, verify_peer=True)
    with served(exports, request.param, tls=context, tls_required=True, linger_s=1) as running:
        yield running


def trusting(pki: Path, *, certificate: bool = True) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=pki / "ca-cert.pem")
    if certificate:
        context.load_cert_chain(pki / "client-cert.pem", pki / "client-key.pem")
    return context


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        assert piece, f"closed after {len(data)} of {count} bytes"
        data += piece
    return data


def raw(server: Served, *, unix: bool = False) -> socket.socket:
    """A connected socket that has read the greeting and set its flags."""
    if unix:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(10)
        sock.connect(server.path)
    else:
        sock = socket.create_connection(("127.0.0.1", server.port), 10)
    exactly(sock, 18)
    sock.sendall(CLIENT_FLAGS)
    return sock


def secured(server: Served, context: ssl.SSLContext, *, unix: bool = False) -> ssl.SSLSocket:
    sock = raw(server, unix=unix)
    sock.sendall(STARTTLS)
    assert types(exactly(sock, 20)) == [Reply.ACK]
    return context.wrap_socket(sock, server_hostname="localhost")


@pytest.mark.parametrize("unix", [False, True])
def test_much_data_passes_through_tls_unharmed(server: Served, pki: Path, unix: bool) -> None:
    with secured(server, trusting(pki), unix=unix) as sock:
        assert sock.version() == "TLSv1.3"
        sock.sendall(go("disk"))
        exactly(sock, 20 + 12 + 20 + 14 + 20)
        blocks = [bytes((i,)) * (1 << 20) for i in range(1, 9)]
        for i, block in enumerate(blocks):
            sock.sendall(request(Command.WRITE, i << 20, data=block, cookie=i))
        assert len(exactly(sock, 16 * 8)) == 128
        sock.sendall(b"".join(request(Command.READ, i << 20, 1 << 20) for i in range(8)))
        for block in blocks:
            assert exactly(sock, 16 + (1 << 20))[16:] == block
        sock.sendall(request(Command.DISC))
        assert sock.recv(1) == b""
    server.wait_until(lambda: server.server.connections == 0)


def test_bytes_in_clear_behind_starttls_end_the_connection(server: Served) -> None:
    """CVE-2021-3716 and its like: commands put in front of the TLS session."""
    for sent in (STARTTLS + option(3), STARTTLS + b"\x16"):
        with raw(server) as sock:
            sock.sendall(sent)
            assert until_closed(sock) == b"", "not even the acknowledgement leaves"
    server.wait_until(lambda: server.server.connections == 0)


def until_closed(sock: socket.socket) -> bytes:
    data = b""
    try:
        while piece := sock.recv(4096):
            data += piece
    except ConnectionResetError:
        pass  # as good an end as any
    return data


def test_a_failed_tls_handshake_closes_and_never_goes_on_in_clear(server: Served) -> None:
    with raw(server) as sock:
        sock.sendall(STARTTLS)
        exactly(sock, 20)
        sock.sendall(option(Option.LIST) + go("disk"))
        assert b"disk" not in until_closed(sock)
    server.wait_until(lambda: server.server.connections == 0)


def test_a_client_without_certificate_is_turned_away_where_it_needs_one(
    server: Served, pki: Path
) -> None:
    # With TLS 1.3 a client hears of it when it reads.
    with secured(server, trusting(pki, certificate=False)) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(go("disk"))
        with pytest.raises((OSError, AssertionError)):
            exactly(sock, 20)
    server.wait_until(lambda: server.server.connections == 0)


def test_clients_that_vanish_inside_tls_leave_nothing_behind(
    server: Served, exports: MemoryExports, pki: Path
) -> None:
    for talk in (b"", go("disk"), go("disk") + request(Command.READ, 0, 4 << 20) * 8):
        sock = secured(server, trusting(pki))
        sock.sendall(talk)
        sock.close()
    half = raw(server)
    half.sendall(STARTTLS)
    exactly(half, 20)
    half.close()
    server.wait_until(lambda: server.server.connections == 0)
    assert exports.disks["disk"].open_count == 0


def test_an_idle_tls_handshake_has_a_deadline(exports: MemoryExports, pki: Path) -> None:
    for loop in LOOPS:
        with served(exports, loop, tls=server_context(pki), handshake_s=0.2) as server:
            with raw(server) as sock:
                sock.sendall(STARTTLS)
                exactly(sock, 20)
                assert until_closed(sock) == b""
            server.wait_until(lambda server=server: server.server.connections == 0)


def test_close_ends_tls_clients_as_well(exports: MemoryExports, pki: Path) -> None:
    for loop in LOOPS:
        with (
            served(exports, loop, tls=server_context(pki), linger_s=0.2) as server,
            secured(server, trusting(pki)) as sock,
            raw(server) as half,
        ):
            sock.sendall(go("disk"))
            exactly(sock, 86)
            half.sendall(STARTTLS)
            exactly(half, 20)
            server.run(lambda server=server: server.server.close(grace_s=0.2))
            assert until_closed(half) == b""
        assert exports.disks["disk"].open_count == 0


def test_where_tls_is_offered_clear_text_is_served_too(exports: MemoryExports, pki: Path) -> None:
    with served(exports, tls=server_context(pki)) as server, server.connect() as client:
        client.open("disk")
        assert client.read(0, 1) == b"\0"
