"""Which event loop this package's programs run on: uvloop's where it is installed."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable


def fastest() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's loop factory where it is installed, None (asyncio's own) elsewhere."""
    if importlib.util.find_spec("uvloop") is None:
        return None
    import uvloop

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
