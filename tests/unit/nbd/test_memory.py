"""The disk in memory, and the little server around it."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nbd.address import parse_uri
from nbd.client import Client
from nbd.export import Geometry, Refused
from nbd.memory import MemoryDisk, MemoryExport, MemoryExports


@pytest.mark.parametrize(("offset", "length"), [(0, 1), (100, 5000), (4096, 8192), (1, 20000)])
def test_wiped_ranges_are_zero_and_their_neighbours_untouched(offset: int, length: int) -> None:
    disk = MemoryDisk(Geometry(32768))
    disk.put(0, b"x" * 32768)
    disk.wipe(offset, length)
    model = b"x" * offset + bytes(length) + b"x" * (32768 - offset - length)
    assert disk.content(0, 32768) == model


def test_held_operations_happen_when_they_are_released() -> None:
    disk = MemoryDisk(Geometry(4096))
    export = MemoryExport(disk)
    answers: list[int] = []
    disk.hold()
    export.write(0, b"new", False, lambda number, _data: answers.append(number))
    export.flush(lambda number, _data: answers.append(number))
    assert disk.content(0, 3) == bytes(3)
    disk.release(1)
    assert (disk.content(0, 3), answers, disk.held) == (b"new", [0], 1)
    disk.fail("flush", errno.EIO)
    disk.release()
    assert answers == [0, errno.EIO]


def test_the_first_disk_is_the_default_and_unknown_names_are_unknown() -> None:
    exports = MemoryExports.single(4096, "a")
    assert exports.look("") == exports.look("a")
    refused = exports.open("b")
    assert isinstance(refused, Refused)
    assert refused.unknown
    assert MemoryExports({}).look("") == refused


@pytest.mark.parametrize("loop", [[], ["--stdlib"]])
def test_the_little_server_serves_until_it_is_told_to_stop(tmp_path: Path, loop: list[str]) -> None:
    path = tmp_path / "m.sock"
    command = [sys.executable, "-m", "nbd", "--memory", "1M", "--unix", str(path)]
    command += ["--listen", "127.0.0.1:0", "--name", "a b", "--block", "512", *loop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(2):
            address, name = parse_uri(process.stdout.readline().strip())
            where = address.path or (address.host, address.port)
            with Client.connect(where) as client:
                assert client.open(name).size == 1 << 20
                client.disc()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--memory", "1M"], "nothing to listen on"),
        (["--memory", "1Q", "--unix", "x"], "not a size"),
        (["--memory", "1000", "--block", "512", "--unix", "x"], "multiple"),
        (["--memory", "1M", "--listen", "h:x"], "not a port"),
        (
            ["--memory", "1M", "--unix", "x", "--tls", "on", "--tls-certificates", "/no"],
            "/no/server",
        ),
        (["--memory", "1M", "--unix", "/nonexistent/x"], "cannot listen on unix:/nonexistent/x"),
    ],
)
def test_the_little_server_says_what_is_wrong(arguments: list[str], why: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "nbd", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert why in done.stderr
    assert "Traceback" not in done.stderr
