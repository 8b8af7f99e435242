"""Roles go to and fro between the kernel and replblk; refusals are the same on both."""

from __future__ import annotations

import threading

import pytest

from tests.interop.kernel.nodes import (
    KernelNode,
    Node,
    ReplblkNode,
    check,
    number,
    pattern,
    wait,
    wait_both,
)
from tests.interop.kernel.pair import Pair

sides = pytest.mark.parametrize("side", ["kernel", "replblk"])
KIB, MIB = 1 << 10, 1 << 20


def test_roles_change_a_dozen_times_under_load(pair: Pair) -> None:
    """Each Primary writes until it steps down, twelve times"""
    pair.in_sync()
    primary: Node = pair.kernel
    secondary: Node = pair.replblk
    for turn in range(12):
        writer = threading.Thread(
            target=primary.fio,
            args=(
                *("--rw=randwrite", "--bs=4k", f"--offset={turn % 6}m", "--size=1m"),
                *("--iodepth=8", "--verify=crc32c", "--do_verify=0"),
            ),
        )
        writer.start()
        status, text = secondary.adm("primary")
        assert status == 11, text
        writer.join()
        primary.write(8 * MIB + turn * 8192, pattern(turn, 8192))
        check(primary, "secondary")
        check(secondary, "primary")
        wait_both(primary, secondary, "cs:Connected")
        primary, secondary = secondary, primary
    for turn in range(12):
        assert primary.read(8 * MIB + turn * 8192, 8192) == pattern(turn, 8192)
    pair.compare()


@sides
def test_a_second_primary_is_refused(pair: Pair) -> None:
    """primary where the peer is Primary already: refused with the same code and sentence"""
    pair.in_sync()
    status, text = pair.second.adm("primary")
    assert status == 11
    assert "State change failed: (-1) Multiple primaries not allowed by config" in text
    assert "ro:Secondary/Primary" in pair.second.proc()
    pair.compare()


@sides
def test_an_open_device_stays_primary(pair: Pair) -> None:
    """secondary while the device is open: refused with the same code and sentence"""
    pair.in_sync()
    if isinstance(pair.first, KernelNode):
        pair.kernel.guest.check("sleep 20 < /dev/drbd0 > /dev/null 2>&1 & sleep 0.2")
        status, text = pair.first.adm("secondary")
        pair.kernel.guest.check("killall sleep")
    else:
        with pair.replblk.device():
            status, text = pair.first.adm("secondary")
    assert status == 11
    assert "State change failed: (-12) Device is held open by someone" in text
    check(pair.first, "secondary")
    wait(pair.second, "ro:Secondary/Secondary")


@sides
def test_exactly_what_changed_apart_is_resynced(pair: Pair) -> None:
    """Graceful disconnect, writes by the Primary, connect: the bitmap holds just those blocks"""
    pair.in_sync()
    check(pair.second, "disconnect")
    wait(pair.first, "cs:WFConnection")
    blocks = 0
    for n, (offset, length) in enumerate(
        ((0, 4 * KIB), (40 * KIB, 64 * KIB), (5 * MIB + 512, 512), (7 * MIB + 2048, 8 * KIB))
    ):
        pair.first.write(offset, pattern(n, length))
        blocks += (offset + length - 1) // 4096 - offset // 4096 + 1
    assert number(pair.first, "oos") == 4 * blocks
    assert number(pair.second, "oos") == 0
    sent = number(pair.first, "ns")
    check(pair.second, "connect")
    pair.wait_in_sync()
    assert number(pair.first, "ns") - sent == 4 * blocks
    pair.compare()


@sides
def test_a_write_apart_then_the_other_disconnects(pair: Pair) -> None:
    """The Primary itself disconnects gracefully, writes, and connects again"""
    pair.in_sync()
    check(pair.first, "disconnect")
    wait(pair.second, "cs:WFConnection.*ds:(Outdated|UpToDate)/")
    pair.first.write(MIB, pattern(9, 128 * KIB))
    assert number(pair.first, "oos") == 128
    check(pair.first, "connect")
    pair.wait_in_sync()
    pair.compare()


@sides
def test_disconnected_and_nothing_written(pair: Pair) -> None:
    """Disconnect and connect with no write between: nothing is resynced"""
    pair.in_sync()
    check(pair.first, "secondary")
    check(pair.second, "disconnect")
    wait(pair.first, "cs:WFConnection")
    sent = number(pair.first, "ns"), number(pair.second, "ns")
    check(pair.second, "connect")
    pair.wait_in_sync()
    assert (number(pair.first, "ns"), number(pair.second, "ns")) == sent
    assert isinstance(pair.replblk, ReplblkNode)


@sides
def test_a_switch_over_is_refused(pair: Pair) -> None:
    """switchover, which the kernel does not know: refused with what to do, the roles stay"""
    pair.in_sync()
    to = "replblk" if pair.first is pair.kernel else "kernel"
    status, text = pair.replblk.adm("switchover", "--to", to)
    assert status == 11, text
    assert "kernel does not answer, as DRBD in the kernel" in text
    assert "ro:Primary/Secondary" in pair.first.proc()
    pair.first.write(MIB, pattern(3, 8 * KIB))
    pair.compare()
    check(pair.first, "secondary")
    check(pair.second, "primary")
    assert pair.second.read(MIB, 8 * KIB) == pattern(3, 8 * KIB)
