"""What the tests against the kernel share: guests, pairs of nodes, the table of results.

With $REPLBLK_INTEROP_TABLE set, the results are written there as a table, between its markers.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.kernel.capture import complaints, write_capture
from tests.interop.kernel.guest import Guest
from tests.interop.kernel.packages import SetupError, missing_programs
from tests.interop.kernel.pair import DISK_BYTES, Pair
from tests.interop.kernel.recorder import Talk
from tests.interop.kernel.table import ROW, Table, row_of
from tests.interop.nbd_guest import NbdGuest
from tests.support.tools import need

OUTCOME = pytest.StashKey[dict[str, bool]]()


def pytest_configure(config: pytest.Config) -> None:
    """The markers of this folder."""
    config.addinivalue_line("markers", "disk_bytes(size): size of both backing disks")
    where = os.environ.get("REPLBLK_INTEROP_TABLE")
    if where and not hasattr(config, "workerinput"):  # one table, whatever number of processes
        config.pluginmanager.register(Table(Path(where)))


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):
    """Remember how a test went, for its fixtures and for the table."""
    outcome = yield
    report = outcome.get_result()
    item.stash.setdefault(OUTCOME, {})[report.when] = report.passed
    scenario = {"pair", "machine"} & set(getattr(item, "fixturenames", ()))
    if scenario and (report.when == "call" or report.failed):
        report.user_properties.append((ROW, row_of(item)))


@pytest.fixture(scope="session")
def lab() -> None:
    """All that the guests need is there, or the reason why not."""
    need(*missing_programs())
    from tests.interop.kernel.initramfs import prepared

    try:
        prepared()
    except SetupError as error:
        reason = f"no guest can be prepared ('make interop' does it): {error}"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def guest(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    """A machine for all tests of a module; each test gives it an empty disk."""
    with Guest(tmp_path_factory.mktemp("guest"), DISK_BYTES) as machine:
        yield machine


@pytest.fixture(scope="session")
def machine(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NbdGuest]:
    """A machine for what needs the kernel's NBD; a test leaves none of its devices behind."""
    with NbdGuest(tmp_path_factory.mktemp("nbd"), 1 << 20) as made:
        yield made


@pytest.fixture(scope="module")
def streams(lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Talk]]:
    """Whatever is recorded in a module: in the end tshark must find nothing malformed in it."""
    talks: list[Talk] = []
    yield talks
    path = tmp_path_factory.mktemp("capture") / "streams.pcap"
    if write_capture(path, talks):
        assert not complaints(path)


@pytest.fixture
def side() -> str:
    """Which node is the first: parametrized by most tests."""
    return "kernel"


@pytest.fixture
def pair(
    guest: Guest, streams: list[Talk], side: str, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Pair]:
    """The kernel and replblk on empty disks, configured by the test."""
    mark = request.node.get_closest_marker("disk_bytes")
    folder = Path(f"/tmp/ri-{os.getpid()}") / tmp_path.name[-12:]
    made = Pair(guest, folder, side, mark.args[0] if mark else DISK_BYTES)
    yield made
    if not request.node.stash.get(OUTCOME, {}).get("call", False):
        print(made.story())
    if made.dissected:
        streams += made.talks
    made.close()
    shutil.rmtree(folder)
