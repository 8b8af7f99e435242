"""Handlers as child processes: what they find, how they end, what they can't do to the daemon."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest
import uvloop

from replblk.engine.ports import HandlerCall
from replblk.shell.handler_processes import HandlerProcesses

Ended = tuple[int, int, str]
LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Rig:
    """Runs handlers and remembers how they ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.ended: list[Ended] = []
        self.processes = HandlerProcesses(
            loop, lambda *ended: self.ended.append(ended), {"REPLBLK_NODE": "alpha"}
        )

    def start(self, command: str, number: int = 1, timeout_s: int = 60) -> None:
        environment = (("DRBD_RESOURCE", "r0"), ("DRBD_PEER", "beta"))
        self.processes.call(number, HandlerCall("split-brain", command, environment, timeout_s))

    async def over(self, count: int = 1) -> list[Ended]:
        async with asyncio.timeout(20):
            while len(self.ended) < count:
                await asyncio.sleep(0.01)
        return self.ended


@pytest.fixture(params=sorted(LOOPS))
def run(
    request: pytest.FixtureRequest,
) -> Callable[[Callable[[Rig], Coroutine[None, None, None]]], None]:
    def runner(story: Callable[[Rig], Coroutine[None, None, None]]) -> None:
        async def told() -> None:
            await story(Rig(asyncio.get_running_loop()))

        with asyncio.Runner(loop_factory=LOOPS[request.param]) as loop:
            loop.run(told())

    return runner


Run = Callable[[Callable[[Rig], Coroutine[None, None, None]]], None]


def test_the_exit_status_comes_back(run: Run) -> None:
    async def story(rig: Rig) -> None:
        for number, status in enumerate((0, 3, 4, 5, 6, 7, 255)):
            rig.start(f"exit {status}", number)
        ended = sorted(await rig.over(7))
        assert ended == [(n, s, "") for n, s in enumerate((0, 3, 4, 5, 6, 7, 255))]

    run(story)


def test_a_handler_finds_a_fixed_environment_no_input_and_no_files_of_the_daemon(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_OF_THE_SERVICE", "1")

    async def story(rig: Rig) -> None:
        with socket.socket() as ours:
            out = tmp_path / "out"
            rig.start(
                f"/usr/bin/env > {out}; cat >> {out}; test -e /proc/self/fd/{ours.fileno()}; "
                f'echo "inherited: $?; at $(pwd)" >> {out}'
            )
            assert await rig.over() == [(1, 0, "")]
        found = set(out.read_text().splitlines())
        assert {
            *("DRBD_RESOURCE=r0", "DRBD_PEER=beta", "REPLBLK_NODE=alpha", "HOME=/", "TERM=linux"),
            *("PATH=/sbin:/usr/sbin:/bin:/usr/bin", "inherited: 1; at /"),
        } <= found
        assert not any(line.startswith("SECRET_OF_THE_SERVICE") for line in found)

    run(story)


def test_shell_words_pass_unchanged(run: Run, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        out = tmp_path / "out"
        rig.start(f'echo "$DRBD_RESOURCE"; echo b > {out}; exit 7')
        assert await rig.over() == [(1, 7, "")]
        assert out.read_text() == "b\n"

    run(story)


def test_a_handler_that_is_killed_is_told_as_that(run: Run) -> None:
    async def story(rig: Rig) -> None:
        rig.start("kill -TERM $$")
        assert await rig.over() == [(1, -1, f"it was killed by signal {int(signal.SIGTERM)}")]

    run(story)


def test_a_slow_handler_is_killed_with_all_it_started(run: Run, tmp_path: Path) -> None:
    async def story(rig: Rig) -> None:
        pids = tmp_path / "pids"
        rig.start(f"sleep 100 & echo $! > {pids}; wait", timeout_s=1)
        assert await rig.over() == [(1, -1, "it did not end within 1 s and was killed")]
        child = int(pids.read_text())
        deadline_s = time.monotonic() + 10
        while _lives(child) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)
        assert not _lives(child)

    run(story)


def test_a_handler_that_can_not_be_started_is_told(run: Run) -> None:
    async def story(rig: Rig) -> None:
        rig.start("echo \0")
        ((number, status, trouble),) = await rig.over()
        assert (number, status) == (1, -1)
        assert trouble.startswith("it could not be started: ")

    run(story)


def test_a_handler_outlives_the_daemon(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go = tmp_path / "go"

    async def story(rig: Rig) -> None:
        rig.start(f"while ! test -e {go}; do sleep 0.02; done; echo done > {out}")
        rig.processes.close()
        assert rig.ended == []

    run(story)
    go.touch()
    deadline_s = time.monotonic() + 20
    while not out.exists() and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert out.exists()


def _lives(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_pidfds_are_given_back(run: Run) -> None:
    async def story(rig: Rig) -> None:
        before = len(os.listdir("/proc/self/fd"))
        for number in range(5):
            rig.start("exit 0", number)
        await rig.over(5)
        assert len(os.listdir("/proc/self/fd")) == before

    run(story)
