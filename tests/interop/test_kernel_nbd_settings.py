"""``python -m nbd.attach`` in a machine with nbd.ko, with servers on the host: what a device is
like, how long it waits, what it does when a connection, the server or the size changes.

The helper is a fork of a process that has loaded it (guest_commands), for each would take ten
seconds to load there.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from nbd.export import Refused
from nbd.memory import MemoryExports
from tests.interop.kernel.guest import free_port
from tests.interop.nbd_guest import NbdGuest
from tests.support.nbd_served import Served, served
from tests.support.site import until

SIZE = 64 << 20
SMALL = 48 << 20
TIMEOUT_S = 2
IDENTIFIER = "test:disk"
LOG = "/run/attach.out"
NAME = "nbd9"
DEVICE = f"/dev/{NAME}"
CUT = """
import ctypes, os, socket
helper, = map(int, words)
held = os.pidfd_open(helper)
for link in os.scandir(f"/proc/{helper}/fd"):
    if os.readlink(link.path).startswith("socket:"):
        number = ctypes.CDLL(None).syscall(438, held, int(link.name), 0)  # pidfd_getfd
        with socket.socket(fileno=number) as sock:
            if sock.family == socket.AF_INET:
                sock.shutdown(socket.SHUT_RDWR)
                print("cut")
                break
"""
CONNECTED = """
from nbd import netlink
print([netlink.connected(index) for index in (8, 9)], netlink.alive(9, "test:disk"))
"""


class Device:
    """/dev/nbd9 and its helper."""

    def __init__(self, machine: NbdGuest) -> None:
        self.machine = machine
        self.pid = ""

    def attach(self, port: int, *options: str) -> str:
        """Make it; or what the helper says of why not."""
        words = (f"nbd://10.0.2.2:{port}/memory", "--identifier", IDENTIFIER, "--index", "9")
        _, self.pid = self.machine.command("nbd.attach", *words, *options, log=LOG)
        self.until(f"grep -qE '^/dev/nbd|:status:' {LOG}")
        return self.said()

    def said(self) -> str:
        """What the helper said so far."""
        return self.machine.check(f"cat {LOG}")

    def until(self, condition: str) -> None:
        """Wait in the machine."""
        self.machine.check(
            f"for i in $(seq 300); do {condition} && exit 0; sleep 0.1; done; cat {LOG}; exit 1", 60
        )

    def queue(self, *names: str) -> list[str]:
        """Files of /sys/block/nbd9."""
        return self.machine.check(f"cd /sys/block/{NAME}; cat {' '.join(names)}").split()

    @property
    def size(self) -> int:
        """In bytes."""
        return int(self.queue("size")[0]) * 512

    def hold(self) -> None:
        """A process has it open from now on."""
        self.machine.check(f"sleep 300 < {DEVICE} > /dev/null 2>&1 &")

    def end(self) -> None:
        """Whatever it is in the middle of."""
        self.machine.sh(f"killall sleep dd; kill -TERM {self.pid}")
        self.until(f"grep -q :status: {LOG}")


@pytest.fixture
def device(machine: NbdGuest) -> Iterator[Device]:
    """Ended after the test, whether its server is still there or not."""
    machine.load_commands()
    machine.mark()
    made = Device(machine)
    yield made
    if made.pid:
        made.end()
        print(made.said())


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(SIZE)


@pytest.fixture
def server(exports: MemoryExports) -> Iterator[Served]:
    with served(exports) as running:
        yield running


class Process:
    """``python -m nbd`` on the host, which can be stopped and killed."""

    def __init__(self, port: int, size: int = SIZE) -> None:
        self.port = port
        self.start(size)

    def start(self, size: int = SIZE) -> None:
        """A new one: an empty disk."""
        words = ["-m", "nbd", "--memory", str(size), "--listen", f"127.0.0.1:{self.port}"]
        self.process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def signal(self, number: int) -> None:
        """Stop, go on, or end."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def process() -> Iterator[Process]:
    made = Process(free_port())
    yield made
    made.kill()


