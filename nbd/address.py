"""Where an NBD server is found: NBD URIs for clients, and the short form for listeners.

    nbd://host[:port]/name                nbd+unix:///name?socket=PATH          (NBD URI document)
    nbds://host[:port]/name               nbds+unix:///name?socket=PATH         (TLS is mandatory)
    HOST[:PORT]   [IPv6][:PORT]           unix:PATH   unix:@NAME (abstract)     (listeners)

A name is the URI's path less one leading slash, percent-decoded; the port defaults to 10809.
Raises AddressError with a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qs, unquote_to_bytes, urlsplit

DEFAULT_PORT = 10809
"""The port IANA gave to NBD."""

UNIX_PATH_MAX = 107
"""Bytes of a unix socket's path (sun_path less its NUL, unix(7))."""

_PARAMETERS = (
    *("socket", "tls-type", "tls-certificates", "tls-hostname", "tls-verify-peer"),
    "tls-psk-file",
)


class AddressError(ValueError):
    """An address that can't be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Address:
    """A unix socket (*path* set; a leading NUL means abstract) or a TCP *host* and *port*.

    tls: a client must not speak in clear there (nbds)."""

    path: str = ""
    host: str = ""
    port: int = DEFAULT_PORT
    tls: bool = False

    def __str__(self) -> str:
        if self.path:
            return "unix:" + self.path.replace("\0", "@")
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class TlsWish:
    """How a URI wants TLS. certificates: a directory; "" is the system's authorities. psk_file:
    keys shared in advance instead, and identity the one to show. hostname: what the certificate
    must name, "" the host of the URI."""

    certificates: str = ""
    hostname: str = ""
    verify_peer: bool = True
    psk_file: str = ""
    identity: str = ""


def parse_tls(uri: str) -> TlsWish | None:
    """What a URI that ``parse_uri`` accepts says of TLS; None for one in clear."""
    parts = urlsplit(uri)
    if not parts.scheme.lower().startswith("nbds"):
        return None
    query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
    verify = query.get("tls-verify-peer", "1")
    if verify not in ("0", "1"):
        raise AddressError(f"{uri!r}: tls-verify-peer must be 0 or 1")
    psk = query.get("tls-type", "psk" if "tls-psk-file" in query else "x509") == "psk"
    if psk and "tls-psk-file" not in query:
        raise AddressError(f"{uri!r}: tls-type=psk needs tls-psk-file=PATH")
    identity = unquote_to_bytes(parts.username or "").decode("utf-8", "replace")
    return TlsWish(
        certificates=query.get("tls-certificates", ""),
        hostname=query.get("tls-hostname", ""),
        verify_peer=verify == "1",
        psk_file=query["tls-psk-file"] if psk else "",
        identity=identity or "nbd",
    )


def parse_uri(uri: str) -> tuple[Address, str]:
    """The address and the export name of an NBD URI."""
    try:
        parts = urlsplit(uri)
        port = parts.port
    except ValueError as bad:
        raise AddressError(f"{uri!r} is not a URI: {bad}") from bad
    scheme = parts.scheme.lower()
    if scheme not in ("nbd", "nbd+unix", "nbds", "nbds+unix"):
        known = "nbd://, nbds://, nbd+unix:// or nbds+unix://"
        raise AddressError(f"{uri!r}: the scheme must be {known}")
    tls = scheme.startswith("nbds")
    try:
        name = unquote_to_bytes(parts.path.removeprefix("/")).decode("utf-8")
    except UnicodeDecodeError as bad:
        raise AddressError(f"{uri!r}: the export name is not UTF-8") from bad
    socket_path = _socket_of(uri, parts)
    if scheme.endswith("+unix"):
        if parts.hostname:
            raise AddressError(f"{uri!r}: a unix URI has three slashes and no host")
        if not socket_path:
            raise AddressError(f"{uri!r}: needs ?socket=PATH")
        return Address(path=checked_path(uri, socket_path), tls=tls), name
    if socket_path:
        raise AddressError(f"{uri!r}: ?socket= belongs to nbd+unix://")
    host = parts.hostname or "localhost"
    return Address(host=host, port=port or DEFAULT_PORT, tls=tls), name


def parse_listen(text: str) -> Address:
    """A listener's address: HOST[:PORT], [IPv6][:PORT], unix:PATH or unix:@NAME."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if path.startswith("@"):
            path = "\0" + path[1:]
        if path in ("", "\0"):
            raise AddressError(f"{text!r}: a path must follow unix:")
        return Address(path=checked_path(text, path))
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise AddressError(f"{text!r}: expected [IPv6] or [IPv6]:PORT")
        port = rest[1:]
    elif text.count(":") > 1:
        raise AddressError(f"{text!r}: an IPv6 address needs brackets, as in [::1]:{DEFAULT_PORT}")
    else:
        host, _, port = text.partition(":")
    if not host:
        raise AddressError(f"{text!r}: expected HOST[:PORT], [IPv6][:PORT] or unix:PATH")
    if not port:
        return Address(host=host)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise AddressError(f"{text!r}: {port!r} is not a port (0 to 65535)")
    return Address(host=host, port=int(port))


def _socket_of(uri: str, parts: SplitResult) -> str:
    query = parse_qs(parts.query, keep_blank_values=True)
    if query.get("tls-type", ["x509"])[-1] not in ("x509", "psk"):
        raise AddressError(f"{uri!r}: of the types of TLS, only x509 and psk are supported")
    for key in query:
        if key not in _PARAMETERS and not key.startswith("x-"):
            known = ", ".join(_PARAMETERS)
            raise AddressError(f"{uri!r}: unknown parameter {key!r}; known are {known}")
    return query.get("socket", [""])[-1]


def checked_path(text: str, path: str) -> str:
    """*path* if a unix socket may have it (a leading NUL means abstract); *text* is for errors."""
    if "\0" in path[1:]:
        raise AddressError(f"{text!r}: a socket path has no NUL inside")
    if len(path.encode("utf-8", "surrogateescape")) > UNIX_PATH_MAX:
        raise AddressError(
            f"{text!r}: a unix socket's path may have {UNIX_PATH_MAX} bytes; use a shorter one"
        )
    return path
