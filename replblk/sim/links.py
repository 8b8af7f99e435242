"""The Links port over a simulated network: TCP connections that lag, stall and break.

A connection is two byte streams, each with a delay of its own, so that the data and the meta socket
of a pair overtake each other. A stream delivers its bytes in order, cut into other pieces than they
were sent in; what arrives before a break is always a whole prefix. A direction of the network may
be blocked: bytes wait (TCP repeats them), and a connection that waits too long is lost on both
sides. A machine without power tells nobody; when it is back, its old connections are reset.
"""

from __future__ import annotations

import zlib
from collections import Counter, deque
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

from replblk.engine.ports import Buffer
from replblk.sim.packet_names import packet_names
from replblk.sim.world import MICRO_NS, MILLI_NS, SECOND_NS

if TYPE_CHECKING:
    from replblk.sim.machine import Life, Machine
    from replblk.sim.world import World

_WITH_BLOCKS = ("P_DATA", "P_DATA_REPLY", "P_RS_DATA_REPLY")
KEPT_BYTES = 5120
"""What is longer goes into the transcript as its checksum at once, not to be kept to the end."""
REFUSED = "connection refused"
TIMED_OUT = "connection timed out"
RESET = "connection reset by peer"
CLOSED = "closed by the peer"


@dataclass(frozen=True, slots=True)
class NetworkSpeed:
    """How the network behaves in a run. Probabilities are per piece sent."""

    latency_ns: int = 100 * MICRO_NS
    jitter_ns: int = 50 * MICRO_NS
    cut_piece: float = 0.1
    """Chance that what was sent arrives in two pieces."""
    spike: float = 0.0
    spike_ns: int = 50 * MILLI_NS
    """A delay that one socket has and the other has not."""


class End:
    """One node's side of a connection."""

    __slots__ = ("established", "held", "life", "link", "open", "outgoing", "peer")

    def __init__(self, life: Life, link: int) -> None:
        self.life = life
        self.link = link
        self.open = True
        self.established = False
        """The other side exists: ``peer`` and ``outgoing`` are set."""
        self.held = False
        """The node paused reading."""
        self.peer: End
        self.outgoing: Pipe


class Pipe:
    """One direction of a connection: bytes, and finally the reason why no more come."""

    __slots__ = ("_armed", "_closed_why", "_last_ns", "_pieces", "network", "source", "target")

    def __init__(self, network: Network, source: End, target: End) -> None:
        self.network = network
        self.source = source
        self.target = target
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._last_ns = 0
        self._closed_why: tuple[int, str] | None = None
        self._armed = False

    def push(self, data: bytes) -> None:
        """Send bytes."""
        if self._closed_why is not None or not self.target.open:
            return
        chance, speed = self.network.chance, self.network.speed
        arrival = self._arrival()
        if len(data) > 1 and chance.random() < speed.cut_piece:
            cut = chance.randrange(1, len(data))
            self._pieces.append((arrival, data[:cut]))
            self._last_ns = arrival = arrival + chance.randrange(speed.jitter_ns + 1)
            data = data[cut:]
        self._pieces.append((arrival, data))
        self.arm()

    def end(self, why: str) -> None:
        """No more bytes follow: after the last one the target loses the link."""
        if self._closed_why is None:
            self._closed_why = (self._arrival(), why)
            self.arm()

    def lose_tail(self) -> None:
        """Of what is under way only a random prefix arrives."""
        total = sum(len(piece) for _, piece in self._pieces)
        left = self.network.chance.randrange(total + 1)
        kept: deque[tuple[int, bytes]] = deque()
        for arrival, piece in self._pieces:
            if left <= 0:
                break
            kept.append((arrival, piece[:left]))
            left -= len(piece)
        self._pieces = kept

    def arm(self) -> None:
        """See to it that what arrived is delivered."""
        if self._armed:
            return
        if self._pieces:
            when = self._pieces[0][0]
        elif self._closed_why is not None:
            when = self._closed_why[0]
        else:
            return
        self._armed = True
        self.network.world.at(when, self._deliver)

    def _arrival(self) -> int:
        chance, speed = self.network.chance, self.network.speed
        delay = speed.latency_ns + int(chance.random() * speed.jitter_ns)
        if speed.spike and chance.random() < speed.spike:
            delay += chance.randrange(speed.spike_ns)
        self._last_ns = max(self._last_ns, self.network.world.now_ns + delay)
        return self._last_ns

    def _deliver(self) -> None:
        self._armed = False
        source, target, network = self.source, self.target, self.network
        if not target.open or target.life.dead:
            self._pieces.clear()
            return
        if target.held or network.is_blocked(source.life.machine, target.life.machine):
            return  # whoever lifts this arms the pipe again
        now = network.world.now_ns
        if self._pieces:
            arrived: list[bytes] = []
            while self._pieces and self._pieces[0][0] <= now:
                arrived.append(self._pieces.popleft()[1])
            if arrived:
                network.deliver(target, b"".join(arrived))
        elif self._closed_why is not None and self._closed_why[0] <= now:
            network.lose(target, self._closed_why[1])
            return
        self.arm()