def _assert_ended(device: Device) -> None:
    """While somebody holds it, the kernel tells that it is configured; then it is gone."""
    assert device.machine.command("python", CONNECTED) == (0, "[False, True] False")
    device.machine.check("killall sleep")
    device.until(f"[ ! -e /sys/block/{NAME}/pid ]")


def test_connections_blocks_flags(device: Device, server: Served) -> None:
    """As many connections, blocks, timeouts as wished; what the kernel can't be given is refused"""
    device.attach(server.port, "--connections", "5", "--block-size", "2048", "--timeout", "7")
    names = ("logical_block_size", "io_timeout", "write_cache", "fua", "discard_max_bytes")
    shown = device.queue("ro", "backend", *(f"queue/{name}" for name in names))
    assert shown[:6] == ["0", IDENTIFIER, "2048", "7000", "write", "back"]
    assert shown[6] == "1"
    assert int(shown[7]) > 0
    assert device.size == SIZE
    assert _clients(server) == 5
    assert device.machine.command("python", CONNECTED) == (0, "[False, True] True")
    device.end()
    assert device.machine.command("python", CONNECTED) == (0, "[False, False] False")
    said = device.attach(server.port, "--block-size", "8192")
    assert "invalid choice" in said


def _clients(server: Served) -> int:
    count: int = server.run(lambda: server.server.clients())
    return count


def test_a_read_only_export(device: Device, exports: MemoryExports, server: Served) -> None:
    """An export that is read-only is a read-only device"""
    disk = exports.disks["memory"]
    disk.geometry = replace(disk.geometry, read_only=True)
    device.attach(server.port)
    assert device.queue("ro") == ["1"]
    status, text = device.machine.sh(f"dd if=/dev/zero of={DEVICE} bs=4k count=1 oflag=direct")
    assert status != 0
    assert "not permitted" in text


def test_a_dead_connection_is_replaced_by_the_kernels_notice(
    device: Device, server: Served
) -> None:
    """LINK_DEAD: one of several connections is cut; a new one takes its place, no error"""
    device.attach(server.port, "--connections", "2")
    machine = device.machine
    machine.check("dd if=/dev/urandom of=/run/data bs=64k count=16")
    for number in range(1, 3):
        assert machine.command("python", CUT, device.pid) == (0, "cut")
        machine.check(
            f"dd if=/run/data of={DEVICE} bs=64k oflag=direct; "
            f"dd if={DEVICE} bs=64k count=16 iflag=direct | cmp - /run/data"
        )
        device.until(f"[ $(grep -c 'had died and were replaced' {LOG}) = {number} ]")
        until(lambda: _clients(server) == 2)
    assert machine.sh(f"kill -9 {device.pid}; sleep 0.2; [ -e /sys/block/{NAME}/pid ]")[0] == 0
    device.attach(server.port, "--connections", "1")
    # Connections of the helper that was killed: only the kernel knows when they die.
    before = device.said()
    server.run(lambda: server.server.drop(lambda name: True))
    device.until(f"[ $(grep -c 'had died and were replaced' {LOG}) = 1 ]")
    assert "replaced" not in before
    machine.check(f"dd if={DEVICE} bs=64k count=16 iflag=direct | cmp - /run/data")
    assert "I/O error" not in machine.console()


def test_a_connection_that_answers_too_late(device: Device, process: Process) -> None:
    """timeout: a server that hangs loses its connections; requests are sent again, no error"""
    device.attach(process.port, "--connections", "2", "--timeout", str(TIMEOUT_S))
    machine = device.machine
    machine.check("dd if=/dev/urandom of=/run/data bs=64k count=16")
    process.signal(signal.SIGSTOP)
    write = f"dd if=/run/data of={DEVICE} bs=64k oflag=direct"
    machine.check(f"({write}; echo written=$?) > /run/dd.out 2>&1 &")
    until(lambda: "Connection timed out" in machine.console())
    process.signal(signal.SIGCONT)
    machine.check("for i in $(seq 300); do grep -q written= /run/dd.out && exit 0; sleep 0.1; done")
    assert "written=0" in machine.check("cat /run/dd.out")
    machine.check(f"dd if={DEVICE} bs=64k count=16 iflag=direct | cmp - /run/data")


