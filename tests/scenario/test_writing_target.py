"""A sync target that is Primary: what it writes is newer than what it has asked its source for."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState
from tests.support.lab import BLOCK, Lab

OLD, NEW = b"old data" * 512, b"new data" * 512
BLOCKS = range(0, 40, 2)


def paused_target(**options: object) -> Lab:
    """beta lacks some blocks of alpha's and has not asked for any yet; both are Secondary."""
    lab = Lab(**options)  # type: ignore[arg-type]
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in BLOCKS:
        lab.write("alpha", block * BLOCK, OLD)
    lab.secondary("alpha")
    lab.command("beta", "pause-sync")
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_T)
    return lab


@pytest.mark.parametrize("promoted", ["before it asks", "while it waits for the answer"])
def test_a_write_to_a_block_on_its_way_is_not_overwritten_by_it(promoted: str) -> None:
    """alpha's disk is slow: the block is asked for, then written, and only then answered."""
    lab = paused_target()
    if promoted == "before it asks":
        lab.primary("beta")
    lab.drive("alpha").slowness = 5000
    assert lab.command("beta", "resume-sync").exit_code == 0
    if promoted != "before it asks":
        lab.ask("beta", "primary")
        lab.run_until(lambda: lab.state("beta").role.name == "PRIMARY", what="the promotion")
    assert lab.shows("beta", conn=ConnState.SYNC_TARGET)
    writes = [lab.submit("beta", "write", block * BLOCK, BLOCK, data=NEW) for block in BLOCKS]
    for write in writes:
        assert lab.done(write).errno == 0
    lab.release("alpha")
    lab.in_sync()
    for block in BLOCKS:
        assert lab.on_disk("beta", block * BLOCK, BLOCK) == NEW
    assert lab.differing_blocks() == []


def test_both_bitmaps_name_what_either_of_them_did() -> None:
    """A crashed Primary returns as target: its source has to know what only the target marks."""
    lab = Lab(device_bytes=16 << 20)
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.alpha.power_off()
    lab.run_until(lambda: lab.state("beta").conn < ConnState.CONNECTED)
    lab.primary("beta")
    lab.write("beta", 2000 * BLOCK, NEW)
    lab.command("beta", "pause-sync")
    lab.boot("alpha")
    lab.reaches("alpha", conn=ConnState.PAUSED_SYNC_T)
    lab.reaches("beta", conn=ConnState.PAUSED_SYNC_S)
    assert lab.out_of_sync_kib("alpha") == lab.out_of_sync_kib("beta") == 4096 + 4
    assert lab.command("beta", "resume-sync").exit_code == 0
    lab.in_sync()


def test_what_was_sent_and_never_arrived_is_sent_again() -> None:
    """Neither node may have taken its mark back when it asked, or answered."""
    lab = paused_target()
    lab.network.block(lab.alpha, lab.beta)
    lab.ask("beta", "resume-sync")
    lab.run_until(lambda: lab.beta.connection < ConnState.CONNECTED, what="beta notices")
    lab.heal()
    lab.in_sync()
    assert lab.differing_blocks() == []


def test_a_block_that_is_being_written_is_read_for_the_target_afterwards() -> None:
    lab = paused_target()
    lab.primary("alpha")
    lab.drive("alpha").slowness = 5000
    write = lab.submit("alpha", "write", 0, 512, data=NEW[:512])
    lab.run_for(0.01)
    assert not write.done
    assert lab.command("beta", "resume-sync").exit_code == 0
    assert lab.done(write).errno == 0
    lab.release("alpha")
    lab.in_sync()
    assert lab.on_disk("beta", 0, BLOCK) == NEW[:512] + OLD[512:]
    assert lab.differing_blocks() == []
