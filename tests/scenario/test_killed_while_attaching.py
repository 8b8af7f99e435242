"""A second crash within the recovery from the first: what warned of blocks still does."""

from __future__ import annotations

from replblk.meta.superblock import MdFlag
from replblk.model.vocabulary import ConnState, DiskState
from tests.support.lab import BLOCK, EXTENT, Lab

DATA = b"in doubt" * 512


def operations(lab: Lab, name: str) -> list[str]:
    """The zones of the disk operations of a node from now on."""
    seen: list[str] = []
    lab.drive(name).on_submit = lambda zone, kind: seen.append(zone)
    return seen


def warns(lab: Lab, name: str, extent: int) -> bool:
    """Whether the metadata that a power cut now would leave name the extent's first block."""
    flags = lab.durable_flags(name)
    logged = MdFlag.PRIMARY_IND in flags and extent in lab.durable_extents(name)
    return logged or MdFlag.FULL_SYNC in flags or extent * 1024 in lab.durable_bits(name)


def test_at_every_moment_of_its_recovery_a_crashed_primary_knows_what_is_in_doubt() -> None:
    """The bitmap is slow: until it is there, the activity log has to stay as it is."""
    lab = Lab(device_bytes=16 << 20)
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", EXTENT, DATA)
    lab.alpha.power_off()
    lab.beta.power_off()
    drive = lab.drive("alpha")

    def submitted(zone: str, kind: str) -> None:
        """What follows the reading of the bitmap is its writing."""
        drive.slowness = 1000 if (zone, kind) == ("bitmap", "read") else 1

    drive.on_submit = submitted
    lab.alpha.boot()
    attaching = lab.ask("alpha", "up")
    for moment in range(500):
        assert warns(lab, "alpha", 1), f"after {moment / 10} ms"
        lab.run_for(0.0001)
    assert attaching.answers


def test_what_a_killed_process_left_in_the_cache_is_durable_before_it_is_believed() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, DATA)
    for block in range(1, 33):
        lab.submit("alpha", "write", block * BLOCK, BLOCK, data=DATA)
    lab.run_for(0.00001)
    lab.alpha.kill()
    store = lab.drive("alpha").store

    def cached() -> list[int]:
        blocks = range(1, 33)
        return [b for b in blocks if store.read(b * BLOCK, BLOCK) != durable(b)]

    def durable(block: int) -> bytes:
        return bytes(store.read_durable(block * BLOCK, BLOCK))

    assert cached()
    lab.boot("alpha")
    assert not cached()


def test_a_power_cut_while_everything_is_being_marked() -> None:
    """invalidate: the flag is durable first, and counts until the bitmap is."""
    flagged = 0
    for stage in range(1, 60):
        lab = Lab()
        lab.up()
        lab.disconnect("beta")
        seen = operations(lab, "beta")
        waiting = lab.ask("beta", "invalidate")
        lab.world.run_until(lambda seen=seen, stage=stage: len(seen) >= stage, 10**9)  # type: ignore[misc]
        if len(seen) < stage:
            break
        begun = MdFlag.FULL_SYNC in lab.durable_flags("beta") or bool(waiting.answers)
        lab.beta.power_off()
        lab.alpha.kill()
        lab.boot("beta")
        node = lab.beta.node
        assert node is not None
        if begun:
            flagged += 1
            whole = -(-node.size_bytes(0) // BLOCK) * 4
            assert lab.out_of_sync_kib("beta") == whole, f"after {seen}"
    assert flagged


def test_a_target_is_called_good_by_its_source_only_when_it_is_so_on_its_own_disk() -> None:
    lab = Lab()
    lab.up()
    lab.primary("alpha")
    lab.disconnect("beta")
    lab.write("alpha", 0, DATA)
    lab.drive("beta").slowness = 100
    lab.connect("beta")
    lab.reaches("beta", conn=ConnState.SYNC_TARGET)
    lab.reaches("alpha", conn=ConnState.CONNECTED, pdsk=DiskState.UP_TO_DATE)
    assert MdFlag.WAS_UP_TO_DATE in lab.durable_flags("beta")
    assert MdFlag.CONSISTENT in lab.durable_flags("beta")
