"""A Primary that was alone loses its disk while it connects: the peer has older data only."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.links import NetworkSpeed
from tests.support.lab import BLOCK, Lab

OLD, NEW = b"old." * 1024, b"new!" * 1024


@pytest.mark.parametrize("seed", range(80))
def test_older_data_are_never_served_for_what_was_acknowledged_alone(seed: int) -> None:
    """The peer's generation comes in while the disk is there, its state when that is gone."""
    lab = Lab(seed=seed, network=NetworkSpeed(20_000, 400_000, cut_piece=0.7))
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.partition()
    lab.write("alpha", 0, NEW)
    lab.heal()
    lab.run_until(lambda: lab.beta.connection is ConnState.WF_REPORT_PARAMS)
    lab.world.run_for(seed * 15_000)
    lab.ask("alpha", "detach", force=True)
    for _ in range(20):
        lab.run_for(0.0002)
        read = lab.submit("alpha", "read", 0, BLOCK)
        write = lab.submit("alpha", "write", BLOCK, BLOCK, data=NEW)
        lab.run_for(0.0005)
        assert not read.done or read.errno or read.data == NEW
        assert not write.done or write.errno or lab.on_disk("beta", 0, BLOCK) == NEW
    lab.run_for(1)
    if lab.shows("alpha", disk=DiskState.DISKLESS):
        lab.command("alpha", "attach")
    if lab.alpha.connection is ConnState.STANDALONE:
        lab.connect("alpha")
    lab.in_sync()
    assert lab.read("alpha", 0, BLOCK) == NEW
    assert lab.on_disk("beta", 0, BLOCK) == NEW
