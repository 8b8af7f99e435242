"""The pair of the scenario tests tells the plain story: writes replicate, and survive."""

from __future__ import annotations

from replblk.model.vocabulary import ConnState, DiskState, Role
from tests.support.pair import Pair

BLOCK = b"replicated!!" * 1024
BLOCK = BLOCK[:4096]


def test_a_write_is_acknowledged_only_when_both_disks_hold_it_durably() -> None:
    pair = Pair()
    pair.up()
    pair.primary("alpha")
    pair.write("alpha", 8192, BLOCK)
    for name in ("alpha", "beta"):
        assert pair[name].drives[0].store.read_durable(8192, 4096) == BLOCK
    assert pair.read("alpha", 8192, 4096) == BLOCK


def test_what_was_acknowledged_survives_the_primary_and_only_changes_are_resynced() -> None:
    pair = Pair()
    pair.up()
    pair.primary("alpha")
    pair.write("alpha", 0, BLOCK)
    pair.alpha.power_off()
    pair.run_until(lambda: pair.state("beta").conn < ConnState.CONNECTED)
    pair.primary("beta")
    assert pair.read("beta", 0, 4096) == BLOCK
    pair.write("beta", 40960, BLOCK)
    assert pair.out_of_sync_kib("beta") == 4
    pair.boot("alpha")
    pair.in_sync()
    assert pair.differing_blocks() == []
    assert pair.state("alpha").role is Role.SECONDARY
    assert pair.on_disk("alpha", 40960, 4096) == BLOCK


def test_a_fresh_pair_is_inconsistent_until_one_side_is_forced_and_copied() -> None:
    pair = Pair(fresh=True, device_bytes=1 << 20)
    pair.up()
    assert pair.state("alpha").disk is DiskState.INCONSISTENT
    refused = pair.command("alpha", "primary", force=False)
    assert refused.exit_code == 17
    pair.primary("alpha", force=True)
    pair.write("alpha", 0, BLOCK)
    pair.in_sync()
    assert pair.differing_blocks() == []
