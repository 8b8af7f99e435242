"""Runs handlers as child processes: ``/bin/sh -c COMMAND``, watched without blocking the loop.

A handler gets a fixed environment, no input, the daemon's log for its output, a session of its own
and none of the daemon's files. One that is too slow is killed with all it started in its session's
process group. Handlers outlive a daemon that ends: they may be what ends it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Mapping

from replblk.engine.ports import HandlerCall

ENVIRONMENT = {"HOME": "/", "TERM": "linux", "PATH": "/sbin:/usr/sbin:/bin:/usr/bin"}
"""What DRBD gives its helper."""
STDERR = 2

Done = Callable[[int, int, str], None]


class HandlerProcesses:
    """The Handlers port. extra: more variables, the same for every handler."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, done: Done, extra: Mapping[str, str]
    ) -> None:
        self._loop = loop
        self._done = done
        self._extra = dict(extra)
        self._children: dict[int, _Child] = {}

    def call(self, number: int, call: HandlerCall) -> None:
        """Start it."""
        environment = {**ENVIRONMENT, **self._extra, **dict(call.environment)}
        try:
            process = subprocess.Popen(
                ["/bin/sh", "-c", call.command],
                stdin=subprocess.DEVNULL,
                stdout=STDERR,
                cwd="/",
                env=environment,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            trouble = f"it could not be started: {error}"
            self._loop.call_soon(self._done, number, -1, trouble)
            return
        self._children[number] = _Child(self._loop, process, call.timeout_s, self._over(number))

    def _over(self, number: int) -> Callable[[int, str], None]:
        def over(exit_code: int, trouble: str) -> None:
            del self._children[number]
            self._done(number, exit_code, trouble)

        return over

    def close(self) -> None:
        """The daemon ends: whatever still runs goes on without it."""
        for child in self._children.values():
            child.let_go()
        self._children.clear()


class _Child:
    """One running handler."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        process: subprocess.Popen[bytes],
        timeout_s: int,
        over: Callable[[int, str], None],
    ) -> None:
        self._loop = loop
        self._process = process
        self._timeout_s = timeout_s
        self._over = over
        self._late = False
        self._fd = os.pidfd_open(process.pid)
        loop.add_reader(self._fd, self._ended)
        self._timer = loop.call_later(timeout_s, self._too_slow)

    def _too_slow(self) -> None:
        self._late = True
        with contextlib.suppress(ProcessLookupError):  # it ended in this very moment
            os.killpg(self._process.pid, signal.SIGKILL)

    def _ended(self) -> None:
        status = self._process.wait()
        self._close()
        if self._late:
            self._over(-1, f"it did not end within {self._timeout_s} s and was killed")
        elif status < 0:
            self._over(-1, f"it was killed by signal {-status}")
        else:
            self._over(status, "")

    def _close(self) -> None:
        self._timer.cancel()
        self._loop.remove_reader(self._fd)
        os.close(self._fd)

    def let_go(self) -> None:
        """Watch it no more."""
        self._close()
        # It lives on without us; init takes it over when this process ends.
        self._process.returncode = 0
