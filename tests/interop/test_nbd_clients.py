"""Foreign NBD clients against our server: libnbd's tools, qemu's, fio and nbd-client.

Each runs on both loops where that can matter. Commands as a user would type them.
"""

from __future__ import annotations

import errno
import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.export import Refused
from nbd.memory import MemoryDisk, MemoryExports
from nbd.tls import server_context
from tests.support.nbd_certificates import certificates
from tests.support.nbd_served import LOOPS, Served, served
from tests.support.tools import need

SIZE = 16 << 20


@pytest.fixture(params=[1, 512], ids=["bytes", "blocks"])
def exports(request: pytest.FixtureRequest) -> MemoryExports:
    return MemoryExports.single(SIZE, "disk", minimum_block=request.param)


@pytest.fixture(params=LOOPS)
def server(exports: MemoryExports, request: pytest.FixtureRequest) -> Iterator[Served]:
    with served(exports, request.param) as running:
        yield running


@pytest.fixture
def disk(exports: MemoryExports) -> MemoryDisk:
    return exports.disks["disk"]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A file of the disk's size: runs of data and of zeroes."""
    rng = random.Random(4711)
    path = tmp_path / "data.img"
    with path.open("wb") as out:
        for i in range(SIZE >> 20):
            out.write(rng.randbytes(1 << 20) if i % 3 else bytes(1 << 20))
    return path


def run(*command: str | Path, ok: bool = True) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, check=False
    )
    output = done.stdout + done.stderr
    assert (done.returncode == 0) == ok, f"{command[0]}: exit {done.returncode}\n{output}"
    return output


def test_nbdinfo_reads_what_we_tell(server: Served, exports: MemoryExports) -> None:
    need("nbdinfo")
    told = json.loads(run("nbdinfo", "--json", server.uri("disk")))
    (export,) = told["exports"]
    assert told["structured"] is True
    assert export["export-name"] == "disk"
    assert export["export-size"] == SIZE
    assert export["description"] == "a disk in memory"
    assert export["block_size_minimum"] == exports.disks["disk"].geometry.minimum_block
    assert export["block_size_preferred"] == 4096
    assert export["block_size_maximum"] == 32 << 20
    can = ("flush", "fua", "multi_conn", "trim", "zero", "fast_zero", "df", "cache")
    assert [export["can_" + what] for what in can] == [True] * len(can)
    assert export["is_read_only"] is export["is_rotational"] is False
    assert run("nbdinfo", "--size", server.uri()) == f"{SIZE}\n"
    names = json.loads(run("nbdinfo", "--list", "--json", server.uri()))["exports"]
    assert [entry["export-name"] for entry in names] == ["disk"]
    run("nbdinfo", "--can", "flush", server.uri())


def test_refused_exports_tell_why(server: Served, exports: MemoryExports) -> None:
    """libnbd keeps a server's sentence to its debug output; qemu shows it."""
    need("nbdinfo", "qemu-img")
    assert "No such file" in run("nbdinfo", server.uri("other"), ok=False)
    assert "no export of that name" in run("qemu-img", "info", server.uri("other"), ok=False)
    exports.refusal = Refused("disk is Secondary here: promote it first")
    run("nbdinfo", server.uri("disk"), ok=False)
    told = run("qemu-img", "info", server.uri("disk"), ok=False)
    assert "disk is Secondary here: promote it first" in told


def test_nbdinfo_and_qemu_map_what_is_allocated(server: Served, disk: MemoryDisk) -> None:
    need("nbdinfo", "qemu-img")
    disk.put(1 << 20, b"x" * (2 << 20))
    disk.wipe(2 << 20, 1 << 20, may_unmap=False)
    told = json.loads(run("nbdinfo", "--json", server.uri("disk")))["exports"][0]
    assert told["contexts"] == ["base:allocation"]
    mib = [(n["offset"] >> 20, n["length"] >> 20, n["type"]) for n in mapped(server, "nbdinfo")]
    assert mib == [(0, 1, 3), (1, 1, 0), (2, 1, 2), (3, 13, 3)]
    found = mapped(server, "qemu-img")
    assert sum(extent["length"] for extent in found) == SIZE
    assert [(e["start"] >> 20, e["data"], e["zero"]) for e in found] == [
        (0, False, True),
        (1, True, False),
        (2, True, True),
        (3, False, True),
    ]


def mapped(server: Served, tool: str) -> list[dict[str, int]]:
    if tool == "nbdinfo":
        output = run("nbdinfo", "--map", "--json", server.uri("disk"))
    else:
        output = run("qemu-img", "map", "-f", "raw", "--output=json", server.uri("disk"))
    found: list[dict[str, int]] = json.loads(output)
    return found


@pytest.mark.parametrize(
    "options",
    [
        ["--flush"],
        ["--synchronous"],
        ["--connections=4", "--requests=64"],
        ["--request-size=4096", "--requests=128"],
        ["--allocated"],
    ],
    ids=lambda options: options[0].strip("-"),
)
def test_nbdcopy_in_and_out(
    server: Served, disk: MemoryDisk, image: Path, tmp_path: Path, options: list[str]
) -> None:
    need("nbdcopy")
    run("nbdcopy", *options, image, server.uri("disk"))
    assert disk.content(0, SIZE) == image.read_bytes()
    back = tmp_path / "back.img"
    run("nbdcopy", *[o for o in options if o != "--flush"], server.uri("disk"), back)
    assert back.read_bytes() == image.read_bytes()


