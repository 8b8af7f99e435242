"""A checker that never fails proves nothing: each of these defects must be found within few seeds.

A defect is planted by replacing one function of the node or of the drive, as a bug would. Each has
some three times the seeds that it took when the test was written.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from replblk.engine import attach
from replblk.engine.meta_store import MetaStore
from replblk.engine.volume import Volume
from replblk.model.generation import UuidSet
from replblk.model.vocabulary import DiskState
from replblk.rules import sanitizing
from replblk.sim.options import draw
from replblk.sim.run import run_seed
from replblk.sim.store import Store
from replblk.sim.wider import draw_any


def _drive_lies_about_durability(patch: pytest.MonkeyPatch) -> None:
    write = Store.write

    def volatile(self: Store, *args: Any, durable: bool) -> None:
        write(self, *args, durable=False)

    patch.setattr(Store, "write", volatile)


def _nothing_is_marked_out_of_sync(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Volume, "mark_out_of_sync", lambda *_: 0)


def _generation_is_not_rotated(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(UuidSet, "new_current", lambda self, *_, **__: self)


def _activity_log_is_not_written(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MetaStore, "write_al", lambda self, _, told: self._ctx.defer(lambda: told(True)))


def _bitmap_is_not_written(patch: pytest.MonkeyPatch) -> None:
    def forget(self: MetaStore, told: Any = None, *_: Any, **__: Any) -> None:
        if told is not None:
            self._ctx.defer(lambda: told(True))

    patch.setattr(MetaStore, "write_bitmap", forget)


def _more_is_cleared_than_was_copied(patch: pytest.MonkeyPatch) -> None:
    clear = Volume.mark_in_sync
    patch.setattr(
        Volume, "mark_in_sync", lambda self, sector, size: clear(self, sector, size + 4096)
    )


def _data_are_not_flushed_before_the_marks_go(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(MetaStore, "settle_data", lambda self, told: told(not self.dead))


def _io_never_freezes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(sanitizing, "_alone_unfenced", lambda _: False)


def _a_lone_node_promotes_itself_unfenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(attach, "initial_disk", lambda *_: (DiskState.UP_TO_DATE, DiskState.OUTDATED))


DEFECTS = [
    (_drive_lies_about_durability, 5),
    (_nothing_is_marked_out_of_sync, 5),
    (_generation_is_not_rotated, 5),
    (_activity_log_is_not_written, 10),
    (_bitmap_is_not_written, 10),
    (_more_is_cleared_than_was_copied, 10),
]
WIDER_DEFECTS = [
    ("kernel", _data_are_not_flushed_before_the_marks_go, 12),
    ("fenced", _io_never_freezes, 6),
    ("fenced", _a_lone_node_promotes_itself_unfenced, 30),
]


@pytest.mark.parametrize(
    ("defect", "seeds"), DEFECTS, ids=[defect.__name__.strip("_") for defect, _ in DEFECTS]
)
def test_a_planted_defect_is_found(
    defect: Callable[[pytest.MonkeyPatch], None], seeds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    defect(monkeypatch)
    for seed in range(1, seeds + 1):
        if run_seed(draw(seed)).failure:
            return
    pytest.fail(f"{seeds} seeds passed in spite of the defect")


@pytest.mark.parametrize(
    ("profile", "defect", "seeds"),
    WIDER_DEFECTS,
    ids=[defect.__name__.strip("_") for _, defect, _ in WIDER_DEFECTS],
)
def test_a_planted_defect_is_found_by_a_wider_profile(
    profile: str,
    defect: Callable[[pytest.MonkeyPatch], None],
    seeds: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    defect(monkeypatch)
    for seed in range(1, seeds + 1):
        if run_seed(draw_any(seed, profile)).failure:
            return
    pytest.fail(f"{seeds} seeds passed in spite of the defect")
