"""TLS from the client's side, revoked certificates, keys shared in advance."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.address import AddressError, TlsWish, parse_tls
from nbd.client import Client, NbdError
from nbd.dial import dial
from nbd.memory import MemoryExports
from nbd.tls import PSK_POSSIBLE, TlsError, client_context, psk_server_context, read_keys
from nbd.tls import server_context as certified
from tests.support.nbd_certificates import certificates, empty_crl, revoke_client
from tests.support.nbd_served import LOOPS, Served, served

SIZE = 32 << 20
MIB = 1 << 20
needs_psk = pytest.mark.skipif(not PSK_POSSIBLE, reason="keys shared in advance need Python 3.13")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return certificates(tmp_path_factory.mktemp("tls") / "pki")


@pytest.fixture
def own_pki(tmp_path: Path) -> Path:
    return certificates(tmp_path / "pki")


@pytest.fixture(params=LOOPS)
def server(pki: Path, request: pytest.FixtureRequest) -> Iterator[Served]:
    exports = MemoryExports.single(SIZE, "disk")
    tls = certified(pki, verify_peer=True)
    with served(exports, request.param, tls=tls, tls_required=True) as running:
        yield running


def uri(server: Served, pki: Path, more: str = "") -> str:
    return f"nbds://localhost:{server.port}/disk?tls-certificates={pki}{more}"


def dialled(where: str) -> None:
    """Connect and open."""
    client, name = dial(where)
    with client:
        client.open(name)


def test_nbds_moves_data_in_any_depth_and_every_size(server: Served, pki: Path) -> None:
    client, name = dial(uri(server, pki), timeout_s=20)
    with client:
        client.open(name)
        client.write(1, b"in secret")
        assert client.read(0, 11) == b"\0in secret\0"
        client.write(0, bytes(range(256)) * (16 << 12))
        assert client.read(0, 16 * MIB) == bytes(range(256)) * (16 << 12)
        client.write_many(
            ((at * 4096, bytes([at % 255 + 1]) * 4096) for at in range(4096)), depth=256
        )
        pieces = client.read_many(((at * 4096, 4096) for at in range(4096)), depth=256)
        assert pieces == [bytes([at % 255 + 1]) * 4096 for at in range(4096)]
        client.disc()


def test_a_unix_socket_speaks_tls_as_well(server: Served, pki: Path) -> None:
    client, name = dial(f"nbds+unix:///disk?socket={server.path}&tls-certificates={pki}")
    with client:
        assert client.info(name).size == SIZE


def test_a_certificate_for_another_host_is_refused(server: Served, pki: Path) -> None:
    with pytest.raises(NbdError, match="TLS did not come about"):
        dial(uri(server, pki, "&tls-hostname=elsewhere"))


def test_without_verification_any_certificate_will_do(server: Served, pki: Path) -> None:
    client, _ = dial(uri(server, pki, "&tls-hostname=elsewhere&tls-verify-peer=0"))
    client.close()


def test_nbds_never_falls_back_to_clear_text() -> None:
    with served(MemoryExports.single(SIZE, "disk")) as server:
        with pytest.raises(NbdError, match="no TLS"):
            Client.connect(server.path, tls=client_context())
        with pytest.raises(NbdError, match="no TLS"):
            dial(f"nbds+unix:///disk?socket={server.path}")


def test_an_unknown_authority_is_refused(server: Served, tmp_path: Path) -> None:
    with pytest.raises(NbdError, match="CERTIFICATE_VERIFY_FAILED"):
        dial(uri(server, certificates(tmp_path / "other")))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_revoked_client_is_refused_and_others_are_not(own_pki: Path, loop: str) -> None:
    exports = MemoryExports.single(SIZE, "disk")
    empty_crl(own_pki)
    with served(exports, loop, tls=certified(own_pki, verify_peer=True)) as server:
        client, name = dial(uri(server, own_pki))
        with client:
            assert client.open(name).size == SIZE
    revoke_client(own_pki)
    with served(exports, loop, tls=certified(own_pki, verify_peer=True)) as server:
        with pytest.raises(NbdError):  # TLS 1.3 tells a client of its refusal after its handshake
            dialled(uri(server, own_pki))
        assert exports.disks["disk"].open_count == 0


def test_a_revocation_list_that_is_no_list_is_told(own_pki: Path) -> None:
    (own_pki / "ca-crl.pem").write_text("nonsense")
    with pytest.raises(TlsError, match=r"ca-crl\.pem is of no use"):
        certified(own_pki, verify_peer=True)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("nbd://h/x", None),
        ("nbds://h/x", TlsWish(identity="nbd")),
        (
            "nbds://h/x?tls-certificates=/p&tls-verify-peer=0&tls-hostname=n",
            TlsWish("/p", "n", False, identity="nbd"),
        ),
        ("nbds://al%40ice@h/x?tls-psk-file=/k", TlsWish(psk_file="/k", identity="al@ice")),
        ("nbds+unix://bob@/x?socket=s&tls-psk-file=/k", TlsWish(psk_file="/k", identity="bob")),
    ],
)
def test_what_uris_say_of_tls(text: str, wish: TlsWish | None) -> None:
    assert parse_tls(text) == wish


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nbds://h/x?tls-verify-peer=yes", "0 or 1"),
        ("nbds://h/x?tls-type=psk", "tls-psk-file=PATH"),
    ],
)
def test_wrong_wishes_say_why(text: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        parse_tls(text)


# --- keys shared in advance ---


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "holds no keys"),
        ("alice:xyz", "line 1"),
        ("# a comment\nalice:00", "line 2"),
        (":" + "00" * 16, "line 1"),
        ("alice" + "00" * 16, "line 1"),
    ],
)
def test_keys_that_cannot_be_read_are_told_without_their_content(
    tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "keys").write_text(text)
    with pytest.raises(TlsError, match=why) as told:
        read_keys(tmp_path / "keys")
    assert "xyz" not in str(told.value)


def test_a_file_of_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"alice:{'0a' * 16}\n\n# bob left\ncarol:{'FF' * 32}\n")
    keys = read_keys(tmp_path / "keys")
    assert keys == {"alice": b"\x0a" * 16, "carol": b"\xff" * 32}


@pytest.mark.skipif(PSK_POSSIBLE, reason="this Python can do it")
def test_a_python_without_the_callbacks_says_which_one_has_them(tmp_path: Path) -> None:
    assert not hasattr(ssl.SSLContext, "set_psk_server_callback")
    (tmp_path / "keys").write_text(f"alice:{'0a' * 16}\n")
    with pytest.raises(TlsError, match=r"needs Python 3\.13 or newer"):
        psk_server_context(tmp_path / "keys")


@needs_psk
@pytest.mark.parametrize("loop", LOOPS)
def test_the_right_key_opens_and_a_wrong_one_does_not(tmp_path: Path, loop: str) -> None:
    (tmp_path / "keys").write_text(f"alice:{'0a' * 32}\n")
    (tmp_path / "wrong").write_text(f"alice:{'0b' * 32}\nmallory:{'0a' * 32}\n")
    exports = MemoryExports.single(SIZE, "disk")
    context = psk_server_context(tmp_path / "keys")
    with served(exports, loop, tls=context, tls_required=True) as server:
        place = f"@localhost:{server.port}/disk?tls-psk-file={tmp_path}"
        client, name = dial(f"nbds://alice{place}/keys")
        with client:
            client.open(name)
            client.write(0, b"x" * MIB)
            assert client.read(0, MIB) == b"x" * MIB
        for identity in ("alice", "mallory"):
            with pytest.raises(NbdError, match="TLS did not come about"):
                dial(f"nbds://{identity}{place}/wrong")
