"""One step of the node for each turn of the loop, then everything the ports gathered meanwhile.

Events only queue inside the node, so a hundred packets and completions of one turn become one step:
writes gather into one commit, acknowledgements into one send. After the step the ports carry out
what they were given, in the order they were added (links first: the peer's commit overlaps ours).

A bug must not acknowledge anything: whatever a step raises stops the process before a port could
send, write or reply, with the traceback in the log.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn, Protocol

from replblk.engine.ports import ClientRequest, Command, DiskAnswer
from replblk.model.latency import Histogram, Latencies

ROUNDS_MAX = 4
"""Steps in one turn of the loop: what the ports answer at once is taken up at once, but sockets are
looked at again before long."""
EXIT_BUG = 70
"""EX_SOFTWARE of sysexits.h: an internal fault."""


class EventSink(Protocol):
    """What ports need of a node: its events, which only queue."""

    def on_link_connected(self, link: int) -> None:
        """An own connect succeeded."""

    def on_link_accepted(self, link: int) -> None:
        """The peer connected."""

    def on_link_bytes(self, link: int, data: bytes) -> None:
        """The peer sent something."""

    def on_link_lost(self, link: int, why: str) -> None:
        """A link is gone, or a connect failed."""

    def on_listen_failed(self, why: str) -> None:
        """There is no listener."""

    def on_disk_answers(self, answers: list[DiskAnswer]) -> None:
        """Disk operations ended."""

    def on_handler_done(self, number: int, exit_code: int, trouble: str) -> None:
        """A handler is over."""

    def on_wake(self) -> None:
        """The moment of ``wake_at`` has come."""

    def on_client_requests(self, requests: list[ClientRequest]) -> None:
        """Clients read, write, zero, trim or flush."""

    def on_command(self, command: Command) -> None:
        """The administrator commands."""


class SteppedNode(EventSink, Protocol):
    """What turns need of a node."""

    def step(self) -> None:
        """Drain the queue of events."""


class GatheringPort(Protocol):
    """What turns need of a port that carries out after a step what it was given in it."""

    @property
    def due(self) -> object:
        """Whether it was given anything: looked at after every step, so no more than that."""

    def end_step(self) -> None:
        """Carry it out."""


def stop_process(where: str) -> NoReturn:
    """Log the exception being handled and end the process at once, without any clean-up."""
    sys.stderr.write(f"internal fault in {where}; stopping at once, nothing is acknowledged\n")
    traceback.print_exc(file=sys.stderr)
    sys.stderr.flush()
    os._exit(EXIT_BUG)


class Turns:
    """Passes events to one node and schedules its steps. Lives on the loop's thread."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        on_bug: Callable[[str], object] = stop_process,
        latencies: Latencies | None = None,
    ) -> None:
        """latencies: how long turns and their parts take is noted there."""
        latencies = latencies or Latencies()
        self._step_ns, self._turn_ns = latencies.step.gathered, latencies.turn.gathered
        self._reply_ns = latencies.reply.gathered
        self._loop = loop
        self._on_bug = on_bug
        self._node: SteppedNode
        """Not there before ``drive``: an event before that is a bug."""
        self._first: list[Callable[[], None]] = []
        self._ports: list[tuple[GatheringPort, list[int] | None]] = []
        self._last: list[Callable[[], None]] = []
        self._running = False
        self._due = True
        """Whether a step is to come anyway; until there is a node, nobody has to ask for one."""
        self._stopped = False

    def drive(self, node: SteppedNode) -> None:
        """The node to step; set once, before the first event."""
        assert not hasattr(self, "_node"), "a second node on the same turns"
        self._node = node
        self._due = False
        self.wake()

    def before_step(self, begin_step: Callable[[], None]) -> None:
        """Step soon, and call *begin_step* before: what it still has for the node is part of it."""
        self._first.append(begin_step)
        if not self._due:
            self.wake()

    def after_step(self, port: GatheringPort, latency: Histogram | None = None) -> None:
        """Have *port* carry out what it was given, after every step and after the ports added
        before; how long that takes is noted in *latency*."""
        self._ports.append((port, latency.gathered if latency is not None else None))

    def soon(self, action: Callable[[], None]) -> None:
        """Call *action* when all that is being done now is done: at the end of a running turn, or
        else in the next turn of the loop."""
        if self._running:
            self._last.append(action)
        else:
            self._loop.call_soon(action)

    def wake(self) -> None:
        """An event was queued: step in this turn of the loop or the next."""
        if not self._due and not self._stopped:
            self._due = True
            if not self._running:
                self._loop.call_soon(self._run)

    def stop(self) -> None:
        """No more steps: the node is down."""
        self._stopped = True

    # The events of a node, each passed on and followed by a step. Most of those that come for
    # every request find that one is due.

    def on_link_connected(self, link: int) -> None:
        """An own connect succeeded."""
        self._node.on_link_connected(link)
        self.wake()

    def on_link_accepted(self, link: int) -> None:
        """The peer connected."""
        self._node.on_link_accepted(link)
        self.wake()

    def on_link_bytes(self, link: int, data: bytes) -> None:
        """The peer sent something."""
        self._node.on_link_bytes(link, data)
        if not self._due:
            self.wake()

    def on_link_lost(self, link: int, why: str) -> None:
        """A link is gone, or a connect failed."""
        self._node.on_link_lost(link, why)
        self.wake()

    def on_listen_failed(self, why: str) -> None:
        """There is no listener."""
        self._node.on_listen_failed(why)
        self.wake()

    def on_disk_answers(self, answers: list[DiskAnswer]) -> None:
        """Disk operations ended."""
        self._node.on_disk_answers(answers)
        if not self._due:
            self.wake()

    def on_handler_done(self, number: int, exit_code: int, trouble: str) -> None:
        """A handler is over."""
        self._node.on_handler_done(number, exit_code, trouble)
        self.wake()

    def on_wake(self) -> None:
        """The moment of ``wake_at`` has come."""
        self._node.on_wake()
        self.wake()

    def on_client_requests(self, requests: list[ClientRequest]) -> None:
        """Clients read, write, zero, trim or flush."""
        self._node.on_client_requests(requests)
        if not self._due:
            self.wake()

    def on_command(self, command: Command) -> None:
        """The administrator commands."""
        self._node.on_command(command)
        self.wake()

    def _run(self) -> None:
        if self._stopped:
            return
        self._running = True
        clock = time.monotonic_ns
        began_ns = now_ns = clock()
        try:
            for _ in range(ROUNDS_MAX):
                if self._first:
                    first, self._first = self._first, []
                    for begin_step in first:
                        begin_step()
                self._due = False
                self._node.step()
                then_ns, now_ns = now_ns, clock()
                self._step_ns.append(now_ns - then_ns)
                for port, took_ns in self._ports:
                    if port.due:
                        port.end_step()
                        if took_ns is not None:
                            then_ns, now_ns = now_ns, clock()
                            took_ns.append(now_ns - then_ns)
                if not self._due or self._stopped:
                    break
        except Exception:
            self._stopped = True
            self._last.clear()
            self._on_bug("a step of the node")
        finally:
            self._running = False
            last, self._last = self._last, []
        if self._due and not self._stopped:
            self._loop.call_soon(self._run)
        if last:
            for action in last:
                action()
            then_ns, now_ns = now_ns, clock()
            self._reply_ns.append(now_ns - then_ns)
        self._turn_ns.append(now_ns - began_ns)
