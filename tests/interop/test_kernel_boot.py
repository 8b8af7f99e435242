"""A virtual machine whose root is an export: it boots, reads and writes, on either node."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.kernel.guest import Guest
from tests.interop.kernel.initramfs import prepared
from tests.support.site import Site, free_port

SIZE = 64 << 20
ROOTED = (
    "/usr/bin/mount -t proc none /proc; /usr/bin/mount -t devtmpfs none /dev; "
    "/usr/sbin/modprobe -a virtio_pci virtio_blk crc32c_generic ext4; "
    "/usr/bin/mount -t ext4 /dev/vda /mnt; exec /usr/bin/switch_root /mnt /sbin/init"
)
"""What the kernel runs first: only a way to its root. Without the sign that would make it a
variable of the kernel's command line."""
INIT = """#!/usr/bin/sh
export PATH=/usr/sbin:/usr/bin
mount -t proc none /proc; mount -t devtmpfs none /dev
boots=$(cat /boots); echo $((boots + 1)) > /boots
cd /; md5sum -c sum > /dev/null || exit 1
echo "root is $(grep ' / ext4' /proc/mounts), boots $boots" > /dev/ttyS0
sync; reboot -f
"""


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """alpha is Primary."""
    made = Site(tmp_path, free_port(), SIZE)
    made.in_sync()
    yield made
    made.down()


class ExportGuest(Guest):
    """A machine whose only disk is an export; ``root_words``: boot from what is on it."""

    def __init__(self, folder: Path, socket: Path) -> None:
        super().__init__(folder, 1 << 20)
        self._socket = socket

    def _command(self, cache: Path) -> list[str]:
        words = super()._command(cache)
        at = words.index("-drive") + 1
        words[at] = (
            f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={self._socket},"
            "file.export=0,file.reconnect-delay=60,if=virtio,discard=unmap,cache=none"
        )
        return words

    def boot_from_export(self) -> str:
        """Boot from the root there until the machine ends itself; what the console showed."""
        words = self._command(prepared())
        at = words.index("-append") + 1
        words[at] = f'console=ttyS0 quiet panic=-1 rdinit=/usr/bin/sh -- -c "{ROOTED}"'
        done = subprocess.run(words, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        return self.console()


def test_a_guest_boots_from_an_export_and_keeps_what_it_wrote(
    lab: None, site: Site, tmp_path: Path
) -> None:
    """Its root is made on the export from within, booted twice, and found on the other node."""
    guest = ExportGuest(tmp_path / "guest", site.run_file("alpha", "nbd.sock"))
    with guest:
        guest.check("modprobe -a crc32c_generic ext4; mke2fs -q -t ext4 /dev/vda", 120)
        guest.check("mount -t ext4 /dev/vda /mnt && cp -a /bin /sbin /lib /lib64 /usr /mnt/", 120)
        guest.check("mkdir -p /mnt/proc /mnt/dev && echo 0 > /mnt/boots")
        guest.check(
            "dd if=/dev/urandom of=/mnt/file bs=64k count=32 && cd /mnt && md5sum file > sum"
        )
        guest.put("/mnt/usr/sbin/init", INIT)
        guest.check("chmod 755 /mnt/usr/sbin/init; sync; umount /mnt")
    for number in range(2):
        console = guest.boot_from_export()
        assert re.search(rf"root is /dev/\S+ / ext4 rw.*, boots {number}\s", console), console[
            -2000:
        ]
    site.run("alpha", "switchover", "r0", "--to", "beta")
    guest = ExportGuest(tmp_path / "other", site.run_file("beta", "nbd.sock"))
    console = guest.boot_from_export()
    assert re.search(r"root is /dev/\S+ / ext4 rw.*, boots 2\s", console), console[-2000:]
