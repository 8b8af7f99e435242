"""pass_on: what the failing disk lacks is acknowledged once that disk says that it is not whole."""

from __future__ import annotations

import pytest

from replblk.model.vocabulary import OnIoError
from tests.support.lab import BLOCK, Lab

OLD, NEW = b"old." * 1024, b"new!" * 1024


@pytest.mark.parametrize("sick", ["alpha", "beta"])
@pytest.mark.parametrize("slowness", [1, 50])
@pytest.mark.parametrize("later_us", [0, 60, 200, 1000])
def test_both_lose_power_when_a_write_that_one_disk_refused_is_answered(
    sick: str, later_us: int, slowness: int
) -> None:
    """The Primary crashed: in one generation its block, the older one, would be copied over."""
    lab = Lab(disk={"on_io_error": OnIoError.PASS_ON})
    lab.up()
    lab.primary("alpha")
    lab.write("alpha", 0, OLD)
    lab.run_for(0.1)
    lab.fail(sick, "data", "write", times=1)
    lab.drive(sick).slowness = slowness  # 50: the other one has acknowledged long before
    request = lab.submit("alpha", "write", 0, BLOCK, data=NEW)
    lab.run_until(lambda: request.done, what="the answer")
    assert request.errno == 0
    lab.world.run_for(later_us * 1000)
    lab.lose_power()
    lab.in_sync()
    assert lab.on_disk("alpha", 0, BLOCK) == lab.on_disk("beta", 0, BLOCK) == NEW
