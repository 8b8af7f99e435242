"""TLS for NBD: contexts from a directory of certificates as nbdkit, qemu and libnbd lay it out.

    ca-cert.pem   server-cert.pem   server-key.pem   [ca-crl.pem]

The server's certificate names its hosts (subjectAltName); with client verification, a client needs
one that the same authority signed. TLS 1.2 is the least. Raises TlsError with a sentence. Keys
shared in advance (PSK) are not supported: Python can serve them from 3.13 on only.
"""

from __future__ import annotations

import ssl
from pathlib import Path

CA, CRL = "ca-cert.pem", "ca-crl.pem"
CERTIFICATE, KEY = "server-cert.pem", "server-key.pem"


class TlsError(Exception):
    """Certificates that can't be used; the text says which and why."""


def server_context(directory: str | Path, *, verify_peer: bool = False) -> ssl.SSLContext:
    """What a server needs to speak TLS. verify_peer: only clients with a certificate of the same
    authority, which the revocation list (if there is one) does not name."""
    folder = Path(directory)
    needed = [CERTIFICATE, KEY, *([CA] if verify_peer else [])]
    for name in needed:
        if not (folder / name).is_file():
            raise TlsError(f"TLS needs the file {folder / name}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(folder / CERTIFICATE, folder / KEY, password=_no_password)
    except (OSError, ValueError) as bad:
        raise TlsError(f"{folder / CERTIFICATE} and {folder / KEY} are of no use: {bad}") from bad
    if verify_peer:
        context.verify_mode = ssl.CERT_REQUIRED
        _load(context, folder / CA)
        if (folder / CRL).exists():
            _load(context, folder / CRL)
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    return context


def _load(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as bad:
        raise TlsError(f"{path} is of no use: {bad}") from bad


def _no_password() -> str:
    """OpenSSL would ask at the terminal."""
    raise ValueError("the key is encrypted; a server needs one without a password")
