"""A little of ``make disk-faults``: real system calls and a real ring that fail under a daemon."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from tests.processes.disk_faults import SIZE_BYTES, DiskFaults
from tests.processes.fault_disk import Fault
from tests.processes.mounted import no_devices
from tests.support.site import free_port
from tests.support.tools import need

BROKEN = Fault(op="write", action="error", first=3)
FULL = Fault(op="write", action="error", value=errno.ENOSPC, first=2, times=1)
METADATA = Fault(op="write", action="torn", first=1, start=SIZE_BYTES - (64 << 10))
NO_FLUSH = Fault(op="flush", action="error", first=2, times=1)
SHORT = Fault(op="write", action="short", first=1, times=8)
UNREADABLE = Fault(op="read", action="error", first=5)


@pytest.mark.parametrize(
    ("policy", "story"),
    [
        ("detach", [("alpha", SHORT), ("alpha", NO_FLUSH), ("beta", BROKEN)]),
        ("pass_on", [("alpha", UNREADABLE), ("beta", FULL), ("alpha", METADATA)]),
        ("call-local-io-error", [("alpha", BROKEN)]),
    ],
)
def test_a_system_call_that_fails_costs_no_client_anything(
    tmp_path: Path, policy: str, story: list[tuple[str, Fault]]
) -> None:
    need("gcc")
    faults = DiskFaults(tmp_path, free_port(), 1, policy, fuse=False)
    try:
        faults.start()
        for victim, fault in story:
            assert faults.round(victim, fault)
    finally:
        faults.end()


def test_a_request_that_fails_in_the_ring_costs_no_client_anything(tmp_path: Path) -> None:
    if why := no_devices():
        pytest.skip(why)
    need("nbdfuse")
    faults = DiskFaults(tmp_path, free_port(), 1, "detach", fuse=True)
    try:
        faults.start()
        for victim, fault in [("alpha", NO_FLUSH), ("beta", BROKEN)]:
            assert faults.round(victim, fault)
        assert "without io_uring" not in (tmp_path / "alpha.out").read_text()
    finally:
        faults.end()
