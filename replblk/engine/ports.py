"""The seams of a node: what it asks of disks, links, clock, clients, observers and handlers.

Everything is *submit now, hear later*: a port method returns at once, and the answer arrives as an
event of ``Node`` (named in each docstring), never from inside the call. The shell implements these
over uvloop, real files and sockets; the simulator over a seed. Ports may gather what they are given
and carry it out when the node's step ends: ``end_step`` says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from replblk.model.notices import Notice

Buffer = bytes | bytearray | memoryview
DiskAnswer = tuple[int, int, Buffer | None]
"""(op, errno, data): what became of a disk operation."""


@dataclass(frozen=True, slots=True)
class OpenFailed:
    """A backing device could not be opened. number: DRBD's error number (104..118), text: why."""

    number: int
    text: str


class Disk(Protocol):
    """One open, locked backing device: data and (internal) metadata. Offsets and sizes in bytes.

    *op* is a number the node chose, never reused while the device is open; the answer is
    part of ``Node.on_disk_answers``, with errno 0 on success. Operations may complete in any
    order; the node never has two overlapping writes, or a write and a read that overlap, in flight.
    A failed operation leaves its range undefined. Buffers belong to the port until the answer.
    """

    size_bytes: int
    block_bytes: int
    """Smallest unit the device writes; multiples of 512 always work."""

    def read(self, op: int, offset: int, length: int) -> None:
        """Read; the answer carries exactly *length* bytes, or an errno."""

    def write(self, op: int, offset: int, data: Buffer, *, durable: bool) -> None:
        """Write all of *data*; durable: answer only once it would survive a power cut."""

    def writes(self, operations: list[tuple[int, int, Buffer, bool]]) -> None:
        """``write`` for each, in this order: op, offset, data, durable."""

    def zero(self, op: int, offset: int, length: int, *, unmap: bool, durable: bool) -> None:
        """Make the range read back as zeroes; unmap: giving the space back is welcome."""

    def flush(self, op: int) -> None:
        """Make every write answered before this call durable. A failure is final for the device."""

    def measure(self) -> int:
        """The size that the device has now, in bytes; ``size_bytes`` is that from now on.

        Answers at once. A device that can't be asked keeps its size.
        """

    def last_known(self) -> tuple[int, int]:
        """What ``remember`` was told last, by whatever process: (0, 0) if nothing is known."""

    def remember(self, size_bytes: int, device_uuid: int) -> None:
        """The metadata lie at the end of a device of that size: an attach finds them there.

        Durable on return. What can't be noted is told in the log and goes on without.
        """

    def close(self) -> None:
        """Give the device and its lock back; the node calls it when nothing is in flight."""


class Disks(Protocol):
    """Opens backing devices by volume number."""

    def open(self, volume: int) -> Disk | OpenFailed:
        """Open and lock the backing device of *volume*; the only call that answers at once."""


class Links(Protocol):
    """TCP connections to the peer. A link is a number, chosen by the port, never reused."""

    def listen(self, on: bool) -> None:
        """Accept connections from now on, or no more; idempotent.

        Each accepted one arrives as ``Node.on_link_accepted(link)``. A listener that can't be had
        (port in use) arrives as ``Node.on_listen_failed(why)``.
        """

    def connect(self, timeout_ns: int) -> int:
        """Start a connection to the peer: ``Node.on_link_connected`` or ``Node.on_link_lost``."""

    def send(self, link: int, data: Buffer) -> None:
        """Append to the stream. Received bytes arrive as ``Node.on_link_bytes(link, data)``."""

    def close(self, link: int) -> None:
        """Close at once; no event follows for this link. Bytes already given to ``send`` are
        still delivered if the peer goes on reading."""

    def pause(self, link: int, on: bool) -> None:
        """Stop (or go on) reading from the link: back-pressure to the peer."""