def test_nobody_comes_back(device: Device, process: Process) -> None:
    """dead-connection timeout: so long requests wait, then they fail; after that, too"""
    device.attach(process.port, "--dead-connection-timeout", str(TIMEOUT_S))
    process.kill()
    began = time.monotonic()
    status, text = device.machine.sh(f"dd if={DEVICE} of=/dev/null bs=4k count=1 iflag=direct")
    assert status != 0
    assert "Input/output error" in text
    assert time.monotonic() - began > TIMEOUT_S - 1
    process.start()


def test_a_server_that_comes_back_with_another_size(device: Device, process: Process) -> None:
    """The server returns with a larger disk: so is the device; with a smaller one: it is ended"""
    device.attach(process.port, "--dead-connection-timeout", "60")
    device.hold()
    process.kill()
    process.start(SIZE * 2)
    device.until(f"[ $(cat /sys/block/{NAME}/size) = {SIZE * 2 // 512} ]")
    process.kill()
    process.start(SIZE)
    device.until(f"grep -q :status:1 {LOG}")
    assert f"the export has only {SIZE} bytes now, the device has {SIZE * 2}" in device.said()
    _assert_ended(device)


def test_a_size_that_changes_while_it_is_served(
    device: Device, exports: MemoryExports, server: Served
) -> None:
    """resize: an attached device grows while it is used, and never shrinks"""
    disk = exports.disks["memory"]

    def resized(size: int) -> Callable[[], None]:
        def change() -> None:
            disk.geometry = replace(disk.geometry, size=size)

        return change

    server.run(resized(SMALL))
    device.attach(server.port)
    machine = device.machine
    assert device.size == SMALL
    machine.check(f"mkfs.ext4 -q {DEVICE} && mount -t ext4 {DEVICE} /mnt", 60)
    try:
        server.run(resized(SIZE))
        machine.check(f"kill -WINCH {device.pid}")
        device.until(f"[ $(cat /sys/block/{NAME}/size) = {SIZE // 512} ]")
        beyond = f"bs=64k seek={SMALL >> 16} count=4"
        machine.check(
            f"dd if=/dev/urandom of=/run/data bs=64k count=4; "
            f"dd if=/run/data of={DEVICE} {beyond} oflag=direct conv=notrunc; "
            f"dd if={DEVICE} bs=64k skip={SMALL >> 16} count=4 iflag=direct | "
            "cmp - /run/data"
        )
        server.run(resized(SMALL))
        machine.check(f"kill -WINCH {device.pid}")
        device.until(f"grep -q 'keeps its size' {LOG}")
        assert device.size == SIZE
    finally:
        machine.sh("umount /mnt")


def test_a_server_that_refuses_ends_the_device(
    device: Device, exports: MemoryExports, server: Served
) -> None:
    """A server that says no ends the device at once; one that says "later" is asked again"""
    device.attach(server.port)
    device.hold()

    def refuse(later: bool) -> Callable[[], object]:
        def change() -> object:
            exports.refusal = Refused("this node is not Primary", later=later)
            return server.server.drop(lambda name: True)

        return change

    server.run(refuse(later=True))
    machine = device.machine
    machine.check(
        f"(dd if={DEVICE} of=/dev/null bs=4k count=1 iflag=direct; echo read=$?) "
        "> /run/dd.out 2>&1 & sleep 1; [ ! -s /run/dd.out ]"
    )
    exports.refusal = None
    machine.check(
        "for i in $(seq 300); do grep -q read=0 /run/dd.out && exit 0; sleep 0.1; done; "
        "cat /run/dd.out; exit 1"
    )
    server.run(refuse(later=False))
    device.until(f"grep -q :status:1 {LOG}")
    ended = f"{DEVICE} was ended, its users get errors: it is served no more: this node is not"
    assert ended in device.said()
    _assert_ended(device)
