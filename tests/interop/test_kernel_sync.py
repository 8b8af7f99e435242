"""A first resync and a pair at work, with the kernel's DRBD on the one side or the other."""

from __future__ import annotations

import pytest

from tests.interop.kernel.nodes import check, number, pattern, wait
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20


@sides
def test_the_first_full_sync(pair: Pair) -> None:
    """Fresh metadata on both, primary --force: the other becomes SyncTarget, then UpToDate."""
    with pair.first.disk.open("r+b") as disk:
        for megabyte in range(10):
            disk.seek(megabyte * MIB + 4096 * megabyte)
            disk.write(pattern(megabyte, 300_000 // 512 * 512))
    pair.connected()
    for node in (pair.kernel, pair.replblk):
        assert "ds:Inconsistent/Inconsistent" in node.proc()
    check(pair.first, "primary", "--force")
    wait(pair.first, r"ro:Primary/Secondary ds:UpToDate/(Inconsistent|UpToDate)")
    pair.compare()
    assert "ro:Primary/Secondary" in pair.first.proc()
    assert "ro:Secondary/Primary" in pair.second.proc()
    assert number(pair.first, "ns") >= 11 * 1024
    assert number(pair.second, "nr") >= 11 * 1024
