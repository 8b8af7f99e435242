"""What a node tells its observers: one stream that logs, events, metrics and checkers all read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from replblk.model.state import State


class Level(IntEnum):
    """How loud a notice is; the numbers are those of Python's logging."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


@dataclass(frozen=True, slots=True)
class Told:
    """A sentence for the log. volume: None for the whole resource."""

    level: Level
    text: str
    volume: int | None = None


@dataclass(frozen=True, slots=True)
class StateChanged:
    """A volume went from *old* to *new*; why: the event that led to it, for people."""

    volume: int
    old: State
    new: State
    why: str


@dataclass(frozen=True, slots=True)
class SizeChanged:
    """The device has another size for its clients from now on. Sizes in 512-byte sectors."""

    volume: int
    old_sectors: int
    new_sectors: int


Notice = Told | StateChanged | SizeChanged
