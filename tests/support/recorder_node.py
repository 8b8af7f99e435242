"""A node that only remembers: for tests of the ports of the simulator."""

from __future__ import annotations

from typing import Any

from replblk.engine.ports import Ports


class RecorderNode:
    """Notes every event as (name, arguments); acts only when a test uses its ``ports``."""

    def __init__(self, resource: object, settings: object, ports: Ports) -> None:
        self.ports = ports
        self.events: list[tuple[Any, ...]] = []
        self.steps = 0

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("on_"):
            raise AttributeError(name)
        return lambda *args: self.events.append((name.removeprefix("on_"), *args))

    def on_disk_answers(self, answers: list[tuple[Any, ...]]) -> None:
        """One event for each operation, by the name disk_done: number, errno, data."""
        self.events += [("disk_done", *answer) for answer in answers]

    def step(self) -> None:
        """Nothing to do."""
        self.steps += 1

    def of(self, name: str) -> list[tuple[Any, ...]]:
        """Arguments of every event of that name."""
        return [event[1:] for event in self.events if event[0] == name]

    def received(self, link: int) -> bytes:
        """All bytes of a link."""
        return b"".join(data for at, data in self.of("link_bytes") if at == link)
