"""A verify whose connection is lost: it goes on with the first block that was not compared yet."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState
from tests.support.lab import BLOCK, Lab

ROT = b"rot" * 1024 + bytes(1024)
ROTTEN = 7


@pytest.mark.parametrize("slow", ["alpha", "beta"])
def test_a_block_being_read_when_the_connection_is_lost_is_compared_later(slow: str) -> None:
    """The peer's answer is in, or it is still to come: in both cases nothing is settled."""
    lab = Lab(net={"verify_alg": "sha256"})
    lab.up()
    lab.drive("beta").store.preset(ROTTEN * BLOCK, ROT)
    lab.hold(slow)
    assert lab.command("alpha", "verify").exit_code == 0
    lab.run_for(0.1)
    assert lab.shows("alpha", conn=ConnState.VERIFY_S)
    lab.network.cut()
    lab.run_for(0.1)
    lab.release(slow)
    lab.in_sync()
    assert lab.differing_blocks() == [ROTTEN]
    assert lab.command("alpha", "verify").exit_code == 0
    lab.run_until(lambda: lab.told("alpha", "Online verify found 1 4k block out of sync!"))
    lab.cut()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_what_was_compared_is_not_compared_again() -> None:
    lab = Lab(net={"verify_alg": "sha256"})
    lab.up()
    lab.run_for(0.1)
    assert lab.command("alpha", "verify").exit_code == 0
    node = lab["alpha"].node
    assert node is not None
    whole = -(-node.size_bytes(0) // BLOCK)
    status = node.status
    lab.run_until(lambda: (r := status().volumes[0].resync) and r.left_kib < whole * 2)
    lab.network.cut()
    lab.reaches("alpha", conn=ConnState.WF_CONNECTION)
    lab.in_sync()
    (reached,) = [line for line in lab.alpha.told if "Online Verify reached sector" in line]
    sector = int(reached.split("sector ")[1])
    assert 0 < sector < whole * 8
    assert lab.command("alpha", "verify").exit_code == 0
    assert lab.told("alpha", f"Starting Online Verify from sector {sector}")


@pytest.mark.parametrize("initiator", ["alpha", "beta"])
def test_the_primary_writes_on_while_a_verify_runs(initiator: str) -> None:
    """Each write is on its way to a block that the verify is just asking for."""
    lab = Lab(net={"verify_alg": "sha256", "ko_count": 0})
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    assert lab.command(initiator, "verify").exit_code == 0
    for turn in range(40):
        requests = [
            lab.submit("alpha", "write", block * BLOCK, data=bytes([turn + 1]) * BLOCK)
            for block in range(turn, 400, 7)
        ]
        lab.run_until(lambda requests=requests: all(r.done for r in requests), 10 * 10**9)
    lab.in_sync()
    assert lab.told(initiator, "Online verify done")
    assert lab.out_of_sync_kib("alpha") == lab.out_of_sync_kib("beta") == 0
    assert lab.differing_blocks() == []
