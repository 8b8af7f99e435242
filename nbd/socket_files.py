"""Makes room for a unix socket's file where a server that is gone has left one."""

from __future__ import annotations

import contextlib
import os
import socket
import stat


class ListenError(Exception):
    """An address can't be listened on; the text says which and why."""


def remove_stale(path: str) -> None:
    """Remove a socket file on which nobody answers. Raises ListenError for anything else there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise ListenError(f"cannot listen on unix:{path}: a file that is not a socket is there")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except BlockingIOError:
            pass  # its queue is full, so somebody listens
    raise ListenError(f"cannot listen on unix:{path}: another server answers there")
