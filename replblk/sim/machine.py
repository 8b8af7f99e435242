"""One simulated computer: drives that last, and one life of a node after another upon them.

``kill`` is SIGKILL of the process; ``power_off`` takes the drives' volatile caches along; ``pause``
is SIGSTOP: what arrives waits. A life that ended is deaf and mute at once, even in the middle of a
step: its ports ignore it and nothing reaches it any more.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from replblk.engine.ports import (
    Answer,
    Buffer,
    ClientRequest,
    Command,
    DiskAnswer,
    HandlerCall,
    Ports,
)
from replblk.model.notices import Level, Notice, SizeChanged, StateChanged
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.sim.clock import SimClock
from replblk.sim.disk import Drive, SimDisks
from replblk.sim.handlers import HandlerEnds, SimHandlers

if TYPE_CHECKING:
    from replblk.model.config import Resource, Settings
    from replblk.model.status import NodeStatus
    from replblk.sim.links import Network
    from replblk.sim.world import World

ReplyHandler = Callable[[int, "Buffer | None"], None]
AnswerHandler = Callable[[Answer], None]
HandlerProgram = Callable[[HandlerCall, Callable[[HandlerEnds], None]], None]
"""Gets the call, and what to call with how it ends."""


class NodeLike(Protocol):
    """What a machine runs: ``engine.node.Node``, or a small stand-in in tests of the simulator."""

    volumes: dict[int, Any]

    @property
    def unconfirmed(self) -> list[tuple[int, range]]: ...

    def on_link_connected(self, link: int) -> None: ...
    def on_link_accepted(self, link: int) -> None: ...
    def on_link_bytes(self, link: int, data: bytes) -> None: ...
    def on_link_lost(self, link: int, why: str) -> None: ...
    def on_listen_failed(self, why: str) -> None: ...
    def on_disk_answers(self, answers: list[DiskAnswer]) -> None: ...
    def on_handler_done(self, number: int, exit_code: int, trouble: str) -> None: ...
    def on_wake(self) -> None: ...
    def on_client_requests(self, requests: list[ClientRequest]) -> None: ...
    def on_command(self, command: Command) -> None: ...
    def step(self) -> None: ...
    def open_device(self, volume: int, read_only: bool = False) -> str | None: ...
    def close_device(self, volume: int) -> None: ...
    def size_bytes(self, volume: int) -> int: ...
    def status(self) -> NodeStatus: ...


MakeNode = Callable[["Resource", "Settings", Ports], Any]
"""Makes a node, as ``engine.node.Node`` does."""


class Life:
    """One process on a machine. Ports hold it and fall silent when it is dead."""

    __slots__ = ("dead", "gathered", "machine", "number")

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.number = number
        self.dead = False
        self.gathered: list[ClientRequest] = []
        """Clients' requests that the node has not been given yet."""


