"""The source's disk fails when its target has just ended the resync, unseen: what goes on there."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState
from tests.support.lab import BLOCK, Lab

OLD, NEW = b"old." * 1024, b"new!" * 1024


@pytest.mark.parametrize("after_us", range(0, 800, 20))
def test_what_the_target_alone_has_is_acknowledged_in_a_generation_of_its_own(
    after_us: int,
) -> None:
    """Both lose power when it is answered: the failed disk is there again, and as a source."""
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.partition()
    lab.write("alpha", 0, OLD)
    lab.heal()
    lab.passes("beta", ConnState.SYNC_TARGET)
    lab.world.run_for(after_us * 1000)
    lab.fail("alpha", "data", "write", times=1)
    lab.drive("alpha").slowness = 4
    request = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.world.run_for(110_000)
    lab.network.block(lab.alpha, lab.beta)  # it has the write; what is said of the disk is late
    lab.world.run_until(lambda: request.done, 20_000_000)
    lab.lose_power()
    lab.in_sync()
    block = lab.on_disk("alpha", 0, BLOCK)
    assert block == lab.on_disk("beta", 0, BLOCK)
    if request.done and not request.errno:
        assert block == NEW
