"""QEMU's own NBD client on a pair, with ``reconnect-delay``: a pause, and no error."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Site, free_port, until
from tests.support.tools import need

SIZE = 64 << 20
PIECE = 64 << 10
BURST = 16


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """alpha is Primary and resumes its role."""
    made = Site(tmp_path, free_port(), SIZE)
    (made.folder / "replblk.toml").write_text("resume_primary = true\n")
    made.in_sync()
    yield made
    made.down()


class QemuIo:
    """One qemu-io that lives through everything. Commands go in, what it says comes out."""

    def __init__(self, path: Path) -> None:
        where = f"driver=nbd,server.type=unix,server.path={path},export=0,reconnect-delay=60"
        self._process = subprocess.Popen(
            ["qemu-io", "--image-opts", where],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        self.do("length")
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        assert "MiB" in answer, answer  # it has opened the export

    def do(self, *commands: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("\n".join(commands) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            assert self._process.stdout is not None
            raise AssertionError(f"qemu-io has ended: {self._process.stdout.read()}") from None

    def end(self) -> None:
        self.said, _ = self._process.communicate("quit\n", timeout=120)


def test_qemu_with_reconnect_delay_sees_a_pause_and_no_error(site: Site) -> None:
    """Bursts of writes that are in flight while the daemon is killed, or ended, and started."""
    need("qemu-io")
    client = QemuIo(site.run_file("alpha", "nbd.sock"))
    bursts = 4
    outages = []
    for number in range(bursts):
        client.do(
            *(f"aio_write -q -P {number + 1} {at * PIECE} {PIECE}" for at in range(BURST)),
            f"aio_write -P {number + 1} {BURST * PIECE} {PIECE}",
            *(["aio_flush"] if number % 2 else []),
        )
        pid = site.pid("alpha")
        began = time.monotonic()
        os.kill(pid, signal.SIGKILL if number % 2 else signal.SIGTERM)
        until(lambda pid=pid: _ended(pid))  # type: ignore[misc]
        site.run("alpha", "up", "r0")
        until(lambda: site.run("alpha", "role", "r0").startswith("Primary"))
        outages.append(round(time.monotonic() - began, 1))
        client.do("aio_flush")
    client.do(f"read -P {bursts} 0 {(BURST + 1) * PIECE}", "flush")
    client.end()
    print(f"outages {outages} s")
    assert "failed" not in client.said, client.said
    assert "error" not in client.said.lower(), client.said
    assert f"read {(BURST + 1) * PIECE}/{(BURST + 1) * PIECE} bytes" in client.said
    assert client.said.count("wrote ") == bursts


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True
