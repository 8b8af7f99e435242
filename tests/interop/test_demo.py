"""``make demo`` holds what it promises: a verdict, in time, and nothing left behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 120


def free_port() -> int:
    """A port that is free on both nodes' addresses."""
    for _ in range(100):
        with socket.socket() as one, socket.socket() as other:
            one.bind(("127.0.0.1", 0))
            port = int(one.getsockname()[1])
            try:
                other.bind(("127.0.0.2", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is free on 127.0.0.1 and 127.0.0.2")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the demonstration makes its directory; short, for the sake of socket paths."""
    folder = Path(f"/tmp/rd-{os.getpid()}-{tmp_path.name[-6:]}")
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _nothing_is_left(place: Path):
    """Neither files nor processes, however the demonstration ended."""
    yield
    left = list(place.iterdir())
    running = processes_of(place)
    for path in left:
        subprocess.run(["rm", "-rf", path], check=True)
    place.rmdir()
    assert not left, f"left behind: {left}"
    assert not running, f"still running: {running}"


def processes_of(place: Path) -> list[str]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # it has ended meanwhile
            if os.fsencode(place) in command:
                found.append(f"{entry.name}: {command!r}")
    return found


def start(place: Path, *arguments: str, port: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "scripts/demo.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(place), "DEMO_PORT": str(port), "DEMO_FILE": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Who runs the tests in the background may have SIGINT ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


@pytest.fixture
def tree(tmp_path: Path) -> str:
    """A small directory with something in it that does not fit whole blocks."""
    (tmp_path / "tree" / "inner").mkdir(parents=True)
    for number in range(20):
        (tmp_path / "tree" / "inner" / f"file{number}").write_bytes(os.urandom(100_003))
    return str(tmp_path / "tree")


def test_the_demonstration_passes_and_tells_its_story(place: Path, tree: str) -> None:
    """Failover and return with real data, judged by its own checks."""
    running = start(place, tree, port=free_port())
    text, _ = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 0, text
    assert text.rstrip().splitlines()[-1].startswith("PASS: "), text
    assert "WRONG" not in text
    assert "20 files" in text
    for command in ("create-md r0", "up r0", "primary --force r0", "proc", "secondary r0"):
        assert f"alpha$ replblk {command}" in text or f"beta$ replblk {command}" in text
    assert "kill -9" in text
    assert "cs:Connected ro:Secondary/Primary ds:UpToDate/UpToDate C r-----" in text
    assert "KiB resynced of" in text
    assert "oos:0" in text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_stops_what_it_started(place: Path, tree: str, number: int) -> None:
    """The fixture looks for what is left."""
    running = start(place, tree, port=free_port())
    give_up = time.monotonic() + TIMEOUT_S
    while len(processes_of(place)) < 2 and time.monotonic() < give_up:
        time.sleep(0.02)  # both daemons are processes of their own; only /proc tells
    running.send_signal(number)
    text, _ = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 130, text
    assert "interrupted" in text


def test_a_port_in_use_is_told_before_anything_is_started(place: Path, tree: str) -> None:
    """The usual case: DRBD or another demonstration runs on this machine."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        port = int(taken.getsockname()[1])
        running = start(place, tree, port=port)
        text, _ = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 2, text
    assert f"127.0.0.2:{port}" in text
    assert "DEMO_PORT=" in text


def test_a_file_that_is_not_there_is_told(place: Path) -> None:
    """A slip of the pen costs a sentence."""
    running = start(place, "/no/such/file", port=free_port())
    text, _ = running.communicate(timeout=TIMEOUT_S)
    assert running.returncode == 2, text
    assert "/no/such/file" in text
