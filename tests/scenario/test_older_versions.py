"""Two nodes that agree on an older protocol version: smaller packets, other headers, same data."""

from __future__ import annotations

import pytest

from replblk.engine import handshake
from replblk.model.vocabulary import DiskState, Protocol
from tests.support.lab import Lab

MIB = 1 << 20
VERSIONS = (86, 90, 94, 95, 96, 99, 100, 101)


def pattern(tag: int, length: int) -> bytes:
    return bytes((tag + index // 512) % 251 for index in range(0, length, 512)) * 512


@pytest.fixture(params=[(version, protocol) for version in VERSIONS for protocol in Protocol])
def lab(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Lab:
    version, protocol = request.param
    monkeypatch.setattr(handshake, "PRO_VERSION_MAX", version)
    if version < 101:
        monkeypatch.setattr(handshake, "FEATURES_OFFERED", 0)
    made = Lab(net={"protocol": protocol})
    made.up()
    made.primary("alpha")
    assert made.told("alpha", f"Agreed network protocol version {version}")
    return made


def test_the_largest_write_arrives_whole(lab: Lab) -> None:
    lab.write("alpha", MIB, pattern(1, MIB))
    lab.write("alpha", 2 * MIB, pattern(2, 33 * 1024))
    lab.done(lab.submit("alpha", "zero", MIB + 8192, 512 * 1024))
    lab.done(lab.submit("alpha", "trim", 3 * MIB, MIB))
    lab.flush("alpha")
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.on_disk("beta", 2 * MIB, 33 * 1024) == pattern(2, 33 * 1024)
    assert lab.out_of_sync_kib("alpha") == 0


def test_a_resync_and_a_read_through_the_peer(lab: Lab) -> None:
    lab.disconnect("beta")
    lab.write("alpha", 0, pattern(3, MIB))
    lab.connect("beta")
    lab.flush("alpha")
    lab.in_sync()
    assert lab.differing_blocks() == []
    assert lab.command("alpha", "detach").exit_code == 0
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    assert lab.read("alpha", 0, MIB) == pattern(3, MIB)
    assert lab.read("alpha", 8192, 512) == pattern(3, MIB)[8192:8704]


def test_a_large_read_goes_on_when_the_connection_breaks(lab: Lab) -> None:
    """A read through the peer is asked for in pieces; none may be answered twice or never."""
    lab.write("alpha", 0, pattern(4, MIB))
    assert lab.command("alpha", "detach").exit_code == 0
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.hold("beta")
    request = lab.submit("alpha", "read", 0, MIB)
    lab.run_for(0.2)
    lab.cut()
    lab.release("beta")
    lab.done(request)
    assert request.errno in (0, 5)
    lab.connected()
    assert lab.read("alpha", 0, MIB) == pattern(4, MIB)


def test_writes_while_a_resync_runs(lab: Lab) -> None:
    """The resync ends, and both nodes know of no difference."""
    lab.disconnect("beta")
    for block in range(0, 200, 2):
        lab.write("alpha", block * 4096, pattern(block, 4096))
    lab.hold("beta")
    lab.connect("beta")
    requests = [
        lab.submit("alpha", "write", block * 4096, 4096, data=pattern(block, 4096))
        for block in range(1, 200, 3)
    ]
    lab.release("beta")
    for request in requests:
        lab.done(request)
        assert request.errno == 0
    lab.flush("alpha")
    lab.in_sync()
    assert lab.out_of_sync_kib("alpha") == lab.out_of_sync_kib("beta") == 0
    assert lab.differing_blocks() == []


def test_a_primary_without_a_disk_gets_its_answers(lab: Lab) -> None:
    """With protocols A and B only the barrier's acknowledgement tells that the peer has it."""
    assert lab.command("alpha", "detach").exit_code == 0
    lab.reaches("alpha", disk=DiskState.DISKLESS)
    lab.write("alpha", 0, pattern(5, 4096))
    lab.write("alpha", MIB, pattern(6, MIB))
    lab.flush("alpha")
    assert lab.on_disk("beta", MIB, MIB) == pattern(6, MIB)
