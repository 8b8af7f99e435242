"""Disks of different sizes: the smaller one decides, unless there is data it could not hold."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.image import synced_drive
from tests.support.lab import BLOCK, Lab

SMALL, LARGE = 1 << 20, 2 << 20


def size_of(lab: Lab, name: str) -> int:
    node = lab[name].node
    assert node is not None
    return node.size_bytes(0)


@pytest.mark.parametrize("small", ["alpha", "beta"])
def test_fresh_disks_agree_on_the_smaller_size(small: str) -> None:
    large = "beta" if small == "alpha" else "alpha"
    lab = Lab(sizes={small: SMALL, large: LARGE}, fresh=True)
    lab.up()
    assert size_of(lab, "alpha") == size_of(lab, "beta")
    assert size_of(lab, "alpha") == lab.drive(small).layout.usable_sectors * 512
    lab.primary(large, force=True)
    lab.in_sync()
    end = size_of(lab, large)
    lab.write(large, end - BLOCK, b"end!" * 1024)
    assert lab.on_disk(small, end - BLOCK, BLOCK) == b"end!" * 1024


@pytest.mark.parametrize("order", [("alpha", "beta"), ("beta", "alpha")])
def test_a_peer_too_small_for_the_data_is_refused(order: tuple[str, str]) -> None:
    """alpha has been in use alone at its full size; beta's disk can't hold that."""
    lab = Lab(sizes={"alpha": LARGE, "beta": SMALL}, fresh=True)
    lab.boot("alpha")
    lab.primary("alpha", force=True)
    full = size_of(lab, "alpha")
    lab.write("alpha", full - BLOCK, b"data" * 1024)
    lab.boot("beta")
    lab.reaches("alpha", conn=ConnState.STANDALONE)
    assert lab.told("alpha", "The peer's disk size is too small!") or lab.told("alpha", "too small")
    assert size_of(lab, "alpha") == full
    assert lab.read("alpha", full - BLOCK, BLOCK) == b"data" * 1024
    assert lab.state("beta").disk is DiskState.INCONSISTENT
    answer = lab.command(order[0], "connect")
    assert answer.exit_code in (0, 10)
    lab.reaches("alpha", conn=ConnState.STANDALONE)


def test_the_agreed_size_is_remembered() -> None:
    lab = Lab(sizes={"alpha": LARGE, "beta": SMALL}, fresh=True)
    lab.up()
    lab.primary("alpha", force=True)
    lab.in_sync()
    small = size_of(lab, "beta")
    lab.alpha.kill()
    lab.beta.kill()
    lab.boot("alpha")
    assert size_of(lab, "alpha") == small


def test_a_diskless_primary_refuses_a_smaller_device() -> None:
    lab = Lab(device_bytes=LARGE)
    lab.up()
    lab.primary("alpha")
    assert lab.command("alpha", "detach").exit_code == 0
    generation = lab.uuids("beta").current
    lab.beta.kill()
    lab.run_until(lambda: lab.state("alpha").conn < ConnState.CONNECTED)
    before = size_of(lab, "alpha")
    lab.beta.drives[0] = synced_drive(lab.beta, 0, SMALL, generation)
    lab.boot("beta")
    lab.reaches("alpha", conn=ConnState.STANDALONE)
    assert size_of(lab, "alpha") == before


def test_unrelated_data_do_not_connect() -> None:
    """Two disks that never had anything to do with each other."""
    lab = Lab()
    lab.beta.drives[0] = synced_drive(lab.beta, 0, lab.options.device_bytes, 0x5EED_0000_0000_0010)
    lab.drive("alpha").store.preset(0, b"a" * BLOCK)
    lab.drive("beta").store.preset(0, b"b" * BLOCK)
    lab.boot("alpha")
    lab.boot("beta")
    lab.run_until(
        lambda: all(m.connection is ConnState.STANDALONE for m in lab.network.machines),
        what="both StandAlone",
    )
    lab.run_for(5)
    assert lab.on_disk("alpha", 0, BLOCK) == b"a" * BLOCK
    assert lab.on_disk("beta", 0, BLOCK) == b"b" * BLOCK
    assert any(
        lab.told("alpha", words) for words in ("Unrelated data, aborting!", "Split-Brain detected")
    )
