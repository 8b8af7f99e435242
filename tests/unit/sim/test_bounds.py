"""What a node holds is counted, and what it forgot at rest is found."""

from __future__ import annotations

from typing import Any

import pytest

from replblk.sim.bounds import Bounds, holdings
from replblk.sim.world import SimulationError
from tests.support.pair import Pair


def test_a_pair_at_rest_holds_nothing() -> None:
    pair = Pair()
    pair.up()
    pair.primary("alpha")
    pair.write("alpha", 0, bytes(4096))
    pair.run_for(2)
    for machine in (pair.alpha, pair.beta):
        Bounds.judge_rest(machine)


def test_a_write_under_way_is_counted() -> None:
    pair = Pair()
    pair.up()
    pair.primary("alpha")
    request = pair.submit("alpha", "write", 0, data=bytes(4096))
    pair.run_until(lambda: holdings(pair.alpha.node)["writes in the transfer log"] == 1)
    pair.run_until(lambda: request.done)


@pytest.mark.parametrize("name", ["reads asked of the peer", "disk operations"])
def test_what_was_forgotten_is_named(name: str) -> None:
    pair = Pair()
    pair.up()
    node: Any = pair.alpha.node
    forgotten = node._reads._asked if name.startswith("reads") else node._ctx.io._flying
    forgotten[b"forgotten"] = None
    with pytest.raises(SimulationError, match=f"I11: alpha is at rest and holds 1 {name}"):
        Bounds.judge_rest(pair.alpha)


def test_more_than_the_clients_asked_for_is_too_much() -> None:
    pair = Pair()
    Bounds(pair.options, (pair.alpha, pair.beta))
    pair.up()
    node: Any = pair.alpha.node
    node._reads._asked.update(dict.fromkeys(range(1000)))
    with pytest.raises(SimulationError, match="I11: alpha holds 1000 reads asked of the peer"):
        pair.run_for(10)
