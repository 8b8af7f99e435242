"""Answers BLOCK_STATUS: asks an export for each context and brings its extents into wire form.

Lengths are bytes. An answer may describe less than was asked (the client asks on), never more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nbd.export import Export, Extents, ExtentsDone, ask_extents

EXTENTS_MAX = 1 << 14
"""Extents of one context in one answer: 128 KiB of reply. The protocol would allow 2^20."""

Status = dict[int, Extents]
"""Extents by context id."""
StatusDone = Callable[[int, Status], None]


def ask_status(
    export: Export,
    contexts: dict[int, str],
    offset: int,
    length: int,
    one: bool,
    done: StatusDone,
) -> None:
    """Ask for every context (id: name); *done* hears (errno, extents by id) once, when all have
    answered. one: a single extent each."""
    status: Status = {}
    left = len(contexts)
    failed = 0

    def answered(number: int, errno: int, extents: Extents | None) -> None:
        nonlocal left, failed
        left -= 1
        assert left >= 0, "an export answered extents twice"
        failed = failed or errno
        if not errno:
            status[number] = wire_extents(extents or (), length, 1 if one else EXTENTS_MAX)
        if not left:
            done(failed, status)

    for number, name in contexts.items():
        told: ExtentsDone = partial(answered, number)
        ask_extents(export, name, offset, length, told)


def wire_extents(extents: Extents, length: int, most: int) -> Extents:
    """Equal neighbours are merged, what reaches beyond *length* is cut off, *most* are kept."""
    found: list[tuple[int, int]] = []
    left = length
    for size, flags in extents:
        assert size > 0, "an export answered an empty extent"
        size = min(size, left)
        left -= size
        if found and found[-1][1] == flags:
            found[-1] = (found[-1][0] + size, flags)
        elif len(found) == most:
            break
        else:
            found.append((size, flags))
        if not left:
            break
    assert found, "an export answered no extent"
    return found
