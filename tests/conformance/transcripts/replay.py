"""A recorded kernel speaks to a real node again: its bytes are fed, the node's answers are kept.

Time is the recording's, in nanoseconds, plus what the node needs to catch up: before the kernel
says something, the node must have said as many packets as it had in the recording. Disks answer at
once, from memory. Generation identifiers that the node draws differ from the recorded ones: what
the kernel says of them is translated (``_Names``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace

from replblk.engine.node import Node
from replblk.engine.ports import Answer, Buffer, ClientRequest, Command, OpenFailed, Ports
from replblk.meta.al_transaction import initialised_block
from replblk.meta.layout import Layout
from replblk.meta.superblock import Superblock
from replblk.model.config import (
    Address,
    DiskOptions,
    HostConfig,
    NetOptions,
    Resource,
    Settings,
    VolumeConfig,
)
from replblk.model.errors import PeerError
from replblk.model.notices import Notice, StateChanged, Told
from replblk.wire.commands import PRO_VERSION_UNAGREED
from replblk.wire.framing import Deframer, Packet, frame
from replblk.wire.packets import Cmd, Message, SyncUuid, Uuids, decode, encode
from tests.conformance.transcripts.recording import Act, Connection, Recording

APV = 101
FEATURES = 0xF
MICRO_NS = 1000
CATCH_UP_NS = 20_000_000_000
"""How much later than recorded an answer may come, in the node's own time."""
BLOCK = 4096
CHATTER = (Cmd.P_PING, Cmd.P_PING_ACK)
"""Packets that come with time, not because of anything."""


@dataclass(frozen=True)
class Said:
    """One packet and what it says."""

    cmd: Cmd
    volume: int
    message: Message


class Stream:
    """The packets in one direction of one connection, as bytes arrive."""

    def __init__(self) -> None:
        self._deframer = Deframer("data")
        self.packets: list[Said] = []

    def feed(self, data: bytes) -> list[Said]:
        """What *data* completes."""
        self._deframer.feed(data)
        fresh = []
        while (packet := self._next()) is not None:
            fresh.append(packet)
        self.packets += fresh
        return fresh

    def _next(self) -> Said | None:
        packet = self._deframer.next()
        if packet is None:
            return None
        apv = self._deframer.apv
        said = Said(
            packet.cmd,
            packet.volume,
            decode(packet.cmd, packet.payload, features=FEATURES, apv=apv),
        )
        if packet.cmd is Cmd.P_INITIAL_META:
            self._deframer.socket = "meta"
            self._deframer.apv = APV
        elif packet.cmd is Cmd.P_CONNECTION_FEATURES:
            self._deframer.apv = APV
        return said

    def is_meta(self) -> None:
        """The other direction said that this is the meta socket."""
        self._deframer.socket = "meta"
        self._deframer.apv = APV


def apv_of(cmd: Cmd) -> int:
    """The protocol version whose header a packet has."""
    early = (Cmd.P_INITIAL_DATA, Cmd.P_INITIAL_META, Cmd.P_CONNECTION_FEATURES)
    return PRO_VERSION_UNAGREED if cmd in early else APV


def to_bytes(said: Said) -> bytes:
    """A packet as it travels."""
    apv = apv_of(said.cmd)
    payload = encode(said.cmd, said.message, features=FEATURES, apv=apv)
    return frame(said.cmd, said.volume, payload, apv)


class _Names:
    """Generation identifiers: recorded ones and the node's, bit 0 aside."""

    def __init__(self) -> None:
        self._known: dict[int, int] = {}

    def learn(self, recorded: Message, own: Message) -> None:
        """The node said *own* where *recorded* had been said."""
        if isinstance(recorded, Uuids) and isinstance(own, Uuids):
            for name in ("current", "bitmap", "history0", "history1"):
                was, now = getattr(recorded, name), getattr(own, name)
                if (was | 1) != (now | 1):
                    self._known[was | 1] = now | 1
        elif isinstance(recorded, SyncUuid) and isinstance(own, SyncUuid):
            self._known[recorded.uuid | 1] = own.uuid | 1

    def translated(self, said: Said) -> Said:
        """What the kernel would have said to this node."""
        message = said.message
        if isinstance(message, Uuids):
            values = {
                name: self._one(getattr(message, name))
                for name in ("current", "bitmap", "history0", "history1")
            }
            return replace(said, message=replace(message, **values))
        if isinstance(message, SyncUuid):
            return replace(said, message=SyncUuid(self._one(message.uuid)))
        return said

    def _one(self, value: int) -> int:
        found = self._known.get(value | 1)
        return value if found is None else found & ~1 | value & 1


