"""Two nodes connect to each other: in whatever order things arrive, both end with one pair.

The bench holds everything under way between two ``LinkSetup``s (attempts, initial packets, closes)
and lets a sequence of choices decide what arrives next. Time passes only when nothing is under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from replblk.engine.context import SECOND_NS, Context
from replblk.engine.link_setup import ACCEPTED_MAX, Candidate, LinkSetup
from replblk.engine.ports import Ports
from replblk.model.config import Settings
from replblk.sim.options import Options
from replblk.sim.setup import resource_for
from replblk.wire.framing import frame_header
from replblk.wire.packets import Cmd

Event = Callable[[], None]


class Side:
    """One node: its setup, its ports, its clock."""

    def __init__(self, bench: Bench, own: int) -> None:
        self.bench = bench
        self.own = own
        self.wish: int | None = None
        self.listening = False
        self.established: tuple[Candidate, Candidate] | None = None
        me: Any = self
        resource = resource_for(Options(seed=1), own)
        self.ctx = Context(resource, Settings(), Ports(me, me, me, me, me, me))
        self.setup = LinkSetup(self.ctx, self._done)

    def _done(self, data: Candidate, meta: Candidate) -> None:
        self.established = (data, meta)

    @property
    def other(self) -> Side:
        return self.bench.sides[1 - self.own]

    def settle(self) -> None:
        """The end of a step."""
        self.ctx.timers.run_due()
        self.ctx.run_deferred()
        self.ctx.timers.arm()

    # -- ports ----------------------------------------------------------------------------------

    def listen(self, on: bool) -> None:
        self.listening = on

    def connect(self, timeout_ns: int) -> int:
        return self.bench.attempt(self)

    def send(self, link: int, data: bytes) -> None:
        self.bench.send(link, data)

    def close(self, link: int) -> None:
        self.bench.close(link)

    def now_ns(self) -> int:
        return self.bench.now

    def wake_at(self, when_ns: int | None) -> None:
        self.wish = when_ns

    def random_bits(self, count: int) -> int:
        return self.bench.next_random(count)

    def notice(self, notice: object) -> None:
        """Nobody reads it."""


class Bench:
    """The network between two sides. A link is even on the side that made it, odd on the other."""

    def __init__(self, choices: list[int]) -> None:
        self.now = 0
        self.choices = deque(choices)
        self.queues: dict[str, deque[Event]] = {}
        """What is under way, each queue in order."""
        self.owner: dict[int, Side] = {}
        self.open: set[int] = set()
        self.links = 0
        self.draws = 0
        self.sides = [Side(self, 0), Side(self, 1)]

    def next_random(self, count: int) -> int:
        self.draws += 1
        return self.draws * 2654435761 % (1 << count)

    def _later(self, queue: str, event: Event) -> None:
        self.queues.setdefault(queue, deque()).append(event)

    def attempt(self, side: Side) -> int:
        self.links += 2
        here, there = self.links, self.links + 1
        self.owner[here], self.owner[there] = side, side.other
        self.open.add(here)
        self._later(f"syn {here}", lambda: self._syn(here, there))
        return here

    def _syn(self, here: int, there: int) -> None:
        if here not in self.open:
            return
        side, other = self.owner[here], self.owner[there]
        if not other.listening:
            self._later(f"to {here}", lambda: self._lose(here))
            return
        self.open.add(there)
        other.setup.on_accepted(there)
        self._later(f"to {here}", lambda: self._connected(side, here))

    def _connected(self, side: Side, link: int) -> None:
        if link in self.open and not side.setup.on_connected(link):
            self.close(link)

    def send(self, link: int, data: bytes) -> None:
        other = link ^ 1
        if link in self.open:
            self._later(f"to {other}", lambda: self._bytes(other, data))

    def _bytes(self, link: int, data: bytes) -> None:
        if link in self.open:
            self.owner[link].setup.on_bytes(link, data)

    def close(self, link: int) -> None:
        self.open.discard(link)
        if link ^ 1 in self.owner:
            self._later(f"to {link ^ 1}", lambda: self._lose(link ^ 1))

    def _lose(self, link: int) -> None:
        if link in self.open:
            self.open.discard(link)
            self.owner[link].setup.on_lost(link, "gone")

    # -- time -----------------------------------------------------------------------------------

    def deliver_all(self) -> None:
        while ready := sorted(name for name, queue in self.queues.items() if queue):
            choice = self.choices.popleft() if self.choices else 0
            name = ready[choice % len(ready)]
            self.queues[name].popleft()()
            for side in self.sides:
                side.settle()

    def run(self, limit_ns: int) -> None:
        self.deliver_all()
        while not all(side.established for side in self.sides):
            due = [(s.wish, n) for n, s in enumerate(self.sides) if s.wish is not None]
            assert due, "nobody waits for anything"
            when, number = min(due)
            assert when <= limit_ns, "no connection in time"
            self.now = max(self.now, when)
            side = self.sides[number]
            side.wish = None
            side.ctx.timers.woken()
            side.settle()
            self.deliver_all()

    def agreed(self) -> None:
        first, second = (side.established for side in self.sides)
        assert first is not None
        assert second is not None
        assert first[0].link ^ 1 == second[0].link, "different data sockets"
        assert first[1].link ^ 1 == second[1].link, "different meta sockets"
        assert first[1].ours != second[1].ours, "one of them resolves conflicts"
        assert {link for link in self.open if link & 1 == 0} == {
            link & ~1 for candidate in first for link in [candidate.link]
        }, "sockets were left over"


@settings(max_examples=400, deadline=None)
@given(choices=st.lists(st.integers(0, 5), max_size=60), first=st.sampled_from([0, 1, None]))
def test_whatever_order_things_arrive_in_both_agree_on_one_pair(
    choices: list[int], first: int | None
) -> None:
    bench = Bench(choices)
    if first is None:  # both at the same moment: all crosses that can
        for side in bench.sides:
            side.setup.start()
    else:
        bench.sides[first].setup.start()
        if choices:
            bench.deliver_all()
        bench.sides[1 - first].setup.start()
    for side in bench.sides:
        side.settle()
    bench.run(20 * SECOND_NS)
    bench.agreed()


def started() -> tuple[Bench, Side]:
    """One side that has begun, and nobody at the other end."""
    bench = Bench([])
    side = bench.sides[0]
    side.setup.start()
    side.settle()
    bench.deliver_all()
    return bench, side


def test_nobody_there_tries_again_after_about_connect_int() -> None:
    bench, side = started()
    assert side.wish is not None
    assert 0.8 * SECOND_NS < side.wish < 1.2 * SECOND_NS
    before = bench.links
    bench.now = side.wish
    side.settle()
    assert bench.links == before + 2


def test_no_more_than_a_few_silent_connections_are_kept() -> None:
    bench, side = started()
    links = range(1001, 1101)
    for link in links:
        bench.open.add(link)
        side.setup.on_accepted(link)
    assert sum(link in bench.open for link in links) == ACCEPTED_MAX
    bench.now += 3 * SECOND_NS
    side.settle()
    assert not any(link in bench.open for link in links)


@pytest.mark.parametrize("cmd", [Cmd.P_INITIAL_DATA, Cmd.P_INITIAL_META])
def test_a_peer_that_offers_a_socket_again_means_the_newest(cmd: Cmd) -> None:
    bench, side = started()
    for link in (1001, 1003, 1005):
        bench.open.add(link)
        side.setup.on_accepted(link)
        side.setup.on_bytes(link, frame_header(cmd, 0, 0, 80))
        side.settle()
    assert {link for link in bench.open if link > 1000} == {1005}


def test_stopping_leaves_nothing_open() -> None:
    bench, side = started()
    for number, cmd in enumerate((Cmd.P_INITIAL_DATA, Cmd.P_INITIAL_META)):
        link = 1001 + 2 * number
        bench.open.add(link)
        side.setup.on_accepted(link)
        side.setup.on_bytes(link, frame_header(cmd, 0, 0, 80))
    bench.open.add(1005)
    side.setup.on_accepted(1005)
    side.setup.stop()
    side.settle()
    bench.deliver_all()
    assert bench.open == set()
    assert not side.listening
    assert side.wish is None
