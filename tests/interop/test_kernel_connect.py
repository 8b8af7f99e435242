"""How the kernel and replblk find each other, and find each other again."""

from __future__ import annotations

import signal
import threading
import time

import pytest

from tests.interop.kernel.nodes import (
    CONNECTED,
    IN_SYNC,
    Node,
    check,
    eventually,
    pattern,
    stay,
    wait,
    wait_both,
)
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
APART = r"cs:(?!Connected)"
PING_S = 2 + 2
"""ping-int and ping-timeout of the tests' configuration: what silence may cost at most."""


def handshakes(node: Node) -> int:
    return node.log().count("Handshake successful")


@sides
def test_one_waits_for_the_other(pair: Pair) -> None:
    """One node comes up first and waits; they connect soon after the other is there"""
    pair.configure()
    pair.create()
    pair.first.up()
    wait(pair.first, "cs:WFConnection")
    stay(pair.first, "cs:WFConnection", 2)
    pair.second.up()
    wait_both(pair.kernel, pair.replblk, CONNECTED, 15)
    assert handshakes(pair.kernel) == handshakes(pair.replblk) == 1


def test_both_at_once(pair: Pair) -> None:
    """Both look for each other at the same moment, four times"""
    pair.in_sync()
    for _ in range(4):
        check(pair.replblk, "disconnect")
        wait(pair.kernel, "cs:(WFConnection|Unconnected)")
        check(pair.kernel, "disconnect")
        wait(pair.kernel, "cs:StandAlone")
        at_once = threading.Barrier(2)

        def connect(node: Node, barrier: threading.Barrier = at_once) -> None:
            barrier.wait()
            check(node, "connect")

        threads = [
            threading.Thread(target=connect, args=(node,)) for node in (pair.kernel, pair.replblk)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        pair.wait_in_sync(20)


@sides
@pytest.mark.parametrize("kind", ["data", "meta", ""], ids=["data", "meta", "both"])
def test_a_cut_socket(pair: Pair, kind: str) -> None:
    """A socket is reset under the Primary's writes: both notice, reconnect and resync"""
    pair.in_sync()
    before = handshakes(pair.kernel), handshakes(pair.replblk)
    pair.first.write(0, pattern(1, 65536))
    pair.cut(kind)
    pair.first.write(65536, pattern(2, 65536))
    eventually("both shake hands again", lambda: handshakes(pair.kernel) > before[0])
    eventually("both shake hands again", lambda: handshakes(pair.replblk) > before[1])
    pair.compare()
    assert pair.first.read(0, 131072) == pattern(1, 65536) + pattern(2, 65536)


@pytest.mark.parametrize("deceived", ["kernel", "replblk"])
def test_a_half_open_connection(pair: Pair, deceived: str) -> None:
    """One node sees the connection end, the other does not: a ping tells it"""
    pair.in_sync()
    other = "replblk" if deceived == "kernel" else "kernel"
    before = handshakes(pair.kernel), handshakes(pair.replblk)
    assert sum(recorder.half_open(other) for recorder in pair.recorders) == 2
    eventually("the kernel shakes hands again", lambda: handshakes(pair.kernel) > before[0], 30)
    eventually("replblk shakes hands again", lambda: handshakes(pair.replblk) > before[1], 30)
    pair.compare()


@sides
def test_silence_is_noticed_by_pings(pair: Pair) -> None:
    """Nothing passes any more and nothing is closed: ping-int and ping-timeout decide"""
    pair.in_sync()
    began = time.monotonic()
    with pair.silent():
        wait_both(pair.kernel, pair.replblk, APART, 20)
        assert time.monotonic() - began < PING_S + 6
        pair.first.write(8192, pattern(3, 4096))
        for node in (pair.kernel, pair.replblk):
            assert "DUnknown" in node.proc()
    pair.compare()


def test_a_frozen_kernel(pair: Pair) -> None:
    """The kernel's machine stops and goes on: replblk gives it up and takes it back"""
    pair.in_sync()
    pair.kernel.guest.freeze(True)
    began = time.monotonic()
    wait(pair.replblk, APART, 20)
    assert time.monotonic() - began > 1.5, "gave up before ping-timeout"
    pair.kernel.guest.freeze(False)
    pair.compare()


def test_a_frozen_replblk(pair: Pair) -> None:
    """replblk's process stops and goes on: the kernel gives it up and takes it back"""
    pair.in_sync()
    pair.replblk.kill(signal.SIGSTOP)
    wait(pair.kernel, APART, 20)
    pair.kernel.write(0, pattern(4, 4096))
    pair.replblk.kill(signal.SIGCONT)
    pair.compare()


@sides
def test_the_secondary_dies_and_returns(pair: Pair) -> None:
    """The Secondary dies (power cut, SIGKILL), the Primary writes on, it returns"""
    pair.in_sync()
    pair.second.power_cut()
    wait(pair.first, "cs:WFConnection", 20)
    pair.first.write(1 << 20, pattern(5, 262144))
    pair.second.start()
    pair.compare()
    assert pair.first.read(1 << 20, 4096) == pattern(5, 4096)


def test_no_storm_of_attempts(pair: Pair) -> None:
    """Nobody answers for a while: a few attempts each connect-int, no more"""
    pair.in_sync()
    seconds = 6
    for recorder in pair.recorders:
        recorder.resetting = True
    pair.cut()
    wait_both(pair.kernel, pair.replblk, "cs:(WFConnection|Unconnected)")
    before = [recorder.attempts for recorder in pair.recorders]
    time.sleep(seconds)
    counts = [recorder.attempts for recorder in pair.recorders]
    made = [count - old for count, old in zip(counts, before, strict=True)]
    for recorder in pair.recorders:
        recorder.resetting = False
    assert all(1 <= count <= 2 * seconds for count in made), made
    wait_both(pair.kernel, pair.replblk, IN_SYNC)
