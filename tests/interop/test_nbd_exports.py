"""Stock NBD clients against a real pair of replblk nodes: what the exports tell of their ranges."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Site, free_port, until
from tests.support.tools import need

SIZE = 8 << 20
MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """alpha is Primary, both are UpToDate."""
    made = Site(tmp_path, free_port(), SIZE)
    made.in_sync()
    yield made
    made.down()


def uri(site: Site, node: str = "alpha") -> str:
    return f"nbd+unix:///0?socket={site.run_file(node, 'nbd.sock')}"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mapped(site: Site, context: str) -> list[tuple[int, int, int]]:
    told = json.loads(run("nbdinfo", f"--map={context}", "--json", uri(site)))
    return [(extent["offset"], extent["length"], extent["type"]) for extent in told]


def test_nbdinfo_maps_what_the_peer_lacks(site: Site) -> None:
    need("nbdinfo", "qemu-io")
    (whole,) = mapped(site, "replblk:dirty-bitmap")
    assert whole[2] == 0
    site.run("beta", "disconnect", "r0")
    until(lambda: site.run("alpha", "cstate", "r0").strip() != "Connected")
    run("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "write 3145728 512", uri(site))
    dirty = [(at, size) for at, size, kind in mapped(site, "replblk:dirty-bitmap") if kind]
    assert dirty == [(MIB, 64 << 10), (3 * MIB, 4096)]
    site.run("beta", "connect", "r0")
    until(lambda: site.run("alpha", "dstate", "r0").strip() == "UpToDate/UpToDate")
    assert [kind for _, _, kind in mapped(site, "replblk:dirty-bitmap")] == [0]


def test_allocation_follows_the_backing_file_and_holes_read_as_zeroes(
    site: Site, tmp_path: Path
) -> None:
    need("nbdinfo", "qemu-io", "nbdcopy")
    run("qemu-io", "-f", "raw", "-c", "write -z 0 4M", uri(site))
    run("qemu-io", "-f", "raw", "-c", "write -z -u 0 4M", "-c", "write -P 9 1M 1M", uri(site))
    told = [entry for entry in mapped(site, "base:allocation") if entry[0] < 4 * MIB]
    assert [(at, kind) for at, _, kind in told] == [(0, 3), (MIB, 0), (2 * MIB, 3)]
    for allocated in ("--allocated", "--synchronous"):
        copy = tmp_path / f"copy{allocated}"
        run("nbdcopy", allocated, uri(site), str(copy))
        data = copy.read_bytes()
        assert data[: 4 * MIB] == bytes(MIB) + b"\x09" * MIB + bytes(2 * MIB)


def test_fast_zero_works_on_a_backing_file(site: Site) -> None:
    need("nbdinfo")
    told = json.loads(run("nbdinfo", "--json", uri(site)))["exports"][0]
    assert told["can_fast_zero"] is True
    assert "replblk:dirty-bitmap" in told["contexts"]