class Network:
    """The cable between two machines, and who listens."""

    def __init__(self, world: World, machines: tuple[Machine, Machine]) -> None:
        self.world = world
        self.machines = machines
        self.speed = NetworkSpeed()
        self.flips = 0
        """So many of the next packets with blocks get a bit of their data flipped."""
        self.give_up_ns = 30 * SECOND_NS
        """How long a blocked direction is endured by TCP."""
        self.chance: Random = world.chance("network")
        self._blocked: Counter[tuple[str, str]] = Counter()
        self._listening: dict[str, Life] = {}
        self._ends: list[End] = []
        """Established and open on at least one side."""
        self._by_link: dict[int, End] = {}
        self._links = 0
        for machine in machines:
            machine.network = self

    # -- what faults do -----------------------------------------------------------------------

    def block(self, source: Machine, target: Machine) -> None:
        """Nothing passes in this direction until ``unblock``; blocks add up."""
        self._blocked[source.name, target.name] += 1
        self.world.note("world", "network {} to {} is blocked", source.name, target.name)
        for end in self._ends:
            patience = self.give_up_ns // 2 + self.chance.randrange(self.give_up_ns)
            self.world.after(patience, self._give_up, end)

    def unblock(self, source: Machine, target: Machine) -> None:
        """Take one block away; what waits goes on."""
        key = (source.name, target.name)
        assert self._blocked[key] > 0
        self._blocked[key] -= 1
        self.world.note("world", "network {} to {} is unblocked", *key)
        for end in self._ends:
            end.outgoing.arm()

    def heal(self) -> None:
        """Take all blocks away."""
        self._blocked.clear()
        for end in self._ends:
            end.outgoing.arm()

    def is_blocked(self, source: Machine, target: Machine) -> bool:
        """Whether nothing passes in this direction now."""
        return self._blocked[source.name, target.name] > 0

    def cut(self, only: int | None = None) -> None:
        """Break all connections, or the *only*-th: each side gets a prefix, then an error."""
        pairs = [e for e in self._ends if e.open and e.peer.open and e.link < e.peer.link]
        if only is not None and pairs:
            pairs = [pairs[only % len(pairs)]]
        for end in pairs:
            self.world.note("world", "connection {}/{} breaks", end.link, end.peer.link)
            for side in (end, end.peer):
                side.outgoing.lose_tail()
                side.outgoing.end(RESET)

    def stranger(self, life: Any, target: Machine) -> End | None:
        """Somebody who is neither machine connects to *target*; None if nobody listens."""
        listener = self._listening.get(target.name)
        if listener is None or listener.dead or not target.powered:
            return None
        end, other = End(life, self._links + 1), End(listener, self._links + 2)
        self._links += 2
        self._join(end, other)
        target.deliver(listener, "on_link_accepted", other.link)
        self.world.note(target.name, "link {} accepted from a stranger", other.link)
        return end

    def spoilt(self, packet: bytes) -> bytes:
        """The packet with one bit of its block flipped: corruption that TCP does not see."""
        self.flips -= 1
        self.world.mark("a bit was flipped on the way")
        self.world.note("world", "a bit is flipped in what is sent next")
        at = len(packet) - 1 - self.chance.randrange(256)
        bit = 1 << self.chance.randrange(8)
        return packet[:at] + bytes((packet[at] ^ bit,)) + packet[at + 1 :]

    def open_links(self) -> int:
        """How many connections stand."""
        return sum(e.open and e.peer.open for e in self._ends) // 2

    # -- machines come and go -----------------------------------------------------------------

    def machine_is_down(self, machine: Machine, *, silent: bool) -> None:
        """A process died: its sockets close, or say nothing any more (power)."""
        self._listening.pop(machine.name, None)
        for end in self._ends:
            if end.life.machine is not machine or not end.open:
                continue
            end.open = False
            if silent or self.chance.random() < 0.5:
                end.outgoing.lose_tail()
            if silent:
                patience = self.give_up_ns // 2 + self.chance.randrange(self.give_up_ns)
                self.world.after(patience, self.lose, end.peer, TIMED_OUT)
            else:
                end.outgoing.end(self.chance.choice((CLOSED, RESET)))
        self._forget_closed()

    def machine_is_up(self, machine: Machine) -> None:
        """The kernel answers again: it knows nothing of connections from before a power cut."""
        for end in self._ends:
            if end.life.machine is machine and end.life.dead and end.peer.open:
                self.world.after(self.chance.randrange(2 * SECOND_NS), self.lose, end.peer, RESET)

    # -- the port -----------------------------------------------------------------------------

    def port(self, life: Life) -> SimLinks:
        """The Links port of one life."""
        return SimLinks(self, life)

    def other(self, machine: Machine) -> Machine:
        """The machine at the other end of the cable."""
        return self.machines[1] if machine is self.machines[0] else self.machines[0]

    def listen(self, life: Life, on: bool) -> None:
        """Accept connections or no more."""
        if on:
            self._listening[life.machine.name] = life
        else:
            self._listening.pop(life.machine.name, None)

    def connect(self, life: Life, timeout_ns: int) -> End:
        """The SYN goes out."""
        self._links += 1
        end = self._by_link[self._links] = End(life, self._links)
        trip = self._trip()
        self.world.after(timeout_ns, self._connect_timed_out, end)
        self.world.after(trip, self._syn, end)
        return end

    def end_of(self, link: int) -> End | None:
        """The end that has this number."""
        return self._by_link.get(link)

    def _trip(self) -> int:
        return self.speed.latency_ns + int(self.chance.random() * self.speed.jitter_ns)

    def _syn(self, end: End) -> None:
        if end.life.dead or not end.open:
            return
        here = end.life.machine
        there = self.other(here)
        if self.is_blocked(here, there) or self.is_blocked(there, here) or not there.powered:
            return  # the timeout ends it
        listener = self._listening.get(there.name)
        if listener is None or listener.dead:
            self.world.after(self._trip(), self.lose, end, REFUSED)
            return
        self._links += 1
        other = End(listener, self._links)
        self._join(end, other)
        there.deliver(listener, "on_link_accepted", other.link)
        self.world.note(there.name, "link {} accepted (theirs is {})", other.link, end.link)
        self.world.after(self._trip(), self._established, end)

    def _join(self, end: End, other: End) -> None:
        end.peer, other.peer = other, end
        end.outgoing, other.outgoing = Pipe(self, end, other), Pipe(self, other, end)
        end.established = other.established = True
        self._ends += [end, other]
        self._by_link[other.link] = other

    def _established(self, end: End) -> None:
        if end.open and not end.life.dead:
            end.life.machine.deliver(end.life, "on_link_connected", end.link)

    def _connect_timed_out(self, end: End) -> None:
        if not end.established:
            self.lose(end, TIMED_OUT)

    def _give_up(self, end: End) -> None:
        if not end.open:
            return
        here, there = end.life.machine, end.peer.life.machine
        if self.is_blocked(here, there) or self.is_blocked(there, here):
            self.lose(end, TIMED_OUT)

    # -- what ends and pipes do ---------------------------------------------------------------

    def deliver(self, end: End, data: bytes) -> None:
        """Bytes reach a node."""
        machine = end.life.machine
        told = data if len(data) <= KEPT_BYTES else zlib.crc32(data)
        self.world.note(machine.name, "link {} gets {} bytes {:08x}", end.link, len(data), told)
        machine.deliver(end.life, "on_link_bytes", end.link, data)

    def lose(self, end: End, why: str) -> None:
        """A node learns that a link is gone, and sends nothing more on it."""
        if not end.open or end.life.dead:
            return
        end.open = False
        self.world.note(end.life.machine.name, "link {} is lost: {}", end.link, why)
        end.life.machine.deliver(end.life, "on_link_lost", end.link, why)
        if end.established:
            end.outgoing.end(RESET)
        self._forget_closed()

    def close(self, end: End) -> None:
        """A node closes a link; what it sent is still delivered."""
        end.open = False
        self.world.note(end.life.machine.name, "link {} closed", end.link)
        if end.established:
            end.outgoing.end(CLOSED)
        self._forget_closed()

    def _forget_closed(self) -> None:
        self._ends = [e for e in self._ends if e.open or e.peer.open]


