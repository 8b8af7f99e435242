"""A Primary's daemon is killed or restarted under NBD clients: they see a pause and no error.

Real daemons with ``resume_primary``; a client that connects again and repeats what was not
answered, as qemu, libnbd's users and the kernel do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client, NbdError
from tests.support.site import Site, free_port, until

SIZE = 16 << 20
BLOCK = 4096
BLOCKS = 512


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, free_port(), SIZE)
    (made.folder / "replblk.toml").write_text("resume_primary = true\n")
    made.in_sync()
    yield made
    made.down()


def states(site: Site) -> str:
    return site.run("alpha", "dstate", "r0").strip()


def ended(site: Site, number: signal.Signals) -> None:
    pid = site.pid("alpha")
    os.kill(pid, number)
    until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    """Whether the process is there; a zombie is not (its parent is this process)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


class Writer(threading.Thread):
    """Writes block after block and reads it back; connects again when the connection ends, and
    repeats what was not answered. Errors are what a server *answers*."""

    def __init__(self, path: str) -> None:
        super().__init__(daemon=True)
        self.path = path
        self.errors: list[str] = []
        self.acknowledged: dict[int, int] = {}
        self.pauses_s: list[float] = []
        self.ending = False
        self.number = 0

    def run(self) -> None:
        while not self.ending and not self.errors:
            began = time.monotonic()
            try:
                with Client.connect(self.path) as client:
                    client.open("0")
                    self.pauses_s.append(time.monotonic() - began)
                    self._write(client)
            except NbdError as lost:
                if lost.code is not None:
                    self.errors.append(str(lost))
                time.sleep(0.01)

    def _write(self, client: Client) -> None:
        while not self.ending:
            at = self.number % BLOCKS
            client.write(at * BLOCK, content(self.number))
            self.acknowledged[at] = self.number
            assert client.read(at * BLOCK, BLOCK) == content(self.number)
            self.number += 1
        client.disc()


def content(number: int) -> bytes:
    return number.to_bytes(8, "big") * (BLOCK // 8)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_clients_see_a_pause_and_everything_acknowledged_is_on_both_nodes(
    site: Site, how: signal.Signals
) -> None:
    writer = Writer(str(site.run_file("alpha", "nbd.sock")))
    writer.start()
    for _ in range(3):
        before = writer.number
        until(lambda before=before: writer.number > before + 50)  # type: ignore[misc]
        ended(site, how)
        site.run("alpha", "up", "r0")
        until(lambda: site.run("alpha", "role", "r0").strip() == "Primary/Secondary")
    before = writer.number
    until(lambda: writer.number > before + 50)
    writer.ending = True
    writer.join(30)
    assert writer.errors == []
    until(lambda: states(site) == "UpToDate/UpToDate")
    site.run("alpha", "down", "r0")
    site.run("beta", "down", "r0")
    for node in ("alpha", "beta"):
        image = (site.folder / f"{node}.img").read_bytes()
        for at, number in writer.acknowledged.items():
            found = int.from_bytes(image[at * BLOCK : at * BLOCK + 8], "big")
            assert found >= number, f"{node} lost write {number}"


def test_down_is_the_end_of_a_role(site: Site) -> None:
    site.run("alpha", "down", "r0")
    site.run("alpha", "up", "r0")
    site.run("alpha", "wait-connect", "r0")
    assert site.run("alpha", "role", "r0").strip() == "Secondary/Secondary"


def test_a_peer_that_took_over_meanwhile_keeps_the_role(site: Site) -> None:
    ended(site, signal.SIGKILL)
    until(lambda: not site.run("beta", "cstate", "r0").startswith("Connected"))
    site.run("beta", "primary", "r0")
    site.run("alpha", "up", "r0")
    site.run("alpha", "wait-connect", "r0")
    until(lambda: "was Primary and stays Secondary" in site.run_file("alpha", "log").read_text())
    assert site.run("alpha", "role", "r0").strip() == "Secondary/Primary"
    with (
        Client.connect(str(site.run_file("alpha", "nbd.sock"))) as client,
        pytest.raises(NbdError, match="only a Primary serves clients"),
    ):
        client.open("0")
