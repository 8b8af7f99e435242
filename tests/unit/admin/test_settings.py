"""The TOML file: good values arrive, bad ones are named with file and key; listening addresses."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from replblk.admin.addresses import TcpAddress, UnixAddress, parse, parse_tcp
from replblk.admin.settings import SETTINGS, load_settings, parse_settings
from replblk.model.config import Settings
from replblk.model.errors import ConfigError


def test_an_empty_file_means_the_defaults() -> None:
    assert parse_settings(b"", "replblk.toml") == Settings()


def test_every_setting_can_be_given() -> None:
    text = b"""
nbd_listen = ["127.0.0.1:10809", "[::1]:10809", "unix:/run/nbd.sock"]
nbd_peer = ["[::2]:10809"]
metrics_listen = "0.0.0.0:9942"
durability = "kernel"
run_dir = "/run/x"
nbd_connections_max = 8
nbd_half_open_max = 9
nbd_handshake_timeout = 10
nbd_requests_max = 11
nbd_bytes_max = 12
nbd_total_bytes_max = 64
nbd_tls = "require"
nbd_tls_certificates = "/etc/pki"
nbd_tls_verify_peer = true
nbd_tls_psk_file = "/etc/keys"
nbd_device = "nbd"
resume_primary = true
log_level = "debug"
"""
    assert parse_settings(text, "replblk.toml") == Settings(
        nbd_listen=("127.0.0.1:10809", "[::1]:10809", "unix:/run/nbd.sock"),
        nbd_peer=("[::2]:10809",),
        metrics_listen="0.0.0.0:9942",
        durability="kernel",
        run_dir="/run/x",
        nbd_connections_max=8,
        nbd_half_open_max=9,
        nbd_handshake_timeout=10,
        nbd_requests_max=11,
        nbd_bytes_max=12,
        nbd_total_bytes_max=64,
        nbd_tls="require",
        nbd_tls_certificates="/etc/pki",
        nbd_tls_verify_peer=True,
        nbd_tls_psk_file="/etc/keys",
        nbd_device="nbd",
        resume_primary=True,
        log_level="debug",
    )
    assert {setting.name for setting in SETTINGS} == {field.name for field in fields(Settings)}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (b"durabilty = 'disk'", "unknown key 'durabilty' (did you mean 'durability'?)"),
        (b"xyz = 1", "unknown key 'xyz' (known: nbd_listen, "),
        (b"durability = 'both'", 'durability: expected "disk" or "kernel", not \'both\''),
        (b"durability = []", 'durability: expected "disk" or "kernel", not []'),
        (b"run_dir = 5", "run_dir: expected a string, not 5"),
        (b"run_dir = 'x'", "run_dir: expected an absolute path, not 'x'"),
        (b"nbd_connections_max = 0", "expected a number from 1 to 65535, not 0"),
        (b"nbd_connections_max = true", "expected a number from 1 to 65535, not True"),
        (b"nbd_tls = true", 'nbd_tls: expected "off" or "on" or "require", not True'),
        (b"nbd_tls_verify_peer = 1", "nbd_tls_verify_peer: expected true or false, not 1"),
        (b"nbd_bytes_max = 0", "nbd_bytes_max: expected a number from 1 to 65536, not 0"),
        (b"nbd_tls_psk_file = 'keys'", "nbd_tls_psk_file: expected an absolute path"),
        (b"nbd_listen = [1]", "nbd_listen: expected a list of addresses, not [1]"),
        (b"nbd_listen = ['here']", "nbd_listen: address 'here': expected 'host:port'"),
        (b"metrics_listen = 'unix:/x'", "metrics_listen: address 'unix:/x': expected 'host:port'"),
        (b"[durability]", "durability: expected"),
        (b"\xff", "not a TOML file"),
        (b"a = " + b"[" * 5000, "not a TOML file"),
    ],
)
def test_what_is_wrong_names_file_and_key(text: bytes, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, "replblk.toml")
    assert str(caught.value).startswith("replblk.toml: ")
    assert sentence in str(caught.value)


def test_a_toml_error_has_line_and_column() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_settings(b"run_dir = '/x'\nlog_level = oops\n", "replblk.toml")
    assert (caught.value.line, caught.value.column) == (2, 13)
    assert str(caught.value) == "replblk.toml:2:13: Invalid value"


def test_an_absent_file_is_for_the_caller_to_judge(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_settings(tmp_path / "replblk.toml")
    with pytest.raises(ConfigError, match="Can not open the settings"):
        load_settings(tmp_path)
    (tmp_path / "replblk.toml").write_text("log_level = 'error'")
    assert load_settings(tmp_path / "replblk.toml").log_level == "error"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:10809", TcpAddress("127.0.0.1", 10809)),
        ("node-a.example.org:0", TcpAddress("node-a.example.org", 0)),
        ("[::1]:65535", TcpAddress("::1", 65535)),
        ("[fe80::1%eth0]:1", TcpAddress("fe80::1%eth0", 1)),
        ("unix:/run/a b.sock", UnixAddress("/run/a b.sock")),
    ],
)
def test_addresses_are_read_and_print_as_they_were(
    text: str, address: TcpAddress | UnixAddress
) -> None:
    assert parse(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "expected 'host:port'"),
        ("host", "expected 'host:port'"),
        (":80", "expected 'host:port'"),
        ("[::1]", "expected 'host:port'"),
        ("::1:80", "needs brackets: '[::1]:80'"),
        ("[host]:80", "host"),
        ("a b:80", "'a b' is no host name"),
        ("host:", "the port must be a number from 0 to 65535"),
        ("host:65536", "the port must be"),
        ("host:-1", "the port must be"),
        ("host:٣", "the port must be"),
        ("unix:relative", "expected an absolute path"),
        ("unix:", "expected an absolute path"),
        ("unix:/" + "x" * 107, "longer than 107 bytes"),
    ],
)
def test_a_bad_address_says_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert sentence in str(caught.value)


def test_a_unix_socket_is_refused_where_only_tcp_will_do() -> None:
    assert parse_tcp("h:1") == TcpAddress("h", 1)
    with pytest.raises(ConfigError, match="expected 'host:port' or"):
        parse_tcp("unix:/x")
