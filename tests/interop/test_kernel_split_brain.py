"""Both nodes were Primary while apart: found out by both, resolved by command or by policy."""

from __future__ import annotations

import pytest

from tests.interop.kernel.config import Options
from tests.interop.kernel.nodes import Node, check, pattern, wait_both
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20
SENTENCE = "Split-Brain detected but unresolved, dropping connection!"
FIRST_AT, SECOND_AT = 2 * MIB, 4 * MIB
"""Where each node writes while apart."""


def write_apart(pair: Pair, first: int = 2, second: int = 4, *, first_stays: bool = False) -> None:
    """Both become Primary without knowing of each other, and write so many blocks.

    first_stays: the first is Primary when the connection breaks; otherwise both are Secondary.
    """
    if not first_stays:
        check(pair.first, "secondary")
        wait_both(pair.kernel, pair.replblk, "ro:Secondary/Secondary")
    with pair.apart():
        for node in (pair.kernel, pair.replblk):
            check(node, "disconnect")
        wait_both(pair.kernel, pair.replblk, "cs:StandAlone")
    for node, at, blocks in ((pair.first, FIRST_AT, first), (pair.second, SECOND_AT, second)):
        check(node, "primary")
        if blocks:
            node.write(at, pattern(at, 4096 * blocks))


def meet(pair: Pair, first: str = "", second: str = "") -> None:
    """Both connect, with these options."""
    check(pair.first, "connect", *([first] if first else []))
    check(pair.second, "connect", *([second] if second else []))


def survived(pair: Pair, winner: Node, loser_at: int, winner_at: int) -> None:
    """Both hold the winner's data."""
    pair.compare()
    if "ro:Secondary" in winner.proc():
        check(winner, "primary")
    assert winner.read(winner_at, 4096) == pattern(winner_at, 4096)
    assert winner.read(loser_at, 4096) == bytes(4096)


@sides
def test_both_stand_alone_until_told(pair: Pair) -> None:
    """Split brain: StandAlone on both with the kernel's sentence; then --discard-my-data"""
    pair.in_sync()
    write_apart(pair)
    meet(pair)
    wait_both(pair.kernel, pair.replblk, "cs:StandAlone")
    for node in (pair.kernel, pair.replblk):
        assert SENTENCE in node.log()
        assert "Connected" not in node.proc()
    assert "split-brain minor-0" in pair.kernel.told()
    status, text = pair.second.adm("connect", "--discard-my-data")
    assert status == 10, text
    assert "(123)" in text or "not allowed when primary" in text
    check(pair.second, "secondary")
    meet(pair, second="--discard-my-data")
    survived(pair, pair.first, SECOND_AT, FIRST_AT)


ZERO = [
    ("discard-least-changes", 2, 4, "second"),
    ("discard-zero-changes", 0, 4, "second"),
    ("discard-zero-changes", 2, 4, ""),
    ("discard-younger-primary", 2, 4, "first"),
    ("discard-older-primary", 4, 2, "second"),
]
"""Policy, blocks written by each, who wins. The first was Primary when they parted."""


@sides
@pytest.mark.parametrize(("policy", "first", "second", "winner"), ZERO)
def test_no_primary(pair: Pair, policy: str, first: int, second: int, winner: str) -> None:
    """after-sb-0pri, both Secondary again"""
    pair.in_sync(Options().but(after_sb_0pri=policy))
    write_apart(pair, first, second, first_stays=True)
    for node in (pair.first, pair.second):
        check(node, "secondary")
    meet(pair)
    judge(pair, winner)


def judge(pair: Pair, winner: str) -> None:
    if winner == "first":
        survived(pair, pair.first, SECOND_AT, FIRST_AT)
    elif winner == "second":
        survived(pair, pair.second, FIRST_AT, SECOND_AT)
    else:
        wait_both(pair.kernel, pair.replblk, "cs:StandAlone")


@sides
@pytest.mark.parametrize(
    ("policy", "winner"),
    [("discard-secondary", "first"), ("consensus", "first"), ("violently-as0p", "first")],
)
def test_one_primary(pair: Pair, policy: str, winner: str) -> None:
    """after-sb-1pri, the first is Primary still"""
    zero = "discard-zero-changes" if policy == "consensus" else "discard-least-changes"
    pair.in_sync(Options().but(after_sb_0pri=zero, after_sb_1pri=policy))
    write_apart(pair, 4, 0 if policy == "consensus" else 2)
    check(pair.second, "secondary")
    meet(pair)
    judge(pair, winner)


@sides
def test_two_primaries(pair: Pair) -> None:
    """after-sb-2pri disconnect, both Primary: StandAlone on both"""
    pair.in_sync(Options().but(after_sb_0pri="discard-least-changes", after_sb_1pri="consensus"))
    write_apart(pair)
    meet(pair)
    wait_both(pair.kernel, pair.replblk, "cs:StandAlone")
    for node in (pair.kernel, pair.replblk):
        assert "ro:Primary/Unknown" in node.proc()
