"""``replblk attach-fuse``: a volume as a loop device, where the kernel has no NBD client.

Its users see pauses, and no error, while the daemon is killed, restarted, and while the Primary
role moves to the other node and back. The resource's device has a name that no other program uses.
"""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client
from tests.support.site import Site, until
from tests.support.tools import need

HELD = "r0/0: State change failed: (-12) Device is held open by someone"
PORT, NBD_PORT = 20120, 20121
SIZE = 24 << 20
FOLLOWS = """resume_primary = true
nbd_listen = ["{own}:{port}"]
nbd_peer = ["{other}:{port}"]
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    need("nbdfuse", "losetup", "mkfs.ext4")
    if (
        os.geteuid() != 0
        or not Path("/dev/fuse").exists()
        or not Path("/dev/loop-control").exists()
    ):
        pytest.skip("needs root, FUSE and loop devices")
    made = Site(tmp_path, PORT, SIZE)
    text = made.config.read_text()
    made.config.write_text(text.replace("/dev/drbd0", "/dev/drbd_replblk_test minor 0"))
    for node, own, other in (
        ("alpha", "127.0.0.1", "127.0.0.2"),
        ("beta", "127.0.0.2", "127.0.0.1"),
    ):
        (tmp_path / f"{node}.toml").write_text(FOLLOWS.format(own=own, other=other, port=NBD_PORT))
    for node in ("alpha", "beta"):
        made.run(node, "create-md", "r0")
        made.run(node, "up", "r0")
    made.run("alpha", "primary", "--force", "r0")
    until(lambda: made.run("alpha", "dstate", "r0").strip() == "UpToDate/UpToDate")
    yield made
    made.replblk("alpha", "detach-fuse", "r0")
    made.down()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def loops() -> str:
    return run("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")


def test_a_file_system_in_a_loop_device_and_nothing_left_of_it(site: Site, tmp_path: Path) -> None:
    before = loops()
    told = site.run("alpha", "attach-fuse", "r0")
    path = told.split()[-1]
    assert path.startswith("/dev/loop")
    link = Path("/dev/drbd_replblk_test")
    assert os.readlink(link) == path
    mount = tmp_path / "mnt"
    mount.mkdir()
    run("mkfs.ext4", "-q", path)
    run("mount", path, str(mount))
    try:
        (mount / "file").write_bytes(b"replicated" * 1000)
        os.sync()
        refused = site.replblk("alpha", "secondary", "r0")
        assert refused.returncode == 11
        assert "is in use: mounted" in refused.stderr
        assert HELD in refused.stderr
        again = site.replblk("alpha", "attach-fuse", "r0")
        assert f"already, {path}" in again.stderr
    finally:
        run("umount", str(mount))
    with open(path, "rb"):
        refused = site.replblk("alpha", "secondary", "r0")
        assert refused.returncode == 11
        assert HELD in refused.stderr
        assert f"open in process {os.getpid()}" in refused.stderr
    run("e2fsck", "-fn", path)
    site.run("alpha", "secondary", "r0")
    assert loops() == before
    assert not link.is_symlink()
    assert not site.run_file("alpha", "fuse-0").exists()
    assert not site.run_file("alpha", "fuse-0.pid").exists()
    site.run("beta", "primary", "r0")
    until(lambda: site.run("beta", "role", "r0").startswith("Primary"))
    path = site.run("beta", "attach-fuse", "r0").split()[-1]
    run("mount", "-o", "ro", path, str(mount))
    try:
        assert (mount / "file").read_bytes() == b"replicated" * 1000
    finally:
        run("umount", str(mount))
        site.run("beta", "detach-fuse", "r0")
    assert loops() == before


def test_a_role_that_is_kept_keeps_its_device(site: Site) -> None:
    """Another client makes the node refuse: what was ended for the change is made again."""
    (site.folder / "alpha.toml").write_text('nbd_device = "fuse"\n')
    assert "/dev/loop" in site.run("alpha", "primary", "r0")
    assert site.run("alpha", "primary", "r0") == "", "it is Primary and has its device"
    with Client.connect(str(site.run_file("alpha", "nbd.sock"))) as client:
        client.open("0")
        refused = site.replblk("alpha", "secondary", "r0")
        assert refused.returncode == 11
        assert "(-12) Device is held open by someone" in refused.stderr
        assert Path("/dev/drbd_replblk_test").is_symlink()
        client.disc()
    until(lambda: site.replblk("alpha", "secondary", "r0").returncode == 0)
    assert not Path("/dev/drbd_replblk_test").is_symlink()


def test_primary_says_what_is_missing_for_its_device(site: Site) -> None:
    if Path("/sys/module/nbd").exists():
        pytest.skip("this kernel has NBD devices")
    (site.folder / "alpha.toml").write_text('nbd_device = "nbd"\n')
    told = site.replblk("alpha", "primary", "r0")
    assert told.returncode == 20
    assert "'replblk attach-fuse r0/0'" in told.stderr
    assert site.run("alpha", "role", "r0").startswith("Primary/"), "over NBD it is served"


def test_without_the_kernels_client_the_refusal_offers_fuse(site: Site) -> None:
    if Path("/sys/module/nbd").exists():
        pytest.skip("this kernel has NBD devices")
    refused = site.replblk("alpha", "attach-nbd", "r0")
    assert refused.returncode == 20
    assert "the kernel has no NBD devices" in refused.stderr
    assert "'replblk attach-fuse r0/0'" in refused.stderr


def test_a_killed_nbdfuse_is_cleaned_up_by_the_next(site: Site) -> None:
    before = loops()
    site.run("alpha", "attach-fuse", "r0")
    pid = int(site.run_file("alpha", "fuse-0.pid").read_text())
    os.kill(pid, 9)
    until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in _state(pid))
    site.run("alpha", "attach-fuse", "r0")
    site.run("alpha", "detach-fuse", "r0")
    assert loops() == before


def test_when_the_daemon_was_killed_the_device_can_still_be_ended(site: Site) -> None:
    """Its users wait for the daemon, until the administrator waits no longer: then they get errors.

    nbdfuse ends with its server, and leaves a mount that can't be looked into.
    """
    before = loops()
    site.run("alpha", "attach-fuse", "r0")
    mount = site.run_file("alpha", "fuse-0")
    helper = int(site.run_file("alpha", "fuse-0.pid").read_text())
    loop = Path(site.run_file("alpha", "fuse-0.loop").read_text())
    os.kill(site.pid("alpha"), 9)
    errors: list[OSError] = []

    def read() -> None:
        try:
            with loop.open("rb", buffering=0) as device:
                os.pread(device.fileno(), 4096, 8 << 20)
        except OSError as error:
            errors.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    time.sleep(1)
    assert reader.is_alive(), "it does not wait"
    site.run("alpha", "detach-fuse", "--force", "r0")
    reader.join(20)
    assert [error.errno for error in errors] == [errno.EIO]
    until(lambda: _state(helper) == "Z")
    until(lambda: loops() == before)
    assert not mount.exists()


def restarted(site: Site, node: str, how: signal.Signals) -> float:
    """End a Primary's daemon and start it again; how long it was not Primary."""
    pid = site.pid(node)
    began = time.monotonic()
    os.kill(pid, how)
    until(lambda: _state(pid) == "Z")
    site.run(node, "up", "r0")
    until(lambda: site.run(node, "role", "r0").startswith("Primary"))
    return time.monotonic() - began