class Machine:
    """One of the two computers. ``states`` is the last announced state of each volume."""

    def __init__(
        self, world: World, name: str, resource: Resource, settings: Settings, make_node: MakeNode
    ) -> None:
        self.world = world
        self.name = name
        self.resource = resource
        self.settings = settings
        self.network: Network | None = None
        self.drives: dict[int, Drive] = {}
        self.life: Life | None = None
        self.lives = 0
        self.paused = False
        self.powered = True
        self.node: NodeLike | None = None
        self.states: dict[int, State] = {}
        self.on_state: list[Callable[[Machine, StateChanged], None]] = []
        """Told every state change, inside the node's step: only take notes."""
        self.on_size: list[Callable[[Machine, SizeChanged], None]] = []
        """Told every change of a device's size, inside the node's step."""
        self.on_told: list[Callable[[Machine, str], None]] = []
        self.on_step: list[Callable[[Machine], None]] = []
        """Called after every step of the node."""
        self.on_send: list[Callable[[Machine], None]] = []
        """Called for everything sent, inside the node's step."""
        self.on_death: list[Callable[[Machine], None]] = []
        self.on_power: list[Callable[[Machine], None]] = []
        """Called at a power cut, whether a process ran or not."""
        self.step_gap_ns = 0
        """Longest wait between an event and the step for it: events gather meanwhile."""
        self.gather_ns = 0
        """Longest wait of a client's request for others, to be given to the node with them."""
        self.handlers: dict[str, HandlerEnds] = {}
        """How handlers end, by name; those not named end well at once."""
        self.handler_programs: dict[str, HandlerProgram] = {}
        """What handlers do, by name, where that is more than to end; called inside the step."""
        self.handler_calls: list[HandlerCall] = []
        """The handlers called so far, in order, in all lives."""
        self.sent_away: set[int] = set()
        """Volumes whose clients the node wants gone, and none let in."""
        self.keeps_clients = ""
        """Not "": why they can't be sent away."""
        self.clock_shift_ns = 0
        """How far the monotonic clock has jumped ahead so far."""
        self.told: deque[str] = deque(maxlen=200)
        """Last sentences for the log, of all lives."""
        self._make_node = make_node
        self._backlog: deque[tuple[str, tuple[object, ...]]] = deque()
        self._step_due = False
        self._stepping = False
        self._numbers = 0
        self._replies: dict[int, ReplyHandler] = {}
        self._answers: dict[int, AnswerHandler] = {}
        self._chance = world.chance(f"machine/{name}")

    # -- life and death -----------------------------------------------------------------------

    @property
    def alive(self) -> bool:
        """Whether a node runs here (it may be paused)."""
        return self.life is not None

    def boot(self) -> None:
        """Start the daemon: a fresh node on the old drives."""
        assert self.network is not None
        assert self.life is None, f"{self.name} runs already"
        self.lives += 1
        self.powered = True
        self.sent_away.clear()
        self.life = Life(self, self.lives)
        self.states = {v.number: State() for v in self.resource.local.volumes}
        for drive in self.drives.values():
            drive.holder = None
        self.world.note(self.name, "process {} starts", self.lives)
        ports = Ports(
            disks=SimDisks(self.life),
            links=self.network.port(self.life),
            clock=SimClock(self.life),
            clients=_SimClients(self.life),
            observer=_SimObserver(self.life),
            handlers=SimHandlers(self.life),
        )
        self.node = self._make_node(self.resource, self.settings, ports)
        self.network.machine_is_up(self)

    def kill(self) -> None:
        """SIGKILL: sockets close, the kernel keeps what was written."""
        if self.life is None:
            return
        self.world.note(self.name, "process {} is killed", self.lives)
        holders = self._end_of_life()
        for drive, in_flight in holders:
            drive.store.kill(in_flight, drive.chance)
        assert self.network is not None
        self.network.machine_is_down(self, silent=False)

    def power_off(self) -> None:
        """Power cut: nobody is told, and drives lose what was not durable."""
        self.world.note(self.name, "power is cut")
        holders = self._end_of_life()
        lost = {id(drive): in_flight for drive, in_flight in holders}
        for drive in self.drives.values():
            if drive.store.undecided():
                self.world.mark("power cut with writes that were not durable")
            drive.store.power_cut(lost.get(id(drive), []), drive.chance)
        self.powered = False
        for hook in self.on_power:
            hook(self)
        assert self.network is not None
        self.network.machine_is_down(self, silent=True)

    def pause(self) -> None:
        """SIGSTOP."""
        if self.life is not None and not self.paused:
            self.paused = True
            self.world.note(self.name, "process is stopped (SIGSTOP)")

    def resume(self) -> None:
        """SIGCONT: all that arrived meanwhile arrives now, in order."""
        if not self.paused:
            return
        self.paused = False
        self.world.note(self.name, "process goes on (SIGCONT), {} events wait", len(self._backlog))
        backlog, self._backlog = self._backlog, deque()
        for event, args in backlog:
            getattr(self.node, event)(*args)
        self._want_step()

    def jump_clock(self, ahead_ns: int) -> None:
        """The monotonic clock jumps: whatever was due in between is due now."""
        self.clock_shift_ns += ahead_ns
        self.world.note(self.name, "the clock jumps {} s ahead", ahead_ns // 1_000_000_000)
        if self.life is not None:
            self.deliver(self.life, "on_wake")

    def swap_drive(self, drive: Drive) -> None:
        """Put another drive in the place of one; the machine is off."""
        assert self.life is None
        old = self.drives[drive.volume]
        drive.speed, drive.on_submit = old.speed, old.on_submit
        drive.on_metadata = old.on_metadata
        drive.struck = old.struck
        self.drives[drive.volume] = drive

    def _end_of_life(self) -> list[tuple[Drive, list[tuple[int, bytes | None, int]]]]:
        held = [
            (drive, drive.holder.in_flight_writes())
            for drive in self.drives.values()
            if drive.holder is not None
        ]
        for drive in self.drives.values():
            drive.holder = None
        if self.life is not None:
            self.life.dead = True
            self.life = None
            for hook in list(self.on_death):
                hook(self)
        self.node = None
        self.paused = False
        self._backlog.clear()
        self._step_due = False
        self._replies.clear()
        self._answers.clear()
        return held

    # -- events in ----------------------------------------------------------------------------

    def deliver(self, life: Life, event: str, *args: object) -> None:
        """Give the node an event, unless its life is over; then it will step."""
        if life.dead:
            return
        if self.paused:
            self._backlog.append((event, args))
            return
        getattr(self.node, event)(*args)
        self._want_step()

    def request(self, on_reply: ReplyHandler, **fields: Any) -> int:
        """A client's I/O request (``ClientRequest`` without its number); answered at most once."""
        assert self.life is not None
        self._numbers += 1
        number = self._numbers
        self._replies[number] = on_reply
        request = ClientRequest(number=number, **fields)
        if self.gather_ns:
            self._gather(self.life, request)
        else:
            self.deliver(self.life, "on_client_requests", [request])
        return number

    def _gather(self, life: Life, request: ClientRequest) -> None:
        if not life.gathered:
            wait_ns = self._chance.randrange(self.gather_ns)
            self.world.after(wait_ns, self._deliver_gathered, life)
        life.gathered.append(request)

    def _deliver_gathered(self, life: Life) -> None:
        requests, life.gathered = life.gathered, []
        if len(requests) > 1:
            self.world.mark("requests came together")
        self.deliver(life, "on_client_requests", requests)

    def command(
        self, verb: str, on_answer: AnswerHandler, volume: int | None = None, **options: object
    ) -> int:
        """A command of the administrator; never answered if the process dies first."""
        assert self.life is not None
        self._numbers += 1
        number = self._numbers
        self._answers[number] = on_answer
        self.world.note(self.name, "command #{} {} {}", number, verb, options or "")
        command = Command(number=number, verb=verb, volume=volume, options=options)
        self.deliver(self.life, "on_command", command)
        return number

    def _want_step(self) -> None:
        if self._step_due:
            return
        self._step_due = True
        gap = self._chance.randrange(self.step_gap_ns) if self.step_gap_ns else 0
        world = self.world
        world.at(world.now_ns + gap, self._step, self.life)

    def _step(self, life: Life) -> None:
        if life.dead:
            return
        if self.paused:
            self._step_due = False
            return
        self._step_due = False
        assert not self._stepping, "a step within a step"
        assert self.node is not None
        self._stepping = True
        try:
            self.node.step()
        finally:
            self._stepping = False
        if not life.dead:
            for hook in self.on_step:
                hook(self)

    # -- what the node says -------------------------------------------------------------------

    def _on_reply(self, request: int, errno: int, data: Buffer | None) -> None:
        handler = self._replies.pop(request, None)
        assert handler is not None, f"request {request} was answered twice, or never asked"
        handler(errno, data)

    def _on_answer(self, command: int, answer: Answer) -> None:
        handler = self._answers.pop(command, None)
        assert handler is not None, f"command {command} was answered twice, or never given"
        self.world.note(
            self.name, "command #{} ends: exit {} {!r}", command, answer.exit_code, answer.text
        )
        handler(answer)

    def _on_notice(self, notice: Notice) -> None:
        if isinstance(notice, StateChanged):
            old = self.states.get(notice.volume, State())
            assert old == notice.old, f"announced {notice.old}, but the last state was {old}"
            self.states[notice.volume] = notice.new
            difference = notice.old.difference(notice.new)
            self.world.note(self.name, "vol {} {} [{}]", notice.volume, difference, notice.why)
            for hook in self.on_state:
                hook(self, notice)
        elif isinstance(notice, SizeChanged):
            sizes = notice.old_sectors, notice.new_sectors
            self.world.note(self.name, "vol {} has {} -> {} sectors", notice.volume, *sizes)
            for sized in self.on_size:
                sized(self, notice)
        else:
            self.told.append(notice.text)
            if notice.level >= Level.INFO:
                self.world.note(self.name, "{}: {}", notice.level.name.lower(), notice.text)
            for told in self.on_told:
                told(self, notice.text)

    # -- what the harness asks ----------------------------------------------------------------

    @property
    def serving_role(self) -> Role:
        """Primary if any volume is."""
        primary = any(s.role is Role.PRIMARY for s in self.states.values())
        return Role.PRIMARY if self.alive and primary else Role.SECONDARY

    @property
    def connection(self) -> ConnState:
        """The lowest connection state of all volumes."""
        return min((s.conn for s in self.states.values()), default=ConnState.STANDALONE)

    def all_volumes(self, **wanted: object) -> bool:
        """Whether the node lives and these state fields hold for every volume."""
        return self.alive and all(
            getattr(state, field) == value
            for state in self.states.values()
            for field, value in wanted.items()
        )

    @property
    def settled(self) -> bool:
        """Whether the node lives and every volume is Connected, UpToDate/UpToDate."""
        if self.life is None:
            return False
        for state in self.states.values():
            if state.conn is not ConnState.CONNECTED or state.disk is not DiskState.UP_TO_DATE:
                return False
            if state.pdsk is not DiskState.UP_TO_DATE:
                return False
        return True

    @property
    def up_to_date(self) -> bool:
        """Whether every local disk is UpToDate."""
        return self.all_volumes(disk=DiskState.UP_TO_DATE)

    def __str__(self) -> str:
        return self.name


class _SimClients:
    """The Clients port."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def replies(self, requests: list[int]) -> None:
        """Writes that went well."""
        for request in requests:
            self.reply(request, 0, None)

    def reply(self, request: int, errno: int, data: Buffer | None) -> None:
        """A request is done."""
        if not self._life.dead:
            self._life.machine._on_reply(request, errno, data)

    def answer(self, command: int, answer: Answer) -> None:
        """A command is done."""
        if not self._life.dead:
            self._life.machine._on_answer(command, answer)

    def send_away(self, volume: int) -> str:
        """Whoever plays the clients looks at ``sent_away`` and lets them go."""
        machine = self._life.machine
        if not self._life.dead and not machine.keeps_clients:
            machine.sent_away.add(volume)
        return machine.keeps_clients

    def let_in(self, volume: int) -> None:
        """They may come back."""
        if not self._life.dead:
            self._life.machine.sent_away.discard(volume)


class _SimObserver:
    """The Observer port."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def notice(self, notice: Notice) -> None:
        """The node tells something."""
        if not self._life.dead:
            self._life.machine._on_notice(notice)