class Clock(Protocol):
    """Monotonic time and chance."""

    def now_ns(self) -> int:
        """Nanoseconds since some fixed moment; never goes backwards."""

    def wake_at(self, when_ns: int | None) -> None:
        """Call ``Node.on_wake()`` then; replaces the earlier wish, None withdraws it."""

    def random_bits(self, count: int) -> int:
        """An unpredictable number of *count* bits: UUIDs, challenges, coin flips."""


class Clients(Protocol):
    """Those who use the device, and those who give commands."""

    def reply(self, request: int, errno: int, data: Buffer | None) -> None:
        """The answer to one of ``Node.on_client_requests``: errno 0, for reads with data."""

    def replies(self, requests: list[int]) -> None:
        """``reply`` for each: errno 0, no data."""

    def answer(self, command: int, answer: Answer) -> None:
        """The answer to ``Node.on_command``."""

    def send_away(self, volume: int) -> str:
        """Let nobody in from now on, and those who have the device open go: each once its requests
        in flight are answered, so that it can connect again and repeat the others.

        "" if that begins (they leave by ``Node.close_device``); else why it can't be done.
        """

    def let_in(self, volume: int) -> None:
        """Whoever waits to be let in may try now; the opposite of ``send_away``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a command. text: a sentence, maybe empty; exit_code: for the shell.

    code: DRBD's state change result (<= 0 refused, >= 1 fine) or error number (> 100); 0 if
    neither.
    """

    exit_code: int = 0
    text: str = ""
    code: int = 1


@dataclass(frozen=True, slots=True)
class HandlerCall:
    """A handler to run. command: for ``/bin/sh -c``, unchanged; environment: added to the usual.

    name: DRBD's word, e.g. "fence-peer". timeout_s: how long it may take.
    """

    name: str
    command: str
    environment: tuple[tuple[str, str], ...]
    timeout_s: int


class Handlers(Protocol):
    """Runs the commands of ``handlers { }``."""

    def call(self, number: int, call: HandlerCall) -> None:
        """Start it: ``Node.on_handler_done(number, exit_code, trouble)`` when it is over.

        trouble: "" if it ended by itself; else a sentence (killed by a signal, too slow and
        killed, can't be started), and the exit code means nothing.
        """


class Observer(Protocol):
    """Reads the stream of notices."""

    def notice(self, notice: Notice) -> None:
        """Something happened. Must not call back into the node."""


@dataclass(slots=True)
class Ports:
    """The six seams of one node.

    new_payload: memory for a long payload of the peer, of just so many bytes, with anything in it,
    so that the data behind a block's header (24 bytes) lie where a disk can take them from. None:
    any memory will do.
    """

    disks: Disks
    links: Links
    clock: Clock
    clients: Clients
    observer: Observer
    handlers: Handlers
    new_payload: Callable[[int], memoryview] | None = None


@dataclass(slots=True)
class ClientRequest:
    """An I/O request of a client. Ranges in bytes, multiples of 512, inside the device.

    Never changed once it is made; not frozen, because that costs a microsecond for each.

    kind: "read", "write", "zero" (write zeroes), "trim", "flush". data: for writes, owned by the
    node from now on. fua: durable on both nodes before the reply. unmap: a zero may give space
    back.
    """

    number: int
    volume: int
    kind: str
    offset: int = 0
    length: int = 0
    data: Buffer = b""
    fua: bool = False
    unmap: bool = False


@dataclass(frozen=True, slots=True)
class Command:
    """A command of the administrator for the whole resource or one volume.

    verb: DRBD's word ("primary", "secondary", "connect", "disconnect", "attach", "detach", "down",
    "wait-connect", "wait-sync", ...). options: e.g. {"force": True}, {"timeout_s": 30}.
    """

    number: int
    verb: str
    volume: int | None
    options: dict[str, object]


CLIENT_DATA_BYTES_MAX = 1 << 20
"""Largest read or write of one ClientRequest: the wire's limit for one packet."""
CLIENT_ZERO_BYTES_MAX = 1 << 20
"""Largest zero or trim of one ClientRequest: it may have to travel as data."""
