"""Connects a client to what an NBD URI names, through TLS where it says nbds.

    client, name = dial("nbds://storage1/disk?tls-certificates=/etc/pki/nbd")
    client.open(name)

Never falls back to clear text. Raises AddressError, TlsError or NbdError.
"""

from __future__ import annotations

import ssl

from nbd.address import TlsWish, parse_tls, parse_uri
from nbd.client import Client
from nbd.tls import client_context, psk_client_context


def dial(uri: str, *, timeout_s: float = 30.0) -> tuple[Client, str]:
    """A connected client, and the name of the export that the URI means."""
    address, name = parse_uri(uri)
    wish = parse_tls(uri)
    where: str | tuple[str, int] = address.path or (address.host, address.port)
    if wish is None:
        return Client.connect(where, timeout_s=timeout_s), name
    hostname = wish.hostname or address.host or "localhost"
    client = Client.connect(where, timeout_s=timeout_s, tls=_context(wish), tls_hostname=hostname)
    return client, name


def _context(wish: TlsWish) -> ssl.SSLContext:
    if wish.psk_file:
        return psk_client_context(wish.psk_file, wish.identity)
    context = client_context(wish.certificates, check_hostname=wish.verify_peer)
    if not wish.verify_peer:
        context.verify_mode = ssl.CERT_NONE
    return context