def test_qemu_img_converts_compares_and_maps(
    server: Served, disk: MemoryDisk, image: Path, tmp_path: Path
) -> None:
    need("qemu-img")
    uri = server.uri("disk")
    assert json.loads(run("qemu-img", "info", "--output=json", uri))["virtual-size"] == SIZE
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", "-m", "16", image, uri)
    assert disk.content(0, SIZE) == image.read_bytes()
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri)
    copy = tmp_path / "copy.qcow2"
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", uri, copy)
    run("qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, copy)
    run("qemu-img", "map", "-f", "raw", uri)
    run("qemu-img", "bench", "-f", "raw", "-c", "3000", "-d", "64", "-s", "4k", "-t", "none", uri)


def test_qemu_io_patterns_zeroes_and_fua(server: Served, disk: MemoryDisk) -> None:
    need("qemu-io")
    disk.recording = True

    def io(*commands: str) -> str:
        output = run("qemu-io", "-f", "raw", *[w for c in commands for w in ("-c", c)], uri)
        assert "failed" not in output
        return output

    uri = server.uri("disk")
    io("write -P 0x5a 1M 1M", "read -P 0x5a 1M 1M", "flush", "write -f -P 0x33 3M 64k")
    assert any(call.kind == "write" and call.fua for call in disk.calls)
    assert any(call.kind == "flush" for call in disk.calls)
    disk.calls.clear()
    io("write -z 1M 64k", "write -z -u 1088k 64k", "read -P 0 1M 128k", "read -P 0x5a 1152k 64k")
    assert [c.may_unmap for c in disk.calls if c.kind == "zero"] == [False, True]
    io("discard 3M 64k", "read -P 0 3M 64k")
    assert any(call.kind == "trim" for call in disk.calls)
    io("write -P 0x11 513 3", "read -P 0x11 513 3", "read -P 0 516 100")
    io(*[f"aio_write -P {i + 1} {i * 64}k 64k" for i in range(32)], "aio_flush")
    io(*[f"read -P {i + 1} {i * 64}k 64k" for i in range(32)])
    disk.fail("write", errno.EDQUOT)
    told = run("qemu-io", "-f", "raw", "-c", "write 0 512", uri, ok=False)
    assert "No space left on device" in told


@pytest.mark.parametrize(
    "job",
    [
        ["--rw=randwrite", "--bs=4k-64k", "--iodepth=32", "--verify=crc32c", "--verify_fatal=1"],
        ["--rw=randrw", "--bs=4k", "--iodepth=32", "--fsync=64", "--number_ios=3000"],
        ["--rw=randtrim", "--bs=64k", "--iodepth=8"],
    ],
    ids=["verify", "fsync", "trim"],
)
def test_fio_finds_its_data_again(server: Served, job: list[str]) -> None:
    need("fio")
    fio = ["fio", "--name=job", "--ioengine=nbd", f"--uri={server.uri('disk')}", "--size=16M"]
    fio.append("--verify_state_save=0")  # no file in the working directory
    output = run(*fio, *job)
    assert "err= 0" in output


@pytest.fixture
def pki(tmp_path: Path) -> Path:
    return certificates(tmp_path / "pki")


@pytest.mark.parametrize("loop", LOOPS)
def test_libnbd_speaks_tls_and_shows_its_certificate(
    exports: MemoryExports, pki: Path, image: Path, tmp_path: Path, loop: str
) -> None:
    need("nbdinfo", "nbdcopy")
    tls = server_context(pki, verify_peer=True)
    with served(exports, loop, tls=tls, tls_required=True) as server:
        place = f"localhost:{server.port}/disk"
        uri = f"nbds://{place}?tls-certificates={pki}"
        assert json.loads(run("nbdinfo", "--json", uri))["TLS"] is True
        run("nbdcopy", image, uri)
        run("nbdcopy", uri, tmp_path / "back.img")
        assert (tmp_path / "back.img").read_bytes() == image.read_bytes()
        run("nbdinfo", f"nbd://{place}", ok=False)
        (pki / "client-cert.pem").unlink()
        run("nbdinfo", uri, ok=False)


@pytest.mark.parametrize("loop", LOOPS)
def test_qemu_speaks_tls(exports: MemoryExports, pki: Path, image: Path, loop: str) -> None:
    need("qemu-img")
    tls = server_context(pki, verify_peer=True)
    with served(exports, loop, tls=tls, tls_required=True) as server:
        creds = ("--object", f"tls-creds-x509,id=t,endpoint=client,dir={pki}")
        place = f"driver=nbd,host=localhost,port={server.port},export=disk"
        secure = f"driver=raw,file.{',file.'.join(place.split(','))},file.tls-creds=t"
        for _ in range(5):  # its first option may come in one segment with the end of TLS' greeting
            run("qemu-img", "info", *creds, "--image-opts", secure)
        run("qemu-img", "convert", "-n", *creds, "--target-image-opts", "-f", "raw", image, secure)
        assert exports.disks["disk"].content(0, SIZE) == image.read_bytes()
        assert "tls" in run("qemu-img", "info", "--image-opts", place, ok=False).lower()


@pytest.mark.parametrize("loop", [[], ["--stdlib"]], ids=["uvloop", "stdlib"])
def test_libnbd_activates_the_server_by_socket(loop: list[str]) -> None:
    need("nbdinfo")
    ours = [sys.executable, "-m", "nbd", "--memory", "1M", *loop]
    told = run("nbdinfo", "--json", "--", "[", *ours, "]")
    assert json.loads(told)["exports"][0]["export-size"] == 1 << 20


def test_nbd_client_lists(server: Served) -> None:
    need("nbd-client")
    path = next(p for p in ("/usr/sbin/nbd-client", "/sbin/nbd-client") if Path(p).exists())
    assert "disk" in run(path, "-l", "127.0.0.1", "-p", str(server.port))
