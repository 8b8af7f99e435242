"""Log lines carry DRBD's phrases, keep to one line, and do not flood."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from replblk.model.notices import Level, StateChanged, Told
from replblk.model.state import State
from replblk.model.vocabulary import DiskState, Role
from replblk.shell.logs import REPEATS_MAX, WINDOW_S, LogObserver, RepeatLimit, start_logging
from tests.unit.shell.builders import resource


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    start_logging("info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_state_change_reads_as_drbds(lines: io.StringIO) -> None:
    old = State(role=Role.SECONDARY, disk=DiskState.UP_TO_DATE)
    LogObserver(resource()).notice(StateChanged(0, old, old.but(role=Role.PRIMARY), "command"))
    text = lines.getvalue()
    assert text.endswith(" info block drbd5: role( Secondary -> Primary ) [command]\n")


def test_a_sentence_about_the_resource_names_it(lines: io.StringIO) -> None:
    observer = LogObserver(resource())
    observer.notice(Told(Level.ERROR, "Split-Brain detected, dropping connection!"))
    observer.notice(Told(Level.DEBUG, "not shown at this level"))
    [line] = lines.getvalue().splitlines()
    assert line.endswith(" error drbd r0: Split-Brain detected, dropping connection!")


def test_a_notice_stays_on_one_line(lines: io.StringIO) -> None:
    LogObserver(resource()).notice(Told(Level.INFO, "name\nblock drbd0: forged", 0))
    assert len(lines.getvalue().splitlines()) == 1


def test_the_same_text_is_written_a_few_times_and_then_counted() -> None:
    now_s = 0.0
    limit = RepeatLimit(lambda: now_s)

    def passes(text: str) -> str | None:
        record = logging.LogRecord("x", 20, "", 0, text, (), None)
        return record.getMessage() if limit.filter(record) else None

    assert [passes("again") for _ in range(REPEATS_MAX)] == ["again"] * REPEATS_MAX
    assert [passes("again") for _ in range(7)] == [None] * 7
    assert passes("another") == "another"
    now_s = WINDOW_S
    assert passes("again") == "again (and 7 more like this)"
    assert passes("again") == "again"


def test_the_limit_remembers_only_so_many_texts() -> None:
    limit = RepeatLimit(lambda: 0.0)
    for number in range(10_000):
        limit.filter(logging.LogRecord("x", 20, "", 0, f"text {number}", (), None))
    assert len(limit._seen) < 1000
