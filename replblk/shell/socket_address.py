"""Where a configured address is, and whether it is this machine's.

A file of its own, so that commands need not load what serves the links.
"""

from __future__ import annotations

import socket

from replblk.model.config import Address
from replblk.model.errors import AdminError

SocketAddress = tuple[str, int] | tuple[str, int, int, int]


def resolve(address: Address) -> SocketAddress:
    """The socket address of a configured one; host names are looked up once, as drbdsetup does."""
    families = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
    if address.family not in families:
        raise AdminError(
            f"address family {address.family!r} is not supported; use ipv4 or ipv6", exit_code=20
        )
    try:
        found = socket.getaddrinfo(
            address.host, address.port, families[address.family], socket.SOCK_STREAM
        )
    except OSError as error:
        raise AdminError(
            f"can not resolve the address {address.host!r}: {error}", exit_code=20
        ) from error
    return found[0][4]  # type: ignore[return-value]


def is_own_address(address: Address) -> bool:
    """Whether this machine may bind to the host of *address*."""
    at = resolve(address)
    family = socket.AF_INET6 if len(at) == 4 else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((at[0], 0, *at[2:]))
        except OSError:
            return False
    return True
