"""Real daemons and a device that grows: online under a client, and while nobody has it open."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client
from replblk.meta.layout import Layout
from tests.support.site import Site, free_port

SIZE, LARGER = 4 << 20, 6 << 20
NODES = ("alpha", "beta")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, free_port(), SIZE)
    for node in NODES:
        made.run(node, "create-md", "--force", "r0")
    yield made
    made.down()


def usable(device_bytes: int) -> int:
    return Layout.internal(device_bytes).usable_sectors * 512


def grow(site: Site, *nodes: str) -> None:
    for node in nodes or NODES:
        os.truncate(site.folder / f"{node}.img", LARGER)


def in_sync(site: Site) -> None:
    for node in NODES:
        site.run(node, "wait-sync", "-t", "30", "r0")


def pair(site: Site) -> None:
    for node in NODES:
        site.run(node, "up", "r0")
    site.run("alpha", "wait-connect", "-t", "30", "r0")
    site.run("alpha", "primary", "--force", "r0")
    in_sync(site)


def test_a_client_that_is_connected_may_use_what_the_device_grew_by(site: Site) -> None:
    pair(site)
    socket = str(site.run_file("alpha", "nbd.sock"))
    with Client.connect(socket) as client:
        assert client.open().size == usable(SIZE)
        client.write(usable(SIZE) - 4096, b"last" * 1024)
        grow(site)
        site.run("beta", "resize", "r0")
        client.write(usable(LARGER) - 4096, b"more" * 1024)
        assert client.read(usable(SIZE) - 4096, 4096) == b"last" * 1024
    with Client.connect(socket) as client:
        assert client.open().size == usable(LARGER)
    in_sync(site)
    for node in NODES:
        with (site.folder / f"{node}.img").open("rb") as disk:
            disk.seek(usable(LARGER) - 4096)
            assert disk.read(4096) == b"more" * 1024


def test_by_name_it_becomes_smaller_and_without_one_it_does_not(site: Site) -> None:
    pair(site)
    site.run("alpha", "resize", "--size=2M", "r0")
    with Client.connect(str(site.run_file("alpha", "nbd.sock"))) as client:
        assert client.open().size == 2 << 20
    refused = site.replblk("alpha", "resize", "--size=all", "r0")
    assert refused.returncode == 1
    assert "'all' is no size" in refused.stderr


def test_a_device_that_grew_while_down_is_found_by_up(site: Site) -> None:
    pair(site)
    with Client.connect(str(site.run_file("alpha", "nbd.sock"))) as client:
        client.open()
        client.write(0, b"kept" * 1024)
    for node in NODES:
        site.run(node, "down", "r0")
    grow(site)
    site.run("alpha", "check-resize", "r0")
    assert site.run("alpha", "check-resize", "r0") == ""
    for node in NODES:
        site.run(node, "up", "r0")  # beta's are found without the command
    in_sync(site)
    site.run("alpha", "primary", "r0")
    with Client.connect(str(site.run_file("alpha", "nbd.sock"))) as client:
        assert client.open().size == usable(LARGER)
        assert client.read(0, 4096) == b"kept" * 1024


def test_refused_with_drbds_number(site: Site) -> None:
    pair(site)
    site.run("alpha", "secondary", "r0")
    refused = site.replblk("alpha", "resize", "r0")
    assert refused.returncode == 10
    assert "Need one Primary node to resize." in refused.stderr