class _Disk:
    """A fresh backing device in memory (``engine.ports.Disk``)."""

    def __init__(self, world: Replay, size: int) -> None:
        self._world = world
        self.size_bytes, self.block_bytes = size, 4096
        self.data = bytearray(size)
        layout = Layout.internal(size)
        for number in range(8):
            at = layout.al_offset_bytes + number * BLOCK
            self.data[at : at + BLOCK] = initialised_block()
        at = layout.md_offset_bytes
        self.data[at : at + BLOCK] = Superblock.fresh(layout).encode()

    def read(self, op: int, offset: int, length: int) -> None:
        self._world.later("on_disk_answers", [(op, 0, bytes(self.data[offset : offset + length]))])

    def write(self, op: int, offset: int, data: Buffer, *, durable: bool) -> None:
        self.data[offset : offset + len(data)] = data
        self._world.later("on_disk_answers", [(op, 0, None)])

    def writes(self, operations: list[tuple[int, int, Buffer, bool]]) -> None:
        for op, offset, data, durable in operations:
            self.write(op, offset, data, durable=durable)

    def zero(self, op: int, offset: int, length: int, *, unmap: bool, durable: bool) -> None:
        self.write(op, offset, bytes(length), durable=durable)

    def flush(self, op: int) -> None:
        self._world.later("on_disk_answers", [(op, 0, None)])

    def measure(self) -> int:
        return self.size_bytes

    def last_known(self) -> tuple[int, int]:
        return 0, 0

    def remember(self, size_bytes: int, device_uuid: int) -> None:
        """The device never changes."""

    def close(self) -> None:
        """Nothing to give back."""


