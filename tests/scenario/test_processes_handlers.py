"""Real daemons call real handlers, and answer questions about the disks they hold."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Site, free_port, until

HANDLER = """#!/bin/sh
# notes what it was called with, asks its own daemon something, and ends as told
exec >> {log}.$1
echo "$1 $DRBD_RESOURCE $DRBD_PEER $DRBD_MINOR"
{python} -P -m replblk.cli role r0
exit "$(cat {folder}/exit.$1)"
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, free_port())
    script = tmp_path / "handler"
    log = tmp_path / "called"
    script.write_text(HANDLER.format(python=sys.executable, log=log, folder=tmp_path))
    script.chmod(0o755)
    for name in ("fence-peer", "before-resync-target", "unfence-peer"):
        (tmp_path / f"exit.{name}").write_text("4" if name == "fence-peer" else "0")
    handlers = "".join(
        f'{name} "{script} {name}; exit $?"; '
        for name in ("fence-peer", "before-resync-target", "unfence-peer")
    )
    text = made.config.read_text()
    made.config.write_text(
        text.replace(
            "  protocol C;\n",
            f"  protocol C; disk {{ fencing resource-and-stonith; }} handlers {{ {handlers} }}\n",
        )
    )
    for node in ("alpha", "beta"):
        made.run(node, "create-md", "r0")
        made.run(node, "up", "r0")
    made.run("alpha", "wait-connect", "-t", "20", "r0")
    made.run("alpha", "primary", "--force", "r0")
    made.run("alpha", "wait-sync", "-t", "20", "r0")
    until(lambda: made.run("beta", "dstate", "r0") == "UpToDate/UpToDate\n")
    yield made
    made.down()


def kill(site: Site, node: str) -> None:
    """kill -9, and wait until it is gone."""
    pid = site.pid(node)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not _command(pid))


def _command(pid: int) -> bytes:
    """What a process was started as; nothing of one that only waits to be buried."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def called(site: Site, name: str) -> list[str]:
    try:
        return (site.folder / f"called.{name}").read_text().splitlines()
    except FileNotFoundError:
        return []


def test_a_peer_that_is_killed_is_fenced_and_after_its_resync_unfenced(site: Site) -> None:
    (first, its_role) = called(site, "before-resync-target")
    assert first == "before-resync-target r0 alpha 0"
    assert its_role == "Secondary/Primary"
    kill(site, "beta")
    until(lambda: site.run("alpha", "dstate", "r0") == "UpToDate/Outdated\n")
    assert called(site, "fence-peer") == ["fence-peer r0 beta 0", "Primary/Unknown"]
    assert "suspended" not in site.run("alpha", "status", "r0")
    site.run("beta", "up", "r0")
    until(lambda: site.run("beta", "dstate", "r0") == "UpToDate/UpToDate\n")
    until(lambda: called(site, "unfence-peer")[:1] == ["unfence-peer r0 beta 0"])


def test_io_that_can_not_be_fenced_is_frozen_until_resume_io(site: Site) -> None:
    (site.folder / "exit.fence-peer").write_text("1")
    kill(site, "beta")
    log = site.run_file("alpha", "log")
    until(lambda: "I/O stays frozen" in log.read_text())
    assert "fence-peer helper broken, returned 1" in log.read_text()
    assert "suspended:fencing" in site.run("alpha", "status", "r0")
    site.run("alpha", "resume-io", "r0")
    assert "suspended" not in site.run("alpha", "status", "r0")


def test_metadata_of_an_attached_disk_is_told_by_its_daemon(site: Site) -> None:
    gi = site.run("alpha", "get-gi", "r0")
    assert re.fullmatch(r"([0-9A-F]{16}:){4}1:1:1:1:0:0:0\n", gi)
    assert gi.strip() in site.run("alpha", "show-gi", "r0")
    dump = site.run("alpha", "dump-md", "r0")
    assert dump.startswith("# DRBD meta data dump\n")
    assert f"0x{gi[:16]};" in dump
    assert site.replblk("alpha", "wipe-md", "r0").returncode == 20
    site.run("beta", "down", "r0")
    beta = site.run("beta", "get-gi", "r0")
    assert int(beta[:16], 16) | 1 == int(gi[:16], 16)


def test_a_node_that_was_degraded_is_known_as_such(site: Site) -> None:
    kill(site, "beta")
    until(lambda: site.run("alpha", "dstate", "r0") == "UpToDate/Outdated\n")
    kill(site, "alpha")
    site.run("alpha", "up", "r0")
    # The peer is Outdated: that comes before having been degraded.
    done = site.replblk("alpha", "wait-connect", "-t", "0", "--outdated-wfc-timeout", "1", "r0")
    assert done.returncode == 5
