"""Settings both nodes must agree on: the same verdict and sentence as between two kernels."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.interop.kernel.config import Options
from tests.interop.kernel.nodes import (
    CONNECTED,
    LOOKING,
    KernelNode,
    ReplblkNode,
    check,
    eventually,
    number,
    pattern,
    stay,
    wait,
    wait_both,
)
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
MIB = 1 << 20
AUTH = Options().but(cram_hmac_alg="sha1", shared_secret='"open sesame"')
PLAIN = Options()

MISMATCHES = {
    "protocol": (PLAIN.but(protocol="C"), PLAIN.but(protocol="A")),
    "data-integrity-alg": (PLAIN.but(data_integrity_alg="sha1"), PLAIN),
    "data-integrity-alg, other": (
        PLAIN.but(data_integrity_alg="sha1"),
        PLAIN.but(data_integrity_alg="crc32c"),
    ),
    "allow-two-primaries": (PLAIN.but(allow_two_primaries="yes"), PLAIN),
    "after-sb-0pri": (PLAIN.but(after_sb_0pri="discard-younger-primary"), PLAIN),
    "after-sb-1pri": (PLAIN.but(after_sb_1pri="consensus"), PLAIN),
    "after-sb-2pri": (PLAIN.but(after_sb_2pri="violently-as0p"), PLAIN),
    "verify-alg": (PLAIN.but(verify_alg="sha1"), PLAIN.but(verify_alg="crc32c")),
    "csums-alg": (PLAIN.but(csums_alg="sha1"), PLAIN.but(csums_alg="crc32c")),
}
_SENTENCE = re.compile(r"(?:drbd r0|block drbd0): ((?:incompatible|[Dd]ifferent) .*)")


@pytest.mark.parametrize(
    ("side", "setting"),
    [
        *(("kernel", setting) for setting in MISMATCHES),
        # With allow-two-primaries replblk does not start, and says why.
        *(("replblk", name) for name in ("data-integrity-alg", "after-sb-1pri", "verify-alg")),
    ],
)
def test_a_mismatch_is_final(pair: Pair, side: str, setting: str) -> None:
    """Different settings: StandAlone on both, with the kernel's sentence on both"""
    one, other = MISMATCHES[setting]
    if side == "replblk":
        one, other = other, one
    pair.configure(one, other)
    pair.create()
    pair.up()
    wait_both(pair.kernel, pair.replblk, "cs:StandAlone")
    said = _SENTENCE.findall(pair.kernel.log())
    assert said, pair.kernel.log()
    ours = _SENTENCE.findall(pair.replblk.log())
    assert ours, pair.replblk.log()
    # Each names its own value first, where values are named.
    assert said[0].split(" me=")[0] == ours[0].split(" me=")[0]
    assert setting.split(",")[0] in ours[0] or setting == "protocol"


@pytest.mark.parametrize("algorithm", ["sha1", "md5", "sha256"])
def test_the_right_secret(pair: Pair, algorithm: str) -> None:
    """cram-hmac-alg with the same shared-secret: connected, and again after a cut"""
    pair.in_sync(AUTH.but(cram_hmac_alg=algorithm))
    pair.cut()
    pair.compare()
    assert "Peer authenticated using 20 bytes HMAC" in pair.kernel.log() or algorithm != "sha1"


def test_the_wrong_secret(pair: Pair) -> None:
    """Different secrets: the kernel is StandAlone, replblk drops it and goes on looking"""
    pair.configure(AUTH, AUTH.but(shared_secret='"open barley"'))
    pair.create()
    pair.up()
    wait(pair.kernel, "cs:StandAlone")
    assert "Authentication of peer failed" in pair.kernel.log()
    eventually("replblk says so", lambda: "Authentication of peer failed" in pair.replblk.log(), 10)
    stay(pair.replblk, LOOKING, 1)
    pair.configure(AUTH)
    check(pair.kernel, "connect")
    stay(pair.kernel, "ds:Inconsistent/DUnknown", 3)


@sides
def test_a_secret_on_one_side(pair: Pair, side: str) -> None:
    """Only one has a secret: never connected; a kernel that has it is StandAlone"""
    options = (AUTH, PLAIN) if side == "kernel" else (PLAIN, AUTH)
    pair.configure(*options)
    pair.create()
    pair.up()
    eventually("told", lambda: "expected AuthChallenge packet, received" in pair.first.log(), 20)
    if side == "kernel":
        wait(pair.kernel, "cs:StandAlone")
    stay(pair.second, LOOKING, 2)


