"""What a user of the same machine finds of a running daemon: no way in, and no secret."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replblk.admin.messages import REQUEST_BYTES_MAX
from tests.support.site import Site, free_port, until

SECRET = "FameIsAVapour"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, free_port())
    text = made.config.read_text()
    own = f'net {{ cram-hmac-alg sha256; shared-secret "{SECRET}";'
    made.config.write_text(text.replace("net {", own))
    for node in ("alpha", "beta"):
        made.run(node, "create-md", "r0")
        made.run(node, "up", "r0")
    made.run("alpha", "primary", "--force", "r0")
    until(lambda: made.run("alpha", "dstate", "r0").strip() == "UpToDate/UpToDate")
    yield made
    made.down()


def test_sockets_and_files_are_the_owners_alone(site: Site) -> None:
    folder = site.run_file("alpha", "control.sock").parent
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    found = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert {"control.sock", "nbd.sock", "lock", "log", "pid"} <= found.keys()
    assert all(mode & 0o077 == 0 for mode in found.values()), found


def test_the_secret_is_in_no_place_where_others_look(site: Site) -> None:
    process = Path("/proc") / str(site.pid("alpha"))
    for name in ("cmdline", "environ"):
        assert SECRET.encode() not in (process / name).read_bytes()
    limits = (process / "limits").read_text().splitlines()
    assert next(line for line in limits if "core" in line).split()[4] == "0"
    site.replblk("alpha", "disconnect", "r0")
    assert SECRET not in site.run_file("alpha", "log").read_text()
    for command in (("status",), ("status", "--json"), ("proc",)):
        done = site.replblk("alpha", *command)
        assert SECRET not in done.stdout + done.stderr


def test_a_request_without_an_end_costs_its_connection_only(site: Site) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(site.run_file("alpha", "control.sock")))
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for _ in range(1000):
                sock.sendall(b"x" * REQUEST_BYTES_MAX)
            raise AssertionError("it takes whatever comes")
    assert site.run("alpha", "role", "r0") == "Primary/Secondary\n"


def test_a_storm_of_signals_changes_nothing(site: Site) -> None:
    """nbd-server once hung in a handler that was interrupted by another (CVE-2015-0847)."""
    pid = site.pid("alpha")
    deadline = time.monotonic() + 1
    while time.monotonic() < deadline:
        for number in (signal.SIGHUP, signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT):
            os.kill(pid, number)
    assert site.run("alpha", "role", "r0") == "Primary/Secondary\n"


@pytest.mark.parametrize("name", ["a b", "$(touch owned)", "a;touch owned", "'\"", "-rf", "ü"])
def test_names_of_files_are_names_and_nothing_else(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "$HOME; echo"
    folder.mkdir()
    made = Site(folder, free_port())
    disk = folder / f"{name}.img"
    (folder / "alpha.img").rename(disk)
    escaped = str(disk).replace('"', '\\"')
    text = made.config.read_text().replace(f"{folder}/alpha.img", f'"{escaped}"')
    made.config.write_text(text.replace(f"{folder}/beta.img", '"/nowhere"'))
    made.run("alpha", "create-md", "r0")
    try:
        made.run("alpha", "up", "r0")
        assert made.run("alpha", "dstate", "r0").startswith("Inconsistent/")
    finally:
        made.down()
    assert not list(tmp_path.rglob("owned"))
