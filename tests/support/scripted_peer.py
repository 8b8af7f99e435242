"""A peer that does what a test says: beta is a script that speaks through simulated links.

    rig = Rig()                        # alpha: a real node; beta: the script
    rig.meet()                         # sockets, features, parameters: Connected, in sync
    rig.peer.send(Cmd.P_BARRIER, Barrier(b"1234"))
    rig.peer.raw(rig.peer.data, b"rubbish")

By itself the script answers pings, grants state changes and, while ``polite``, does the whole
handshake. Packets of alpha are in ``peer.packets``; with ``obliging`` writes and barriers are
acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from replblk.engine.node import Node
from replblk.engine.ports import Ports
from replblk.model.config import Resource, Settings
from replblk.model.generation import UuidSet
from replblk.model.state import State
from replblk.model.vocabulary import Code, ConnState, DiskState, Policy, Protocol, Role
from replblk.sim.world import SECOND_NS
from replblk.wire.commands import Socket
from replblk.wire.framing import Deframer, Packet, frame
from replblk.wire.hot import block_ack, data_header, parse_data, parse_trim
from replblk.wire.packets import (
    PRO_VERSION_MAX,
    PRO_VERSION_MIN,
    BarrierAck,
    Cmd,
    Features,
    ProtocolPacket,
    Sizes,
    StateReply,
    StateWord,
    SyncParam,
    Uuids,
    decode,
    encode,
)
from tests.support.lab import Lab

FEATURES = 0xF
META = frozenset(
    {
        *(Cmd.P_PING, Cmd.P_PING_ACK, Cmd.P_RECV_ACK, Cmd.P_WRITE_ACK, Cmd.P_RS_WRITE_ACK),
        *(Cmd.P_SUPERSEDED, Cmd.P_NEG_ACK, Cmd.P_NEG_DREPLY, Cmd.P_NEG_RS_DREPLY),
        *(Cmd.P_BARRIER_ACK, Cmd.P_STATE_CHG_REPLY, Cmd.P_CONN_ST_CHG_REPLY, Cmd.P_OV_RESULT),
        *(Cmd.P_RS_IS_IN_SYNC, Cmd.P_RS_CANCEL, Cmd.P_RETRY_WRITE),
    }
)


class ScriptedPeer:
    """The peer of a real node; fits where a ``Machine`` expects a node."""

    def __init__(self, resource: Resource, settings: Settings, ports: Ports) -> None:
        self.ports = ports
        self.volumes: dict[int, Any] = {}
        self.data = 0
        self.meta = 0
        """Links; 0 while there is none."""
        self.apv = 80
        self.features = 0
        self.packets: list[Packet] = []
        self.lost: list[tuple[int, str]] = []
        # what it does by itself
        self.opens_meta = True
        self.polite = True
        """Does the handshake up to its parameters."""
        self.pongs = True
        self.consents = True
        """Grants every state change that alpha asks for."""
        self.obliging = False
        self.offer = Features(PRO_VERSION_MIN, FEATURES, PRO_VERSION_MAX)
        # what it says of itself
        self.uuids = UuidSet()
        self.uuid_flags = 0
        self.dirty_bits = 0
        self.role = Role.SECONDARY
        self.disk = DiskState.UP_TO_DATE
        self.sectors = 0
        self.verify_alg = ""
        self.protocol = ProtocolPacket(
            Protocol.C,
            Policy.DISCONNECT,
            Policy.DISCONNECT,
            Policy.DISCONNECT,
            0,
            False,
            "",
        )
        self._attempt = 0
        self._deframers: dict[int, Deframer] = {}
        self._seq = 0
        ports.links.listen(True)

    # -- speaking -----------------------------------------------------------------------------

    def raw(self, link: int, data: bytes) -> None:
        """Put bytes into a stream."""
        if link:
            self.ports.links.send(link, data)

    def send_payload(
        self, cmd: Cmd, payload: bytes, volume: int = 0, on: Socket | None = None
    ) -> None:
        """Send a packet with any payload, on the socket it belongs to or on that one."""
        kind = on or ("meta" if cmd in META else "data")
        link = self.meta if kind == "meta" else self.data
        if link:
            self.raw(link, frame(cmd, volume if self.apv >= 100 else 0, payload, self.apv))

    def send(self, cmd: Cmd, message: Any = None, volume: int = 0) -> None:
        """Send a well-formed packet."""
        payload = encode(cmd, message, features=self.features, apv=self.apv)
        self.send_payload(cmd, payload, volume)

    def state(self, **fields: object) -> StateWord:
        """What it would say of its state, with some fields different."""
        state = State(
            role=self.role,
            conn=ConnState.WF_CONNECTION,
            disk=self.disk,
            pdsk=DiskState.DUNKNOWN,
        )
        return StateWord(state.but(**fields).packed())

    def say_features(self) -> None:
        """P_CONNECTION_FEATURES."""
        self.send(Cmd.P_CONNECTION_FEATURES, self.offer)

    def say_parameters(self, *, but: frozenset[Cmd] = frozenset()) -> None:
        """P_PROTOCOL and everything about volume 0, without the commands in *but*."""
        uuids = self.uuids
        for cmd, message in (
            (Cmd.P_PROTOCOL, self.protocol),
            (Cmd.P_SYNC_PARAM89, SyncParam(verify_alg=self.verify_alg)),
            (Cmd.P_SIZES, Sizes(self.sectors, 0, self.sectors, 1 << 20)),
            (
                Cmd.P_UUIDS,
                Uuids(
                    uuids.current,
                    uuids.bitmap,
                    uuids.history0,
                    uuids.history1,
                    self.dirty_bits,
                    self.uuid_flags,
                ),
            ),
            (Cmd.P_STATE, self.state()),
        ):
            if cmd not in but:
                self.send(cmd, message)

    def ack(self, packet: Packet, cmd: Cmd = Cmd.P_WRITE_ACK) -> None:
        """Acknowledge a write of alpha."""
        if packet.cmd is Cmd.P_DATA:
            sector, block_id, _, _ = parse_data(packet.payload)
            size = len(packet.payload) - 24
        else:
            sector, block_id, _, _, size = parse_trim(packet.payload)
        self.send_ack(cmd, sector, block_id, size)

    def send_ack(self, cmd: Cmd, sector: int, block_id: bytes, size: int) -> None:
        """Any packet of 24 bytes of the meta socket."""
        self._seq += 1
        self.send_payload(cmd, block_ack(sector, block_id, size, self._seq))

    def write(
        self, sector: int, data: bytes, block_id: bytes = b"12345678", flags: int = 256
    ) -> None:
        """P_DATA, as a Primary would."""
        self._seq += 1
        self.send_payload(Cmd.P_DATA, data_header(sector, block_id, self._seq, flags) + data)

    def hang_up(self) -> None:
        """Close every connection there is."""
        for link in self._deframers:
            self.ports.links.close(link)
        self._forget()

    def open(self, what: Callable[[int], None]) -> None:
        """Make one more connection to alpha; *what* gets its link."""
        self._attempt = self.ports.links.connect(SECOND_NS)
        self._opened = what

    # -- listening ----------------------------------------------------------------------------

    def of(self, cmd: Cmd) -> list[Packet]:
        """All packets of that kind so far on this connection."""
        return [packet for packet in self.packets if packet.cmd is cmd]

    def says(self, packet: Packet) -> Any:
        """What a packet of alpha says."""
        return decode(packet.cmd, packet.payload, features=self.features, apv=self.apv)

    def on_link_accepted(self, link: int) -> None:
        self._deframers[link] = Deframer("data")

    def on_link_connected(self, link: int) -> None:
        if link != self._attempt:
            return
        self._attempt = 0
        self._deframers[link] = Deframer("meta")
        self._opened(link)

    def on_link_bytes(self, link: int, data: bytes) -> None:
        deframer = self._deframers.get(link)
        if deframer is not None:
            deframer.feed(data)
        while deframer is not None and (packet := deframer.next()) is not None:
            self._on_packet(link, packet)

    def on_link_lost(self, link: int, why: str) -> None:
        self.lost.append((link, why))
        self._deframers.pop(link, None)
        if link in (self.data, self.meta):
            self._forget()

    def on_wake(self) -> None: ...

    def on_disk_answers(self, answers: Any) -> None: ...

    def on_listen_failed(self, why: str) -> None: ...

    def on_client_requests(self, requests: Any) -> None: ...

    def on_command(self, command: Any) -> None: ...

    def step(self) -> None: ...

    def _forget(self) -> None:
        self.data = self.meta = 0
        self.apv, self.features = 80, 0
        self.packets = []
        self._deframers = {}

    def _on_packet(self, link: int, packet: Packet) -> None:
        if packet.cmd is Cmd.P_INITIAL_DATA:
            if self.data:  # alpha begins anew
                self._forget()
                self._deframers[link] = Deframer("data")
            self.data = link
            if self.opens_meta:
                self.open(self._meta_is_open)
            return
        if packet.cmd is Cmd.P_INITIAL_META:
            self.meta = link
            self._deframers[link].socket = "meta"
            return
        self.packets.append(packet)
        if packet.cmd is Cmd.P_CONNECTION_FEATURES:
            self._agree(packet)
        elif packet.cmd is Cmd.P_PING and self.pongs:
            self.send(Cmd.P_PING_ACK)
        elif packet.cmd is Cmd.P_STATE_CHG_REQ and self.consents:
            self.send(Cmd.P_STATE_CHG_REPLY, StateReply(int(Code.SUCCESS)), packet.volume)
        elif packet.cmd is Cmd.P_CONN_ST_CHG_REQ and self.consents:
            self.send(Cmd.P_CONN_ST_CHG_REPLY, StateReply(int(Code.SUCCESS)))
        elif self.obliging and packet.cmd in (Cmd.P_DATA, Cmd.P_ZEROES, Cmd.P_TRIM):
            self.ack(packet)
        elif self.obliging and packet.cmd is Cmd.P_BARRIER:
            count = self._epoch_size()
            self.send(Cmd.P_BARRIER_ACK, BarrierAck(bytes(packet.payload[:4]), count))

    def _epoch_size(self) -> int:
        count = 0
        for packet in reversed(self.packets[:-1]):
            if packet.cmd is Cmd.P_BARRIER:
                break
            count += packet.cmd in (Cmd.P_DATA, Cmd.P_ZEROES, Cmd.P_TRIM)
        return count

    def _meta_is_open(self, link: int) -> None:
        self.meta = link
        self.raw(link, frame(Cmd.P_INITIAL_META, 0, b"", 80))

    def _agree(self, packet: Packet) -> None:
        if not self.polite:
            return
        self.say_features()
        theirs = decode(packet.cmd, packet.payload, features=0, apv=80)
        assert isinstance(theirs, Features)
        self.apv = min(theirs.protocol_max, self.offer.protocol_max)
        self.features = theirs.feature_flags & self.offer.feature_flags
        for link in (self.data, self.meta):
            self._deframers[link].apv = self.apv
        self.say_parameters()


class Rig(Lab):
    """alpha is a real node on a good disk, beta the script."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("device_bytes", 1 << 20)

        def make(resource: Resource, settings: Settings, ports: Ports) -> Any:
            kind = Node if resource.local.names[0] == "alpha" else ScriptedPeer
            return kind(resource, settings, ports)

        super().__init__(make_node=make, **options)
        self.boot("alpha")
        self.beta.boot()
        self.peer.uuids = self.uuids("alpha").with_role(primary=False)
        self.peer.sectors = self.drive("beta").layout.usable_sectors

    @property
    def peer(self) -> ScriptedPeer:
        """The script."""
        assert isinstance(self.beta.node, ScriptedPeer)
        return self.beta.node

    def sockets(self) -> None:
        """Wait until alpha has sent its features; the script says nothing yet."""
        self.peer.polite = False
        self.run_until(lambda: bool(self.peer.of(Cmd.P_CONNECTION_FEATURES)), what="features")

    def meet(self) -> None:
        """Wait until alpha is Connected (or further)."""
        self.run_until(
            lambda: self.alpha.connection >= ConnState.CONNECTED and bool(self.peer.meta),
            what="a connection",
        )

    def gets(self, cmd: Cmd, count: int = 1) -> Packet:
        """Wait for the count-th packet of that kind from alpha."""
        self.run_until(lambda: len(self.peer.of(cmd)) >= count, what=f"{cmd.name} from alpha")
        return self.peer.of(cmd)[count - 1]

    def breaks(self) -> None:
        """Wait until alpha has given up this connection."""
        self.run_until(
            lambda: self.alpha.connection < ConnState.WF_REPORT_PARAMS, what="the connection broken"
        )

    def behave(self) -> None:
        """From now on the script is a well-behaved peer again; alpha connects to it."""
        peer = self.peer
        peer.polite = peer.pongs = peer.consents = peer.obliging = peer.opens_meta = True
        if self.alpha.connection is ConnState.STANDALONE:
            self.connect("alpha")
        self.meet()
