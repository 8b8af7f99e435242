"""A real daemon's NBD as its settings want it: TLS, keys read again, limits, activated sockets."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client, NbdError
from nbd.dial import dial
from nbd.tls import PSK_POSSIBLE
from replblk.model.config import Settings
from replblk.model.errors import AdminError
from replblk.shell.nbd_server import tls_context
from tests.support.nbd_certificates import certificates, revoke_client
from tests.support.site import Site, until

PORT, NBD_PORT = 17220, 17221


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, PORT)
    made.run("alpha", "create-md", "r0")
    yield made
    made.down()


def settings(site: Site, text: str) -> None:
    (site.folder / "replblk.toml").write_text(text)


def primary(site: Site) -> None:
    site.run("alpha", "up", "r0")
    site.run("alpha", "primary", "--force", "r0")


def test_tls_is_required_where_the_settings_say_and_the_own_socket_stays_clear(site: Site) -> None:
    pki = certificates(site.folder / "pki")
    settings(
        site,
        f'nbd_listen = ["127.0.0.1:{NBD_PORT}"]\nnbd_tls = "require"\nnbd_tls_verify_peer = true\n'
        f'nbd_tls_certificates = "{pki}"\n',
    )
    primary(site)
    with (
        Client.connect(("127.0.0.1", NBD_PORT)) as client,
        pytest.raises(NbdError, match="demands TLS"),
    ):
        client.open("0", block_sizes=False)
    uri = f"nbds://localhost:{NBD_PORT}/0?tls-certificates={pki}"
    client, name = dial(uri)
    with client:
        client.open(name, block_sizes=False)
        client.write(0, b"secret")
        client.disc()
    with Client.connect(str(site.run_file("alpha", "nbd.sock"))) as client:
        client.open("0", block_sizes=False)
        assert client.read(0, 6) == b"secret"
    revoke_client(pki)
    os.kill(site.pid("alpha"), signal.SIGHUP)
    until(lambda: "are read again" in site.run_file("alpha", "log").read_text())
    with pytest.raises(NbdError):
        opened(uri)
    (pki / "server-key.pem").write_text("spoilt")
    os.kill(site.pid("alpha"), signal.SIGHUP)
    until(lambda: "the old certificates stay" in site.run_file("alpha", "log").read_text())


def opened(uri: str) -> None:
    client, name = dial(uri)
    with client:
        client.open(name, block_sizes=False)


def test_limits_of_the_settings_hold(site: Site) -> None:
    settings(site, "nbd_connections_max = 2\nnbd_handshake_timeout = 1\nnbd_requests_max = 1\n")
    primary(site)
    where = str(site.run_file("alpha", "nbd.sock"))
    with Client.connect(where) as one, Client.connect(where):
        one.open("0")
        with pytest.raises(NbdError, match="closed"):
            Client.connect(where)
        until(lambda: _accepts(where))  # the other one's handshake took too long
        cookies = [one.submit_read(0, 512) for _ in range(50)]
        assert len(one.collect()) == len(cookies)


def _accepts(where: str) -> bool:
    try:
        Client.connect(where).close()
    except NbdError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('nbd_tls = "on"\n', "needs nbd_tls_certificates or nbd_tls_psk_file"),
        ('nbd_tls = "on"\nnbd_tls_certificates = "/nowhere"\n', "TLS needs the file /nowhere/"),
        ('nbd_tls = "on"\nnbd_tls_psk_file = "/a"\nnbd_tls_certificates = "/a"\n', "not both"),
    ],
)
def test_tls_that_cannot_be_is_told_before_anything_is_attached(
    site: Site, text: str, sentence: str
) -> None:
    settings(site, text)
    done = site.replblk("alpha", "up", "r0")
    assert done.returncode == 20
    assert sentence in done.stderr
    assert not site.run_file("alpha", "nbd.sock").exists()


@pytest.mark.skipif(PSK_POSSIBLE, reason="this Python can do it")
def test_keys_shared_in_advance_are_refused_with_the_version_that_can(tmp_path: Path) -> None:
    with pytest.raises(AdminError, match=r"needs Python 3\.13"):
        tls_context(Settings(nbd_tls="on", nbd_tls_psk_file=str(tmp_path)))


def test_run_serves_on_the_sockets_it_is_started_with(site: Site) -> None:
    """As systemd starts it: LISTEN_FDS and LISTEN_PID, the sockets from descriptor 3 on."""
    path = site.folder / "activated.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        number = listener.fileno()
        begin = (
            f"import os, sys; os.dup2({number}, 3); os.environ.update(LISTEN_FDS='1', "
            "LISTEN_PID=str(os.getpid())); os.execv(sys.argv[1], sys.argv[1:])"
        )
        daemon = subprocess.Popen(
            [sys.executable, "-c", begin, *site.command("alpha", "run", "r0")],
            pass_fds=(number,),
            stderr=subprocess.DEVNULL,
        )
    try:
        until(lambda: site.run_file("alpha", "control.sock").exists())
        site.run("alpha", "primary", "--force", "r0")
        with Client.connect(str(path)) as client:
            client.open("0", block_sizes=False)
            client.write(0, b"activated")
            assert client.read(0, 9) == b"activated"
            client.disc()
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0
