"""Requests to the kernel, byte for byte, and what is said where the kernel has no NBD devices."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from nbd import netlink
from nbd.netlink import (
    CONNECT,
    DISCONNECT,
    RECONFIGURE,
    STATUS,
    DeathNotices,
    KernelError,
    Shape,
    dead_link,
    message,
)
from nbd.sysfs import LinkExistsError, make_link, remove_link, used_by

HEADER_BYTES = 16
little = pytest.mark.skipif(sys.byteorder != "little", reason="netlink has the host's byte order")


def encoded(command: int, descriptors: tuple[int, ...], attributes: dict[str, object]) -> str:
    made = message(command, descriptors, attributes)
    made.encode()
    return bytes(made.data[HEADER_BYTES:]).hex()


@little
def test_connect_byte_for_byte() -> None:
    """Source: linux/nbd-netlink.h; recorded from a kernel that accepted it."""
    attributes = {
        "INDEX": 0,
        "SIZE_BYTES": 10 << 20,
        "BLOCK_SIZE_BYTES": 4096,
        "SERVER_FLAGS": 0x12D,
        "TIMEOUT": 30,
        "DEAD_CONN_TIMEOUT": 3600,
        "CLIENT_FLAGS": 0,
        "BACKEND_IDENTIFIER": "r0/0",
    }
    expected = """
        01010000 0800 0100 00000000  0c00 0200 0000a00000000000  0c00 0300 0010000000000000
        0c00 0500 2d01000000000000  0c00 0400 1e00000000000000  0c00 0800 100e000000000000
        0c00 0600 0000000000000000  0900 0a00 72302f30 00 000000
        1c00 0700 0c00 0100 0800 0100 05000000 0c00 0100 0800 0100 06000000
    """
    assert encoded(CONNECT, (5, 6), attributes) == "".join(expected.split())


@little
@pytest.mark.parametrize(
    ("command", "descriptors", "attributes", "expected"),
    [
        (DISCONNECT, (), {"INDEX": 3}, "02010000 0800 0100 03000000"),
        (
            RECONFIGURE,
            (7,),
            {"INDEX": 3},
            "03010000 0800 0100 03000000 1000 0700 0c00 0100 0800 0100 07000000",
        ),
        (STATUS, (), {}, "05010000"),
    ],
)
def test_the_other_requests_byte_for_byte(
    command: int, descriptors: tuple[int, ...], attributes: dict[str, object], expected: str
) -> None:
    assert encoded(command, descriptors, attributes) == expected.replace(" ", "")


@little
def test_the_kernels_notice_of_a_dead_connection() -> None:
    """As recorded: NBD_CMD_LINK_DEAD with the device's index; STATUS is no such notice."""
    notice = "1c000000 1500 0000 00000000 00000000 04010000 0800 0100 05000000"
    assert dead_link(bytes.fromhex(notice)) == 5
    assert dead_link(bytes.fromhex(notice.replace("0401", "0501"))) is None
    assert dead_link(bytes.fromhex("14000000 1500 0000 00000000 00000000 04010000")) is None


@pytest.mark.parametrize(("number", "lives"), [(0, True), (errno.EINVAL, False)])
def test_a_device_that_was_ended_takes_no_connections(
    monkeypatch: pytest.MonkeyPatch, number: int, lives: bool
) -> None:
    def exchange(command: int, descriptors: object, attributes: dict[str, object]) -> list[object]:
        assert command == RECONFIGURE
        assert attributes == {"INDEX": 3, "BACKEND_IDENTIFIER": "r0/0"}, "it changes nothing"
        if number:
            raise KernelError("no", number)
        return []

    monkeypatch.setattr(netlink, "_exchange", exchange)
    assert netlink.alive(3, "r0/0") is lives


def test_whoever_may_not_ask_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def exchange(command: int, descriptors: object, attributes: object) -> list[object]:
        raise KernelError("needs CAP_SYS_ADMIN", errno.EPERM)

    monkeypatch.setattr(netlink, "_exchange", exchange)
    with pytest.raises(KernelError, match="CAP_SYS_ADMIN"):
        netlink.alive(3, "r0/0")


def test_a_reconfiguration_leaves_the_queues_timeout_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Setting TIMEOUT again would put the queue's io_timeout back to 30 s, and every request that
    was in flight when the connection died would wait as long."""
    asked: list[dict[str, object]] = []

    def exchange(command: int, descriptors: object, attributes: dict[str, object]) -> list[object]:
        asked.append(attributes)
        return []

    monkeypatch.setattr(netlink, "_exchange", exchange)
    netlink.reconfigure(0, [5], Shape(1 << 20, 4096, 1, "r0/0"))
    assert "TIMEOUT" not in asked[0]
    assert asked[0]["SIZE_BYTES"] == 1 << 20, "else a device that was resized would shrink back"
    assert asked[0]["BACKEND_IDENTIFIER"] == "r0/0"


@pytest.mark.skipif(Path("/sys/module/nbd").exists(), reason="this kernel has NBD devices")
def test_a_kernel_without_nbd_is_told() -> None:
    with pytest.raises(KernelError, match="modprobe nbd") as told:
        netlink.disconnect(0)
    with pytest.raises(KernelError, match="modprobe nbd"):
        DeathNotices()
    assert told.value.errno == errno.ENOENT


def test_links_are_made_replaced_and_removed_and_nothing_else_is(tmp_path: Path) -> None:
    link = tmp_path / "by-res" / "r0" / "0"
    make_link(link, "/dev/nbd0")
    make_link(link, "/dev/nbd1")
    assert str(link.readlink()) == "/dev/nbd1"
    remove_link(link, "/dev/nbd0")
    assert link.is_symlink(), "it is somebody else's"
    remove_link(link, "/dev/nbd1")
    remove_link(link, "/dev/nbd1")
    assert not link.is_symlink()
    link.write_text("a file")
    with pytest.raises(LinkExistsError):
        make_link(link, "/dev/nbd0")
    remove_link(link, "/dev/nbd0")
    assert link.read_text() == "a file"


def test_a_device_that_is_not_there_is_used_by_nobody() -> None:
    assert used_by("nbd-that-is-not-there") == ""
