"""The peer refuses writes while I/O is suspended, and is in sync again before it goes on."""

from __future__ import annotations

from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab

NEW = b"new!" * 1024


def test_what_was_refused_is_answered_at_once_and_in_the_generation_of_both() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, bytes(BLOCK))  # the extent is in the activity log
    lab.fail("beta", "data", "write", times=1)
    requests = [lab.submit("alpha", "write", block * BLOCK, BLOCK, data=NEW) for block in range(4)]
    lab.world.run_for(30_000)
    lab.command("alpha", "suspend-io")
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
    lab.command("beta", "attach")
    lab.passes("alpha", ConnState.SYNC_SOURCE)
    lab.reaches("alpha", conn=ConnState.CONNECTED, pdsk=DiskState.UP_TO_DATE)
    lab.run_for(0.1)
    lab.command("alpha", "resume-io")
    lab.run_for(0.5)
    assert [(request.done, request.errno) for request in requests] == 4 * [(True, 0)]
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.uuids("alpha").bitmap == 0
    assert lab.uuids("alpha").current | 1 == lab.uuids("beta").current | 1
