"""The simulated network behaves as TCP does, on good days and on bad ones."""

from __future__ import annotations

import pytest

from replblk.sim.links import Network, NetworkSpeed
from replblk.sim.options import Options
from replblk.sim.setup import build_pair
from replblk.sim.world import MILLI_NS, SECOND_NS, World
from tests.support.recorder_node import RecorderNode


class Pair:
    """Two recorders and the cable between them."""

    def __init__(self, seed: int = 1, **speed: object) -> None:
        self.world = World(seed)
        self.network: Network = build_pair(self.world, Options(seed=seed), RecorderNode)
        self.network.speed = NetworkSpeed(**speed)  # type: ignore[arg-type]
        self.a, self.b = self.network.machines
        self.a.boot()
        self.b.boot()

    @property
    def nodes(self) -> tuple[RecorderNode, RecorderNode]:
        """What runs on the two machines now."""
        assert isinstance(self.a.node, RecorderNode)
        assert isinstance(self.b.node, RecorderNode)
        return self.a.node, self.b.node

    @property
    def survivor(self) -> RecorderNode:
        """The node of the machine that no test of ours kills."""
        assert isinstance(self.a.node, RecorderNode)
        return self.a.node

    def connect(self) -> tuple[int, int]:
        """One connection from a to b: the link numbers."""
        a, b = self.nodes
        b.ports.links.listen(True)
        link = a.ports.links.connect(SECOND_NS)
        self.world.run_for(SECOND_NS // 10)
        assert a.of("link_connected")[-1] == (link,)
        return link, b.of("link_accepted")[-1][0]


@pytest.mark.parametrize("seed", range(5))
def test_bytes_arrive_in_order_but_cut_into_other_pieces(seed: int) -> None:
    pair = Pair(seed, cut_piece=0.5, spike=0.1)
    here, there = pair.connect()
    a, b = pair.nodes
    pieces = [bytes([n]) * (n + 1) for n in range(100)]
    for piece in pieces:
        a.ports.links.send(here, piece)
    pair.world.run_for(SECOND_NS)
    assert b.received(there) == b"".join(pieces)
    assert [data for _, data in b.of("link_bytes")] != pieces


def test_two_connections_overtake_each_other() -> None:
    orders = set()
    for seed in range(20):
        pair = Pair(seed, latency_ns=MILLI_NS, jitter_ns=MILLI_NS)
        first, second = pair.connect(), pair.connect()
        a, b = pair.nodes
        a.ports.links.send(first[0], b"data")
        a.ports.links.send(second[0], b"meta")
        pair.world.run_for(SECOND_NS)
        orders.add(tuple(data for _, data in b.of("link_bytes")))
    assert len(orders) == 2


def test_a_connect_is_refused_when_nobody_listens() -> None:
    pair = Pair()
    a, _ = pair.nodes
    link = a.ports.links.connect(SECOND_NS)
    pair.world.run_for(SECOND_NS)
    assert a.of("link_lost") == [(link, "connection refused")]


def test_a_connect_to_a_machine_without_power_times_out() -> None:
    pair = Pair()
    a, b = pair.nodes
    b.ports.links.listen(True)
    pair.b.power_off()
    link = a.ports.links.connect(SECOND_NS)
    pair.world.run_for(SECOND_NS // 2)
    assert not a.of("link_lost")
    pair.world.run_for(SECOND_NS)
    assert a.of("link_lost") == [(link, "connection timed out")]


def test_bytes_sent_before_a_close_are_still_delivered() -> None:
    pair = Pair()
    here, there = pair.connect()
    a, b = pair.nodes
    a.ports.links.send(here, b"last words")
    a.ports.links.close(here)
    b.ports.links.send(there, b"into the void")
    pair.world.run_for(SECOND_NS)
    assert b.received(there) == b"last words"
    assert b.of("link_lost") == [(there, "closed by the peer")]
    assert not a.of("link_lost")
    assert not a.of("link_bytes")


def test_a_cut_delivers_a_prefix_and_then_an_error_on_both_sides() -> None:
    lengths = set()
    for seed in range(20):
        pair = Pair(seed)
        here, there = pair.connect()
        a, b = pair.nodes
        whole = bytes(range(200))
        a.ports.links.send(here, whole)
        pair.network.cut()
        pair.world.run_for(SECOND_NS)
        got = b.received(there)
        assert whole.startswith(got)
        lengths.add(len(got))
        assert len(a.of("link_lost")) == len(b.of("link_lost")) == 1
    assert len(lengths) > 5


def test_a_stall_holds_bytes_back_and_loses_none() -> None:
    pair = Pair()
    here, there = pair.connect()
    a, b = pair.nodes
    pair.network.block(pair.a, pair.b)
    a.ports.links.send(here, b"patience")
    b.ports.links.send(there, b"the other way")
    pair.world.run_for(SECOND_NS)
    assert b.received(there) == b""
    assert a.received(here) == b"the other way"
    pair.network.unblock(pair.a, pair.b)
    pair.world.run_for(SECOND_NS)
    assert b.received(there) == b"patience"


def test_a_long_stall_ends_the_connection_on_both_sides() -> None:
    pair = Pair()
    pair.connect()
    pair.network.block(pair.a, pair.b)
    pair.world.run_for(2 * pair.network.give_up_ns)
    assert [len(node.of("link_lost")) for node in pair.nodes] == [1, 1]


def test_a_paused_link_holds_bytes_until_it_goes_on() -> None:
    pair = Pair()
    here, there = pair.connect()
    a, b = pair.nodes
    b.ports.links.pause(there, True)
    a.ports.links.send(here, b"wait")
    pair.world.run_for(SECOND_NS)
    assert b.received(there) == b""
    b.ports.links.pause(there, False)
    pair.world.run_for(SECOND_NS)
    assert b.received(there) == b"wait"


def test_a_killed_process_closes_its_sockets_and_a_dead_machine_says_nothing() -> None:
    killed, cut = Pair(), Pair()
    killed.connect()
    cut.connect()
    killed.b.kill()
    cut.b.power_off()
    killed.world.run_for(SECOND_NS)
    cut.world.run_for(SECOND_NS)
    assert len(killed.survivor.of("link_lost")) == 1
    assert not cut.survivor.of("link_lost")
    cut.b.boot()
    cut.world.run_for(3 * SECOND_NS)
    assert cut.survivor.of("link_lost")[0][1] == "connection reset by peer"


def test_a_dead_process_hears_and_says_nothing_any_more() -> None:
    pair = Pair()
    here, there = pair.connect()
    a, b = pair.nodes
    pair.a.kill()
    a.ports.links.send(here, b"ghost")
    b.ports.links.send(there, b"to the ghost")
    pair.world.run_for(SECOND_NS)
    assert not a.of("link_bytes")
    assert b.received(there) == b""
