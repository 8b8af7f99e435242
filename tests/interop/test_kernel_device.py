"""replblk's own block devices in a machine with nbd.ko: both daemons and the commands run there.

What ``primary`` and ``secondary`` do with /dev/nbdX by the setting ``nbd_device``, as somebody sees
it who knows DRBD's /dev/drbdX, and the udev rule. One node's device is ended before the other's is
made, so one machine is enough for both.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.kernel.udev import udev_command
from tests.interop.nbd_guest import PROJECT, NbdGuest

FOLDER = "/run/site"
DISK_BYTES = 40 << 20
CONNECTIONS = 3
CONFIG = f"""
resource r0 {{
  protocol C;
  net {{ connect-int 1; }}
  device /dev/drbd0;
  meta-disk internal;
  on alpha {{ address 127.0.0.1:7789; disk {FOLDER}/alpha.img; }}
  on beta {{ address 127.0.0.2:7789; disk {FOLDER}/beta.img; }}
}}
"""
SETTINGS = f"""
nbd_device = "nbd"
nbd_device_connections = {CONNECTIONS}
nbd_device_block_size = 512
resume_primary = true
"""
PF_MEMALLOC_NOIO = 0x80000
"""linux/sched.h: memory for this process never waits for pages to be written."""
LINKS = ("/dev/drbd0", "/dev/drbd/by-res/r0/0")
HELD = "State change failed: (-12) Device is held open by someone"
FIO = (
    "fio --name=verified --filename={} --ioengine=libaio --direct=1 --rw=randwrite "
    "--bs=4k-32k --iodepth=8 --size=8M --io_size={} --verify=crc32c --verify_fatal=1 "
    "--verify_state_save=0 --output-format=terse"
)


class Nodes:
    """alpha and beta in one machine."""

    def __init__(self, machine: NbdGuest) -> None:
        self.machine = machine

    def replblk(self, node: str, *words: str) -> tuple[int, str]:
        """Run a command as one of them."""
        return self.machine.command("replblk", *self._words(node, *words))

    def run(self, node: str, *words: str) -> str:
        """The same where success is expected."""
        status, text = self.replblk(node, *words)
        assert status == 0, f"{node} {words}: {status}: {text}"
        return text

    def daemon(self, node: str) -> None:
        """Start a daemon, and wait until it answers."""
        words = self._words(node, "run", "r0")
        self.machine.command("replblk", *words, log=f"{FOLDER}/{node}.log")
        self.until(f"[ -S {FOLDER}/{node}/r0/control.sock ]", f"cat {FOLDER}/{node}.log")

    def until(self, condition: str, story: str = "true") -> None:
        """Wait in the machine."""
        self.machine.check(
            f"for i in $(seq 300); do {condition} && exit 0; sleep 0.1; done; {story}; exit 1", 90
        )

    def await_state(self, node: str, what: str, wanted: str) -> None:
        """Wait for a role or a state of the disks."""
        for _try in range(60):
            if (said := self.run(node, what, "r0")).startswith(wanted):
                return
            self.machine.check("sleep 0.2")
        raise AssertionError(f"{node}: {what} is {said}, not {wanted}")

    def helper_log(self, node: str) -> str:
        """What the helper of the device said."""
        return self.machine.check(f"cat {FOLDER}/{node}/r0/device-0.log")

    def gone(self) -> None:
        """No device of replblk, and no link to one."""
        self.machine.check("! grep -qs replblk: /sys/block/nbd*/backend")
        for link in LINKS:
            self.machine.check(f"[ ! -L {link} ]")

    def _words(self, node: str, *words: str) -> list[str]:
        place = ("--config", f"{FOLDER}/drbd.conf", "--run-dir", f"{FOLDER}/{node}")
        return [*place, "--node", node, *words]


@pytest.fixture(scope="module")
def pair_of_nodes(machine: NbdGuest) -> Nodes:
    """Both up, equal and Secondary."""
    machine.load_commands()
    nodes = Nodes(machine)
    machine.check(f"mkdir -p {FOLDER}; truncate -s {DISK_BYTES} {FOLDER}/alpha.img")
    machine.check(f"truncate -s {DISK_BYTES} {FOLDER}/beta.img")
    machine.put(f"{FOLDER}/drbd.conf", CONFIG)
    machine.put(f"{FOLDER}/replblk.toml", SETTINGS)
    machine.put(f"{FOLDER}/plain.toml", "resume_primary = true")
    for node in ("alpha", "beta"):
        nodes.run(node, "create-md", "r0")
        nodes.daemon(node)
    nodes.await_state("alpha", "cstate", "Connected")
    nodes.run("alpha", "new-current-uuid", "--clear-bitmap", "r0")
    nodes.await_state("alpha", "dstate", "UpToDate/UpToDate")
    return nodes


@pytest.fixture
def nodes(pair_of_nodes: Nodes) -> Iterator[Nodes]:
    """Without a device before and after, whatever a test did."""
    machine = pair_of_nodes.machine
    machine.mark()
    yield pair_of_nodes
    machine.sh("umount /mnt; killall sleep fio")
    for node in ("alpha", "beta"):
        status, text = pair_of_nodes.replblk(node, "secondary", "r0")
        print(node, status, text, machine.sh(f"cat {FOLDER}/{node}/r0/device-0.log")[1])


def test_made_on_primary_refused_while_held_ended_on_secondary(nodes: Nodes) -> None:
    """primary makes /dev/nbdX, secondary ends it, but not while it is used; switch-over"""
    machine = nodes.machine
    assert nodes.run("alpha", "primary", "r0").strip() == "r0/0: /dev/nbd0"
    for link in LINKS:
        assert machine.check(f"readlink {link}") == "/dev/nbd0"
    shown = machine.check(
        "cd /sys/block/nbd0; cat backend queue/logical_block_size queue/io_timeout ro; "
        f"grep -c {FOLDER}/alpha/r0/nbd.sock /proc/net/unix"
    )
    with_listener = CONNECTIONS + 1
    assert shown.split() == ["replblk:r0/0", "512", "2000", "0", str(with_listener)]
    for process in ("pid", "nbd-0.pid"):
        pid = machine.check(f"cat {FOLDER}/alpha/r0/{process}").strip()
        stat, score = machine.check(f"cd /proc/{pid}; cat stat oom_score_adj").splitlines()
        assert int(stat.rpartition(")")[2].split()[6]) & PF_MEMALLOC_NOIO, "it writes the pages"
        assert score == "-1000"
    assert nodes.run("alpha", "primary", "r0").strip() == "", "it is Primary and has its device"
    machine.check("mkfs.ext4 -q /dev/drbd0 && mount -t ext4 /dev/drbd0 /mnt", 120)
    machine.check(FIO.format("/mnt/fio", "8M"), 120)
    machine.check("dd if=/dev/urandom of=/mnt/file bs=64k count=64")
    written = machine.check("md5sum < /mnt/file")
    for held in ("umount /mnt; sleep 300 < /dev/nbd0 > /dev/null 2>&1 & sleep 0.3", "true"):
        status, text = nodes.replblk("alpha", "secondary", "r0")
        assert status == 11
        assert HELD in text
        assert "mounted, or claimed" in text if "umount" in held else "open in process" in text
        assert nodes.run("alpha", "role", "r0").startswith("Primary/")
        machine.check(held)
    machine.check("killall sleep; e2fsck -fn /dev/drbd0", 120)
    nodes.run("alpha", "secondary", "r0")
    nodes.gone()
    assert nodes.run("beta", "primary", "r0").strip() == "r0/0: /dev/nbd0"
    machine.check("mount -t ext4 /dev/drbd/by-res/r0/0 /mnt")
    assert machine.check("md5sum < /mnt/file") == written
    machine.check("umount /mnt")
    nodes.run("beta", "secondary", "r0")
    nodes.gone()


def test_daemon_and_helper_killed_under_the_device(nodes: Nodes) -> None:
    """SIGKILL of the daemon under fio, then of the helper: the same device, no error"""
    machine = nodes.machine
    nodes.run("alpha", "primary", "r0")
    look = "cat /sys/block/nbd0/size /sys/block/nbd0/backend"
    before = machine.check(look)
    fio = FIO.format("/dev/nbd0", "24M")
    machine.check(f"({fio} > /run/fio.out 2>&1; echo status=$? >> /run/fio.out) & sleep 1")
    machine.check(f"kill -9 $(cat {FOLDER}/alpha/r0/pid)")
    nodes.daemon("alpha")
    nodes.await_state("alpha", "role", "Primary/")
    nodes.until("grep -q status= /run/fio.out", "cat /run/fio.out")
    told = machine.check("cat /run/fio.out")
    assert told.endswith("status=0"), told
    assert machine.check(look) == before
    assert f"{CONNECTIONS} connections had died and were replaced" in nodes.helper_log("alpha")
    machine.check("cat /dev/nbd0 > /dev/null; sleep 300 < /dev/nbd0 > /dev/null 2>&1 &")
    machine.check(f"kill -9 $(cat {FOLDER}/alpha/r0/nbd-0.pid)")
    assert nodes.run("alpha", "attach-nbd", "r0").strip() == "r0/0: /dev/nbd0"
    assert machine.check(look) == before
    machine.check("killall sleep; dd if=/dev/nbd0 of=/dev/null bs=1M iflag=direct")
    nodes.run("alpha", "secondary", "r0")
    nodes.gone()
    assert "I/O error" not in machine.console()


def test_a_node_that_may_not_be_primary_again_ends_its_device(nodes: Nodes) -> None:
    """The daemon dies, the other node is Primary and writes: the old device ends, with errors"""
    machine = nodes.machine
    nodes.run("alpha", "primary", "r0")
    machine.check("sleep 300 < /dev/nbd0 > /dev/null 2>&1 &")
    machine.check(f"kill -9 $(cat {FOLDER}/alpha/r0/pid)")
    nodes.await_state("beta", "cstate", "WFConnection")
    nodes.run("beta", "--settings", f"{FOLDER}/plain.toml", "primary", "r0")
    nodes.daemon("alpha")
    ended = "/dev/nbd0 was ended, its users get errors: it is served no more"
    nodes.until(f"grep -q '{ended}' {FOLDER}/alpha/r0/device-0.log")
    assert machine.sh("dd if=/dev/nbd0 of=/dev/null bs=4k count=1")[0] != 0
    nodes.await_state("alpha", "dstate", "UpToDate/UpToDate")
    nodes.run("beta", "--settings", f"{FOLDER}/plain.toml", "secondary", "r0")
    made = nodes.run("alpha", "primary", "r0").strip()
    assert made == "r0/0: /dev/nbd1", "the old one is still held by somebody"
    assert machine.check(f"readlink {LINKS[0]}") == "/dev/nbd1"
    machine.check("dd if=/dev/drbd0 of=/dev/null bs=1M count=1 iflag=direct")
    machine.check(f"kill -9 $(cat {FOLDER}/alpha/r0/nbd-0.pid)")
    nodes.run("alpha", "secondary", "r0")
    machine.check("killall sleep; sleep 0.3")
    nodes.gone()


def test_udev_makes_the_link_and_takes_it_away(machine: NbdGuest, nodes: Nodes) -> None:
    """The udev rule under systemd-udevd: /dev/drbd/by-res/RES/VOL comes and goes"""
    machine.check(
        f"mkdir -p /etc/udev/rules.d; cp /host{PROJECT}/share/udev/60-replblk.rules "
        f"/etc/udev/rules.d; {udev_command('systemd-udevd', '--daemon')}"
    )
    try:
        nodes.run("alpha", "primary", "r0")
        machine.check(udev_command("udevadm", "settle"))
        link = LINKS[1]
        assert machine.check(f"readlink -f {link}") == "/dev/nbd0"
        shown = machine.check(udev_command("udevadm", "info", "--query=symlink", "/dev/nbd0"))
        assert "drbd/by-res/r0/0" in shown.split()
        machine.check(f"rm {link}; echo change > /sys/block/nbd0/uevent")
        machine.check(udev_command("udevadm", "settle"))
        assert machine.check(f"readlink -f {link}") == "/dev/nbd0", "udev alone makes it, too"
        nodes.run("alpha", "secondary", "r0")
        machine.check(udev_command("udevadm", "settle"))
        nodes.gone()
    finally:
        machine.check(
            "killall -9 ld-linux-x86-64.so.2 systemd-udevd udevadm; "
            "rm /etc/udev/rules.d/60-replblk.rules"
        )
