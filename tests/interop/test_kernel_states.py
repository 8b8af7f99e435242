"""Changes of state that both nodes have to agree to, asked for by either; refusals included."""

from __future__ import annotations

import re

import pytest

from nbd.client import NbdError
from tests.interop.kernel.config import Options
from tests.interop.kernel.nodes import Node, check, number, pattern, stay, wait, wait_both
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20
SLOW = Options().but_disk(resync_rate="2M")
_REFUSED = re.compile(r"State change failed: (\(-\d+\) [^\n:]*)")
_FAILURE = re.compile(r"(?:Failure: \(\d+\) )?([A-Z][^\n]*?)\.?(?:\n|$)")


def refusal(node: Node, *words: str) -> tuple[int, str]:
    """Exit status and DRBD's sentence of a command that must fail."""
    status, text = node.adm(*words)
    assert status, f"{node.name}: {' '.join(words)} was not refused: {text}"
    found = _REFUSED.search(text) or _FAILURE.search(text)
    return status, found[1].strip() if found else ""


@pytest.mark.parametrize("command", ["connect", "resume-sync"])
def test_refused_alike_while_connected(pair: Pair, command: str) -> None:
    """Both Secondary, Connected, UpToDate: the same command is refused in the same words"""
    pair.in_sync()
    check(pair.first, "secondary")
    wait_both(pair.kernel, pair.replblk, "ro:Secondary/Secondary")
    assert refusal(pair.replblk, command) == refusal(pair.kernel, command)
    wait_both(pair.kernel, pair.replblk, "cs:Connected ro:Secondary/Secondary ds:UpToDate/UpToDate")


def test_outdate_while_connected(pair: Pair) -> None:
    """Both Secondary, Connected, UpToDate: outdate is accepted by both and undone at once"""
    pair.in_sync()
    check(pair.first, "secondary")
    wait_both(pair.kernel, pair.replblk, "ro:Secondary/Secondary")
    for node in (pair.kernel, pair.replblk):
        check(node, "outdate")
        assert "cs:Connected ro:Secondary/Secondary ds:UpToDate/UpToDate" in node.proc()


@sides
def test_refused_alike_on_the_only_good_data(pair: Pair) -> None:
    """The Primary is asked to give up its own data while alone: the kernel's codes and sentences"""
    pair.in_sync()
    check(pair.second, "disconnect")
    wait(pair.first, "cs:WFConnection ro:Primary/Unknown ds:UpToDate/DUnknown")
    wait(pair.second, "cs:StandAlone ro:Secondary/Unknown ds:UpToDate/DUnknown")
    no_connection = "(-15) Need a connection to start verify or resync"
    assert pair.first.adm("outdate")[0] == 17
    assert refusal(pair.first, "invalidate") == (11, no_connection)
    assert refusal(pair.first, "invalidate-remote") == (11, no_connection)
    assert refusal(pair.first, "detach") == (17, "(-2) Need access to UpToDate data")
    assert "ds:UpToDate/DUnknown" in pair.first.proc()


@sides
def test_invalidate(pair: Pair) -> None:
    """The Secondary invalidates its data: a full sync from the Primary"""
    pair.in_sync()
    pair.first.write(MIB, pattern(1, 65536))
    received = number(pair.second, "nr")
    check(pair.second, "invalidate")
    pair.wait_in_sync()
    assert number(pair.second, "nr") - received >= 12000
    pair.compare()


@sides
def test_invalidate_remote(pair: Pair) -> None:
    """The Primary invalidates its peer's data: a full sync to it"""
    pair.in_sync()
    sent = number(pair.first, "ns")
    check(pair.first, "invalidate-remote")
    pair.wait_in_sync()
    assert number(pair.first, "ns") - sent >= 12000
    pair.compare()


@sides
@pytest.mark.parametrize("by", ["source", "target"])
def test_a_resync_is_paused_and_resumed(pair: Pair, by: str) -> None:
    """A resync is paused by the one node or the other, and goes on when it is resumed"""
    pair.connected(SLOW)
    check(pair.first, "primary", "--force")
    wait_both(pair.first, pair.second, "cs:Sync")
    asked = pair.first if by == "source" else pair.second
    check(asked, "pause-sync")
    wait(pair.first, "cs:PausedSyncS")
    wait(pair.second, "cs:PausedSyncT")
    left = number(pair.second, "oos")
    assert left
    stay(pair.second, "cs:PausedSyncT", 1)
    assert number(pair.second, "oos") >= left - 2048, "requests on their way, but no new ones"
    check(asked, "resume-sync")
    wait(pair.second, "cs:SyncTarget|cs:Connected")
    pair.compare()


@sides
def test_a_graceful_end_by_the_primary(pair: Pair) -> None:
    """The Primary disconnects gracefully: the other goes on looking, both keep their data"""
    pair.in_sync()
    check(pair.first, "disconnect")
    wait(pair.first, "cs:StandAlone ro:Primary/Unknown ds:UpToDate/DUnknown")
    wait(pair.second, "cs:WFConnection ro:Secondary/Unknown ds:UpToDate/DUnknown")
    pair.first.write(0, pattern(1, 4096))
    check(pair.first, "connect")
    pair.compare()


@sides
def test_the_secondary_detaches_and_attaches(pair: Pair) -> None:
    """The Secondary detaches, the Primary writes, the Secondary attaches: just that is resynced"""
    pair.in_sync()
    check(pair.second, "detach")
    wait(pair.first, "ds:UpToDate/Diskless")
    wait(pair.second, "ds:Diskless/UpToDate")
    pair.first.write(2 * MIB, pattern(2, 65536))
    assert number(pair.first, "oos") == 64
    check(pair.second, "attach")
    pair.compare()


@sides
def test_a_diskless_primary_works_through_its_peer(pair: Pair) -> None:
    """The Primary detaches: it reads, writes, zeroes and discards through the other's disk"""
    pair.in_sync()
    pair.first.write(0, pattern(3, 131072))
    check(pair.first, "detach")
    wait(pair.first, "ds:Diskless/UpToDate")
    wait(pair.second, "ds:UpToDate/Diskless")
    assert pair.first.read(0, 131072) == pattern(3, 131072)
    pair.first.write(65536 + 512, pattern(4, 1024))
    pair.first.zero(MIB, 65536)
    pair.first.discard(2 * MIB, 65536)
    pair.first.fio(
        *("--rw=randwrite", "--bs=4k", "--offset=4m", "--size=1m", "--iodepth=8"),
        *("--verify=crc32c", "--do_verify=1", "--verify_fatal=1"),
    )
    assert pair.first.read(65536, 4096) == (
        pattern(3, 131072)[65536:66048] + pattern(4, 1024) + pattern(3, 131072)[67072:69632]
    )
    check(pair.first, "attach")
    pair.compare()


@sides
def test_a_diskless_primary_without_its_peer(pair: Pair) -> None:
    """A diskless Primary loses its peer: errors, no crash; with the peer back it works again"""
    pair.in_sync()
    check(pair.first, "detach")
    wait(pair.first, "ds:Diskless/UpToDate")
    with pair.apart():
        wait(pair.first, "cs:(WFConnection|Unconnected)")
        with pytest.raises((AssertionError, NbdError)):
            pair.first.read(0, 4096)
    wait_both(pair.first, pair.second, "cs:Connected")
    assert pair.first.read(0, 4096) == bytes(4096)
    check(pair.first, "attach")
    pair.compare()
