"""Runs inside the guest: ``replblk`` and ``python -m nbd.attach`` as forks of one process, which
has loaded them already. On an emulated CPU each would take ten seconds to load.

    python -m tests.interop.guest_commands SOCKET

A connection gives a command as JSON, {"program": NAME, "words": [...], "log": path or ""}, and gets
what it prints, and the line ``:status:N``. NAME is "replblk", "nbd.attach", or "python": then the
first word is the source of a script. With a log the command runs in the background, in a session of
its own, and the connection gets its process number. The helpers that commands leave behind are
forks as well.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from types import SimpleNamespace
from typing import IO

import nbd.attach
import replblk.shell.daemon  # noqa: F401  the commands load it when they need it
from replblk.cli.main import main as replblk_main
from replblk.shell import block_devices


def main() -> None:
    """Serve for ever."""
    path = sys.argv[1]
    block_devices.subprocess = SimpleNamespace(  # type: ignore[attr-defined]
        Popen=_helper, DEVNULL=0, run=block_devices.subprocess.run
    )
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for what was forked
    while True:
        connection, _address = listener.accept()
        if os.fork() == 0:
            listener.close()
            _serve(connection)
        connection.close()


def _serve(connection: socket.socket) -> None:
    given = b""
    while piece := connection.recv(1 << 16):
        given += piece
    told = json.loads(given)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    out = connection.fileno()
    if told["log"]:
        if pid := os.fork():
            os.write(out, f"{pid}\n:status:0\n".encode())
            os._exit(0)
        os.setsid()
        out = os.open(told["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        connection.close()
    os.dup2(out, 1)
    os.dup2(out, 2)
    try:
        status = _run(told["program"], told["words"])
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(1, f"\n:status:{status}\n".encode())
    os._exit(0)


def _helper(command: Sequence[str], *, stdout: IO[bytes], **_options: object) -> SimpleNamespace:
    """``subprocess.Popen`` of ``python -P -m nbd.attach WORDS``."""
    start = [sys.executable, "-P", "-m", "nbd.attach"]
    assert list(command[: len(start)]) == start, f"not a helper: {command}"
    if pid := os.fork():
        return SimpleNamespace(pid=pid, returncode=None)
    os.setsid()
    os.dup2(stdout.fileno(), 1)
    os.dup2(stdout.fileno(), 2)
    os.closerange(3, 256)
    status = 99
    try:
        status = _run("nbd.attach", list(command[len(start) :]))
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _run(program: str, words: list[str]) -> int:
    if program == "replblk":
        return replblk_main(words)
    if program == "python":
        exec(words[0], {"words": words[1:]})
        return 0
    sys.argv = [program, *words]
    return nbd.attach.main()


if __name__ == "__main__":
    main()
