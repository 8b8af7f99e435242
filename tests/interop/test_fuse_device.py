"""``replblk attach-fuse``: a volume as a loop device, where the kernel has no NBD client.

The resource's device has a name that no other program uses.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.client import Client
from tests.support.site import Site, until
from tests.support.tools import need

HELD = "r0/0: State change failed: (-12) Device is held open by someone"
PORT = 17250
SIZE = 24 << 20


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
    site.config.with_name("replblk.toml").write_text('nbd_device = "fuse"\n')
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
    site.config.with_name("replblk.toml").write_text('nbd_device = "nbd"\n')
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
    """nbdfuse ends with its server, and leaves a mount that can't be looked into."""
    before = loops()
    site.run("alpha", "attach-fuse", "r0")
    mount = site.run_file("alpha", "fuse-0")
    os.kill(site.pid("alpha"), 9)
    helper = int(site.run_file("alpha", "fuse-0.pid").read_text())
    loop = Path(site.run_file("alpha", "fuse-0.loop").read_text())
    with pytest.raises(OSError, match="Input/output"), loop.open("rb", buffering=0) as device:
        os.pread(device.fileno(), 4096, 8 << 20)
    until(lambda: not Path(f"/proc/{helper}").exists() or "Z" in _state(helper))
    until(lambda: not os.path.exists(mount))
    site.run("alpha", "detach-fuse", "r0")
    assert loops() == before
    assert not mount.exists()


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"
