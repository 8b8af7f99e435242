"""Requests and their answers by number; writes that continue each other go as one."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from replblk.engine.ports import Buffer, ClientRequest, Command
from replblk.shell.client import RUN_BYTES_MAX, RUN_PIECE_BYTES_MAX, Clients
from tests.support.recorder import Recorder


class Node(Recorder):
    """Remembers what it is given, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[ClientRequest | Command] = []

    def on_client_requests(self, requests: list[ClientRequest]) -> None:
        self.given += requests

    def on_command(self, command: Command) -> None:
        self.given.append(command)


class Rig:
    """Clients on such a node."""

    def __init__(self) -> None:
        self.node = Node()
        self.first: list[Callable[[], None]] = []
        """What the next step begins with."""
        self.clients = Clients(self.node, self.first.append)
        self.outcomes: dict[str, int] = {}

    def told(self, name: str) -> Callable[[int, Buffer | None], None]:
        def done(failed: int, data: Buffer | None) -> None:
            assert name not in self.outcomes, "answered twice"
            self.outcomes[name] = failed

        return done

    def write(self, name: str, offset: int, size: int = 4096, **how: bool | int) -> None:
        data = name.encode()[:1] * size
        volume = int(how.pop("volume", 0))
        fua = bool(how.pop("fua", False))
        self.clients.request(self.told(name), volume, "write", offset, size, data, fua=fua)

    def shapes(self) -> list[tuple[str, int, int]]:
        return [
            (made.kind, made.offset, made.length)
            for made in self.node.given
            if isinstance(made, ClientRequest)
        ]


def test_writes_of_a_turn_that_continue_each_other_are_one_request() -> None:
    rig = Rig()
    for number, name in enumerate("abcd"):
        rig.write(name, 8192 + number * 4096)
    assert rig.node.given == []
    assert rig.first == [rig.clients.begin_step], "asked for once"
    rig.clients.begin_step()
    (request,) = rig.node.given
    assert isinstance(request, ClientRequest)
    assert (request.kind, request.offset, request.length) == ("write", 8192, 16384)
    assert request.data == b"".join(name * 4096 for name in (b"a", b"b", b"c", b"d"))
    rig.clients.reply(request.number, errno.EIO, None)
    assert rig.outcomes == {}
    rig.clients.end_step()
    assert rig.outcomes == dict.fromkeys("abcd", errno.EIO)


def test_a_write_alone_is_given_as_it_came() -> None:
    rig = Rig()
    rig.write("a", 0)
    rig.clients.begin_step()
    rig.clients.begin_step()
    assert rig.shapes() == [("write", 0, 4096)]


@pytest.mark.parametrize(
    ("second", "how"),
    [(8192, {}), (0, {}), (4096, {"fua": True}), (4096, {"volume": 1})],
    ids=["a gap", "the same place again", "another durability", "another volume"],
)
def test_what_does_not_continue_the_run_follows_it(second: int, how: dict[str, bool]) -> None:
    rig = Rig()
    rig.write("a", 0)
    rig.write("b", second, **how)
    rig.clients.begin_step()
    assert rig.shapes() == [("write", 0, 4096), ("write", second, 4096)]


def test_nothing_is_passed_by_the_writes_before_it() -> None:
    rig = Rig()
    rig.write("a", 0)
    rig.clients.request(rig.told("flush"), 0, "flush")
    rig.write("b", 4096)
    rig.clients.request(rig.told("read"), 0, "read", 0, 4096)
    rig.write("c", 8192)
    rig.clients.command(lambda answer: None, "secondary", None, {})
    kinds = [made.kind if isinstance(made, ClientRequest) else made.verb for made in rig.node.given]
    assert kinds == ["write", "flush", "write", "read", "write", "secondary"]


def test_runs_and_their_pieces_are_bounded() -> None:
    rig = Rig()
    piece = RUN_PIECE_BYTES_MAX
    count = RUN_BYTES_MAX // piece
    for number in range(count + 1):
        rig.write(str(number), number * piece, piece)
    rig.write("long", (count + 1) * piece, piece + 512)
    rig.clients.begin_step()
    assert [size for _, _, size in rig.shapes()] == [RUN_BYTES_MAX, piece, piece + 512]
