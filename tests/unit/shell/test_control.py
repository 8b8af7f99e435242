"""The control socket between a real server and the blocking client."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from replblk.admin.messages import Reply, Request, decode_reply
from replblk.model.errors import AdminError
from replblk.shell.control_client import NotRunningError, call
from replblk.shell.control_server import CONNECTIONS_MAX, VERBS, ControlServer, Done, judge
from replblk.shell.run_files import RunFiles
from tests.unit.shell.builders import node_status


class Desk:
    """Keeps requests until the test answers them."""

    def __init__(self) -> None:
        self.requests: list[tuple[Request, Done]] = []
        self.at_once: Callable[[Request], Reply] | None = None

    def handle(self, request: Request, done: Done) -> None:
        if self.at_once is not None:
            done(self.at_once(request))
        else:
            self.requests.append((request, done))


def files_in(folder: Path) -> RunFiles:
    files = RunFiles.of(folder, "r0")
    files.make()
    return files


@asynccontextmanager
async def serving(files: RunFiles, desk: Desk) -> AsyncIterator[ControlServer]:
    server = ControlServer(desk.handle)
    await server.listen(files.control)
    try:
        yield server
    finally:
        await server.close()


async def ask(files: RunFiles, request: Request, timeout_s: float = 10) -> Reply:
    return await asyncio.to_thread(call, files, request, timeout_s)


def test_a_command_gets_its_reply(tmp_path: Path) -> None:
    files, desk = files_in(tmp_path), Desk()
    desk.at_once = lambda request: Reply(11, f"{request.verb} {request.options}", -12)

    async def story() -> Reply:
        async with serving(files, desk):
            assert stat.S_IMODE(files.control.stat().st_mode) == 0o600
            return await ask(files, Request("primary", 0, {"force": True}))

    assert asyncio.run(story()) == Reply(11, "primary {'force': True}", -12)
    assert not files.control.exists()


def test_a_status_survives_the_way(tmp_path: Path) -> None:
    files, desk = files_in(tmp_path), Desk()
    desk.at_once = lambda request: Reply(0, status=node_status())

    async def story() -> Reply:
        async with serving(files, desk):
            return await ask(files, Request("status"))

    assert asyncio.run(story()).status == node_status()


def test_nobody_there_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="replblk up r0"):
        call(RunFiles.of(tmp_path, "r0"), Request("status"), 1)


def test_a_dead_daemons_socket_is_nobody_and_is_replaced(tmp_path: Path) -> None:
    files, desk = files_in(tmp_path), Desk()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(files.control))
    with pytest.raises(NotRunningError):
        call(files, Request("status"), 1)
    desk.at_once = lambda request: Reply(0)

    async def story() -> Reply:
        async with serving(files, desk):
            return await ask(files, Request("up"))

    assert asyncio.run(story()) == Reply(0)


def test_a_daemon_that_ends_first_and_one_that_takes_too_long(tmp_path: Path) -> None:
    files, desk = files_in(tmp_path), Desk()

    async def story() -> None:
        async with serving(files, desk) as server:
            with pytest.raises(AdminError, match=r"did not terminate within 0\.05 seconds"):
                await ask(files, Request("wait-sync"), 0.05)
            asking = asyncio.create_task(ask(files, Request("down")))
            while not any(request.verb == "down" for request, _ in desk.requests):
                await asyncio.sleep(0.001)
            await server.close()
            with pytest.raises(AdminError, match="ended before it answered"):
                await asking

    asyncio.run(story())


@pytest.mark.parametrize(
    "request_",
    [
        Request("format"),
        Request("primary", 0, {"timeout_s": 3}),
        Request("primary", 0, {"force": 1}),
        Request("wait-connect", None, {"timeout_s": "soon"}),
        Request("wait-connect", None, {"timeout_s": -1}),
        Request("wait-connect", None, {"timeout_s": 1 << 40}),
        Request("wait-connect", None, {"timeout_s": True}),
    ],
)
def test_wrong_requests_are_refused_before_the_node_sees_them(
    tmp_path: Path, request_: Request
) -> None:
    files, desk = files_in(tmp_path), Desk()

    async def story() -> Reply:
        async with serving(files, desk):
            return await ask(files, request_)

    reply = asyncio.run(story())
    assert reply.exit_code == 1
    assert reply.text
    assert desk.requests == []


def test_every_verb_is_fine_without_options() -> None:
    assert [judge(Request(verb)) for verb in VERBS] == [""] * len(VERBS)


@pytest.mark.parametrize("line", [b"\xff\xfe\n", b"[]\n", b'{"verb": 3}\n', b"x" * 100_000])
def test_nonsense_is_answered_and_costs_the_connection(tmp_path: Path, line: bytes) -> None:
    files, desk = files_in(tmp_path), Desk()

    async def story() -> bytes:
        async with serving(files, desk):
            reader, writer = await asyncio.open_unix_connection(str(files.control))
            writer.write(line)
            answer = await asyncio.wait_for(reader.read(), 10)
            writer.close()
            await asyncio.sleep(0)
            return answer

    assert decode_reply(asyncio.run(story())).exit_code == 20


def test_too_many_at_once_are_turned_away(tmp_path: Path) -> None:
    files, desk = files_in(tmp_path), Desk()

    async def story() -> Reply:
        async with serving(files, desk) as server:
            with ExitStack() as held:
                for _ in range(CONNECTIONS_MAX):
                    client = held.enter_context(socket.socket(socket.AF_UNIX))
                    client.connect(str(files.control))
                while len(server.connections) < CONNECTIONS_MAX:
                    await asyncio.sleep(0.001)
                return await ask(files, Request("up"))

    assert asyncio.run(story()).exit_code == 20
