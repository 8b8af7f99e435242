"""A configuration from a text, as one node sees it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from replblk.admin.resolve import Configuration, load


@pytest.fixture
def loaded(tmp_path: Path) -> Callable[..., Configuration]:
    """Writes a text to t.conf and loads it, as node alpha unless told otherwise."""

    def load_text(text: str, node: str = "alpha", **more: Any) -> Configuration:
        file = tmp_path / "t.conf"
        file.write_text(text)
        return load(file, node=node, **more)

    return load_text
