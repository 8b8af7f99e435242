"""Packets, pings and timeouts of the one peer: two sockets once they are established.

``send`` is how every path speaks; received packets leave through the callbacks that ``node`` wires
to its routing table. Source: protocol, transport and liveness.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from replblk.engine.context import SECOND_NS, TENTH_NS
from replblk.engine.ports import Buffer
from replblk.model.errors import PeerError
from replblk.model.notices import Level
from replblk.model.units import request_bytes_max
from replblk.model.vocabulary import ConnState
from replblk.wire import auth
from replblk.wire.commands import DATA_HEADER_BYTES
from replblk.wire.framing import Deframer, Packet, frame_header
from replblk.wire.hot import (
    AckPacket,
    DataPacket,
    ack_packet,
    barrier,
    barrier_ack,
    barrier_packet,
    block_ack,
    data_packet,
)
from replblk.wire.packets import Cmd, encode

if TYPE_CHECKING:
    from replblk.engine.context import Context

JOINED_BYTES_MAX = 4096
"""A body up to this is copied behind its head: cheaper than another piece to send."""
_P_DATA = int(Cmd.P_DATA)
_P_BARRIER, _P_BARRIER_ACK = int(Cmd.P_BARRIER), int(Cmd.P_BARRIER_ACK)
_BLOCK_ACKS = frozenset(
    (
        *(Cmd.P_RECV_ACK, Cmd.P_WRITE_ACK, Cmd.P_RS_WRITE_ACK, Cmd.P_SUPERSEDED, Cmd.P_NEG_ACK),
        *(Cmd.P_NEG_DREPLY, Cmd.P_NEG_RS_DREPLY, Cmd.P_OV_RESULT, Cmd.P_RS_IS_IN_SYNC),
        *(Cmd.P_RS_CANCEL, Cmd.P_RETRY_WRITE),
    )
)


class PeerLink:
    """The established pair of sockets, or none (``up`` is False)."""

    def __init__(
        self,
        ctx: Context,
        packet: Callable[[Packet], None],
        acks: Callable[[list[AckPacket]], None],
        writes: Callable[[list[DataPacket]], None],
        barrier: Callable[[bytes], None],
        barrier_ack: Callable[[bytes, int], None],
        broken: Callable[[ConnState, str], None],
    ) -> None:
        """acks, writes, barrier, barrier_ack: told of the data plane's common packets, of the
        former many at once; packet: of all others, and of these, too, where anything about them is
        out of the ordinary."""
        self._ctx = ctx
        self._packet = packet
        self._acks = acks
        self._writes = writes
        self._barrier = barrier
        self._barrier_ack = barrier_ack
        self._broken = broken
        self.data: int | None = None
        self.meta: int | None = None
        self.apv = 0
        """Agreed protocol version; 0 while no connection is established."""
        self.features = 0
        self.request_bytes_max = request_bytes_max(0)
        """The largest block that one packet may carry or ask for."""
        self.peer_integrity_alg = ""
        """What the peer puts before its data, by its last P_PROTOCOL."""
        self.resolves_conflicts = False
        """Whether this node accepted the meta socket (RC)."""
        self._deframers: dict[int, Deframer] = {}
        self._listening_to: set[int] = set()
        self._heard_ns = 0
        self._pings_sent = 0
        self._pings_answered = 0
        self._ping_waiters: deque[tuple[int, Callable[[], None]]] = deque()
        self._pump_running = False
        self._data_holds = 0

    @property
    def up(self) -> bool:
        """Whether both sockets are established."""
        return self.data is not None

    # -- life ---------------------------------------------------------------------------------

    def establish(
        self,
        data: tuple[int, Deframer],
        meta: tuple[int, Deframer],
        *,
        resolves_conflicts: bool,
    ) -> None:
        """Take over two proven sockets; the features exchange begins on the data socket."""
        self.data, self.meta = data[0], meta[0]
        self._deframers = {data[0]: data[1], meta[0]: meta[1]}
        self.resolves_conflicts = resolves_conflicts
        self.apv, self.features = 80, 0
        self._heard_ns = self._ctx.now_ns()
        self._listening_to = {data[0]}
        self._data_holds = 0

    def agree(self, apv: int, features: int) -> None:
        """Versions are agreed: other headers from now on, on both sockets."""
        self.apv, self.features = apv, features
        self.request_bytes_max = request_bytes_max(apv)
        for deframer in self._deframers.values():
            deframer.apv = apv

    def open_meta(self) -> None:
        """Parameters are sent: meta packets are handled and pings begin."""
        assert self.meta is not None
        self._listening_to.add(self.meta)
        self._heard_ns = self._ctx.now_ns()
        self._arm_ping()
        self._ctx.defer(self.pump)

    def drop(self) -> None:
        """Close both sockets at once and forget the connection."""
        for link in (self.data, self.meta):
            if link is not None:
                self._ctx.ports.links.close(link)
        self.forget()

    def forget(self) -> None:
        """Both sockets are gone."""
        self.data = self.meta = None
        self._deframers = {}
        self._listening_to = set()
        self.apv = self.features = 0
        self.peer_integrity_alg = ""
        self._pings_sent = self._pings_answered = 0
        self._ping_waiters.clear()
        self._ctx.timers.cancel("ping")

    def give_up(self, state: ConnState, why: str) -> None:
        """The connection is useless (a timeout, a protocol error): end it and begin anew."""
        self._broken(state, why)

    # -- sending ------------------------------------------------------------------------------

    def send(self, cmd: Cmd, message: Any = None, volume: int = 0) -> None:
        """Send a control packet on the socket it belongs to; without a connection it is dropped."""
        if not self.up:
            return
        payload = encode(cmd, message, features=self.features, apv=self.apv)
        self.send_raw(cmd, volume, payload)

    def send_data(self, cmd: Cmd, volume: int, head: bytes, data: Buffer) -> None:
        """Send a block: its header, the digest if data-integrity-alg asks for one, the data."""
        alg = self._ctx.net.data_integrity_alg
        self.send_raw(cmd, volume, head + auth.digest(alg, data) if alg else head, data)

    def send_write(
        self, volume: int, sector: int, block_id: bytes, seq: int, flags: int, data: Buffer
    ) -> None:
        """Send P_DATA with a header of protocol 100 and without a digest."""
        link = self.data
        assert link is not None, "a write for a peer that is gone"
        size = len(data)
        head = data_packet(_P_DATA, volume, sector, block_id, seq, flags, size)
        send = self._ctx.ports.links.send
        if size <= JOINED_BYTES_MAX:
            send(link, head + data)
        else:
            send(link, head)
            send(link, data)

    def send_pieces(self, link: int, pieces: list[Buffer]) -> None:
        """Send packets that are made already; small pieces are joined."""
        send = self._ctx.ports.links.send
        first = 0
        for at, piece in enumerate(pieces):
            if len(piece) > JOINED_BYTES_MAX:
                if at > first:
                    send(link, b"".join(pieces[first:at]))
                send(link, piece)
                first = at + 1
        if first < len(pieces):
            send(link, b"".join(pieces[first:]))

    def send_ack(
        self, cmd: Cmd, volume: int, sector: int, block_id: bytes, size: int, seq: int
    ) -> None:
        """Send the acknowledgement of a block, positive or negative."""
        link = self.meta
        if link is None or self.apv < 100:
            self.send_raw(cmd, volume, block_ack(sector, block_id, size, seq))
        else:
            packet = ack_packet(cmd, volume, sector, block_id, size, seq)
            self._ctx.ports.links.send(link, packet)

    def send_barriers(self, numbers: list[bytes]) -> None:
        """Send P_BARRIER for each epoch, in this order."""
        link = self.data
        if link is None or self.apv < 100:
            for number in numbers:
                self.send_raw(Cmd.P_BARRIER, 0, barrier(number))
            return
        for number in numbers:
            self._ctx.ports.links.send(link, barrier_packet(_P_BARRIER, number, 0))

    def send_barrier_acks(self, acks: list[tuple[bytes, int]]) -> None:
        """Send P_BARRIER_ACK for each epoch: number and set size."""
        link = self.meta
        if link is None or self.apv < 100:
            for number, size in acks:
                self.send_raw(Cmd.P_BARRIER_ACK, 0, barrier_ack(number, size))
            return
        for number, size in acks:
            self._ctx.ports.links.send(link, barrier_packet(_P_BARRIER_ACK, number, size))

    def data_of(self, packet: Packet) -> Buffer:
        """The data of a received block, its digest checked. Raises PeerError."""
        body = memoryview(packet.payload)[DATA_HEADER_BYTES:]
        alg = self.peer_integrity_alg
        if not alg:
            return body
        size = auth.digest_size(alg)
        data = body[size:]
        if len(body) < size or not auth.matches(auth.digest(alg, data), body[:size]):
            raise PeerError(f"Digest integrity check FAILED: {packet.cmd.name}, {len(data)} bytes")
        return data

    def send_raw(self, cmd: Cmd, volume: int, head: bytes, body: Buffer = b"") -> None:
        """Send a packet whose payload is *head* + *body*, without copying a large body."""
        if self.data is None or self.meta is None:
            return
        link = self.meta if cmd in _META_COMMANDS else self.data
        links = self._ctx.ports.links
        frame = frame_header(cmd, volume, len(head) + len(body), self.apv) + head
        if not body:
            links.send(link, frame)
        elif len(body) <= JOINED_BYTES_MAX:
            links.send(link, frame + body)
        else:
            links.send(link, frame)
            links.send(link, body)

    # -- receiving ----------------------------------------------------------------------------

    def received(self, link: int, data: bytes) -> bool:
        """Bytes of a link; False if the link is none of ours."""
        deframer = self._deframers.get(link)
        if deframer is None:
            return False
        self._heard_ns = self._ctx.now_ns()
        deframer.feed(data)
        self.pump()
        return True

    def pump(self) -> None:
        """Handle every complete packet of the sockets we listen to, meta first."""
        if self._pump_running:
            self._ctx.defer(self.pump)
            return
        self._pump_running = True
        handle = self._packet
        try:
            for link in (self.meta, self.data):
                if link is None or link not in self._listening_to:
                    continue
                deframer = self._deframers[link]
                take, on_meta = deframer.next, link == self.meta
                try:
                    while link in self._listening_to and not deframer.empty:
                        if on_meta:
                            if acks := deframer.acks():
                                self._acks(acks)
                                continue
                            if named := deframer.barrier(_P_BARRIER_ACK):
                                self._barrier_ack(*named)
                                continue
                        elif not self.peer_integrity_alg:
                            if writes := deframer.writes():
                                self._writes(writes)
                                continue
                            if named := deframer.barrier(_P_BARRIER):
                                self._barrier(named[0])
                                continue
                        packet = take()
                        if packet is None:
                            break
                        handle(packet)
                except PeerError as error:
                    state = ConnState.NETWORK_FAILURE if on_meta else ConnState.PROTOCOL_ERROR
                    self._broken(state, str(error))
                    return
        finally:
            self._pump_running = False

    def hold_data(self) -> Callable[[], None]:
        """Handle no more packets of the data socket until what is returned is called.

        For what has to be durable before the next packet may rely on it.
        """
        link = self.data
        if link is None:
            return _nothing
        self._data_holds += 1
        self._listening_to.discard(link)

        def go_on() -> None:
            if self.data != link:
                return  # that connection is gone
            self._data_holds -= 1
            if not self._data_holds:
                self._listening_to.add(link)
                self._ctx.defer(self.pump)

        return go_on

    # -- liveness -----------------------------------------------------------------------------

    def ping(self, then: Callable[[], None] | None = None) -> None:
        """Send P_PING; *then* runs when the answer is in: our earlier meta packets were seen."""
        first = not self._ping_out
        self._pings_sent += 1
        if then is not None:
            self._ping_waiters.append((self._pings_sent, then))
        self.send(Cmd.P_PING)
        if first:
            self._arm_ping()

    def on_ping(self) -> None:
        """P_PING: answer at once."""
        self.send(Cmd.P_PING_ACK)

    def on_ping_ack(self) -> None:
        """P_PING_ACK: the peer lives, and has handled what we sent on meta before the ping."""
        self._pings_answered = min(self._pings_answered + 1, self._pings_sent)
        self._arm_ping()
        while self._ping_waiters and self._ping_waiters[0][0] <= self._pings_answered:
            self._ping_waiters.popleft()[1]()

    @property
    def _ping_out(self) -> bool:
        return self._pings_answered < self._pings_sent

    def _arm_ping(self) -> None:
        net = self._ctx.net
        delay = net.ping_timeout * TENTH_NS if self._ping_out else net.ping_int * SECOND_NS
        self._ctx.timers.set("ping", delay, self._ping_due)

    def _ping_due(self) -> None:
        net = self._ctx.net
        quiet_ns = self._ctx.now_ns() - self._heard_ns
        if self._ping_out:
            if quiet_ns < net.ping_timeout * TENTH_NS:
                self._arm_ping()  # traffic on either socket counts as life
                return
            self._ctx.tell(Level.WARNING, "PingAck did not arrive in time.")
            self._broken(ConnState.NETWORK_FAILURE, "PingAck did not arrive in time")
        elif quiet_ns < net.ping_int * SECOND_NS:
            self._ctx.timers.set("ping", net.ping_int * SECOND_NS - quiet_ns, self._ping_due)
        else:
            self.ping()


def _nothing() -> None:
    """There is no connection that could go on."""


_META_COMMANDS = _BLOCK_ACKS | {
    *(Cmd.P_PING, Cmd.P_PING_ACK, Cmd.P_BARRIER_ACK, Cmd.P_STATE_CHG_REPLY),
    Cmd.P_CONN_ST_CHG_REPLY,
}
