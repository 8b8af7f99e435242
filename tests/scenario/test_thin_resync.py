"""rs-discard-granularity: granules of zeroes are not sent, the target gives their space back."""

from __future__ import annotations

import pytest

from tests.support.lab import BLOCK, Lab

GRANULE = 64 << 10
SIZE = 1 << 20
DATA = b"data" * (BLOCK // 4)


def synced(granule: int) -> Lab:
    """A first sync of a device of which two blocks of one granule hold data."""
    lab = Lab(fresh=True, device_bytes=SIZE, disk={"rs_discard_granularity": granule})
    lab.drive("alpha").store.preset(40 * BLOCK, DATA)
    lab.drive("beta").store.preset(100 * BLOCK, b"rubbish!" * (BLOCK // 8))
    lab.up()
    lab.primary("alpha", force=True)
    lab.in_sync()
    return lab


@pytest.mark.parametrize("granule", [0, GRANULE])
def test_zeroes_travel_as_data_only_without_a_granularity(granule: int) -> None:
    lab = synced(granule)
    assert lab.on_disk("beta", 40 * BLOCK, BLOCK) == DATA
    assert lab.on_disk("beta", 100 * BLOCK, BLOCK) == bytes(BLOCK)
    assert lab.differing_blocks() == []
    node = lab["beta"].node
    assert node is not None
    sent_kib = GRANULE >> 10 if granule else node.size_bytes(0) >> 10
    # What is left behind the last whole granule is asked for as data, too.
    tail_kib = node.size_bytes(0) % GRANULE >> 10 if granule else 0
    assert node.status().volumes[0].received_kib == sent_kib + tail_kib


def test_parts_of_granules_are_asked_for_as_data() -> None:
    lab = Lab(disk={"rs_discard_granularity": GRANULE})
    lab.up()
    lab.primary("beta")
    for block in range(40):
        lab.write("beta", block * BLOCK, DATA)
    lab.disconnect("alpha")
    node = lab["alpha"].node
    assert node is not None
    for block in range(10, 34):
        lab.write("beta", block * BLOCK, bytes(BLOCK))
    dirty_kib = lab.out_of_sync_kib("beta")
    lab.connect("alpha")
    lab.in_sync()
    assert lab.differing_blocks() == []
    # Granules have sixteen blocks: six of the first one, the second, two of the third.
    assert node.status().volumes[0].received_kib == dirty_kib - (GRANULE >> 10)
