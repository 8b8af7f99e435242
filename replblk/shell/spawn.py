"""Starts a daemon in the background and waits until it serves, or says why it does not.

The child is a session of its own with its output in the log file. It reports over a pipe, one JSON
object in a line, and closes it; a child that dies without a word closes it, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Sequence

from replblk.engine.ports import Answer
from replblk.model.errors import AdminError
from replblk.shell.run_files import RunFiles

READY_BYTES_MAX = 64 << 10
EXIT_STARTUP = 20


def spawn(command: Sequence[str], files: RunFiles) -> Answer:
    """Run *command* plus ``--ready-fd N`` as a daemon; what it reported.

    AdminError if it ended before it served. The daemon lives on whatever the answer to "up" was: a
    disk that could not be attached does not end it.
    """
    files.make()
    read_fd, write_fd = os.pipe()
    try:
        log_fd = files.open_log()
        try:
            child = subprocess.Popen(
                [*command, "--ready-fd", str(write_fd)],
                stdin=subprocess.DEVNULL,
                stdout=log_fd,
                stderr=log_fd,
                pass_fds=(write_fd,),
                start_new_session=True,
            )
        except OSError as error:
            raise AdminError(f"can't start {command[0]}: {error.strerror}", EXIT_STARTUP) from error
        finally:
            os.close(log_fd)
            os.close(write_fd)
        with os.fdopen(read_fd, "rb", closefd=False) as pipe:
            line = pipe.readline(READY_BYTES_MAX)
    finally:
        os.close(read_fd)
    if line:
        # The child lives on without us; init takes it over when this process ends.
        child.returncode = 0
        report = json.loads(line)
        if report["failed"]:
            raise AdminError(report["text"], report["exit_code"])
        return Answer(report["exit_code"], report["text"], report["code"])
    status = child.wait()
    raise AdminError(
        f"{files.folder.name}: the daemon ended with status {status} before it served; "
        f"the end of {files.log}:\n{files.log_tail()}",
        EXIT_STARTUP,
    )


class ReadyPipe:
    """The daemon's end of the pipe; fd None: nobody waits."""

    def __init__(self, fd: int | None) -> None:
        self._fd = fd

    def up(self, answer: Answer) -> None:
        """The daemon serves; *answer* is what became of "up"."""
        self._write(answer.exit_code, answer.text, answer.code, failed=False)

    def failed(self, error: AdminError) -> None:
        """The daemon does not come to serve."""
        self._write(error.exit_code, str(error), 0, failed=True)

    def _write(self, exit_code: int, text: str, code: int, *, failed: bool) -> None:
        if self._fd is None:
            return
        report = {"exit_code": exit_code, "text": text, "code": code, "failed": failed}
        fd, self._fd = self._fd, None
        with contextlib.suppress(BrokenPipeError):  # whoever ran "up" did not wait for us
            os.write(fd, json.dumps(report).encode() + b"\n")
        os.close(fd)
