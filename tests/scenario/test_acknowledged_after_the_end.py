"""Acknowledgements of a resync that reach a source which is just ending the connection."""

from __future__ import annotations

from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.bounds import holdings
from tests.support.lab import BLOCK, Lab

SLOW = {"c_plan_ahead": 0, "resync_rate": 400}
FIRST, SECOND = (bytes([letter]) * BLOCK for letter in b"12")


def resyncing() -> Lab:
    """beta misses a hundred blocks, and asks for them slowly. Each write is an epoch."""
    lab = Lab(disk=SLOW, net={"max_epoch_size": 1})
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in range(0, 200, 2):
        lab.write("alpha", block * BLOCK, FIRST)
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    return lab


def test_a_barrier_acknowledgement_says_nothing_of_what_was_written_there_since() -> None:
    """P_RS_WRITE_ACK lets the next write of the block begin: beta is leaving, so it stays here,
    marked. P_BARRIER_ACK comes after that, for the write before it.
    """
    lab = resyncing()
    lab.network.block(lab.beta, lab.alpha)
    writes = [lab.submit("alpha", "write", 198 * BLOCK, data=data) for data in (FIRST, SECOND)]
    lab.run_for(0.02)
    leaving = lab.ask("beta", "disconnect")
    lab.run_for(0.01)
    lab.heal()
    for write in writes:
        assert lab.done(write).errno == 0
    assert lab.answered(leaving).exit_code == 0
    assert lab.on_disk("alpha", 198 * BLOCK, BLOCK) == SECOND
    assert lab.on_disk("beta", 198 * BLOCK, BLOCK) == FIRST
    lab.connect("beta")
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_answers_that_never_came_are_forgotten_with_their_connection() -> None:
    """The resync was aborted before that: the source lost its disk."""
    lab = resyncing()
    lab.network.block(lab.beta, lab.alpha)
    lab.run_for(0.3)
    lab.fail("alpha", "data", "write", times=1)
    lab.submit("alpha", "write", 0, data=SECOND)
    lab.reaches("beta", conn=ConnState.CONNECTED, pdsk=DiskState.DISKLESS)
    assert holdings(lab.beta.node)["answers for a resync that is over"] > 0
    lab.cut()
    owed = {name: held for name, held in holdings(lab.beta.node).items() if "answers" in name}
    assert len(owed) == 2
    assert not any(owed.values())
