"""A client with several addresses: it writes and reads back, and when its connection ends it tries
the next address, repeating what was not answered. As libnbd's users, multipath and relays do."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from nbd.client import Client, NbdError

BLOCK = 4096
BLOCKS = 512
RETRY_S = 0.002


class WanderingClient(threading.Thread):
    """errors: what a server *answered* to a request; refusals at the door are no errors."""

    def __init__(self, addresses: list[str | tuple[str, int]], export: str = "0") -> None:
        super().__init__(daemon=True)
        self.addresses = addresses
        self.export = export
        self.errors: list[str] = []
        self.acknowledged: dict[int, int] = {}
        self.gaps_s: list[float] = []
        """Between the last answer of one connection and the first of the next."""
        self.ending = False
        self.number = 0
        self._last = 0.0

    def run(self) -> None:
        turn = 0
        while not self.ending and not self.errors:
            try:
                with Client.connect(self.addresses[turn % len(self.addresses)]) as client:
                    client.open(self.export)
                    self._write(client)
            except NbdError:
                turn += 1
                time.sleep(RETRY_S)

    def _write(self, client: Client) -> None:
        first = True
        while not self.ending:
            at = self.number % BLOCKS
            try:
                client.write(at * BLOCK, content(self.number))
                found = client.read(at * BLOCK, BLOCK)
            except NbdError as bad:
                if bad.code is not None:
                    self.errors.append(str(bad))
                raise
            now = time.monotonic()
            if first and self._last:
                self.gaps_s.append(now - self._last)
            first, self._last = False, now
            self.acknowledged[at] = self.number
            if found != content(self.number):
                self.errors.append(f"block {at} does not hold write {self.number}")
                return
            self.number += 1
        client.disc()

    def lost_on(self, image: Path) -> list[int]:
        """Acknowledged writes that a disk does not hold (nor anything newer in their place)."""
        data = image.read_bytes()
        return [
            number
            for at, number in self.acknowledged.items()
            if int.from_bytes(data[at * BLOCK : at * BLOCK + 8], "big") < number
        ]


def content(number: int) -> bytes:
    """What write *number* leaves."""
    return number.to_bytes(8, "big") * (BLOCK // 8)
