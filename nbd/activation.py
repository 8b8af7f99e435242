"""Takes over the listening sockets that systemd, or a tool that does as systemd does, has opened.

LISTEN_PID says which process they are for, LISTEN_FDS how many there are, from descriptor 3 on;
LISTEN_FDNAMES may name them, separated by colons. The variables are unset once they are used, so
that no child takes the sockets as well. Source: sd_listen_fds(3). Raises ActivationError.
"""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping

FIRST_DESCRIPTOR = 3
SOCKETS_MAX = 1024
_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)


class ActivationError(Exception):
    """Sockets that can't be taken over; the text says which and why."""


def activated_sockets(
    environment: MutableMapping[str, str] | None = None, first: int = FIRST_DESCRIPTOR
) -> list[tuple[str, socket.socket]]:
    """(name, socket) of every socket handed to this process, in order; none if it was started
    otherwise. The name is "" where none was given."""
    variables = os.environ if environment is None else environment
    pid, count, names = (variables.get(name, "") for name in _VARIABLES)
    if not count or pid != str(os.getpid()):
        return []
    for name in _VARIABLES:
        variables.pop(name, None)
    if not count.isascii() or not count.isdigit() or not 0 < int(count) <= SOCKETS_MAX:
        raise ActivationError(f"LISTEN_FDS={count} is not a number of sockets")
    named = names.split(":") if names else []
    named += [""] * (int(count) - len(named))
    found: list[tuple[str, socket.socket]] = []
    try:
        for number, name in zip(range(first, first + int(count)), named, strict=False):
            found.append((name, _listening(number, name)))
    except ActivationError:
        for _name, sock in found:
            sock.close()
        raise
    return found


def _listening(number: int, name: str) -> socket.socket:
    """The socket behind a descriptor, if it is one that can be served on."""
    shown = f"descriptor {number}" + (f" ({name})" if name else "")
    try:
        os.set_inheritable(number, False)
        sock = socket.socket(fileno=number)
    except OSError as bad:
        raise ActivationError(f"{shown} is not a socket: {bad.strerror or bad}") from bad
    listening = (
        sock.family in _FAMILIES
        and sock.type == socket.SOCK_STREAM
        and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    )
    if not listening:
        sock.close()
        raise ActivationError(f"{shown} is not a listening stream socket, unix or TCP")
    sock.setblocking(False)
    return sock
