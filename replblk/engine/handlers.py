"""Calls the handlers of the configuration as DRBD calls them, one after the other for each volume.

A handler is a shell command of ``handlers { }``. It is told by its environment what it is about;
the metadata it may look at is durable before it starts. Those of one volume wait for each other,
those of the resource (fence-peer, unfence-peer) have a queue of their own. A handler that is not
configured ends well at once, as ``drbdadm HANDLER`` does. Source: states, handlers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from replblk.engine.ports import HandlerCall
from replblk.model.notices import Level

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.model.config import Resource, VolumeConfig

TIMEOUT_S: Final = 600
"""How long a handler may take: drbdadm's patience (cmd-timeout-long)."""
BROKEN: Final = 127
"""The exit status of a handler that did not end by itself: what the shell says of one not found."""
_RESOURCE: Final = -1

Then = Callable[[int], None]


def environment(resource: Resource, volume: VolumeConfig | None) -> tuple[tuple[str, str], ...]:
    """What a handler finds in its environment; volume None: it is about the whole resource."""
    values = {"DRBD_RESOURCE": resource.name, "DRBD_CONF": resource.config_file}
    peer = resource.peer
    if peer is not None:
        values |= {
            "DRBD_PEER_AF": peer.address.family,
            "DRBD_PEER_ADDRESS": peer.address.host,
            "DRBD_PEER": peer.names[0],
            "DRBD_PEERS": " ".join(peer.names),
        }
    if volume is None:
        values["DRBD_MINOR"] = " ".join(str(v.minor) for v in resource.local.volumes)
    else:
        values |= {
            "DRBD_MINOR": str(volume.minor),
            "DRBD_VOLUME": str(volume.number),
            "DRBD_LL_DISK": volume.disk,
        }
    return tuple(values.items())


class HandlerCalls:
    """Every handler that runs or waits for its turn."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._number = 0
        self._queues: dict[int, deque[Callable[[], None]]] = {}
        self._running: dict[int, tuple[int, str, Then]] = {}

    def configured(self, name: str) -> bool:
        """Whether there is a command for that event."""
        return bool(self._ctx.resource.handlers.get(name))

    def call(self, name: str, volume: Volume | None = None, then: Then | None = None) -> None:
        """Run a handler; *then* gets its exit status, at once if there is none (0)."""
        after = then if then is not None else _ignore
        command = self._ctx.resource.handlers.get(name)
        if not command:
            after(0)
            return
        lane = volume.number if volume is not None else _RESOURCE
        queue = self._queues.setdefault(lane, deque())
        queue.append(lambda: self._prepare(lane, name, command, volume, after))
        if len(queue) == 1:
            queue[0]()

    def _prepare(
        self, lane: int, name: str, command: str, volume: Volume | None, then: Then
    ) -> None:
        """Metadata durable first; a disk that fails meanwhile does not hold the handler up."""
        concerned = [volume] if volume is not None else list(self._ctx.volumes.values())
        metas = [v.meta for v in concerned if v.meta is not None and v.has_disk]
        left = len(metas)

        def synced(_: bool) -> None:
            nonlocal left
            left -= 1
            if not left:
                self._start(lane, name, command, volume, then)

        for meta in metas:
            meta.sync(synced)
        if not metas:
            self._start(lane, name, command, volume, then)

    def _start(self, lane: int, name: str, command: str, volume: Volume | None, then: Then) -> None:
        self._number += 1
        self._running[self._number] = (lane, name, then)
        config = volume.config if volume is not None else None
        self._ctx.tell(Level.INFO, f"helper command: {self._title(lane, name)}", _shown(lane))
        call = HandlerCall(name, command, environment(self._ctx.resource, config), TIMEOUT_S)
        self._ctx.ports.handlers.call(self._number, call)

    def _title(self, lane: int, name: str) -> str:
        if lane == _RESOURCE:
            return f"{name} {self._ctx.resource.name}"
        return f"{name} minor-{self._ctx.volumes[lane].config.minor}"

    def done(self, number: int, exit_code: int, trouble: str) -> None:
        """The answer of the port."""
        lane, name, then = self._running.pop(number)
        title = self._title(lane, name)
        if trouble:
            exit_code = BROKEN
            self._ctx.tell(
                Level.ERROR,
                f"helper command: {title}: {trouble}; look at handlers {{ {name} }} of "
                f"{self._ctx.resource.config_file or 'the configuration'}",
                _shown(lane),
            )
        else:
            self._ctx.tell(
                Level.INFO,
                f"helper command: {title} exit code {exit_code} ({exit_code << 8:#x})",
                _shown(lane),
            )
        then(exit_code)  # what this calls in turn waits behind those that wait already
        queue = self._queues[lane]
        queue.popleft()
        if queue:
            queue[0]()


def _shown(lane: int) -> int | None:
    return None if lane == _RESOURCE else lane


def _ignore(exit_code: int) -> None:
    """Most handlers only tell somebody."""
