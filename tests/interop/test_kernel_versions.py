"""A replblk that knows older protocol versions only, or none that the kernel knows."""

from __future__ import annotations

import pytest

from tests.interop.kernel.nodes import (
    CONNECTED,
    LOOKING,
    check,
    eventually,
    pattern,
    stay,
    wait,
    wait_both,
)
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
OLDEST, NEWEST = 86, 101
"""What the kernel's module knows."""


@sides
@pytest.mark.parametrize("version", [86, 90, 94, 95, 96, 99, 100])
def test_an_older_version_is_agreed_on(pair: Pair, version: int) -> None:
    """An older protocol version: full sync, writes, a cut, a bitmap resync, a change of roles"""
    pair.replblk.versions = (OLDEST, version)
    # Without features it takes the kernel's own P_SIZES for malformed, and before version 89 more.
    pair.dissected = False
    pair.in_sync()
    for node in (pair.kernel, pair.replblk):
        assert f"Agreed network protocol version {version}" in node.log()
    for number in range(4):
        pair.first.write(number * 300 * 1024, pattern(number, 65536))
    pair.first.write(512, pattern(9, 512))
    pair.first.zero(1 << 20, 65536)
    if version >= 95 or pair.first is pair.replblk:
        # The kernel's worker dies of a BUG in drbd_send_dblock when it has to send a discard to a
        # peer older than that: its own fault, seen with 8.4.11.
        pair.first.discard(2 << 20, 65536)
    with pair.apart():
        wait(pair.first, "cs:WFConnection")
        pair.first.write(3 << 20, pattern(5, 32768))
    pair.compare()
    check(pair.first, "secondary")
    check(pair.second, "primary")
    pair.second.write(4 << 20, pattern(6, 65536))
    pair.compare()
    assert pair.second.read(3 << 20, 32768) == pattern(5, 32768)


@pytest.mark.parametrize(
    "offered", [(NEWEST + 1, NEWEST + 9), (70, OLDEST - 1)], ids=["newer", "older"]
)
def test_no_version_in_common(pair: Pair, offered: tuple[int, int]) -> None:
    """No protocol version in common: the same sentence on both; replblk goes on looking"""
    pair.replblk.versions = offered
    pair.configure()
    pair.create()
    pair.up()
    wait(pair.kernel, "cs:StandAlone")
    stay(pair.replblk, LOOKING, 1)
    least, most = offered
    sentence = "incompatible DRBD dialects: I support {}-{}, peer supports {}-{}"
    for node, ranges in (
        (pair.kernel, (OLDEST, NEWEST, least, most)),
        (pair.replblk, (least, most, OLDEST, NEWEST)),
    ):
        wanted = sentence.format(*ranges)
        eventually(f"{node.name} says: {wanted}", lambda n=node, w=wanted: w in n.log())
    pair.replblk.power_cut()
    pair.replblk.versions = None
    check(pair.kernel, "connect")
    pair.replblk.up()
    wait_both(pair.kernel, pair.replblk, CONNECTED)
