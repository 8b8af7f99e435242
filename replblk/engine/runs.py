"""What comes many at a time: client requests, P_DATA, acknowledgements; a router like ``node``.

Each is handed on as ``node`` would hand it on alone. What is ordinary and follows its like goes to
its path as one list; anything odd goes its own way, in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.units import DISCARD_BYTES_MAX
from replblk.wire.framing import Packet
from replblk.wire.hot import (
    AckPacket,
    DataPacket,
    barrier,
    barrier_ack,
    block_ack,
    data_header,
    judge_size,
)
from replblk.wire.packets import ID_SYNCER, Cmd

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.handshake import Handshake
    from replblk.engine.ports import ClientRequest
    from replblk.engine.volume import Volume
    from replblk.engine.write_origin import WriteOrigin
    from replblk.engine.write_peer import WritePeer

_P_NEG_ACK = int(Cmd.P_NEG_ACK)


class Runs:
    """The data plane's common events of one node. packet: handles one packet of any kind."""

    def __init__(self, ctx: Context, packet: Callable[[Packet], None]) -> None:
        self._ctx = ctx
        self._packet = packet

    def wire(
        self,
        *,
        handshake: Handshake,
        expects_only_bitmap: Callable[[Cmd, int], None],
        refused: Callable[[Volume], None],
        writes: WriteOrigin,
        peer_writes: WritePeer,
        read: Callable[[Volume, ClientRequest], None],
    ) -> None:
        """handshake: packets of the data plane are in place once it has ``protocol_received``.
        expects_only_bitmap: raises PeerError while a volume's bitmap is due. refused: told that the
        peer refused a write."""
        self._handshake = handshake
        self._expects_only_bitmap = expects_only_bitmap
        self._refused = refused
        self._writes = writes
        self._peer_writes = peer_writes
        self._clients: dict[str, Callable[[Volume, ClientRequest], None]] = {
            "read": read,
            "zero": writes.on_write,
            "trim": writes.on_write,
            "flush": writes.flushes.on_flush,
        }

    def on_client_requests(self, requests: list[ClientRequest]) -> None:
        """Client requests in their order; writes of one volume in a row as one list."""
        ctx, deferred = self._ctx, self._ctx.deferred
        at, count = 0, len(requests)
        while at < count:
            request = requests[at]
            first, number, at = at, request.volume, at + 1
            volume = ctx.volumes[number]
            if request.kind == "write":
                while at < count and requests[at].kind == "write" and requests[at].volume == number:
                    at += 1
                self._writes.runs.on_writes(volume, requests[first:at])
            else:
                self._clients[request.kind](volume, request)
            if deferred:
                ctx.run_deferred()

    def on_acks(self, acks: list[AckPacket]) -> None:
        """Acknowledgements of writes in a row."""
        ctx, peer = self._ctx, self._ctx.peer
        plain, meta = self._handshake.protocol_received, peer.meta
        first = acks[0][1]
        volume = ctx.volumes.get(first)
        if volume is not None and plain:
            for _, number, cmd, _, _, _, block_id, size, _ in acks:
                if (
                    number != first
                    or cmd == _P_NEG_ACK
                    or block_id == ID_SYNCER
                    or size & 511
                    or size > DISCARD_BYTES_MAX
                ):
                    break
            else:
                self._writes.runs.on_acks(volume, acks)
                return
        for ack in acks:
            self._on_ack(ack, plain)
            if peer.meta != meta:
                return

    def _on_ack(self, ack: AckPacket, plain: bool) -> None:
        _, number, cmd, _, _, sector, block_id, size, seq = ack
        volume = self._ctx.volumes.get(number)
        if volume is None or not plain or block_id == ID_SYNCER:
            self._packet(Packet(Cmd(cmd), number, block_ack(sector, block_id, size, seq)))
            return
        judge_size("an acknowledgement", sector, size, 0, DISCARD_BYTES_MAX)
        if cmd == _P_NEG_ACK:
            self._refused(volume)
        self._writes.runs.on_acks(volume, [ack])

    def on_data(self, packets: list[DataPacket]) -> None:
        """P_DATA in a row; those of one volume as one list."""
        peer, volumes = self._ctx.peer, self._ctx.volumes
        plain, link = self._handshake.protocol_received, peer.data
        at, count = 0, len(packets)
        while at < count and peer.data == link:
            first, number = at, packets[at][0]
            volume = volumes.get(number)
            at += 1
            if volume is None or not plain:
                _, sector, block_id, seq, flags, data = packets[first]
                payload = data_header(sector, block_id, seq, flags) + data
                self._packet(Packet(Cmd.P_DATA, number, payload))
                continue
            while at < count and packets[at][0] == number:
                at += 1
            self._expects_only_bitmap(Cmd.P_DATA, number)
            self._peer_writes.on_writes(
                volume, packets[first:at] if at - first < count else packets
            )

    def on_barrier(self, number: bytes) -> None:
        """P_BARRIER."""
        if not self._handshake.protocol_received:
            self._packet(Packet(Cmd.P_BARRIER, 0, barrier(number)))
            return
        self._expects_only_bitmap(Cmd.P_BARRIER, 0)
        self._peer_writes.on_barrier(number)

    def on_barrier_ack(self, number: bytes, set_size: int) -> None:
        """P_BARRIER_ACK."""
        if self._handshake.protocol_received:
            self._writes.on_barrier_ack(number, set_size)
        else:
            self._packet(Packet(Cmd.P_BARRIER_ACK, 0, barrier_ack(number, set_size)))
