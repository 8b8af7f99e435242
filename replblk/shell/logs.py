"""Notices as log lines in DRBD's phrases, on stderr: ``block drbd0: ...`` and ``drbd r0: ...``.

    2026-11-21T06:24:25.046+00:00 info block drbd0: disk( Attaching -> UpToDate ) [attach]

The phrase that people search for stays as DRBD has it; the reason follows in brackets. One text is
written at most ``REPEATS_MAX`` times in ``WINDOW_S`` seconds; the next line with the same text
after that says how many were left out. Everything goes through ``logging``, so that the NBD
server's own lines keep the same form, level and limit.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TextIO

from replblk.engine.ports import Observer
from replblk.model.config import Resource
from replblk.model.notices import Level, Notice, SizeChanged, StateChanged, Told

REPEATS_MAX = 5
WINDOW_S = 30.0
TEXTS_MAX = 512
"""Texts remembered for the limit; the oldest is forgotten first."""

LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}

logger = logging.getLogger("replblk")


class LogObserver:
    """``engine.ports.Observer``: writes every notice of one resource to the log."""

    def __init__(self, resource: Resource) -> None:
        self._resource = f"drbd {resource.name}"
        self._devices = {
            volume.number: f"block drbd{volume.minor}" for volume in resource.local.volumes
        }

    def notice(self, notice: Notice) -> None:
        """One line for a notice."""
        if isinstance(notice, Told):
            self._write(notice.level, notice.volume, notice.text)
        elif isinstance(notice, StateChanged) and (change := notice.old.difference(notice.new)):
            why = f" [{notice.why}]" if notice.why else ""
            self._write(Level.INFO, notice.volume, change + why)

    def warn(self, text: str) -> None:
        """A warning about the resource, from a port."""
        self._write(Level.WARNING, None, text)

    def info(self, text: str) -> None:
        """A plain line about the resource, from the shell."""
        self._write(Level.INFO, None, text)

    def _write(self, level: int, volume: int | None, text: str) -> None:
        if volume is None:
            subject = self._resource
        else:
            subject = self._devices.get(volume, f"{self._resource}/{volume}")
        # One notice, one line, whatever a peer or a path put into the text.
        logger.log(level, "%s: %s", subject, " ".join(text.splitlines()))


class Observers:
    """``engine.ports.Observer``: passes every notice on to several, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def notice(self, notice: Notice) -> None:
        """Pass it on."""
        for observer in self._observers:
            observer.notice(notice)


class SizeObserver:
    """``engine.ports.Observer``: tells those who show the device when it gets another size.

    told: called with volume, old and new size in bytes, inside the node's step; they may ask the
    node, but not change it. An NBD export follows so, and whoever made a block device of it may.
    """

    def __init__(self) -> None:
        self.told: list[Callable[[int, int, int], None]] = []

    def notice(self, notice: Notice) -> None:
        """Pass a change of size on."""
        if isinstance(notice, SizeChanged):
            for told in self.told:
                told(notice.volume, notice.old_sectors * 512, notice.new_sectors * 512)


class RepeatLimit(logging.Filter):
    """Lets one text pass a few times in a while."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._seen: OrderedDict[str, list[float]] = OrderedDict()  # text: start, count

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is written; adds what was left out before it."""
        if record.exc_info:
            return True
        text = record.getMessage()
        now_s = self._now_s()
        seen = self._seen.get(text)
        if seen is None or now_s - seen[0] >= WINDOW_S:
            if seen is not None and seen[1] > REPEATS_MAX:
                left_out = int(seen[1]) - REPEATS_MAX
                record.msg, record.args = f"{text} (and {left_out} more like this)", ()
            self._seen[text] = [now_s, 1]
            self._seen.move_to_end(text)
            if len(self._seen) > TEXTS_MAX:
                self._seen.popitem(last=False)
            return True
        seen[1] += 1
        return seen[1] <= REPEATS_MAX


class LineFormat(logging.Formatter):
    """Time with offset, level in small letters, text."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and the traceback below it if there is one."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = f"{at} {record.levelname.lower()} {record.getMessage()}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def start_logging(level: str, stream: TextIO | None = None) -> None:
    """Send all log lines of the process from *level* up to *stream* (stderr)."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormat())
    handler.addFilter(RepeatLimit())
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(LEVELS[level])
