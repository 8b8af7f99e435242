"""The Clients port: numbers requests and commands, and finds who waits when the answer comes.

Answers are gathered during a step and handed out after it, so that no callback runs inside the
node and all replies of a turn leave together.

Writes of one turn that continue each other become one request of the node, as a block layer merges
them: one packet, one disk operation, one acknowledgement for all. They succeed or fail together.
Nothing waits for it, and nothing is passed by: any other request ends the run before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

from replblk.engine.ports import Answer, Buffer, ClientRequest, Command
from replblk.shell.turns import EventSink

RequestDone = Callable[[int, "Buffer | None"], None]
"""(errno, data)"""
CommandDone = Callable[[Answer], None]


RUN_BYTES_MAX = 256 << 10
"""Longest run of writes that becomes one request."""
RUN_PIECE_BYTES_MAX = 64 << 10
"""A longer write goes alone: to copy it costs more than it spares."""


class _Run:
    """Writes that continue each other and were not given to the node yet."""

    __slots__ = ("data", "dones", "end", "fua", "size", "start", "volume")

    def __init__(
        self, volume: int, offset: int, data: Buffer, fua: bool, done: RequestDone
    ) -> None:
        self.volume = volume
        self.start = offset
        self.size = len(data)
        self.end = offset + self.size
        self.fua = fua
        self.data = [data]
        self.dones = [done]

    def answered(self, errno: int, data: Buffer | None) -> None:
        """What became of the run became of each write."""
        for done in self.dones:
            done(errno, data)


class Clients:
    """``engine.ports.Clients``: every number is answered exactly once.

    wake: asks for ``begin_step``; without it, writes are not merged.
    """

    def __init__(self, events: EventSink, wake: Callable[[], None] | None = None) -> None:
        self._events = events
        self._wake = wake
        self._run: _Run | None = None
        self._numbers = itertools.count(1)
        self._requests: dict[int, RequestDone] = {}
        self._commands: dict[int, CommandDone] = {}
        self._replies: list[tuple[RequestDone, int, Buffer | None]] = []
        self._answers: list[tuple[CommandDone, Answer]] = []

    @property
    def requests_in_flight(self) -> int:
        """Requests the node was given and has not answered yet."""
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
        if self._wake is not None:
            run = self._run
            mergeable = kind == "write" and length <= RUN_PIECE_BYTES_MAX
            if run is not None:
                if (
                    mergeable
                    and run.end == offset
                    and run.volume == volume
                    and run.fua == fua
                    and run.size + length <= RUN_BYTES_MAX
                ):
                    run.data.append(data)
                    run.dones.append(done)
                    run.size += length
                    run.end += length
                    return
                self.begin_step()
            if mergeable:
                self._run = _Run(volume, offset, data, fua, done)
                self._wake()
                return
        self._give(done, volume, kind, offset, length, data, fua, unmap)

    def begin_step(self) -> None:
        """Give the node the run that has gathered."""
        run, self._run = self._run, None
        if run is None:
            return
        if len(run.data) == 1:
            done, data = run.dones[0], run.data[0]
        else:
            done, data = run.answered, b"".join(run.data)
        self._give(done, run.volume, "write", run.start, run.size, data, run.fua, False)

    def _give(
        self,
        done: RequestDone,
        volume: int,
        kind: str,
        offset: int,
        length: int,
        data: Buffer,
        fua: bool,
        unmap: bool,
    ) -> None:
        number = next(self._numbers)
        self._requests[number] = done
        self._events.on_client_request(
            ClientRequest(number, volume, kind, offset, length, data, fua, unmap)
        )

    def command(
        self, done: CommandDone, verb: str, volume: int | None, options: dict[str, object]
    ) -> None:
        """Give the node a command, after the writes that came before it."""
        self.begin_step()
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
