"""The NBD server of a daemon, as the settings want it: its limits, its TLS, where it listens.

The socket in the daemon's folder speaks in clear to this machine's users who may open it; TLS is
for all other listeners. SIGHUP reads certificates and keys again, for connections to come.
Raises AdminError.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from nbd.address import parse_listen
from nbd.export import Exports
from nbd.server import ListenError, Server
from nbd.tls import TlsError, psk_server_context, server_context
from replblk.model.config import Settings
from replblk.model.errors import AdminError
from replblk.shell.buffers import aligned_bytes
from replblk.shell.run_files import RunFiles

EXIT_STARTUP = 20
Soon = Callable[[Callable[[], None]], object]


def nbd_server(
    exports: Exports,
    settings: Settings,
    soon: Soon | None = None,
    parsed: Callable[[int], None] | None = None,
) -> Server:
    """A server that does not listen yet. soon, parsed: see Server."""
    return Server(
        exports,
        connections_max=settings.nbd_connections_max,
        half_open_max=settings.nbd_half_open_max,
        handshake_s=settings.nbd_handshake_timeout,
        requests_max=settings.nbd_requests_max,
        bytes_max=settings.nbd_bytes_max << 20,
        total_bytes_max=settings.nbd_total_bytes_max << 20,
        tls=tls_context(settings),
        tls_required=settings.nbd_tls == "require",
        soon=soon,
        parsed=parsed,
        new_memory=lambda length: aligned_bytes(length)[0],
    )


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What the settings say of TLS."""
    if settings.nbd_tls == "off":
        return None
    directory, keys = settings.nbd_tls_certificates, settings.nbd_tls_psk_file
    if bool(directory) == bool(keys):
        raise AdminError(
            f'nbd_tls = "{settings.nbd_tls}" needs nbd_tls_certificates or nbd_tls_psk_file, and '
            "not both",
            EXIT_STARTUP,
        )
    try:
        if keys:
            return psk_server_context(keys)
        return server_context(directory, verify_peer=settings.nbd_tls_verify_peer)
    except TlsError as error:
        raise AdminError(f"NBD: {error}", EXIT_STARTUP) from error


async def listen(server: Server, settings: Settings, files: RunFiles) -> list[str]:
    """Listen in the daemon's folder, where the settings say, and on what socket activation gave;
    returns the names of the last."""
    try:
        await server.listen_unix(str(files.nbd), mode=0o600, clear=True)
        for address in settings.nbd_listen:
            await server.listen(parse_listen(address))
        return await server.listen_activated()
    except ListenError as error:
        raise AdminError(
            f"NBD: {error}; change nbd_listen, or end the program that uses the address",
            EXIT_STARTUP,
        ) from error