def test_fio_in_a_file_system_through_kills_restarts_and_switchovers(
    site: Site, tmp_path: Path
) -> None:
    need("fio")
    path = site.run("alpha", "attach-fuse", "r0").split()[-1]
    mount = tmp_path / "mnt"
    mount.mkdir()
    run("mkfs.ext4", "-q", path)
    run("mount", path, str(mount))
    job = (
        f"fio --name=verified --filename={mount}/file --ioengine=libaio --direct=1 --rw=randwrite "
        "--bs=4k-32k --iodepth=8 --size=10M --time_based --runtime=300 --verify=crc32c "
        "--verify_backlog=8 --verify_fatal=1 --verify_state_save=0 --rate=2m "
        "--output-format=terse"
    )
    fio = subprocess.Popen(job.split(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    outages, pauses = [], []
    try:
        for number in range(6):
            time.sleep(0.5)
            how = signal.SIGKILL if number % 2 else signal.SIGTERM
            outages.append(restarted(site, "alpha", how))
        until(lambda: site.run("alpha", "dstate", "r0").strip() == "UpToDate/UpToDate")
        for to in ("beta", "alpha", "beta"):
            until(lambda: site.run("alpha", "cstate", "r0").strip() == "Connected")
            time.sleep(0.5)
            told = site.run("alpha", "switchover", "r0", "--to", to)
            found = re.search(r"after a pause of (\d+) ms", told)
            assert found, told
            pauses.append(int(found[1]))
        restarted(site, "beta", signal.SIGKILL)
        time.sleep(1)
        fio.send_signal(signal.SIGINT)
        told, _ = fio.communicate(timeout=60)
        (line,) = [line for line in told.splitlines() if ";verified;" in line]
        fields = line.split(";")
        assert fields[4] == "0", f"fio's error: {told}"
        assert "verify:" not in told, "fio found other data than it wrote"
        assert int(fields[5]) > 0, f"nothing was read back: {told}"
        print(f"restarts {[round(s, 1) for s in outages]} s, switch-overs {pauses} ms")
        print(f"written {fields[46]} KiB, read back {fields[5]} KiB")
        run("umount", str(mount))
        run("e2fsck", "-fn", path)
        run("mount", path, str(mount))
    finally:
        if fio.poll() is None:
            fio.kill()
            fio.wait(30)
        run("umount", str(mount))
    site.run("alpha", "detach-fuse", "r0")
    until(lambda: site.run("beta", "dstate", "r0").strip() == "UpToDate/UpToDate")


def test_without_another_address_the_role_stays_where_the_device_is(
    site: Site, tmp_path: Path
) -> None:
    settings = site.folder / "alpha.toml"
    settings.write_text(settings.read_text().replace("nbd_peer", "# nbd_peer"))
    path = site.run("alpha", "attach-fuse", "r0").split()[-1]
    run("mkfs.ext4", "-q", path)
    mount = tmp_path / "mnt"
    mount.mkdir()
    run("mount", path, str(mount))
    try:
        refused = site.replblk("alpha", "switchover", "r0", "--to", "beta")
        assert refused.returncode == 11
        assert "is in use" in refused.stderr
    finally:
        run("umount", str(mount))
    refused = site.replblk("beta", "switchover", "r0", "--to", "beta")
    assert refused.returncode == 11
    log = site.run_file("alpha", "log").read_text()
    assert "r0/0 is a block device of alpha: end it there first" in log
    assert site.run("alpha", "role", "r0").strip() == "Primary/Secondary"
    site.run("alpha", "switchover", "r0", "--to", "beta")
    assert not site.run_file("alpha", "fuse-0").exists(), "it was not in use, and could not follow"
    assert not site.run_file("alpha", "relay-0.pid").exists()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
