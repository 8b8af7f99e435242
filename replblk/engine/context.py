"""What every path of a node shares: configuration, ports, volumes, services, a step's queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.engine.ports import Answer, Command, Ports
from replblk.engine.timers import Timers
from replblk.model.config import NetOptions, Resource, Settings
from replblk.model.latency import Latencies
from replblk.model.notices import Level, Told

if TYPE_CHECKING:
    from replblk.engine.disk_io import DiskIo
    from replblk.engine.handlers import HandlerCalls
    from replblk.engine.peer_link import PeerLink
    from replblk.engine.states import States
    from replblk.engine.volume import Volume

SECOND_NS = 1_000_000_000
TENTH_NS = 100_000_000


class Context:
    """Shared ground of the paths. Paths know services and volumes, never each other."""

    states: States
    peer: PeerLink
    io: DiskIo
    handlers: HandlerCalls

    def __init__(
        self,
        resource: Resource,
        settings: Settings,
        ports: Ports,
        latencies: Latencies | None = None,
    ) -> None:
        self.resource = resource
        self.net: NetOptions = resource.net
        """As configured; the peer may change what P_PROTOCOL carries while connected."""
        self.settings = settings
        self.ports = ports
        self.timers = Timers(ports.clock)
        self.latencies = latencies or Latencies()
        self.volumes: dict[int, Volume] = {}
        self.discard_my_data = False
        """One-shot wish of ``connect --discard-my-data``."""
        self.split_brain = False
        """A split brain was detected and not resolved since the last successful connection."""
        self.deferred: deque[Callable[[], None]] = deque()
        """To be run later in this step: see ``defer``."""
        self.watchers: list[Callable[[], bool]] = []
        """Asked after every state change; one that answers True is satisfied and removed."""

    @property
    def persist(self) -> bool:
        """Whether an acknowledgement means flushed (the default), not just handed to the device."""
        return self.settings.durability == "disk"

    def now_ns(self) -> int:
        """Monotonic time."""
        return self.ports.clock.now_ns()

    def random_u64(self) -> int:
        """64 fresh random bits."""
        return self.ports.clock.random_bits(64)

    def tell(self, level: Level, text: str, volume: int | None = None) -> None:
        """Put a sentence into the stream of notices."""
        self.ports.observer.notice(Told(level, text, volume))

    def answer(self, command: Command, answer: Answer) -> None:
        """Answer a command of the administrator."""
        self.ports.clients.answer(command.number, answer)

    def defer(self, action: Callable[[], None]) -> None:
        """Run *action* later in this step, after what runs now has returned."""
        self.deferred.append(action)

    def run_deferred(self) -> bool:
        """Run what was deferred, including what that defers in turn; True if anything ran."""
        ran = bool(self.deferred)
        while self.deferred:
            self.deferred.popleft()()
        return ran

    def when(self, satisfied: Callable[[], bool]) -> None:
        """Ask *satisfied* now and after every state change until it answers True."""
        if not satisfied():
            self.watchers.append(satisfied)

    def ask_watchers(self) -> None:
        """A state changed: ask those who wait for one."""
        self.watchers = [w for w in self.watchers if not w()]
