"""The Clients port: numbers requests and commands, and finds who waits when the answer comes.

Answers are gathered during a step and handed out after it, so that no callback runs inside the
node and all replies of a turn leave together.

Writes of one turn that continue each other become one request of the node, as a block layer merges
them: one packet, one disk operation, one acknowledgement for all. They succeed or fail together.
Nothing waits for it, and nothing is passed by: any other request ends the run before it.
"""

from __future__ import annotations

from collections.abc import Callable

from replblk.engine.ports import Answer, Buffer, ClientRequest, Command
from replblk.shell.doorkeeper import Door
from replblk.shell.turns import EventSink

RequestDone = Callable[[int, "Buffer | None"], None]
"""(errno, data)"""
CommandDone = Callable[[Answer], None]


RUN_BYTES_MAX = 256 << 10
"""Longest run of writes that becomes one request."""
RUN_PIECE_BYTES_MAX = 64 << 10
"""A longer write goes alone: to copy it costs more than it spares."""


_NO_REQUEST = ClientRequest(0, 0, "")
_Queued = tuple[RequestDone, int, str, int, int, Buffer, bool, bool]
"""done, volume, kind, offset, length, data, fua, unmap"""


class _Run:
    """Writes that continue each other."""

    __slots__ = ("data", "dones", "size")

    def __init__(self, data: Buffer, done: RequestDone, size: int) -> None:
        self.data = [data]
        self.dones = [done]
        self.size = size

    def answered(self, errno: int, data: Buffer | None) -> None:
        """What became of the run became of each write."""
        for done in self.dones:
            done(errno, data)


class Clients:
    """``engine.ports.Clients``: every number is answered exactly once.

    before_step: has ``begin_step`` called before the next step, and a step come; without it,
    requests are not gathered.
    """

    def __init__(
        self, events: EventSink, before_step: Callable[[Callable[[], None]], None] | None = None
    ) -> None:
        self._events = events
        self._before_step = before_step
        self._queued: list[_Queued] = []
        """Requests that were not given to the node yet, in order."""
        self._number = 0
        self._requests: dict[int, RequestDone] = {}
        self._commands: dict[int, CommandDone] = {}
        self.due = False
        """Whether the step has answered anything."""
        self._replies: list[tuple[RequestDone, int, Buffer | None]] = []
        self._answers: list[tuple[CommandDone, Answer]] = []
        self.door: Door | None = None
        """Who lets clients in; without, nobody has to be sent away."""

    @property
    def requests_in_flight(self) -> int:
        """Requests that the node was given, or is about to be given, and has not answered yet."""
        return len(self._requests) + len(self._queued)

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
        queued = self._queued
        queued.append((done, volume, kind, offset, length, data, fua, unmap))
        if self._before_step is None:
            self.begin_step()
        elif len(queued) == 1:
            self._before_step(self.begin_step)

    def writes(self, volume: int, writes: list[tuple[int, Buffer, bool, RequestDone]]) -> None:
        """``request`` for many writes: offset, data, fua, done."""
        queued = self._queued
        first = not queued
        for offset, data, fua, done in writes:
            queued.append((done, volume, "write", offset, len(data), data, fua, False))
        if self._before_step is None:
            self.begin_step()
        elif first:
            self._before_step(self.begin_step)

    def begin_step(self) -> None:
        """Give the node what has gathered, writes that continue each other as one."""
        queued = self._queued
        if not queued:
            return
        self._queued = []
        waiting, number = self._requests, self._number
        requests: list[ClientRequest] = []
        request = _NO_REQUEST
        run: _Run | None = None
        end = -1  # of the request before, if it is a write that another may continue
        for done, volume, kind, offset, length, data, fua, unmap in queued:
            if (
                offset == end
                and kind == "write"
                and length <= RUN_PIECE_BYTES_MAX
                and volume == request.volume
                and fua == request.fua
                and (run.size if run else request.length) + length <= RUN_BYTES_MAX
            ):
                if run is None:
                    run = _Run(request.data, waiting[number], request.length)
                    waiting[number] = run.answered
                run.data.append(data)
                run.dones.append(done)
                run.size += length
                end += length
                continue
            if run is not None:
                request.data, request.length, run = b"".join(run.data), run.size, None
            number += 1
            waiting[number] = done
            request = ClientRequest(number, volume, kind, offset, length, data, fua, unmap)
            requests.append(request)
            end = offset + length if kind == "write" and length <= RUN_PIECE_BYTES_MAX else -1
        if run is not None:
            request.data, request.length = b"".join(run.data), run.size
        self._number = number
        self._events.on_client_requests(requests)

    def command(
        self, done: CommandDone, verb: str, volume: int | None, options: dict[str, object]
    ) -> None:
        """Give the node a command, after the requests that came before it."""
        self.begin_step()
        self._number = number = self._number + 1
        self._commands[number] = done
        self._events.on_command(Command(number, verb, volume, options))

    def reply(self, request: int, errno: int, data: Buffer | None) -> None:
        """The node answers a request."""
        self._replies.append((self._requests.pop(request), errno, data))
        self.due = True

    def replies(self, requests: list[int]) -> None:
        """The node answers many with success and no data."""
        pop, replies = self._requests.pop, self._replies
        for request in requests:
            replies.append((pop(request), 0, None))
        self.due = True

    def answer(self, command: int, answer: Answer) -> None:
        """The node answers a command."""
        self._answers.append((self._commands.pop(command), answer))
        self.due = True

    def send_away(self, volume: int) -> str:
        """The volume's clients are to go, and nobody is let in."""
        return self.door.send_away(volume) if self.door is not None else ""

    def let_in(self, volume: int) -> None:
        """As before."""
        if self.door is not None:
            self.door.let_in(volume)

    def end_step(self) -> None:
        """Hand out what the step answered."""
        self.due = False
        replies, self._replies = self._replies, []
        for done, failed, data in replies:
            done(failed, data)
        if self._answers:
            answers, self._answers = self._answers, []
            for told, answer in answers:
                told(answer)
