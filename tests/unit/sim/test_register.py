"""The register model allows what a correct device may do, and nothing else."""

from __future__ import annotations

import pytest

from replblk.sim.register import ZERO, Register, sector_content, value_of
from replblk.sim.world import SimulationError

ONE = range(7, 8)


def _write(register: Register, number: int, *, certain: bool = True) -> None:
    register.end_write(register.begin_write(number, 0, ONE), certain=certain)


def _read(register: Register, value: int) -> None:
    register.end_read(register.tick(), 0, 7, value)


def test_a_sector_names_its_write_and_its_place() -> None:
    assert value_of(sector_content(41, 7), 7) == 41
    assert value_of(bytes(512), 7) == ZERO


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (sector_content(1, 7)[:256] + sector_content(2, 7)[256:], "torn"),
        (sector_content(1, 8), "holds sector 8"),
        (b"\x01" * 512, "nobody wrote"),
    ],
)
def test_torn_misplaced_and_foreign_sectors_are_seen(data: bytes, complaint: str) -> None:
    with pytest.raises(SimulationError, match=complaint):
        value_of(data, 7)


def test_a_read_returns_the_last_acknowledged_write() -> None:
    register = Register()
    _write(register, 1)
    _write(register, 2)
    _read(register, 2)
    with pytest.raises(SimulationError, match="I3"):
        _read(register, 1)


def test_a_lost_acknowledged_write_is_seen() -> None:
    register = Register()
    _write(register, 1)
    assert register.expected(0, 7) == [1]
    with pytest.raises(SimulationError, match="I3"):
        _read(register, ZERO)


def test_a_read_may_return_a_write_that_runs_or_what_was_before_it() -> None:
    register = Register()
    _write(register, 1)
    running = register.begin_write(2, 0, ONE)
    assert register.expected(0, 7) == [1, 2]
    begin = register.tick()
    register.end_write(running, certain=True)
    register.end_read(begin, 0, 7, 1)
    _read(register, 2)


def test_of_two_overlapping_writes_either_may_be_the_last() -> None:
    register = Register()
    first, second = register.begin_write(1, 0, ONE), register.begin_write(2, 0, ONE)
    register.end_write(second, certain=True)
    register.end_write(first, certain=True)
    assert register.expected(0, 7) == [1, 2]
    _read(register, 1)
    assert register.expected(0, 7) == [1]


@pytest.mark.parametrize("settled", [1, 2])
def test_a_write_in_doubt_settles_at_the_first_read(settled: int) -> None:
    register = Register()
    _write(register, 1)
    _write(register, 2, certain=False)
    assert register.expected(0, 7) == [1, 2]
    _read(register, settled)
    with pytest.raises(SimulationError, match="I3"):
        _read(register, 3 - settled)


def test_a_write_in_doubt_is_history_once_another_was_acknowledged() -> None:
    register = Register()
    _write(register, 1, certain=False)
    _write(register, 2)
    assert register.expected(0, 7) == [2]


@pytest.mark.parametrize(("fua_covers", "safe"), [(True, [2]), (False, [1, 2])])
def test_where_the_peer_may_lag_behind_fua_is_safe_on_one_node_only(
    fua_covers: bool, safe: list[int]
) -> None:
    register = Register()
    _write(register, 1)
    register.weak, register.fua_covers = True, fua_covers
    register.end_write(register.begin_write(2, 0, ONE), certain=True, fua=True)
    assert register.expected(0, 7) == [2]
    register.shake()
    assert register.expected(0, 7) == safe
    register.end_write(register.begin_write(3, 0, ONE), certain=True, fua=True)
    register.flushed(0, register.tick())
    register.shake()
    assert register.expected(0, 7) == [3]


def test_a_trim_leaves_zeroes_or_what_was_there() -> None:
    register = Register()
    _write(register, 1)
    trim = register.begin_write(2, 0, ONE, zero=True)
    register.end_write(trim, certain=False)
    assert register.expected(0, 7) == [ZERO, 1]


def test_a_fork_goes_its_own_way() -> None:
    register = Register()
    _write(register, 1)
    running = register.begin_write(2, 0, ONE)
    other = register.fork()
    register.end_write(running, certain=True)
    assert register.expected(0, 7) == [2]
    assert other.expected(0, 7) == [1, 2], "on the other node nobody ever told"
    _write(other, 3)
    assert other.expected(0, 7) == [3]
    assert register.expected(0, 7) == [2]


def test_a_sector_that_nobody_wrote_reads_as_zeroes() -> None:
    register = Register()
    _read(register, ZERO)
    with pytest.raises(SimulationError, match="I3"):
        _read(register, 5)


def test_what_a_failed_write_left_may_be_seen_and_go_with_the_power() -> None:
    register = Register()
    _write(register, 1)
    failed = register.begin_write(2, 0, ONE)
    register.end_write(failed, certain=False, failed=True)
    _read(register, 2)
    assert register.expected(0, 7) == [2], "the disk is on: no older value comes back"
    register.lose_failed()
    assert register.expected(0, 7) == [1, 2]
    _write(register, 3)
    register.lose_failed()
    assert register.expected(0, 7) == [3], "what was acknowledged stays, as everywhere"


def test_a_write_in_doubt_that_did_not_fail_stays_settled_by_a_read() -> None:
    register = Register()
    _write(register, 1)
    _write(register, 2, certain=False)
    _read(register, 2)
    register.lose_failed()
    assert register.expected(0, 7) == [2]