@pytest.mark.parametrize(
    ("side", "algorithm"),
    [("kernel", "crc32c"), ("replblk", "crc32c"), ("replblk", "sha1"), ("kernel", "md5")],
)
def test_data_integrity(pair: Pair, algorithm: str) -> None:
    """data-integrity-alg: full sync, writes of all kinds, comparison"""
    pair.in_sync(PLAIN.but(data_integrity_alg=algorithm))
    pair.first.write(MIB + 512, pattern(1, 70 * 512))
    pair.first.write(2 * MIB, pattern(2, 262144))
    pair.first.zero(3 * MIB, 65536)
    pair.first.discard(2 * MIB, 65536)
    pair.compare()


def alter(pair: Pair, where: list[int]) -> None:
    """Change blocks on the Secondary's disk behind DRBD's back."""
    with pair.second.disk.open("r+b") as disk:
        for block in where:
            disk.seek(block * 4096 + 100)
            disk.write(b"altered")
    if isinstance(pair.second, KernelNode):
        pair.kernel.guest.check("blockdev --flushbufs /dev/vda")


@sides
@pytest.mark.parametrize(("algorithm", "by"), [("crc32c", "first"), ("sha1", "second")])
def test_online_verify(pair: Pair, algorithm: str, by: str) -> None:
    """verify finds exactly the blocks that were altered, and a reconnect mends them"""
    pair.in_sync(PLAIN.but(verify_alg=algorithm))
    pair.first.write(0, pattern(1, MIB))
    altered = [0, 7, 8, 100, 255, 2000]
    alter(pair, altered)
    check(pair.first if by == "first" else pair.second, "verify")
    wait_both(pair.kernel, pair.replblk, "cs:Verify|cs:Connected")
    wait_both(pair.kernel, pair.replblk, CONNECTED)
    eventually("both know of it", lambda: number(pair.first, "oos") == 4 * len(altered))
    assert number(pair.second, "oos") == 4 * len(altered)
    check(pair.second, "disconnect")
    wait(pair.first, "cs:WFConnection")
    check(pair.second, "connect")
    pair.compare()


@pytest.mark.parametrize(("side", "algorithm"), [("kernel", "crc32c"), ("replblk", "sha1")])
def test_checksum_based_resync(pair: Pair, algorithm: str) -> None:
    """csums-alg: blocks that are equal are not sent again"""
    pair.in_sync(PLAIN.but(csums_alg=algorithm))
    pair.first.write(0, pattern(1, MIB))
    check(pair.second, "disconnect")
    wait(pair.first, "cs:WFConnection")
    pair.first.write(0, pattern(1, MIB))
    pair.first.write(2 * MIB, pattern(2, 65536))
    assert number(pair.first, "oos") == 1024 + 64
    sent = number(pair.first, "ns")
    check(pair.second, "connect")
    pair.wait_in_sync()
    assert 64 <= number(pair.first, "ns") - sent <= 64 + 16
    pair.compare()


@sides
def test_sizes_of_fresh_devices_differ(pair: Pair) -> None:
    """One disk is larger, both are fresh: the smaller size is agreed on"""
    larger = pair.second
    with larger.disk.open("r+b") as disk:
        disk.truncate(12 * MIB)
    smaller = 8 * MIB
    assert isinstance(pair.replblk, ReplblkNode)
    with pair.replblk.disk.open("r+b") as disk:
        disk.truncate(smaller)
    pair.in_sync()
    assert pair.kernel.size() == pair.replblk.size() < smaller
    pair.compare()


def test_the_peer_is_too_small(pair: Pair) -> None:
    """A fresh, smaller peer of a device in use: StandAlone on the larger side"""
    with pair.replblk.disk.open("r+b") as disk:
        disk.truncate(8 * MIB)
    pair.configure()
    pair.create()
    pair.kernel.up()
    check(pair.kernel, "primary", "--force")
    pair.replblk.up()
    wait(pair.kernel, "cs:StandAlone")
    stay(pair.replblk, "cs:(WFConnection|Unconnected|BrokenPipe|StandAlone)", 1)
    assert "too small" in pair.kernel.log()


@sides
def test_unrelated_data(pair: Pair) -> None:
    """Each was made UpToDate on its own: Unrelated data on both, StandAlone"""
    pair.configure()
    pair.create()
    with pair.apart():
        pair.up()
        for node in (pair.kernel, pair.replblk):
            # The UUIDs of fresh metadata are a common past: for the kernel that is split brain.
            check(node, "primary", "--force")
            check(node, "secondary")
            check(node, "down")
        pair.replblk.ended()
        set_gi = "drbdmeta --force 0 v08 {} internal set-gi {}"
        pair.kernel.guest.check(set_gi.format("/dev/vda", "A1:0:A2:A3"))
        ours = set_gi.format(pair.replblk.disk, "B1:0:B2:B3")
        subprocess.run(ours.split(), check=True, capture_output=True)
        pair.up()
    wait_both(pair.kernel, pair.replblk, "cs:StandAlone")
    for node in (pair.kernel, pair.replblk):
        assert "Unrelated data, aborting!" in node.log()