class Replay:
    """Every port of one node, and the recorded peer behind them."""

    def __init__(self, recording: Recording) -> None:
        self.recording = recording
        self.notices: list[str] = []
        self.errors: list[str] = []
        self.state = ""
        self._now_ns = 0
        self._slack_ns = 0
        self._wake_ns: int | None = None
        self._random = 0x5EED
        self._queue: deque[tuple[str, tuple[object, ...]]] = deque()
        self._links: dict[int, int] = {}
        self._wanted: list[int] = []
        self._next_link = 0
        self._names = _Names()
        count = len(recording.connections)
        self.sent = [Stream() for _ in range(count)]
        self._recorded = [Stream() for _ in range(count)]
        self._kernel = [Stream() for _ in range(count)]
        self._link_of: dict[int, int] = {}
        self._numbers = 0
        self.disk = _Disk(self, recording.disk_bytes)
        self._node = Node(
            _resource(recording), Settings(), Ports(self, self, self, self, self, self)
        )

    # -- the recording, event by event ----------------------------------------------------------

    def run(self) -> None:
        """From the start to the end; AssertionError if the node falls silent or talks nonsense."""
        for at, number, what in self._events():
            self._advance(at * MICRO_NS + self._slack_ns)
            if isinstance(what, Act):
                self._act(what)
            elif isinstance(what, Connection):
                self._open(number, what)
            else:
                self._said(number, *what)
            self._settle()
        self._advance(self._now_ns + 1_000_000_000)

    def _events(self) -> Iterator[tuple[int, int, Act | Connection | tuple[str, bytes]]]:
        events: list[tuple[int, int, Act | Connection | tuple[str, bytes]]] = []
        events += [(act.at, -1, act) for act in self.recording.acts]
        for number, found in enumerate(self.recording.connections):
            events.append((found.opened, number, found))
            events += [(p.at, number, (p.sender, p.data)) for p in found.pieces]
        return iter(sorted(events, key=lambda event: event[0]))

    def _act(self, act: Act) -> None:
        self._numbers += 1
        if act.verb in ("write", "zero", "trim", "flush"):
            request = ClientRequest(
                number=self._numbers,
                volume=0,
                kind=act.verb,
                offset=act.offset,
                length=act.length,
                data=act.data,
                unmap=act.verb == "zero",
            )
            self.later("on_client_requests", [request])
        else:
            self.later("on_command", Command(self._numbers, act.verb, None, dict(act.options)))

    def _open(self, number: int, found: Connection) -> None:
        if found.opener == "kernel":
            self._next_link += 1
            self._links[self._next_link] = number
            self._link_of[number] = self._next_link
            self.later("on_link_accepted", self._next_link)
            return
        self._catch_up(lambda: bool(self._wanted), f"connection {number} was never asked for")
        link = self._wanted.pop(0)
        self._links[link] = number
        self._link_of[number] = link
        self.later("on_link_connected", link)

    def _said(self, number: int, sender: str, data: bytes) -> None:
        if sender == "replblk":
            if data:
                for said in self._recorded[number].feed(data):
                    if said.cmd is Cmd.P_INITIAL_META:
                        self._kernel[number].is_meta()
            return
        if number not in self._link_of:
            return
        if not data:
            self._links.pop(self._link_of[number], None)
            self.later("on_link_lost", self._link_of[number], "the peer closed the connection")
            return
        self._answered(number)
        for said in self._kernel[number].feed(data):
            if said.cmd is Cmd.P_INITIAL_META:
                self._recorded[number].is_meta()
                self.sent[number].is_meta()
            if said.cmd not in (Cmd.P_PING_ACK,):
                self._learn()
                self.later(
                    "on_link_bytes", self._link_of[number], to_bytes(self._names.translated(said))
                )
                self._settle()

    def _answered(self, number: int) -> None:
        """The node has said as much as the recorded one had, everywhere."""

        def enough() -> bool:
            return all(
                len(spoken(own.packets)) >= len(spoken(recorded.packets))
                for own, recorded in zip(self.sent, self._recorded, strict=True)
            )

        def told() -> str:
            return "; ".join(
                f"connection {n}: {names(spoken(own.packets)[-3:])} but recorded "
                f"{names(spoken(rec.packets)[len(spoken(own.packets)) - 1 :][:4])}"
                for n, (own, rec) in enumerate(zip(self.sent, self._recorded, strict=True))
                if len(spoken(own.packets)) < len(spoken(rec.packets))
            )

        self._catch_up(enough, told)

    def _learn(self) -> None:
        for own, recorded in zip(self.sent, self._recorded, strict=True):
            for theirs, ours in zip(
                identified(recorded.packets), identified(own.packets), strict=False
            ):
                self._names.learn(theirs.message, ours.message)

    def _catch_up(self, there: object, complaint: object) -> None:
        assert callable(there)
        end = self._now_ns + CATCH_UP_NS
        while not there():
            wake = self._wake_ns
            if wake is None or wake > end:
                text = complaint() if callable(complaint) else complaint
                raise AssertionError(f"at {self._now_ns / 1e9:.3f} s: {text}\n{self.notices[-8:]}")
            self._slack_ns += max(0, wake - self._now_ns)
            self._advance(wake)

    # -- time -----------------------------------------------------------------------------------

    def later(self, event: str, *args: object) -> None:
        """An event for the node, in its turn."""
        self._queue.append((event, args))

    def _settle(self) -> None:
        while self._queue:
            event, args = self._queue.popleft()
            getattr(self._node, event)(*args)
            if not self._queue:
                self._node.step()

    def _advance(self, until_ns: int) -> None:
        self._settle()
        while self._wake_ns is not None and self._wake_ns <= until_ns:
            self._now_ns = max(self._now_ns, self._wake_ns)
            self._wake_ns = None
            self.later("on_wake")
            self._settle()
        self._now_ns = max(self._now_ns, until_ns)

    # -- the ports ------------------------------------------------------------------------------

    def open(self, volume: int) -> _Disk | OpenFailed:
        return self.disk

    def listen(self, on: bool) -> None:
        """The recorded connections come anyway."""

    def connect(self, timeout_ns: int) -> int:
        self._next_link += 1
        self._wanted.append(self._next_link)
        return self._next_link

    def send(self, link: int, data: Buffer) -> None:
        number = self._links.get(link)
        if number is None:
            return
        for said in self.sent[number].feed(bytes(data)):
            if said.cmd is Cmd.P_INITIAL_META:
                self._kernel[number].is_meta()
            if said.cmd is Cmd.P_PING:
                self.later("on_link_bytes", link, to_bytes(Said(Cmd.P_PING_ACK, 0, None)))

    def close(self, link: int) -> None:
        self._links.pop(link, None)
        if link in self._wanted:
            self._wanted.remove(link)
        for number, found in list(self._link_of.items()):
            if found == link:
                del self._link_of[number]

    def pause(self, link: int, on: bool) -> None:
        """The recorded peer does not wait."""

    def now_ns(self) -> int:
        return self._now_ns

    def wake_at(self, when_ns: int | None) -> None:
        self._wake_ns = when_ns

    def random_bits(self, count: int) -> int:
        self._random = self._random * 6364136223846793005 + 1442695040888963407
        return self._random >> 8 & (1 << count) - 1

    def replies(self, requests: list[int]) -> None:
        """Writes that went well."""
        for request in requests:
            self.reply(request, 0, None)

    def reply(self, request: int, errno: int, data: Buffer | None) -> None:
        if errno:
            self.errors.append(f"request {request}: errno {errno}")

    def answer(self, command: int, answer: Answer) -> None:
        if answer.exit_code:
            self.errors.append(f"command {command}: {answer.text}")

    def send_away(self, volume: int) -> str:
        return f"a recorded conversation has no clients of volume {volume}"

    def let_in(self, volume: int) -> None:
        """Nobody waits."""

    def notice(self, notice: Notice) -> None:
        if isinstance(notice, StateChanged):
            new = notice.new
            self.state = f"cs:{new.conn} ro:{new.role}/{new.peer} ds:{new.disk}/{new.pdsk}"
        elif isinstance(notice, Told):
            self.notices.append(notice.text)


