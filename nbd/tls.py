"""TLS for NBD: contexts from a directory of certificates as nbdkit, qemu and libnbd lay it out.

    ca-cert.pem   server-cert.pem   server-key.pem   [ca-crl.pem]           (servers)
    ca-cert.pem   [client-cert.pem   client-key.pem]   [ca-crl.pem]         (clients)

The server's certificate names its hosts (subjectAltName); with client verification, a client needs
one that the same authority signed. Or a file of keys shared in advance (PSK), a line
``identity:hexadecimal`` for each client, as psktool writes it; that needs Python 3.13
(``PSK_POSSIBLE``). TLS 1.2 is the least. Raises TlsError with a sentence.
"""

from __future__ import annotations

import binascii
import ssl
import sys
from pathlib import Path
from typing import Any

CA, CRL = "ca-cert.pem", "ca-crl.pem"
CERTIFICATE, KEY = "server-cert.pem", "server-key.pem"
CLIENT_CERTIFICATE, CLIENT_KEY = "client-cert.pem", "client-key.pem"

PSK_POSSIBLE = hasattr(ssl.SSLContext, "set_psk_server_callback")
"""Python's ssl can be given keys shared in advance: from 3.13 on."""
_PSK_CIPHERS = "kECDHEPSK+CHACHA20:kECDHEPSK+AES"
"""With fresh keys for every session: a key that is stolen later opens no old recording."""


class TlsError(Exception):
    """Certificates or keys that can't be used; the text says which and why."""


def server_context(directory: str | Path, *, verify_peer: bool = False) -> ssl.SSLContext:
    """What a server needs to speak TLS. verify_peer: only clients with a certificate of the same
    authority, which the revocation list (if there is one) does not name."""
    folder = Path(directory)
    needed = [CERTIFICATE, KEY, *([CA] if verify_peer else [])]
    _check_files(folder, needed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_pair(context, folder / CERTIFICATE, folder / KEY)
    if verify_peer:
        context.verify_mode = ssl.CERT_REQUIRED
        _load_authority(context, folder)
    return context


def client_context(directory: str | Path = "", *, check_hostname: bool = True) -> ssl.SSLContext:
    """What a client needs: it believes the authority of *directory* (the system's, without one),
    and shows its own certificate if there is one. check_hostname: the server's certificate must
    name the host that was called."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_hostname
    if not directory:
        context.load_default_certs()
        return context
    folder = Path(directory)
    _check_files(folder, [CA])
    _load_authority(context, folder)
    if (folder / CLIENT_CERTIFICATE).exists():
        _load_pair(context, folder / CLIENT_CERTIFICATE, folder / CLIENT_KEY)
    return context


def psk_server_context(path: str | Path) -> ssl.SSLContext:
    """What a server needs to speak TLS with the keys of a file."""
    context: Any = _psk_context(ssl.PROTOCOL_TLS_SERVER)
    keys = read_keys(path)
    context.set_psk_server_callback(lambda identity: keys.get(identity or "", b""))
    made: ssl.SSLContext = context
    return made


def psk_client_context(path: str | Path, identity: str) -> ssl.SSLContext:
    """What a client needs to show the key of *identity*."""
    context: Any = _psk_context(ssl.PROTOCOL_TLS_CLIENT)
    key = read_keys(path).get(identity)
    if key is None:
        raise TlsError(f"{path} has no key for {identity!r}")
    context.set_psk_client_callback(lambda hint: (identity, key))
    made: ssl.SSLContext = context
    return made


def read_keys(path: str | Path) -> dict[str, bytes]:
    """Identities and their keys. A line that can't be read is told without its content."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as bad:
        raise TlsError(f"the keys in {path} can't be read: {bad}") from bad
    keys: dict[str, bytes] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        identity, _, digits = line.strip().partition(":")
        try:
            key = binascii.unhexlify(digits)
        except ValueError:
            key = b""
        if not identity or len(key) < 16:
            raise TlsError(
                f"{path}, line {number}: expected identity:key, the key hexadecimal and of at "
                "least 16 bytes"
            )
        keys[identity] = key
    if not keys:
        raise TlsError(f"{path} holds no keys")
    return keys


def _psk_context(protocol: int) -> ssl.SSLContext:
    if not PSK_POSSIBLE:
        version = ".".join(map(str, sys.version_info[:2]))
        raise TlsError(
            f"TLS with keys shared in advance needs Python 3.13 or newer; this is {version}: use "
            "certificates, or run it with a newer Python"
        )
    context = ssl.SSLContext(protocol)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the key proves who both are
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_PSK_CIPHERS)
    return context


def _check_files(folder: Path, needed: list[str]) -> None:
    for name in needed:
        if not (folder / name).is_file():
            raise TlsError(f"TLS needs the file {folder / name}")


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as bad:
        raise TlsError(f"{certificate} and {key} are of no use: {bad}") from bad


def _load_authority(context: ssl.SSLContext, folder: Path) -> None:
    _load(context, folder / CA)
    if (folder / CRL).exists():
        _load(context, folder / CRL)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF


def _load(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as bad:
        raise TlsError(f"{path} is of no use: {bad}") from bad


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted; a server needs one without a password")
