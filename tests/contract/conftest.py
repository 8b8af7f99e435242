"""Each contract test runs once for every world that has the port."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.rigs import (
    CLOCK_RIGS,
    DISK_RIGS,
    HANDLER_RIGS,
    LINK_RIGS,
    ClockRig,
    DiskRig,
    HandlerRig,
    LinkRig,
)

DISK_BYTES = 64 << 20
_ports = itertools.count(17788)


@pytest.fixture(params=sorted(DISK_RIGS))
def disk_rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DiskRig]:
    with DISK_RIGS[request.param](tmp_path, DISK_BYTES) as rig:
        yield rig


@pytest.fixture(params=sorted(LINK_RIGS))
def link_rig(request: pytest.FixtureRequest) -> Iterator[LinkRig]:
    with LINK_RIGS[request.param](next(_ports)) as rig:
        yield rig


@pytest.fixture(params=sorted(HANDLER_RIGS))
def handler_rig(request: pytest.FixtureRequest) -> Iterator[HandlerRig]:
    with HANDLER_RIGS[request.param]() as rig:
        yield rig


@pytest.fixture(params=sorted(CLOCK_RIGS))
def clock_rig(request: pytest.FixtureRequest) -> Iterator[ClockRig]:
    with CLOCK_RIGS[request.param]() as rig:
        yield rig