def spoken(packets: list[Said]) -> list[Said]:
    """Without what only time brings."""
    return [said for said in packets if said.cmd not in CHATTER]


def identified(packets: list[Said]) -> list[Said]:
    """Those with generation identifiers."""
    return [said for said in packets if isinstance(said.message, Uuids | SyncUuid)]


def names(packets: list[Said]) -> str:
    """For a message."""
    return ", ".join(said.cmd.name for said in packets) or "nothing"


def decoded(recording: Recording, number: int) -> dict[str, Stream]:
    """Both directions of a recorded connection."""
    found = recording.connections[number]
    streams = {"kernel": Stream(), "replblk": Stream()}
    for piece in found.pieces:
        if not piece.data:
            continue
        for said in streams[piece.sender].feed(piece.data):
            if said.cmd is Cmd.P_INITIAL_META:
                streams["kernel" if piece.sender == "replblk" else "replblk"].is_meta()
    return streams


def _resource(recording: Recording) -> Resource:
    """As tests/interop/kernel/config.py configures it, as far as it shows on the wire."""

    def host(name: str, port: int) -> HostConfig:
        volume = VolumeConfig(
            number=0,
            minor=0,
            device="/dev/drbd0",
            disk="/none",
            options=DiskOptions(c_plan_ahead=0, resync_rate=200 << 10),
        )
        return HostConfig(
            names=(name,),
            address=Address(family="ipv4", host="127.0.0.1", port=port),
            volumes=(volume,),
        )

    net = NetOptions(connect_int=1, ping_int=2, ping_timeout=20, timeout=30, socket_check_timeout=5)
    # Each keeps the connection that the recorded node kept: that goes by the lower address.
    return Resource(name="r0", local=host("replblk", 1), peer=host("kernel", 2), net=net)


__all__ = ["Packet", "PeerError", "Replay", "Said", "Stream", "decoded", "names", "spoken"]
