"""Backing devices that grow: resized online by either node, found again after growing offline."""

from __future__ import annotations

import pytest

from tests.interop.kernel.nodes import (
    IN_SYNC,
    Node,
    check,
    number,
    pattern,
    same_disks,
    wait_both,
)
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20
LARGER = 16 * MIB


def grow(pair: Pair, size: int = LARGER) -> None:
    """Both backing devices, while they are attached."""
    pair.kernel.guest.grow_disk(size)
    with pair.replblk.disk.open("r+b") as disk:
        disk.truncate(size)


def grown(pair: Pair, before: int, *, by: int, sent_by: Node, sent: int) -> None:
    """Both have the new size and the same data, and only the new part was sent."""
    wait_both(pair.kernel, pair.replblk, IN_SYNC)
    assert pair.kernel.size() == pair.replblk.size() == before + by
    assert number(sent_by, "ns") - sent <= by // 1024 + 64
    pair.first.write(before + MIB, pattern(9, 65536))
    assert pair.first.read(before + MIB, 65536) == pattern(9, 65536)
    wait_both(pair.kernel, pair.replblk, IN_SYNC)
    pair.compare()


@sides
@pytest.mark.parametrize("by_primary", [True, False], ids=["primary", "secondary"])
def test_resize_online(pair: Pair, by_primary: bool) -> None:
    """Both backing devices grow, one node is told to resize: the new part is copied, no more"""
    pair.in_sync()
    before = pair.first.size()
    pair.first.write(0, pattern(1, MIB))
    grow(pair)
    sent = number(pair.first, "ns")
    check(pair.first if by_primary else pair.second, "resize")
    grown(pair, before, by=LARGER - 12 * MIB, sent_by=pair.first, sent=sent)
    assert pair.first.read(0, MIB) == pattern(1, MIB)


@sides
def test_resize_with_assume_clean(pair: Pair) -> None:
    """resize --assume-clean: both have the new size, nothing is copied"""
    pair.in_sync()
    before = pair.first.size()
    grow(pair)
    sent = number(pair.first, "ns")
    words = ("--", "--assume-clean", "resize")
    if pair.first is pair.replblk:
        words = ("resize", "--assume-clean")
    check(pair.first, *words)
    wait_both(pair.kernel, pair.replblk, IN_SYNC)
    assert pair.kernel.size() == pair.replblk.size() == before + LARGER - 12 * MIB
    assert number(pair.first, "ns") == sent


@sides
def test_made_smaller_by_name(pair: Pair) -> None:
    """resize --size: both become smaller; without a size nothing ever does"""
    pair.in_sync()
    words = ("--", "--size=8192k", "resize")
    if pair.first is pair.replblk:
        words = ("resize", "--size=8192k")
    check(pair.first, *words)
    wait_both(pair.kernel, pair.replblk, IN_SYNC)
    assert pair.kernel.size() == pair.replblk.size() == 8 * MIB
    pair.first.write(7 * MIB, pattern(3, 65536))
    pair.compare()


@sides
def test_grown_while_down(pair: Pair) -> None:
    """A node's device grows while it is down: its metadata are found and moved, nothing is lost"""
    pair.in_sync()
    before = pair.first.size()
    pair.first.write(2 * MIB, pattern(5, 65536))
    if pair.first is pair.replblk:
        check(pair.replblk, "secondary")
    check(pair.replblk, "down")
    pair.replblk.ended()
    grow(pair)
    pair.replblk.up()
    wait_both(pair.kernel, pair.replblk, IN_SYNC)
    assert "Moving the internal meta data" in pair.replblk.log()
    if pair.first is pair.replblk:
        check(pair.replblk, "primary")
    assert pair.first.read(2 * MIB, 65536) == pattern(5, 65536)
    check(pair.first, "resize")
    wait_both(pair.kernel, pair.replblk, IN_SYNC)
    assert pair.kernel.size() == pair.replblk.size() == before + LARGER - 12 * MIB
    same_disks(pair.kernel, pair.replblk, before)  # a kernel that grew while connecting copies none
