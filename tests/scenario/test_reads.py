"""Where a read is served: here while UpToDate, at the peer without good data here."""

from __future__ import annotations

import errno

from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab

DATA = b"read me!" * 512


def test_served_locally_while_up_to_date() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, DATA)
    lab.hold("beta")
    assert lab.read("alpha", 0, BLOCK) == DATA
    node = lab.alpha.node
    assert node is not None
    status = node.status().volumes[0]
    assert (status.read_kib, status.received_kib) == (4, 0)


def test_from_the_peer_while_diskless() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, DATA)
    assert lab.command("alpha", "detach").exit_code == 0
    assert lab.state("alpha").disk is DiskState.DISKLESS
    assert lab.read("alpha", 0, BLOCK) == DATA
    lab.write("alpha", BLOCK, DATA[::-1])
    assert lab.read("alpha", BLOCK, BLOCK) == DATA[::-1]
    assert lab.on_disk("beta", BLOCK, BLOCK) == DATA[::-1]


def test_a_diskless_primary_without_its_peer_has_no_data() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    assert lab.command("alpha", "detach").exit_code == 0
    request = lab.submit("alpha", "read", 0, BLOCK)
    lab.beta.kill()
    assert lab.done(request).errno in (0, errno.EIO)
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    assert lab.done(lab.submit("alpha", "read", 0, BLOCK)).errno == errno.EIO
    assert lab.done(lab.submit("alpha", "write", 0, BLOCK, data=DATA)).errno == errno.EIO
    assert lab.told("alpha", "IO ERROR: neither local nor remote data, sector 0+8")


def test_a_sync_target_reads_dirty_blocks_from_the_peer_and_clean_ones_here() -> None:
    """beta, SyncTarget and Primary: block 0 is out of sync, block 100 is not."""
    lab = Lab(disk={"c_plan_ahead": 0, "resync_rate": 1})
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 100 * BLOCK, DATA)
    lab.run_for(0.1)  # beta's barrier acknowledgement is in: the block is in sync for good
    lab.partition()
    for number in range(64):
        lab.write("alpha", number * BLOCK, bytes([number + 1]) * BLOCK)
    lab.secondary("alpha")
    lab.command("beta", "pause-sync")
    lab.heal()
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_T)
    lab.primary("beta")
    node = lab.beta.node
    assert node is not None
    received = node.status().volumes[0].received_kib
    assert lab.read("beta", 100 * BLOCK, BLOCK) == DATA
    assert node.status().volumes[0].received_kib == received
    assert lab.read("beta", 7 * BLOCK, BLOCK) == bytes([8]) * BLOCK
    assert node.status().volumes[0].received_kib == received + 4
    assert lab.on_disk("beta", 7 * BLOCK, BLOCK) == bytes(BLOCK)  # reading repairs nothing


def test_a_read_waits_for_an_overlapping_write() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    write = lab.submit("alpha", "write", 0, BLOCK, data=DATA)
    read = lab.submit("alpha", "read", 512, 512)
    lab.done(read)
    assert write.done
    assert read.data == DATA[512:1024]


def test_a_peer_that_loses_its_disk_in_the_middle_says_so() -> None:
    """alpha diskless, beta's disk fails on the read: EIO, and no data of a doubtful kind."""
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    assert lab.command("alpha", "detach").exit_code == 0
    lab.fail("beta", "data", "read")
    assert lab.done(lab.submit("alpha", "read", 0, BLOCK)).errno == errno.EIO
    lab.reaches("alpha", pdsk=DiskState.DISKLESS)
