"""A client that knows what it wrote: every sector names its write, every answer is remembered.

One register (``replblk.sim.register``) judges: an acknowledged write must be there, a write in
doubt may be there or not, a sector is never torn, misplaced or older than what was read before.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from nbd.client import Client, NbdError
from replblk.sim.register import Register, Write, sector_content, value_of
from replblk.sim.store import SECTOR_BYTES

BLOCK_SECTORS = 8
DEPTH = 8


@dataclass(frozen=True)
class Logged:
    """One write: where, when it was asked for, when it was answered (0: never). Nanoseconds."""

    number: int
    first: int
    sectors: int
    issued_ns: int
    acked_ns: int


@dataclass
class Writer:
    """Writes random blocks of a device. blocks: those it uses, so that many are overwritten."""

    seed: str
    size_sectors: int
    blocks: list[int]
    register: Register = field(default_factory=Register)
    log: list[Logged] = field(default_factory=list)
    acked: int = 0
    failed: int = 0
    """Writes that were answered with an error: they may have been carried out or not."""
    _number: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def write(self, client: Client, goal: int, stop: Callable[[], bool] = lambda: False) -> bool:
        """Write until *goal* more are acknowledged, or *stop*; False if the server went away."""
        running: dict[int, tuple[Write, Logged]] = {}
        left = goal
        try:
            while (left > 0 and not stop()) or running:
                while len(running) < DEPTH and left > 0 and not stop():
                    self._submit(client, running)
                for answer in client.collect(1):
                    write, logged = running.pop(answer.cookie)
                    certain = not answer.error
                    self._ended(write, logged, certain=certain)
                    self.failed += not certain
                    left -= certain
        except (NbdError, OSError):
            for write, logged in running.values():
                self._ended(write, logged, certain=False)
            return False
        return True

    def _submit(self, client: Client, running: dict[int, tuple[Write, Logged]]) -> None:
        busy = {logged.first for _, logged in running.values()}
        block = self._chance.choice([b for b in self.blocks if b * BLOCK_SECTORS not in busy])
        first = block * BLOCK_SECTORS
        sectors = range(first, min(first + BLOCK_SECTORS, self.size_sectors))
        self._number += 1
        number = self._number
        write = self.register.begin_write(number, 0, sectors)
        logged = Logged(number, first, len(sectors), time.monotonic_ns(), 0)
        data = b"".join(sector_content(number, sector) for sector in sectors)
        try:
            running[client.submit_write(first * SECTOR_BYTES, data)] = (write, logged)
        except (NbdError, OSError):
            self._ended(write, logged, certain=False)
            raise

    def _ended(self, write: Write, logged: Logged, *, certain: bool) -> None:
        self.register.end_write(write, certain=certain)
        now = time.monotonic_ns() if certain else 0
        self.log.append(Logged(logged.number, logged.first, logged.sectors, logged.issued_ns, now))
        self.acked += certain

    def verify(self, client: Client) -> int:
        """Read every sector that was ever written; how many. Raises SimulationError."""
        count = 0
        for first in sorted({sector // BLOCK_SECTORS for _, sector in self.register.written()}):
            start = first * BLOCK_SECTORS
            sectors = min(BLOCK_SECTORS, self.size_sectors - start)
            begin = self.register.begin_read()
            data = bytes(client.read(start * SECTOR_BYTES, sectors * SECTOR_BYTES))
            self.register.forget_read(begin)
            for at in range(sectors):
                whole = data[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES]
                value = value_of(whole, start + at)
                self.register.end_read(begin, 0, start + at, value)
                count += 1
        return count
