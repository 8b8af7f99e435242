"""A little of ``make link-faults``: a real link that breaks, falls silent or spoils a block."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.link_faults import LinkFaults
from tests.processes.link_proxy import Trouble
from tests.support.site import free_port


@pytest.mark.parametrize(
    "story",
    [
        [("half", "alpha", "data"), ("one way", "beta", "meta")],
        [("pieces", "alpha", "data"), ("flip", "alpha", "data")],
    ],
)
def test_no_client_notices_and_nothing_is_lost(
    tmp_path: Path, story: list[tuple[str, str, str]]
) -> None:
    faults = LinkFaults(tmp_path, free_port(), seed=1)
    try:
        faults.start()
        for kind, sender, sock in story:
            faults.round(Trouble(kind=kind, sender=sender, sock=sock, at=20))
    finally:
        faults.end()
    assert sum(faults.counts.values()) == len(story)
