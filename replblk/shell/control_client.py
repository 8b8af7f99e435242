"""Asks the daemon of a resource over its control socket and waits for the reply."""

from __future__ import annotations

import socket

from replblk.admin.messages import (
    REPLY_BYTES_MAX,
    Lines,
    Reply,
    Request,
    decode_reply,
    encode_request,
)
from replblk.model.errors import AdminError
from replblk.shell.run_files import RunFiles

EXIT_EXEC = 20
CONNECT_S = 5.0
_RECEIVE_BYTES = 256 << 10


class NotRunningError(AdminError):
    """The resource has no daemon on this node."""

    def __init__(self, resource: str) -> None:
        super().__init__(
            f"{resource}: not running on this node; start it with 'replblk up {resource}'",
            exit_code=10,
        )


class EndedError(AdminError):
    """The daemon ended while it was asked: killed just now, or before our eyes."""

    def __init__(self, files: RunFiles) -> None:
        super().__init__(
            f"{files.folder.name}: the daemon ended before it answered; see {files.log}", EXIT_EXEC
        )


def call(files: RunFiles, request: Request, timeout_s: float | None) -> Reply:
    """Send *request* and wait for its reply, at most *timeout_s* seconds (None: for ever).

    NotRunningError if nobody serves the socket, EndedError if the daemon ends, AdminError (20) for
    anything else that fails.
    """
    resource = files.folder.name
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(CONNECT_S)
        try:
            control.connect(str(files.control))
        except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
            raise NotRunningError(resource) from error
        except OSError as error:
            raise AdminError(
                f"{resource}: can't reach the daemon at {files.control}: {error.strerror or error}",
                EXIT_EXEC,
            ) from error
        control.settimeout(timeout_s)
        try:
            control.sendall(encode_request(request))
            return _receive(control, files)
        except TimeoutError as error:
            raise AdminError(
                f"{resource}: '{request.verb}' did not terminate within {timeout_s:g} seconds; "
                f"it goes on in the daemon, see {files.log}",
                EXIT_EXEC,
            ) from error
        except OSError as error:
            raise EndedError(files) from error


def _receive(control: socket.socket, files: RunFiles) -> Reply:
    lines = Lines(REPLY_BYTES_MAX)
    while True:
        data = control.recv(_RECEIVE_BYTES)
        if not data:
            raise EndedError(files)
        if found := lines.feed(data):
            return decode_reply(found[0])