class SimLinks:
    """The Links port of one life (``engine.ports.Links``)."""

    def __init__(self, network: Network, life: Life) -> None:
        self._network = network
        self._life = life

    def listen(self, on: bool) -> None:
        """Accept connections, or no more."""
        if not self._life.dead:
            self._network.listen(self._life, on)

    def connect(self, timeout_ns: int) -> int:
        """Begin to connect."""
        if self._life.dead:
            return 0
        assert timeout_ns > 0
        end = self._network.connect(self._life, timeout_ns)
        self._network.world.note(self._life.machine.name, "link {} connects", end.link)
        return end.link

    def send(self, link: int, data: Buffer) -> None:
        """Append to the stream; on a link that is lost meanwhile the bytes go nowhere."""
        if self._life.dead or not len(data):
            return
        end = self._end(link)
        whole = bytes(data)
        line: tuple[object, object] = whole, whole
        if len(whole) > KEPT_BYTES:
            line = zlib.crc32(whole), packet_names(whole)
        self._network.world.note(
            self._life.machine.name,
            "link {} sends {} bytes {:08x} {!s}",
            *(link, len(whole), *line),
        )
        if end.open:
            spoils = self._network.flips and len(whole) >= 512
            if spoils and packet_names(whole).startswith(_WITH_BLOCKS):
                whole = self._network.spoilt(whole)
            end.outgoing.push(whole)
        for hook in self._life.machine.on_send:
            hook(self._life.machine)

    def close(self, link: int) -> None:
        """Close; nothing more is heard of this link."""
        if self._life.dead:
            return
        end = self._end(link)
        if end.open:
            self._network.close(end)

    def pause(self, link: int, on: bool) -> None:
        """Stop reading, or go on."""
        if self._life.dead:
            return
        end = self._end(link)
        end.held = on
        if not on and end.established:
            end.peer.outgoing.arm()

    def _end(self, link: int) -> End:
        end = self._network.end_of(link)
        assert end is not None and end.life is self._life, f"link {link} is not this node's"
        return end
