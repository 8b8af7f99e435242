"""The kernel's own /dev/nbdX on a replicated device: files, refusals, and restarts nobody notices.

The nodes run here; the machine is the client: its nbd.ko, ``python -m nbd.attach``, and what uses
a block device.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from replblk.cli.main import main
from tests.interop.nbd_guest import NbdGuest
from tests.support.site import Site, until

PORT, NBD_PORT = 17242, 17243
SIZE = 64 << 20
RESTARTS = 20
RESTART_EVERY_S = 1.0
IDENTIFIER = "replblk:r0/0"
STOP_FIO = (
    "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | "
    "grep -q -- --name=verified && kill -INT ${p#/proc/}; done"
)
LINKS = ("/dev/drbd0", "/dev/drbd/by-res/r0/0")


@pytest.fixture
def site() -> Iterator[Site]:
    """alpha is Primary, serves NBD on TCP as well, and resumes its role."""
    with tempfile.TemporaryDirectory(prefix="nbd-") as folder:
        made = Site(Path(folder), PORT, SIZE)
        text = made.config.read_text()
        made.config.write_text(text.replace("connect-int 1;", "connect-int 1; verify-alg crc32c;"))
        resume = "resume_primary = true\n"
        made.config.with_name("replblk.toml").write_text(
            f'{resume}nbd_listen = ["127.0.0.1:{NBD_PORT}"]\n'
        )
        beta = made.config.with_name("beta.toml")
        beta.write_text(resume)
        for node in ("alpha", "beta"):
            made.run(node, "create-md", "r0")
        made.run("alpha", "up", "r0")
        assert main(["--settings", str(beta), *made.command("beta", "up", "r0")[4:]]) == 0
        made.run("alpha", "primary", "--force", "r0")
        yield made
        made.down()


@pytest.fixture
def attached(machine: NbdGuest, site: Site) -> Iterator[NbdGuest]:
    """/dev/nbd0 is alpha's volume 0."""
    links = [word for link in LINKS for word in ("--link", link)]
    machine.mark()
    machine.attach(f"nbd://10.0.2.2:{NBD_PORT}/0", IDENTIFIER, *links)
    yield machine
    machine.sh(
        f"{STOP_FIO}; umount /mnt; kill -TERM $(cat /run/attach.pid); "
        "for i in $(seq 50); do [ -e /sys/block/nbd0/pid ] || exit 0; sleep 0.2; done",
        30,
    )


def restarted(site: Site, how: signal.Signals) -> float:
    """End alpha's daemon and start it again; how long it was not Primary."""
    pid = site.pid("alpha")
    began = time.monotonic()
    os.kill(pid, how)
    until(lambda: _ended(pid))
    site.run("alpha", "up", "r0")
    until(lambda: site.run("alpha", "role", "r0").startswith("Primary"))
    return time.monotonic() - began


def _ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_a_file_system_on_the_device_and_its_end(attached: NbdGuest, site: Site) -> None:
    """mkfs, files, links, settings of the queue; ended only when nobody uses it."""
    shown = attached.check("cd /sys/block/nbd0; cat backend size queue/io_timeout queue/fua")
    sectors = (SIZE - (1 << 20)) // 512
    backend, size, io_timeout, fua = shown.split()
    assert (backend, io_timeout, fua) == (IDENTIFIER, "2000", "1")
    assert sectors < int(size) <= SIZE // 512
    for link in LINKS:
        assert attached.check(f"readlink {link}") == "/dev/nbd0"
    attached.check("mkfs.ext4 -q /dev/drbd0 && mount -t ext4 /dev/drbd0 /mnt", 120)
    attached.check("dd if=/dev/urandom of=/mnt/file bs=64k count=64 && sync; md5sum /mnt/file")
    attached.check("kill -TERM $(cat /run/attach.pid)")
    refused = "is in use: mounted"
    attached.check(
        f"for i in $(seq 50); do grep -q '{refused}' /run/attach.out && exit 0; "
        "sleep 0.2; done; cat /run/attach.out; exit 1"
    )
    restarted(site, signal.SIGKILL)
    before = attached.check("md5sum < /mnt/file")
    attached.check("umount /mnt && e2fsck -fn /dev/drbd0 && mount -t ext4 /dev/drbd0 /mnt", 120)
    assert attached.check("md5sum < /mnt/file") == before
    attached.check("umount /mnt; kill -TERM $(cat /run/attach.pid)")
    attached.check(
        "for i in $(seq 50); do [ -e /sys/block/nbd0/pid ] || exit 0; sleep 0.2; done; "
        "cat /run/attach.out; exit 1"
    )
    assert attached.sh("ls /dev/drbd0 /dev/drbd/by-res/r0/0")[0] != 0


def test_fio_verifies_through_twenty_restarts_and_kills(attached: NbdGuest, site: Site) -> None:
    """fio with verification through twenty restarts and kills of the daemon: no I/O error"""
    job = (
        "fio --name=verified --filename=/dev/nbd0 --ioengine=libaio --direct=1 --rw=randwrite "
        "--bs=4k-32k --iodepth=8 --size=48M --time_based --runtime=900 --verify=crc32c "
        "--verify_backlog=64 --verify_fatal=1 --verify_state_save=0 --rate=600k "
        "--output-format=terse"
    )
    attached.check(f"({job} > /run/fio.out 2>&1; echo status=$? >> /run/fio.out) & echo $!")
    outages = []
    for number in range(RESTARTS):
        time.sleep(RESTART_EVERY_S)
        outages.append(restarted(site, signal.SIGKILL if number % 2 else signal.SIGTERM))
    time.sleep(RESTART_EVERY_S)
    attached.check(
        f"{STOP_FIO}; for i in $(seq 300); do grep -q status= /run/fio.out && "
        "exit 0; sleep 0.2; done; cat /run/fio.out; exit 1",
        90,
    )
    told = attached.check("cat /run/fio.out")
    print(f"outages of the Primary's daemon: {sorted(round(s, 1) for s in outages)} s\n{told}")
    (line,) = [line for line in told.splitlines() if ";verified;" in line]
    fields = line.split(";")
    assert fields[4] == "0", f"fio's error: {told}"
    assert "verify:" not in told, "fio found other data than it wrote"
    assert int(fields[5]) > 0, "nothing was read back"
    kernel = [line for line in attached.console().splitlines() if "nbd0" in line]
    assert not [line for line in kernel if "I/O error" in line]
    until(lambda: site.run("alpha", "dstate", "r0").strip() == "UpToDate/UpToDate")
    until(lambda: site.run("alpha", "cstate", "r0").strip() == "Connected")
    site.run("alpha", "verify", "r0")
    until(lambda: site.run("alpha", "cstate", "r0").strip() == "Connected")
