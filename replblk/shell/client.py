"""The Clients port: numbers requests and commands, and finds who waits when the answer comes.

Answers are gathered during a step and handed out after it, so that no callback runs inside the
node and all replies of a turn leave together.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from replblk.engine.ports import Answer, Buffer, ClientRequest, Command
from replblk.shell.turns import EventSink

RequestDone = Callable[[int, "Buffer | None"], None]
"""(errno, data)"""
CommandDone = Callable[[Answer], None]


class Clients:
    """``engine.ports.Clients``: every number is answered exactly once."""

    def __init__(self, events: EventSink) -> None:
        self._events = events
        self._numbers = itertools.count(1)
        self._requests: dict[int, RequestDone] = {}
        self._commands: dict[int, CommandDone] = {}
        self._replies: list[tuple[RequestDone, int, Buffer | None]] = []
        self._answers: list[tuple[CommandDone, Answer]] = []

    @property
    def requests_in_flight(self) -> int:
        """Requests the node has not answered yet."""
        return len(self._requests)

    def request(
        self,
        done: RequestDone,
        volume: int,
        kind: str,
        offset: int = 0,
        length: int = 0,
        data: Buffer = b"",
        *,
        fua: bool = False,
        unmap: bool = False,
    ) -> None:
        """Give the node a request; *done* is called after the step that answers it."""
        number = next(self._numbers)
        self._requests[number] = done
        self._events.on_client_request(
            ClientRequest(number, volume, kind, offset, length, data, fua, unmap)
        )

    def command(
        self, done: CommandDone, verb: str, volume: int | None, options: dict[str, object]
    ) -> None:
        """Give the node a command."""
        number = next(self._numbers)
        self._commands[number] = done
        self._events.on_command(Command(number, verb, volume, options))

    def reply(self, request: int, errno: int, data: Buffer | None) -> None:
        """The node answers a request."""
        self._replies.append((self._requests.pop(request), errno, data))

    def answer(self, command: int, answer: Answer) -> None:
        """The node answers a command."""
        self._answers.append((self._commands.pop(command), answer))

    def end_step(self) -> None:
        """Hand out what the step answered."""
        replies, self._replies = self._replies, []
        for done, failed, data in replies:
            done(failed, data)
        answers, self._answers = self._answers, []
        for told, answer in answers:
            told(answer)
