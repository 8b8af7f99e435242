"""Where to listen: ``host:port``, ``[ipv6]:port`` or ``unix:/path``, as text and as a value."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from replblk.model.errors import ConfigError

UNIX_PATH_MAX = 107
"""Bytes in the path of a unix socket (sun_path of Linux, without its NUL)."""

_FORMS = "'host:port', '[ipv6 address]:port' or 'unix:/path'"
_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?\.?")


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """host: a name or address, IPv6 without brackets. port: 0..65535, 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """The absolute path of a unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


def parse(text: str) -> TcpAddress | UnixAddress:
    """The address written as *text*; ConfigError says what is wrong with it."""
    if text.startswith("unix:"):
        return _unix(text)
    if text.startswith("["):
        host, bracket, port = text[1:].rpartition("]:")
        if not bracket:
            raise ConfigError(f"address {text!r}: expected {_FORMS}")
        _check_ipv6(text, host)
    else:
        host, colon, port = text.rpartition(":")
        if not colon or not host:
            raise ConfigError(f"address {text!r}: expected {_FORMS}")
        if ":" in host:
            raise ConfigError(
                f"address {text!r}: an IPv6 address needs brackets: '[{host}]:{port}'"
            )
        if not _HOST.fullmatch(host):
            raise ConfigError(f"address {text!r}: {host!r} is no host name and no address")
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535):
        raise ConfigError(f"address {text!r}: the port must be a number from 0 to 65535")
    return TcpAddress(host, int(port))


def parse_tcp(text: str) -> TcpAddress:
    """The same where a unix socket won't do."""
    address = parse(text)
    if isinstance(address, UnixAddress):
        raise ConfigError(f"address {text!r}: expected 'host:port' or '[ipv6 address]:port'")
    return address


def _check_ipv6(text: str, host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError as error:
        raise ConfigError(f"address {text!r}: {error}") from error


def _unix(text: str) -> UnixAddress:
    path = text.removeprefix("unix:")
    if not path.startswith("/") or "\0" in path:
        raise ConfigError(f"address {text!r}: expected an absolute path behind 'unix:'")
    if len(path.encode("utf-8", "surrogateescape")) > UNIX_PATH_MAX:
        raise ConfigError(f"address {text!r}: the path is longer than {UNIX_PATH_MAX} bytes")
    return UnixAddress(path)
