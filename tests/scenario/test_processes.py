"""Real daemons and bad disks: a sentence, an exit code, and the daemon lives or never starts.

Each row breaks the backing file or the address of alpha before ``up``.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from replblk.meta.layout import Layout
from replblk.meta.superblock import MAGIC_V07, MAGIC_V09
from tests.support.site import Site, until

PORT = 17805
SIZE = 4 << 20
LAYOUT = Layout.internal(SIZE)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, PORT, SIZE)
    made.run("alpha", "create-md", "r0")
    yield made
    made.down()


def image(site: Site) -> Path:
    return site.folder / "alpha.img"


def patch(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(data)


def remove(site: Site) -> None:
    image(site).unlink()


def shorten(site: Site) -> None:
    os.truncate(image(site), 64 << 10)


def cut_off(site: Site) -> None:
    os.truncate(image(site), SIZE - 8192)


def spoil_magic(site: Site) -> None:
    patch(image(site), LAYOUT.md_offset_bytes + 60, b"\xde\xad\xbe\xef")


def version_07(site: Site) -> None:
    patch(image(site), LAYOUT.md_offset_bytes, bytes(4096))
    patch(image(site), LAYOUT.md_offset_bytes + 28, MAGIC_V07.to_bytes(4, "big"))


def version_09(site: Site) -> None:
    patch(image(site), LAYOUT.md_offset_bytes + 60, MAGIC_V09.to_bytes(4, "big"))


def spoil_layout(site: Site) -> None:
    patch(image(site), LAYOUT.md_offset_bytes + 64, b"\xff" * 16)


def a_folder(site: Site) -> None:
    image(site).unlink()
    image(site).mkdir()


BROKEN: dict[str, tuple[Callable[[Site], None], str, str]] = {
    "missing": (remove, "alpha.img", "No such file"),
    "a folder": (a_folder, "alpha.img", "is a directory"),
    "too small for metadata": (shorten, "at least", "use a larger device"),
    "cut off at its end": (cut_off, "metadata", "create-md"),
    "another magic": (spoil_magic, "metadata", "create-md"),
    "metadata of version 07": (version_07, "v07", ""),
    "metadata of version 09": (version_09, "v09", ""),
    "an impossible layout": (spoil_layout, "alpha.img", ""),
}


@pytest.mark.parametrize("name", BROKEN)
def test_up_on_a_broken_disk_says_what_is_wrong_and_the_daemon_waits(site: Site, name: str) -> None:
    break_it, word, advice = BROKEN[name]
    intact = image(site).read_bytes()
    break_it(site)
    broken = image(site).read_bytes() if image(site).is_file() else b""
    done = site.replblk("alpha", "up", "r0")
    assert done.returncode != 0
    assert word.lower() in done.stderr.lower(), done.stderr
    assert advice.lower() in done.stderr.lower(), done.stderr
    assert "Traceback" not in done.stderr
    assert site.run("alpha", "dstate", "r0").startswith("Diskless")
    assert site.run("alpha", "cstate", "r0") == "WFConnection\n"
    if broken:
        assert image(site).read_bytes() == broken, "a disk that was refused was written to"
    # mended and attached: the same daemon goes on
    if image(site).is_dir():
        image(site).rmdir()
    image(site).write_bytes(intact)
    site.run("alpha", "attach", "r0")
    assert site.run("alpha", "dstate", "r0").startswith("Inconsistent")


def test_a_device_without_any_metadata(site: Site) -> None:
    image(site).write_bytes(b"precious" * (SIZE // 8))
    done = site.replblk("alpha", "up", "r0")
    assert done.returncode != 0
    assert "create-md" in done.stderr
    assert image(site).read_bytes() == b"precious" * (SIZE // 8)


def test_the_port_in_use_leaves_the_disk_usable(site: Site) -> None:
    with socket.socket() as taken:
        # Connections of an earlier test that are not forgotten yet do not take the port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", PORT))
        taken.listen()
        done = site.replblk("alpha", "up", "r0")
        assert "Traceback" not in done.stderr
        until(lambda: site.run("alpha", "cstate", "r0") == "StandAlone\n")
        log = site.run_file("alpha", "log").read_text()
        assert f"127.0.0.1:{PORT}" in log
        assert "in use" in log
        assert site.run("alpha", "dstate", "r0").startswith("Inconsistent")
    site.run("alpha", "connect", "r0")
    until(lambda: site.run("alpha", "cstate", "r0") == "WFConnection\n")


def test_rubbish_at_the_port_of_replication_harms_nobody(site: Site) -> None:
    site.run("alpha", "up", "r0")
    for rubbish in (b"GET / HTTP/1.1\r\n\r\n", bytes(100), b"\x83\x74", b"\xff" * 70000):
        with (
            contextlib.suppress(ConnectionError),
            socket.create_connection(("127.0.0.1", PORT), timeout=10) as client,
        ):
            client.sendall(rubbish)
            assert client.recv(1) == b""  # hung up, one way or the other
    assert site.run("alpha", "cstate", "r0") == "WFConnection\n"
    site.run("beta", "create-md", "r0")
    site.run("beta", "up", "r0")
    site.run("alpha", "wait-connect", "-t", "20", "r0")
