"""Daemons as processes: started once, ended cleanly, refused with a sentence."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.site import Site, until

PORT = 17720


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    made = Site(tmp_path, PORT)
    yield made
    made.down()


def test_up_serves_and_down_leaves_lock_log_and_the_size_of_the_disk(site: Site) -> None:
    site.run("alpha", "create-md", "r0")
    site.run("alpha", "up", "r0")
    assert site.run_file("alpha", "nbd.sock").exists()
    assert site.run("alpha", "dstate", "r0") == "Inconsistent/DUnknown\n"
    pid = site.pid("alpha")
    site.run("alpha", "down", "r0")
    left = {path.name for path in site.run_file("alpha", "").iterdir()}
    assert left == {"lock", "log", "drbd-minor-0.lkbd"}
    until(lambda: not Path(f"/proc/{pid}").exists() or _is_zombie(pid))
    site.run("alpha", "up", "r0")


def _is_zombie(pid: int) -> bool:
    return ") Z " in Path(f"/proc/{pid}/stat").read_text()


def test_up_without_metadata_is_an_error_but_the_daemon_waits_for_a_disk(site: Site) -> None:
    failed = site.replblk("alpha", "up", "r0")
    assert failed.returncode == 1
    assert "create-md" in failed.stderr
    assert site.run("alpha", "dstate", "r0") == "Diskless/DUnknown\n"
    site.run("alpha", "create-md", "r0")
    site.run("alpha", "up", "r0")
    assert site.run("alpha", "dstate", "r0") == "Inconsistent/DUnknown\n"
    again = site.replblk("alpha", "up", "r0")
    assert again.returncode == 1
    assert "up already" in again.stderr


def test_a_second_daemon_of_a_resource_is_refused(site: Site) -> None:
    site.run("alpha", "create-md", "r0")
    site.run("alpha", "up", "r0")
    second = site.replblk("alpha", "run", "r0")
    assert second.returncode == 20
    assert f"process {site.pid('alpha')}" in second.stderr
    assert site.run("alpha", "dstate", "r0") == "Inconsistent/DUnknown\n"


def test_a_killed_daemon_needs_no_clean_up(site: Site) -> None:
    site.run("alpha", "create-md", "r0")
    site.run("alpha", "up", "r0")
    os.kill(site.pid("alpha"), signal.SIGKILL)
    until(lambda: site.replblk("alpha", "role", "r0").stdout == "Unconfigured\n")
    site.run("alpha", "up", "r0")
    assert site.run("alpha", "role", "r0") == "Secondary/Unknown\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_takes_a_primary_with_a_client_down(site: Site, number: signal.Signals) -> None:
    site.run("alpha", "create-md", "r0")
    with subprocess.Popen(
        site.command("alpha", "run", "r0"), stderr=subprocess.PIPE, text=True
    ) as daemon:
        until(lambda: site.replblk("alpha", "primary", "--force", "r0").returncode == 0)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(site.run_file("alpha", "nbd.sock")))
            assert client.recv(18)[:8] == b"NBDMAGIC"
            # EXPORT_NAME of the default export: size and flags come, the device is open.
            client.sendall(b"\0\0\0\3" + b"IHAVEOPT" + b"\0\0\0\1" + b"\0\0\0\0")
            assert len(client.recv(10)) == 10
            held = site.replblk("alpha", "secondary", "r0")
            assert held.returncode == 11
            assert "(-12) Device is held open by someone" in held.stderr
            daemon.send_signal(number)
            assert client.recv(1) == b"", "the client is disconnected first"
        _, log = daemon.communicate(timeout=30)
    assert daemon.returncode == 0, log
    assert "role( Primary -> Secondary )" in log
    site.run("alpha", "apply-al", "r0")


def test_a_port_of_nbd_in_use_fails_before_anything_is_attached(site: Site) -> None:
    site.run("alpha", "create-md", "r0")
    with socket.create_server(("127.0.0.1", PORT + 1)):
        (site.folder / "replblk.toml").write_text(f'nbd_listen = ["127.0.0.1:{PORT + 1}"]\n')
        failed = site.replblk("alpha", "up", "r0")
    assert failed.returncode == 20
    assert f"127.0.0.1:{PORT + 1}" in failed.stderr
    assert "nbd_listen" in failed.stderr
    assert not site.run_file("alpha", "control.sock").exists()
    site.run("alpha", "up", "r0")


def test_the_metrics_page_of_a_running_daemon(site: Site) -> None:
    (site.folder / "replblk.toml").write_text(f'metrics_listen = "127.0.0.1:{PORT + 2}"\n')
    site.run("alpha", "create-md", "r0")
    site.run("alpha", "up", "r0")
    with socket.create_connection(("127.0.0.1", PORT + 2)) as scrape:
        scrape.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        page = b"".join(iter(lambda: scrape.recv(65536), b""))
    assert b'drbd_connection_state{conn_name="beta"' in page


def test_a_device_in_use_by_another_daemon_is_refused(site: Site) -> None:
    text = site.config.read_text()
    site.config.write_text(text.replace("beta.img", "alpha.img"))
    site.run("alpha", "create-md", "r0")
    site.run("alpha", "up", "r0")
    failed = site.replblk("beta", "up", "r0")
    assert failed.returncode == 1
    assert "in use by another process" in failed.stderr


def test_python_without_assertions_is_refused(site: Site) -> None:
    site.run("alpha", "create-md", "r0")
    command = site.command("alpha", "run", "r0")
    command.insert(1, "-O")
    refused = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert refused.returncode == 20
    assert "python -O" in refused.stderr


BROKEN = """
import sys
from replblk.engine.node import Node
def step(self):
    raise AssertionError("an invariant is broken")
Node.step = step
from replblk.cli.main import main
sys.exit(main())
"""


def test_a_bug_ends_the_process_at_once_with_its_traceback(site: Site) -> None:
    site.run("alpha", "create-md", "r0")
    arguments = site.command("alpha", "run", "r0")[4:]
    ended = subprocess.run(
        [sys.executable, "-P", "-c", BROKEN, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 70
    assert "AssertionError: an invariant is broken" in ended.stderr
    assert site.run("alpha", "role", "r0") == "Unconfigured\n"
