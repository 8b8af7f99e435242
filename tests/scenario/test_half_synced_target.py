"""A target that stopped half-way is never good data: killed at every stage of its resync."""

from __future__ import annotations

import pytest

from replblk.meta.superblock import MdFlag
from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, Lab

SPREAD = range(0, 240, 2)
"""Blocks that are not neighbours: each is a request of its own."""
SLOW = {"c_plan_ahead": 0, "resync_rate": 400}
"""KiB/s: ten blocks in a tenth of a second."""


def content(block: int) -> bytes:
    return bytes([block + 1]) * BLOCK


def resyncing(stage: int, *, how: str) -> tuple[Lab, bool]:
    """alpha has blocks that beta misses; beta dies when it has done *stage* disk operations.

    True if beta died before it said Connected, UpToDate.
    """
    lab = Lab(disk=SLOW)
    lab.up()
    lab.primary("alpha")
    lab.run_for(0.1)
    lab.disconnect("beta")
    for block in SPREAD:
        lab.write("alpha", block * BLOCK, content(block))
    lab.connect("beta")
    lab.passes("beta", ConnState.WF_BITMAP_T)
    done = 0

    def submitted(zone: str, kind: str) -> None:
        nonlocal done
        done += 1

    lab.drive("beta").on_submit = submitted
    lab.world.run_until(lambda: done >= stage or lab.shows("beta", conn=ConnState.CONNECTED), 10**9)
    finished = lab.shows("beta", conn=ConnState.CONNECTED, disk=DiskState.UP_TO_DATE)
    lab.drive("beta").on_submit = None
    if how == "kill":
        lab.beta.kill()
    else:
        lab.beta.power_off()
    return lab, not finished


def partly_old(lab: Lab) -> bool:
    return any(lab.on_disk("beta", block * BLOCK, BLOCK) != content(block) for block in SPREAD)


@pytest.mark.parametrize("how", ["kill", "power"])
def test_killed_at_every_disk_operation(how: str) -> None:
    stages = 0
    mixed = 0
    for stage in [*range(10), *range(10, 160, 15)]:
        lab, early = resyncing(stage, how=how)
        if not early:
            break
        stages += 1
        flags = lab.durable_flags("beta")
        touched = any(
            lab.on_disk("beta", block * BLOCK, BLOCK) == content(block) for block in SPREAD
        )
        if partly_old(lab) and touched:
            mixed += 1
            assert MdFlag.CONSISTENT not in flags, f"stage {stage}"
        lab.alpha.kill()  # alone: nobody can repair it
        lab.boot("beta")
        disk = lab.state("beta").disk
        if touched and partly_old(lab):
            assert disk is not DiskState.UP_TO_DATE, f"stage {stage}: {disk}"
            answer = lab.command("beta", "primary")
            assert answer.exit_code == 17, f"stage {stage}"
        lab.boot("alpha")
        lab.in_sync()
        assert lab.differing_blocks() == []
    assert stages > 5
    assert mixed > 2


def test_it_stays_inconsistent_and_only_force_makes_it_good() -> None:
    lab, early = resyncing(9, how="power")
    assert early
    lab.alpha.kill()
    lab.boot("beta")
    assert lab.state("beta").disk is DiskState.INCONSISTENT
    answer = lab.command("beta", "primary")
    assert (answer.exit_code, answer.code) == (17, -2)
    lab.primary("beta", force=True)
    assert lab.state("beta").disk is DiskState.UP_TO_DATE


def test_the_source_dies_instead() -> None:
    for stage in (0, 2, 5, 8):
        lab = Lab(disk=SLOW)
        lab.up()
        lab.primary("alpha")
        lab.disconnect("beta")
        for block in SPREAD:
            lab.write("alpha", block * BLOCK, content(block))
        lab.connect("beta")
        lab.passes("beta", ConnState.WF_BITMAP_T)
        done: list[str] = []
        lab.drive("beta").on_submit = lambda zone, kind, done=done: done.append(zone)  # type: ignore[misc]
        lab.world.run_until(lambda done=done, stage=stage: len(done) >= stage, 10**9)  # type: ignore[misc]
        lab.alpha.power_off()
        lab.run_until(lambda lab=lab: lab.state("beta").conn < ConnState.CONNECTED)  # type: ignore[misc]
        assert lab.state("beta").disk < DiskState.UP_TO_DATE
        assert lab.command("beta", "primary").exit_code == 17
        lab.boot("alpha")
        lab.in_sync()
        assert lab.differing_blocks() == []


def test_a_primary_target_that_loses_its_source_acknowledges_nothing_it_will_lose() -> None:
    """beta, SyncTarget and Primary: with the source gone its disk alone is no place for data."""
    lab = Lab(disk={"c_plan_ahead": 0, "resync_rate": 40})
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in SPREAD:
        lab.write("alpha", block * BLOCK, content(block))
    lab.secondary("alpha")
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    lab.primary("beta")
    new = b"new data" * 512
    lab.write("beta", 200 * BLOCK, new)
    lab.hold("alpha")
    in_flight = lab.submit("beta", "write", 201 * BLOCK, BLOCK, data=new)
    lab.run_for(0.01)
    lab.cut()
    late = lab.submit("beta", "write", 202 * BLOCK, BLOCK, data=new)
    lab.done(in_flight)
    lab.done(late)
    acked = [200]
    acked += [201] if in_flight.errno == 0 else []
    acked += [202] if late.errno == 0 else []
    lab.release("alpha")
    lab.connected()
    for block in acked:
        assert lab.read("beta", block * BLOCK, BLOCK) == new, f"block {block} was acknowledged"
    assert late.errno != 0


def test_a_copy_on_a_target_that_lost_its_source_before_it_got_it_too_is_no_copy() -> None:
    """The disk here has it, and the next resync overwrites it: the client is told an error."""
    lab = Lab(disk={"c_plan_ahead": 0, "resync_rate": 40})
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    for block in SPREAD:
        lab.write("alpha", block * BLOCK, content(block))
    lab.secondary("alpha")
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    lab.primary("beta")
    lab.network.block(lab.beta, lab.alpha)
    write = lab.submit("beta", "write", 201 * BLOCK, BLOCK, data=b"new data" * 512)
    lab.done(write)
    assert lab.on_disk("beta", 201 * BLOCK, BLOCK) == b"new data" * 512
    assert write.errno != 0
