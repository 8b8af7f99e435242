"""A scripted peer that connects as the DRBD kernel does: one thread, the newest socket wins.

    loop: connect (up to connect-int) -> first D, then M
          both there? sleep the check time, probe both; alive: done
          accept (up to connect-int): read the first packet (up to 4 ping-timeouts); a socket of a
          kind that is there already replaces it, then a coin: accept again, or go on

While it connects, sleeps or reads, connections pile up in the backlog. Source: protocol, connect
algorithm.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from typing import Any

from replblk.engine.ports import Ports
from replblk.model.config import Resource, Settings
from replblk.sim.world import SECOND_NS
from replblk.wire.framing import Deframer, frame
from replblk.wire.packets import Cmd
from tests.support.scripted_peer import ScriptedPeer

TENTH_NS = SECOND_NS // 10
Life = Generator[int, None, None]
"""Yields how long to sleep at most; it goes on earlier when anything happens."""


class KernelLike(ScriptedPeer):
    """The script, with the kernel's way to its two sockets."""

    def __init__(self, resource: Resource, settings: Settings, ports: Ports) -> None:
        super().__init__(resource, settings, ports)
        ports.links.listen(False)
        self.net = resource.net
        self.rounds = 0
        self.resolves_conflicts = False
        self._backlog: deque[int] = deque()
        self._bytes: dict[int, bytes] = {}
        self._dead: set[int] = set()
        self._outcome: dict[int, bool] = {}
        self._life: Life | None = None
        self._until = 0

    # -- the thread -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Become WFConnection."""
        self.data = self.meta = 0
        self.resolves_conflicts = False
        self.ports.links.listen(True)
        self._life = self._connect_loop()
        self._resume()

    def _resume(self) -> None:
        if self._life is None:
            return
        try:
            self._until = self.ports.clock.now_ns() + next(self._life)
        except StopIteration:
            self._life = None
            self.ports.links.listen(False)
            self._deframers[self.data], self._deframers[self.meta] = (
                Deframer("data"),
                Deframer("meta"),
            )
            for link in (self.data, self.meta):
                super().on_link_bytes(link, self._bytes.pop(link, b""))
            return
        self.ports.clock.wake_at(self._until)

    def _sleep(self, duration_ns: int) -> Life:
        end = self.ports.clock.now_ns() + duration_ns
        while (left := end - self.ports.clock.now_ns()) > 0:
            yield left

    def _coin(self) -> bool:
        return bool(self.ports.clock.random_bits(1))

    def _connect_loop(self) -> Life:
        links = self.ports.links
        while True:
            self.rounds += 1
            attempt = links.connect(self.net.connect_int * SECOND_NS)
            while attempt not in self._outcome:
                yield SECOND_NS
            if self._outcome[attempt]:
                if not self.data:
                    self.data = attempt
                    self.raw(attempt, frame(Cmd.P_INITIAL_DATA, 0, b"", 80))
                elif not self.meta:
                    self.resolves_conflicts = False
                    self.meta = attempt
                    self.raw(attempt, frame(Cmd.P_INITIAL_META, 0, b"", 80))
                else:
                    links.close(attempt)
            if (yield from self._both_alive()):
                return
            yield from self._accept()
            if (yield from self._both_alive()):
                return

    def _accept(self) -> Life:
        while True:
            base = self.net.connect_int * SECOND_NS
            spread = base // 7
            end = self.ports.clock.now_ns() + base
            end += spread if self._coin() else -spread
            while not self._backlog:
                left = end - self.ports.clock.now_ns()
                if left <= 0:
                    return
                yield left
            link = self._backlog.popleft()
            deadline = self.ports.clock.now_ns() + 4 * self.net.ping_timeout * TENTH_NS
            while len(self._bytes.get(link, b"")) < 8 and link not in self._dead:
                left = deadline - self.ports.clock.now_ns()
                if left <= 0:
                    break
                yield left
            self._probe()
            if not self._take(link):
                return
            if not self._again:
                return

    def _take(self, link: int) -> bool:
        """What a connection is for, by its first 8 bytes; True if the coin may ask for another."""
        first = self._bytes.get(link, b"")[:8]
        self._again = False
        kind = int.from_bytes(first[4:6], "big") if len(first) == 8 else 0
        if kind not in (Cmd.P_INITIAL_DATA, Cmd.P_INITIAL_META):
            self.ports.links.close(link)
            self._again = self._coin()
            return True
        self._bytes[link] = self._bytes[link][8:]
        name = "data" if kind == Cmd.P_INITIAL_DATA else "meta"
        old = getattr(self, name)
        if name == "meta":
            self.resolves_conflicts = True
        setattr(self, name, link)
        if old:
            self.ports.links.close(old)
            self._again = self._coin()
            return True
        return False

    def _probe(self) -> None:
        for name in ("data", "meta"):
            if getattr(self, name) in self._dead:
                setattr(self, name, 0)

    def _both_alive(self) -> Generator[int, None, bool]:
        if not (self.data and self.meta):
            return False
        yield from self._sleep(self.net.ping_timeout * TENTH_NS)
        self._probe()
        return bool(self.data and self.meta)

    # -- events ---------------------------------------------------------------------------------

    def on_link_accepted(self, link: int) -> None:
        if self._life is None:
            self.ports.links.close(link)
            return
        self._backlog.append(link)
        self._resume()

    def on_link_connected(self, link: int) -> None:
        self._outcome[link] = True
        self._resume()

    def on_link_bytes(self, link: int, data: bytes) -> None:
        if link in self._deframers:
            super().on_link_bytes(link, data)
        else:
            self._bytes[link] = self._bytes.get(link, b"") + data
            self._resume()

    def on_link_lost(self, link: int, why: str) -> None:
        self._dead.add(link)
        self._outcome.setdefault(link, False)
        if link in self._deframers:
            for other in (self.data, self.meta):
                if other != link and other:
                    self.ports.links.close(other)
            self._forget()
            self.begin()
        else:
            self._resume()

    def on_wake(self) -> None:
        if self.ports.clock.now_ns() >= self._until:
            self._resume()
        else:
            self.ports.clock.wake_at(self._until)

    def hang_up(self) -> None:
        super().hang_up()
        self.begin()

    def _on_packet(self, link: int, packet: Any) -> None:
        assert packet.cmd not in (Cmd.P_INITIAL_DATA, Cmd.P_INITIAL_META)
        super()._on_packet(link, packet)
