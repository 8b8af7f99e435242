"""Sends a volume's NBD clients away and lets them in again, when the node says so.

Clients that reconnect lose nothing: what was begun is answered, the rest they ask again, of whoever
serves then. New ones wait for their greeting meanwhile, as if the server were slow. A block device
of this machine can't go elsewhere, unless its relay can.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from nbd.server import Server

GRACE_S = 60.0
"""How long requests in flight may take, if the node does not give up before."""


class Door(Protocol):
    """What the Clients port asks."""

    def send_away(self, volume: int) -> str:
        """Let nobody in, and let those inside go; "" or why not."""

    def let_in(self, volume: int) -> None:
        """As before."""


class Doorkeeper:
    """volume_of: what an export's name means. kept_by: what of this machine keeps a volume from
    being served elsewhere, "" for nothing."""

    def __init__(
        self,
        server: Server,
        volume_of: Callable[[str], int | None],
        kept_by: Callable[[int], str],
    ) -> None:
        self._server = server
        self._volume_of = volume_of
        self._kept_by = kept_by

    def send_away(self, volume: int) -> str:
        """Let nobody in, and let those inside go."""
        if why := self._kept_by(volume):
            return why
        self._server.hold(f"volume {volume}")
        self._server.drop(lambda name: self._volume_of(name) == volume, GRACE_S, silent=True)
        return ""

    def let_in(self, volume: int) -> None:
        """Whoever waits is greeted."""
        self._server.release(f"volume {volume}")
