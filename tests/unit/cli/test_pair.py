"""The main journey by command: sync, failover after kill -9, return, split brain is refused."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client, NbdError
from tests.support.site import Site, free_port, until


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, free_port())
    for node in ("alpha", "beta"):
        made.run(node, "create-md", "r0")
        made.run(node, "up", "r0")
    made.run("alpha", "wait-connect", "-t", "20", "r0")
    yield made
    made.down()


def nbd(site: Site, node: str, *, open_it: bool = True) -> Client:
    client = Client.connect(str(site.run_file(node, "nbd.sock")))
    if open_it:
        client.open("0")
    return client


def test_a_pair_syncs_fails_over_and_heals(site: Site) -> None:
    refused = site.replblk("alpha", "primary", "r0")
    assert refused.returncode == 17
    assert "(-2) Need access to UpToDate data" in refused.stderr
    site.run("alpha", "primary", "--force", "r0")
    until(lambda: site.run("alpha", "dstate", "r0") == "UpToDate/UpToDate\n")
    assert site.replblk("beta", "primary", "r0").returncode == 11
    with nbd(site, "alpha") as client:
        client.write(1 << 20, b"precious" * 512, fua=True)
    with nbd(site, "beta", open_it=False) as client, pytest.raises(NbdError, match="Secondary"):
        client.open("0")

    os.kill(site.pid("alpha"), signal.SIGKILL)
    until(lambda: site.run("beta", "cstate", "r0") == "WFConnection\n")
    site.run("beta", "primary", "r0")
    with nbd(site, "beta") as client:
        assert client.read(1 << 20, 4096) == b"precious" * 512
        client.write(2 << 20, b"meantime" * 512)
    site.run("alpha", "up", "r0")
    until(lambda: site.run("alpha", "dstate", "r0") == "UpToDate/UpToDate\n")
    site.run("alpha", "wait-sync", "-t", "20", "r0")
    assert site.run("alpha", "role", "r0") == "Secondary/Primary\n"
    alpha, beta = ((site.folder / f"{node}.img").read_bytes() for node in ("alpha", "beta"))
    assert alpha[2 << 20 :][:4096] == b"meantime" * 512
    assert alpha[: 3 << 20] == beta[: 3 << 20]

    status = json.loads(site.run("beta", "status", "--json"))
    assert status["resources"][0]["role"] == "Primary"
    assert "r0 role:Primary" in site.run("beta", "status", "r0")
    assert "cs:Connected ro:Primary/Secondary ds:UpToDate/UpToDate" in site.run("beta", "proc")

    phases = [line.split() for line in site.run("beta", "latency", "r0").splitlines()]
    counted = {words[0]: int(words[1]) for words in phases if words[1:2] and words[1].isdigit()}
    assert counted["write"] >= 1
    assert counted["write"] == counted["admission"]
    assert counted["turn"] > counted["write"]

    site.run("alpha", "disconnect", "r0")
    timed_out = site.replblk("beta", "wait-connect", "-t", "1", "r0")
    assert timed_out.returncode == 5
    site.run("alpha", "connect", "r0")
    site.run("alpha", "wait-connect", "-t", "20", "r0")
