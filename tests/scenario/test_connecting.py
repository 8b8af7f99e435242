"""From nothing to Connected, whoever comes first, however the attempts cross."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from replblk.engine.node import Node
from replblk.engine.ports import Ports
from replblk.model.config import Resource, Settings
from replblk.model.vocabulary import ConnState
from replblk.sim.links import NetworkSpeed
from replblk.sim.world import MICRO_NS, SECOND_NS
from tests.support.kernel_like import KernelLike
from tests.support.lab import Lab

OFFSETS_US = [
    *range(0, 500, 40),
    *range(500, 3000, 250),
    10_000,
    400_000,
    499_900,
    500_100,
    900_000,
]


@pytest.mark.parametrize("first", ["alpha", "beta"])
def test_two_nodes_connect_in_a_second_or_two_however_their_attempts_cross(first: str) -> None:
    second = "beta" if first == "alpha" else "alpha"
    for offset_us in OFFSETS_US:
        lab = Lab(seed=offset_us)
        lab.network.speed = NetworkSpeed(
            latency_ns=100 * MICRO_NS, jitter_ns=300 * MICRO_NS, cut_piece=0.3
        )
        lab[first].boot()
        lab.ask(first, "up")
        lab.run_for(offset_us / 1e6)
        lab[second].boot()
        lab.ask(second, "up")
        begun = lab.world.now_ns
        lab.connected()
        assert lab.world.now_ns - begun < 3 * SECOND_NS, offset_us
        lab.in_sync()
        rc = [lab[name].node._ctx.peer.resolves_conflicts for name in ("alpha", "beta")]  # type: ignore[union-attr]
        assert sorted(rc) == [False, True], offset_us


def against_a_kernel(seed: int, *, node_is_lower: bool) -> tuple[Lab, KernelLike]:
    """A real node (alpha) and a kernel-like script; the lower address is one or the other's."""

    def make(resource: Resource, settings: Settings, ports: Ports) -> Any:
        if not node_is_lower:
            own, peer = resource.local.address, resource.peer.address  # type: ignore[union-attr]
            resource = replace(
                resource,
                local=replace(resource.local, address=peer),
                peer=replace(resource.peer, address=own),  # type: ignore[type-var]
            )
        kind = Node if resource.local.names[0] == "alpha" else KernelLike
        return kind(resource, settings, ports)

    lab = Lab(seed=seed, make_node=make, device_bytes=1 << 20)
    lab.network.speed = NetworkSpeed(latency_ns=100 * MICRO_NS, jitter_ns=300 * MICRO_NS)
    lab.beta.boot()
    kernel = lab.beta.node
    assert isinstance(kernel, KernelLike)
    return lab, kernel


@pytest.mark.parametrize("node_is_lower", [True, False])
@pytest.mark.parametrize("first", ["node", "kernel"])
def test_a_node_and_a_kernel_find_each_other(first: str, node_is_lower: bool) -> None:
    longest = 0
    for offset_us in OFFSETS_US:
        lab, kernel = against_a_kernel(offset_us, node_is_lower=node_is_lower)
        if first == "kernel":
            kernel.begin()
            lab.run_for(offset_us / 1e6)
        lab.alpha.boot()
        lab.ask("alpha", "up")
        if first == "node":
            lab.run_for(offset_us / 1e6)
            kernel.begin()
        node = lab.alpha.node
        assert node is not None
        begun = lab.world.now_ns
        lab.run_until(lambda node=node: bool(node.volumes[0].uuids.current > 4))  # type: ignore[misc]
        kernel.uuids = lab.uuids("alpha").with_role(primary=False)
        kernel.sectors = lab.drive("beta").layout.usable_sectors
        lab.run_until(
            lambda lab=lab: lab.alpha.connection >= ConnState.CONNECTED,  # type: ignore[misc]
            what=f"a connection ({offset_us} us apart)",
        )
        longest = max(longest, lab.world.now_ns - begun)
        lab.run_for(5)
        assert lab.alpha.connection >= ConnState.CONNECTED, "it did not last"
        assert node._ctx.peer.resolves_conflicts != kernel.resolves_conflicts  # type: ignore[attr-defined]
    assert longest < 12 * SECOND_NS


def test_a_kernel_that_restarts_is_found_again() -> None:
    lab, kernel = against_a_kernel(1, node_is_lower=True)
    lab.boot("alpha")
    kernel.uuids = lab.uuids("alpha").with_role(primary=False)
    kernel.sectors = lab.drive("beta").layout.usable_sectors
    kernel.begin()
    for _ in range(5):
        lab.run_until(lambda: lab.alpha.connection >= ConnState.CONNECTED)
        lab.run_for(0.1)
        kernel.hang_up()
        lab.run_until(lambda: lab.alpha.connection < ConnState.CONNECTED)
    lab.run_until(lambda: lab.alpha.connection >= ConnState.CONNECTED)
