"""``replblk switchover`` with real daemons, under a client that has the addresses of both nodes."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client, NbdError
from tests.support.site import Site, free_port, until
from tests.support.wandering_client import WanderingClient

SIZE = 16 << 20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, free_port(), SIZE)
    made.in_sync()
    yield made
    made.down()


def sockets(site: Site) -> list[str | tuple[str, int]]:
    return [str(site.run_file(node, "nbd.sock")) for node in ("alpha", "beta")]


def role(site: Site, node: str) -> str:
    return site.run(node, "role", "r0").strip()


def test_a_client_goes_along_to_and_fro_without_an_error(site: Site) -> None:
    """Given on the Primary, on the Secondary, and so on; nothing acknowledged is lost."""
    client = WanderingClient(sockets(site))
    client.start()
    pauses_ms = []
    for number in range(6):
        before = client.number
        until(lambda before=before: client.number > before + 30)  # type: ignore[misc]
        to = ("beta", "alpha")[number % 2]
        on = ("alpha", "beta")[number // 2 % 2]
        told = site.run(on, "switchover", "r0", "--to", to)
        found = re.search(rf"r0: {to} is Primary after a pause of (\d+) ms", told)
        assert found, told
        pauses_ms.append(int(found[1]))
        assert role(site, to) == "Primary/Secondary"
    before = client.number
    until(lambda: client.number > before + 30)
    client.ending = True
    client.join(30)
    assert client.errors == []
    assert len(client.gaps_s) == len(pauses_ms)
    seen_ms = [round(gap * 1000) for gap in client.gaps_s]
    print(f"pauses told: {pauses_ms} ms; between two answers of a client: {seen_ms} ms")
    assert max(pauses_ms) < 5000
    until(lambda: site.run("alpha", "dstate", "r0").strip() == "UpToDate/UpToDate")
    site.run("alpha", "down", "r0")
    site.run("beta", "down", "r0")
    for node in ("alpha", "beta"):
        assert client.lost_on(site.folder / f"{node}.img") == []


def test_a_peer_that_stops_in_the_middle_gives_the_role_back(site: Site) -> None:
    """beta's daemon is frozen: it said that it is ready, and then nothing more."""
    client = WanderingClient(sockets(site)[:1])
    client.start()
    until(lambda: client.number > 30)
    os.kill(site.pid("beta"), signal.SIGSTOP)
    try:
        began = time.monotonic()
        done = site.replblk("alpha", "switchover", "r0", "--to", "beta", "--timeout", "2")
        assert done.returncode in (5, 11), done
        assert time.monotonic() - began < 30
    finally:
        os.kill(site.pid("beta"), signal.SIGCONT)
    before = client.number
    until(
        lambda: client.number > before + 30,
        lambda: f"{done} {client.errors} {site.run_file('alpha', 'log').read_text()[-2000:]}",
    )
    client.ending = True
    client.join(30)
    assert client.errors == []
    assert role(site, "alpha").startswith("Primary")


def test_what_is_said_wrong_or_comes_too_late(site: Site) -> None:
    for arguments, status, sentence in (
        (("r0", "--to", "gamma"), 1, "r0 has no node 'gamma': its nodes are alpha and beta"),
        (("r0", "--to", "alpha"), 0, "r0: alpha is Primary already"),
        (("r0",), 1, "Missing option '--to'"),
        (("r0", "--to", "beta", "--timeout", "0"), 1, "0 is not in the range"),
        (("--dry-run", "r0", "--to", "beta"), 0, "switchover r0 to_peer=True timeout_s=30"),
    ):
        done = site.replblk("alpha", "switchover", *arguments)
        assert done.returncode == status
        assert sentence in done.stdout + done.stderr
        assert role(site, "alpha") == "Primary/Secondary"
    site.run("alpha", "switchover", "r0", "--to", "beta")
    with (
        Client.connect(str(sockets(site)[0])) as client,
        pytest.raises(NbdError, match="only a Primary serves clients"),
    ):
        client.open("0")


def test_not_connected_is_refused_and_clients_stay(site: Site) -> None:
    site.run("beta", "disconnect", "r0")
    until(lambda: site.run("alpha", "cstate", "r0").strip() != "Connected")
    with Client.connect(str(sockets(site)[0])) as client:
        client.open("0")
        done = site.replblk("alpha", "switchover", "r0", "--to", "beta")
        assert done.returncode == 11
        assert "the nodes are not connected" in done.stderr
        client.write(0, bytes(512))
