"""QEMU's synchronous mirror: two storage daemons, as near to a replicated device as QEMU comes.

The source daemon exports a node that blockdev-mirror (sync none, copy-mode write-blocking) copies
to the target daemon's NBD export over TCP. Both files are opened past the page cache, both exports
have writethrough=on: without it the mirror never forwards a flush, and the copy would not be
durable.

Stock, its NBD connection waits 44 ms for a delayed acknowledgement at any depth over 1. To beat
that would mean nothing, so TCP_NODELAY is set on its sockets from outside (pidfd_getfd).
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from scripts.bench.contenders import (
    NATIVE,
    START_S,
    end,
    free_port,
    make_file,
    nbd_words,
    wait_for_port,
    wait_for_socket,
)

_SYS_PIDFD_GETFD = 438


class Mirror:
    """Both daemons and the mirror between them, ready."""

    name = "QEMU mirror"

    def __init__(
        self,
        folder: Path,
        size: int,
        *,
        direct: bool = True,
        native: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """direct: past the page cache; native: by the kernel's AIO instead of QEMU's default,
        threads that make system calls."""
        if native:
            self.name += NATIVE
        folder.mkdir(parents=True)
        self.folder = folder
        how = "cache.direct=on," if direct else ""
        self._how = how + ("aio=native," if native else "")
        self._environment = {**os.environ, **(environment or {})}
        port = free_port()
        for node in ("source", "target"):
            make_file(folder / f"{node}.img", size)
        self._target = self._daemon(
            "target",
            *("--nbd-server", f"addr.type=inet,addr.host=127.0.0.1,addr.port={port}"),
            *("--export", "nbd,id=export,node-name=disk,name=disk,writable=on,writethrough=on"),
        )
        self._socket = folder / "nbd.sock"
        wait_for_port(port)
        self._source = self._daemon(
            "source",
            *("--nbd-server", f"addr.type=unix,addr.path={self._socket}"),
            *("--export", "nbd,id=export,node-name=disk,name=disk,writable=on,writethrough=on"),
            *("--chardev", f"socket,id=qmp,path={folder}/qmp.sock,server=on,wait=off"),
            *("--monitor", "chardev=qmp"),
            "--blockdev",
            "driver=nbd,node-name=remote,export=disk,server.type=inet,server.host=127.0.0.1,"
            f"server.port={port}",
        )
        wait_for_socket(self._socket)
        self._begin_mirror()
        for process in (self._source, self._target):
            _send_at_once(process.pid)

    def _daemon(self, node: str, *words: str) -> subprocess.Popen[bytes]:
        file = f"driver=file,node-name=disk,{self._how}filename={self.folder}/{node}.img"
        return subprocess.Popen(
            ["qemu-storage-daemon", "--blockdev", file, *words], env=self._environment
        )

    def _begin_mirror(self) -> None:
        with _Monitor(self.folder / "qmp.sock") as monitor:
            monitor.ask(
                "blockdev-mirror",
                **{"job-id": "mirror", "device": "disk", "target": "remote", "sync": "none"},
                **{"copy-mode": "write-blocking"},
            )
            deadline_s = time.monotonic() + START_S
            while not any(job["status"] == "ready" for job in monitor.ask("query-jobs")):
                if time.monotonic() > deadline_s:
                    raise SystemExit("the QEMU mirror does not become ready")
                time.sleep(0.05)

    def target(self) -> list[str]:
        """The source's export."""
        return nbd_words(self._socket, "disk")

    def images(self) -> list[Path]:
        """Both files."""
        return [self.folder / f"{node}.img" for node in ("source", "target")]

    def processes(self) -> list[int]:
        """Both daemons."""
        return [self._source.pid, self._target.pid]

    def close(self) -> None:
        """Ended, the source first."""
        end(self._source)
        end(self._target)


class _Monitor:
    """QEMU's monitor on a unix socket: a question, an answer."""

    def __init__(self, path: Path) -> None:
        wait_for_socket(path)
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("r")
        self._lines.readline()  # the greeting
        self.ask("qmp_capabilities")

    def __enter__(self) -> _Monitor:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, command: str, **arguments: object) -> list[dict[str, str]]:
        """What the command returns; events in between are skipped."""
        question = {"execute": command, "arguments": arguments}
        self._socket.sendall(json.dumps(question).encode() + b"\n")
        for line in self._lines:
            answer = json.loads(line)
            if "return" in answer:
                found: list[dict[str, str]] = answer["return"]
                return found
            if "error" in answer:
                raise SystemExit(f"QEMU: {command}: {answer['error']['desc']}")
        raise SystemExit(f"QEMU ended during {command}")


def _send_at_once(process: int) -> None:
    """TCP_NODELAY on every TCP socket of another process."""
    syscall = ctypes.CDLL(None, use_errno=True).syscall
    handle = os.pidfd_open(process)
    try:
        for link in Path(f"/proc/{process}/fd").iterdir():
            if not os.readlink(link).startswith("socket:"):
                continue
            fd = syscall(_SYS_PIDFD_GETFD, handle, int(link.name), 0)
            if fd < 0:
                why = os.strerror(ctypes.get_errno())
                raise SystemExit(f"the mirror's sockets can't be tuned ({why}); run it as root")
            with socket.socket(fileno=fd) as found:
                if found.family == socket.AF_INET:
                    found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    finally:
        os.close(handle)
