"""One step a turn, ports after it, and nothing at all after a bug."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from replblk.model.latency import Latencies
from replblk.shell.turns import ROUNDS_MAX, Turns
from tests.support.recorder import Recorder


class Port:
    """Does something after each step in which it was given something: always, unless told."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.due = True
        self.end_step = act


def run(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))


def test_many_events_of_a_turn_are_one_step_then_the_ports_in_their_order() -> None:
    loop = asyncio.new_event_loop()
    node, order = Recorder(), []
    turns = Turns(loop)
    turns.after_step(Port(lambda: order.append(("links", node.steps))))
    turns.after_step(Port(lambda: order.append(("disks", node.steps))))
    turns.drive(node)
    run(loop)
    order.clear()
    for op in range(10):
        turns.on_disk_answers([(op, 0, None)])
    turns.on_wake()
    run(loop)
    assert node.steps == 2
    assert order == [("links", 2), ("disks", 2)]
    assert len(node.disk) == 10
    loop.close()


def test_the_parts_of_a_turn_are_timed_each_by_itself() -> None:
    loop = asyncio.new_event_loop()
    latencies = Latencies()
    turns = Turns(loop, latencies=latencies)
    turns.after_step(Port(lambda: time.sleep(0.002)), latencies.send)
    turns.after_step(Port(lambda: turns.soon(lambda: None)))
    turns.drive(Recorder())
    run(loop)
    counts = {name: found.count for name, found in latencies.phases.items() if found.count}
    assert counts == {"step": 1, "send": 1, "reply": 1, "turn": 1}
    assert latencies.turn.sum_ns >= latencies.send.sum_ns >= 2_000_000
    parts = (latencies.step, latencies.send, latencies.reply)
    assert sum(part.sum_ns for part in parts) <= latencies.turn.sum_ns
    loop.close()


def test_a_bug_in_a_step_stops_before_any_port_acts() -> None:
    loop = asyncio.new_event_loop()
    acted: list[str] = []
    bugs: list[str] = []

    class Broken(Recorder):
        def step(self) -> None:
            raise AssertionError("an invariant is broken")

    turns = Turns(loop, on_bug=bugs.append)
    turns.after_step(Port(lambda: acted.append("send")))
    turns.drive(Broken())
    run(loop)
    turns.wake()
    run(loop)
    assert bugs == ["a step of the node"]
    assert acted == []
    loop.close()


def test_what_is_wanted_soon_follows_the_ports_of_a_running_turn_or_comes_in_the_next() -> None:
    loop = asyncio.new_event_loop()
    order: list[str] = []
    turns = Turns(loop)

    def port() -> None:
        turns.soon(lambda: order.append("replies"))
        order.append("port")

    turns.after_step(Port(port))
    turns.after_step(Port(lambda: order.append("last port")))
    turns.drive(Recorder())
    run(loop)
    assert order == ["port", "last port", "replies"]
    turns.soon(lambda: order.append("alone"))
    assert order[-1] != "alone"
    run(loop)
    assert order[-1] == "alone"
    loop.close()


def test_nothing_that_was_wanted_soon_happens_after_a_bug() -> None:
    loop = asyncio.new_event_loop()
    acted: list[str] = []
    turns = Turns(loop, on_bug=lambda where: None)

    class BreaksLater(Recorder):
        def step(self) -> None:
            turns.soon(lambda: acted.append("reply"))
            raise AssertionError("an invariant is broken")

    turns.drive(BreaksLater())
    run(loop)
    assert acted == []
    loop.close()


def test_a_port_that_was_given_nothing_is_left_alone() -> None:
    loop = asyncio.new_event_loop()
    order: list[str] = []
    latencies = Latencies()
    turns = Turns(loop, latencies=latencies)
    idle = Port(lambda: order.append("idle"))
    idle.due = False
    turns.after_step(idle, latencies.send)
    turns.after_step(Port(lambda: order.append("busy")), latencies.submit)
    turns.drive(Recorder())
    run(loop)
    assert order == ["busy"]
    assert (latencies.send.count, latencies.submit.count) == (0, 1)
    loop.close()


def test_what_is_to_come_before_a_step_comes_once_and_brings_the_step() -> None:
    loop = asyncio.new_event_loop()
    node, seen = Recorder(), list[int]()
    turns = Turns(loop)
    turns.drive(node)
    run(loop)
    turns.before_step(lambda: seen.append(node.steps))
    run(loop)
    turns.wake()
    run(loop)
    assert seen == [1]
    assert node.steps == 3
    loop.close()


def test_what_a_port_is_told_at_once_is_taken_up_in_the_same_turn() -> None:
    loop = asyncio.new_event_loop()
    node = Recorder()
    turns = Turns(loop)

    def answers_at_once() -> None:
        if not node.disk:
            turns.on_disk_answers([(1, 0, None)])

    turns.after_step(Port(answers_at_once))
    turns.drive(node)
    loop.run_until_complete(asyncio.sleep(0))
    assert node.steps == 2
    loop.close()


def test_ports_that_answer_at_once_for_ever_leave_the_loop_to_others_between() -> None:
    loop = asyncio.new_event_loop()
    node, between = Recorder(), list[int]()
    turns = Turns(loop)
    turns.after_step(Port(turns.wake))
    turns.drive(node)
    loop.call_soon(lambda: between.append(node.steps))
    run(loop)
    assert between == [ROUNDS_MAX]
    assert node.steps > ROUNDS_MAX, "the rest follows"
    loop.close()
