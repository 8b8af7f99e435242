"""The only door of a node: events in, routed by tables to the paths; a router, never a worker.

Reading order for a newcomer: this file, ``write_origin``, ``write_peer``, then ``connection``,
``handshake``, ``peer_state``, and the three ``resync_*``. Events are queued; ``step`` drains the
queue, so that writes gather into one activity-log transaction and one flush. Paths start each other
only through states (``follow``) and the callables wired here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from replblk.engine import metadata_told, ranges_told
from replblk.engine.attach import Attach
from replblk.engine.commands import Commands
from replblk.engine.connection import Connection
from replblk.engine.context import Context
from replblk.engine.detaching import Detaching
from replblk.engine.disk_failure import DiskFailure
from replblk.engine.disk_io import DiskIo
from replblk.engine.follow import FollowUps
from replblk.engine.handlers import HandlerCalls
from replblk.engine.handover import Handover
from replblk.engine.handshake import Handshake
from replblk.engine.peer_link import PeerLink
from replblk.engine.peer_state import PeerState
from replblk.engine.ports import ClientRequest, Command, DiskAnswer, Ports
from replblk.engine.read import ReadPath
from replblk.engine.resizing import Resizing
from replblk.engine.resync_bitmap import ResyncBitmap
from replblk.engine.resync_source import ResyncSource
from replblk.engine.resync_target import ResyncTarget
from replblk.engine.role_change import RoleChange
from replblk.engine.runs import Runs
from replblk.engine.sizes import DeviceSize
from replblk.engine.state_change import StateRequests
from replblk.engine.states import States
from replblk.engine.status import status_of
from replblk.engine.verify import Verify
from replblk.engine.volume import Volume
from replblk.engine.write_origin import WriteOrigin
from replblk.engine.write_peer import WritePeer
from replblk.model.config import Resource, Settings
from replblk.model.errors import PeerError
from replblk.model.latency import Latencies
from replblk.model.notices import Level
from replblk.model.state import State
from replblk.model.status import NodeStatus
from replblk.model.vocabulary import ConnState, DiskState
from replblk.wire.commands import SPECS
from replblk.wire.framing import Packet
from replblk.wire.hot import (
    parse_barrier,
    parse_barrier_ack,
    parse_block_ack,
    parse_data,
)
from replblk.wire.packets import ID_SYNCER, Cmd, decode

_TOLERATED_UNKNOWN = frozenset(
    {Cmd.P_SYNC_PARAM, Cmd.P_SYNC_PARAM89, Cmd.P_SIZES, Cmd.P_UUIDS, Cmd.P_STATE}
)
"""Packets for a volume we do not have are skipped if they only describe it."""

_NEEDS_NO_VOLUME = {Cmd.P_UNPLUG_REMOTE, Cmd.P_DELAY_PROBE} | {
    cmd for cmd, spec in SPECS.items() if not spec.volume_meaningful
}
"""What concerns all volumes, whatever number is in its header (there may be no volume 0), and hints
that are not taken."""

_BEFORE_PROTOCOL = frozenset({Cmd.P_PROTOCOL, Cmd.P_PING, Cmd.P_PING_ACK})

Route = Callable[[Volume, Packet], None]


class Node:
    """One resource on one node. Every ``on_`` method queues; nothing happens before ``step``."""

    def __init__(
        self,
        resource: Resource,
        settings: Settings,
        ports: Ports,
        latencies: Latencies | None = None,
    ) -> None:
        """latencies: where to note how long requests take, beside what the ports note there."""
        ctx = self._ctx = Context(resource, settings, ports, latencies)
        self._events: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()
        self._steps = 0
        for config in resource.local.volumes:
            ctx.volumes[config.number] = Volume(config)
        failure = DiskFailure(ctx)
        ctx.io = DiskIo(ctx)
        ctx.io.too_slow = failure.too_slow
        ctx.handlers = HandlerCalls(ctx)
        ctx.states = States(ctx, self._after)
        runs = self._runs = Runs(ctx, self._on_packet)
        ctx.peer = PeerLink(
            ctx,
            self._on_packet,
            runs.on_acks,
            runs.on_data,
            runs.on_barrier,
            runs.on_barrier_ack,
            self._on_broken,
        )
        self._writes = WriteOrigin(ctx, failure)
        self._peer_writes = WritePeer(
            ctx, failure, lambda *how: self._follow.begin_generation(*how)
        )
        self._reads = ReadPath(ctx, failure)
        self._target = ResyncTarget(ctx, failure)
        self._source = ResyncSource(ctx, failure)
        self._exchange = ResyncBitmap(
            ctx,
            self._target_ready,
            lambda why: self._connection.stand_alone(why),
            lambda volume: self._requests.asks_to_sync(volume),
        )
        self._verify = Verify(ctx, failure)
        resizing = Resizing(ctx)
        self._attach = Attach(ctx, failure, resizing)
        self._connection = Connection(
            ctx,
            self._begin_handshake,
            ends=lambda: self._source.connection_ends(self._writes.log),
            settle=self._settle,
        )
        self._handshake = Handshake(ctx, self._connection.retry, self._connection.disagree)
        self._requests = StateRequests(ctx, self._connection.tear_down)
        self._peer_state = PeerState(
            ctx,
            stand_alone=self._connection.disagree,
            begin_exchange=lambda volume, full: self._exchange.begin(volume, all_bits=full),
            target_done=self._source.target_reports_done,
            verify_done=self._verify.initiator_reports_done,
            uuids_changed=self._peer_uuids_changed,
            idle=self._writes.idle,
            peer_restarted=lambda volume: self._follow.fencing.peer_restarted(volume),
        )
        self._sizes = DeviceSize(
            ctx,
            resizing,
            stand_alone=self._connection.disagree,
            start_source=self._exchange.start_source,
        )
        self._follow = FollowUps(
            ctx,
            detach=self._detach,
            start_source=self._exchange.start_source,
            writes=self._writes,
        )
        roles = RoleChange(ctx, self._requests, self._writes, self._follow.fencing)
        self._handover = Handover(ctx, roles)
        self._commands = Commands(
            ctx,
            attach=self._attach,
            connection=self._connection,
            requests=self._requests,
            roles=roles,
            verify=self._verify,
            sizes=self._sizes,
            fencing=self._follow.fencing,
            handover=self._handover,
            detaching=Detaching(ctx, self._requests, self._writes),
        )
        self._routes = self._table()
        runs.wire(
            handshake=self._handshake,
            expects_only_bitmap=self._exchange.expects_only_bitmap,
            refused=lambda volume: self._follow.news.refused(volume),
            writes=self._writes,
            peer_writes=self._peer_writes,
            read=self._reads.on_read,
        )

    # -- the protocol on one page -------------------------------------------------------------

    def _table(self) -> dict[Cmd, Route]:
        peer, states, requests = self._ctx.peer, self._peer_state, self._requests
        writes, peer_writes, reads = self._writes, self._peer_writes, self._reads
        source, target, exchange = self._source, self._target, self._exchange

        def message(handler: Callable[[Volume, Any], None]) -> Route:
            return lambda volume, packet: handler(volume, self._decode(packet))

        def connection_wide(handler: Callable[[Any], None]) -> Route:
            return lambda _, packet: handler(self._decode(packet))

        return {
            # parameters and state
            Cmd.P_PROTOCOL: connection_wide(self._handshake.on_protocol),
            Cmd.P_PROTOCOL_UPDATE: connection_wide(self._handshake.on_protocol_update),
            Cmd.P_SYNC_PARAM: message(self._handshake.on_sync_param),
            Cmd.P_SYNC_PARAM89: message(self._handshake.on_sync_param),
            Cmd.P_SIZES: message(self._sizes.on_sizes),
            Cmd.P_UUIDS: message(states.on_uuids),
            Cmd.P_STATE: message(states.on_state),
            Cmd.P_STATE_CHG_REQ: message(requests.on_request),
            Cmd.P_STATE_CHG_REPLY: message(requests.on_reply),
            Cmd.P_CONN_ST_CHG_REQ: connection_wide(requests.on_conn_request),
            Cmd.P_CONN_ST_CHG_REPLY: connection_wide(requests.on_conn_reply),
            # writes
            Cmd.P_DATA: peer_writes.on_data,
            Cmd.P_TRIM: lambda v, p: peer_writes.on_zeroes(v, p.payload),
            Cmd.P_ZEROES: lambda v, p: peer_writes.on_zeroes(v, p.payload),
            Cmd.P_BARRIER: lambda _, p: peer_writes.on_barrier(parse_barrier(p.payload)),
            Cmd.P_OUT_OF_SYNC: message(peer_writes.on_out_of_sync),
            Cmd.P_RECV_ACK: self._on_write_ack,
            Cmd.P_WRITE_ACK: self._on_write_ack,
            Cmd.P_RS_WRITE_ACK: self._on_write_ack,
            Cmd.P_NEG_ACK: self._on_write_ack,
            Cmd.P_BARRIER_ACK: lambda _, p: writes.on_barrier_ack(*parse_barrier_ack(p.payload)),
            # reads
            Cmd.P_DATA_REQUEST: message(reads.on_data_request),
            Cmd.P_DATA_REPLY: lambda v, p: reads.on_data_reply(
                v, parse_data(p.payload), peer.data_of(p)
            ),
            Cmd.P_NEG_DREPLY: lambda v, p: reads.on_neg_dreply(v, self._block_ack(v, p)),
            # resync
            Cmd.P_BITMAP: lambda v, p: exchange.on_bitmap(v, p.cmd, p.payload),
            Cmd.P_COMPRESSED_BITMAP: lambda v, p: exchange.on_bitmap(v, p.cmd, p.payload),
            Cmd.P_SYNC_UUID: message(exchange.on_sync_uuid),
            Cmd.P_RS_DATA_REQUEST: lambda v, p: source.on_request(v, self._decode(p), thin=False),
            Cmd.P_RS_THIN_REQ: lambda v, p: source.on_request(v, self._decode(p), thin=True),
            Cmd.P_RS_DATA_REPLY: lambda v, p: target.on_data(
                v, parse_data(p.payload)[0], peer.data_of(p)
            ),
            Cmd.P_CSUM_RS_REQUEST: message(source.on_request),
            Cmd.P_RS_IS_IN_SYNC: lambda v, p: target.on_in_sync(v, self._block_ack(v, p)),
            Cmd.P_RS_DEALLOCATED: message(target.on_deallocated),
            Cmd.P_NEG_RS_DREPLY: self._on_neg_rs_dreply,
            Cmd.P_RS_CANCEL: lambda v, p: target.on_negative(v, p.cmd, self._block_ack(v, p)),
            # online verify
            Cmd.P_OV_REQUEST: message(self._verify.on_request),
            Cmd.P_OV_REPLY: message(self._verify.on_reply),
            Cmd.P_OV_RESULT: lambda v, p: self._verify.on_result(v, self._block_ack(v, p)),
            # liveness and hints
            Cmd.P_PING: lambda v, p: peer.on_ping(),
            Cmd.P_PING_ACK: lambda v, p: peer.on_ping_ack(),
            Cmd.P_UNPLUG_REMOTE: lambda v, p: None,
            Cmd.P_DELAY_PROBE: lambda v, p: None,
        }

    def _on_packet(self, packet: Packet) -> None:
        if self._handshake.active:
            self._handshake.on_packet(packet)
            return
        cmd = packet.cmd
        route = self._routes.get(cmd)
        if route is None:
            raise PeerError(f"{cmd.name} is not supported by this node or not expected now")
        if not self._handshake.protocol_received and cmd not in _BEFORE_PROTOCOL:
            raise PeerError(f"{cmd.name} before P_PROTOCOL")
        self._exchange.expects_only_bitmap(cmd, packet.volume)
        volume = self._ctx.volumes.get(packet.volume)
        if volume is None and cmd in _NEEDS_NO_VOLUME:
            volume = next(iter(self._ctx.volumes.values()))
        if volume is None:
            if cmd not in _TOLERATED_UNKNOWN:
                raise PeerError(f"{cmd.name} for volume {packet.volume}, which is not configured")
            self._ctx.tell(
                Level.WARNING,
                f"{cmd.name} packet received for volume {packet.volume}, "
                "which is not configured locally",
            )
            return
        route(volume, packet)

    def _decode(self, packet: Packet) -> Any:
        peer = self._ctx.peer
        return decode(packet.cmd, packet.payload, features=peer.features, apv=peer.apv)

    @staticmethod
    def _block_ack(volume: Volume, packet: Packet) -> tuple[int, bytes, int, int]:
        ack = parse_block_ack(packet.payload)
        volume.saw_seq(ack[3])
        return ack

    def _on_write_ack(self, volume: Volume, packet: Packet) -> None:
        ack = self._block_ack(volume, packet)
        if ack[1] == ID_SYNCER:
            self._source.on_ack(packet.cmd, volume, ack)
        else:
            if packet.cmd is Cmd.P_NEG_ACK:
                self._follow.news.refused(volume)
            self._writes.on_block_ack(packet.cmd, volume, *ack[:3])

    def _on_neg_rs_dreply(self, volume: Volume, packet: Packet) -> None:
        ack = self._block_ack(volume, packet)
        if not self._verify.on_negative(volume, ack):
            self._target.on_negative(volume, packet.cmd, ack)

    # -- states -------------------------------------------------------------------------------

    def _after(self, volume: Volume, old: State, new: State) -> None:
        """A volume's state was committed: what follows, then the paths that live by states."""
        if old.disk < DiskState.CONSISTENT <= new.disk:
            volume.serves_since(volume.uuids.current)
        theirs = volume.peer_uuids
        lost = new.disk < DiskState.INCONSISTENT <= old.disk
        if lost and theirs is not None and new.pdsk is DiskState.UP_TO_DATE:
            volume.exposed_uuid = theirs.current  # it may have begun one before our disk was gone
        self._exchange.on_state(volume, old, new)
        self._source.on_state(volume, old, new)
        self._target.on_state(volume, old, new)
        self._verify.on_state(volume, old, new)
        self._follow.after(volume, old, new)
        if not volume.primary:
            volume.serving = False
        volume.release_held()
        self._peer_writes.release_waiting()

    def _target_ready(self, volume: Volume) -> None:
        """SyncTarget is durable: held-back writes of the peer go on, the resync begins."""
        self._peer_writes.release_waiting()
        self._target.ready(volume)

    def _peer_uuids_changed(self, volume: Volume) -> None:
        self._follow.news.uuids_changed(volume)
        self._handover.peer_said(volume)

    def _detach(self, volume: Volume) -> None:
        self._attach.detach(volume, lambda: None)

    # -- connection ---------------------------------------------------------------------------

    def _begin_handshake(self, data: Any, meta: Any) -> None:
        self._handshake.begin(data, meta)

    def _on_broken(self, state: ConnState, why: str) -> None:
        self._handshake.ended()
        self._connection.broken(state, why)

    def _settle(self) -> None:
        """The connection is gone: every path lets go of what it had on it."""
        self._handshake.ended()
        self._peer_writes.connection_lost()
        self._source.connection_lost()
        self._writes.connection_lost()
        self._reads.connection_lost()
        self._requests.connection_lost()

    # -- events -------------------------------------------------------------------------------

    def on_link_connected(self, link: int) -> None:
        """An outgoing connection was made."""
        self._events.append((self._connection.on_link_connected, (link,)))

    def on_link_accepted(self, link: int) -> None:
        """An incoming connection was made."""
        self._events.append((self._connection.on_link_accepted, (link,)))

    def on_link_bytes(self, link: int, data: bytes) -> None:
        """Bytes of a connection, in order."""
        self._events.append((self._connection.on_link_bytes, (link, data)))

    def on_link_lost(self, link: int, why: str) -> None:
        """A connection ended, or could not be made."""
        self._events.append((self._connection.on_link_lost, (link, why)))

    def on_listen_failed(self, why: str) -> None:
        """Our address can't be listened on."""
        self._events.append((self._connection.on_listen_failed, (why,)))

    def on_disk_answers(self, answers: list[DiskAnswer]) -> None:
        """Disk operations ended, in this order; errno 0: well."""
        self._events.append((self._ctx.io.all_done, (answers,)))

    def on_handler_done(self, number: int, exit_code: int, trouble: str) -> None:
        """A handler is over; trouble: why its exit code means nothing, or ""."""
        self._events.append((self._ctx.handlers.done, (number, exit_code, trouble)))

    def on_wake(self) -> None:
        """The time asked for has come."""
        self._ctx.timers.woken()

    def on_client_requests(self, requests: list[ClientRequest]) -> None:
        """Clients want to read, write, zero, trim or flush, in this order."""
        self._events.append((self._runs.on_client_requests, (requests,)))

    def on_command(self, command: Command) -> None:
        """The administrator wants something."""
        self._events.append((self._commands.on_command, (command,)))

    def step(self) -> None:
        """Drain the queue; then everything that was gathered: log transactions, barriers, waits.

        Nothing is called that has nothing to do: a step's own cost is much of a lone request's.
        """
        ctx, events, deferred = self._ctx, self._events, self._ctx.deferred
        timers, log = ctx.timers, self._writes.log
        while True:
            timers.run_due()
            while events:
                handler, arguments = events.popleft()
                handler(*arguments)
                if deferred:
                    ctx.run_deferred()
            if deferred:
                ctx.run_deferred()
            for volume in ctx.volumes.values():
                if (gate := volume.al_gate) is not None and gate.waiting:
                    gate.pump()
                    if gate.full and gate.waiting:
                        log.awaited = True
            if deferred:
                ctx.run_deferred()
            if ctx.watchers:
                ctx.ask_watchers()
            if self._connection.after_drain is not None:
                self._connection.check_drained()
            if deferred:
                ctx.run_deferred()
            elif not events:
                break
        if log.due or log.current.count:
            self._writes.step_ended()
        if timers.moved:
            timers.arm()
        self._steps += 1
        if not self._steps & 63:
            ctx.latencies.count_gathered()

    # -- questions ----------------------------------------------------------------------------

    def open_device(self, volume: int, read_only: bool = False) -> str | None:
        """A client opens the device: None if it may, else a sentence that says why not."""
        it, name = self._ctx.volumes[volume], self._ctx.resource.name
        if not it.primary or not it.serving:
            return (
                f"{name}/{volume} is {it.state.role} on {self._ctx.resource.local.names[0]}: "
                f"only a Primary serves clients; use the other node, or 'replblk primary {name}'"
            )
        if not it.capacity_sectors:
            return f"{name}/{volume} has no size yet: no disk is attached and no peer is connected"
        it.open_count += 1
        return None

    def close_device(self, volume: int) -> None:
        """A client that had opened the device is gone."""
        it = self._ctx.volumes[volume]
        it.open_count -= 1
        assert it.open_count >= 0

    def size_bytes(self, volume: int) -> int:
        """Size of the device as clients see it."""
        return self._ctx.volumes[volume].capacity_sectors * 512

    def out_of_sync(
        self, volume: int, offset: int, length: int, most: int
    ) -> list[tuple[int, bool]]:
        """(length, whether the peer may lack it) of neighbouring ranges; may stop early."""
        return ranges_told.out_of_sync(self._ctx.volumes[volume], offset, length, most)

    def all_here(self, volume: int) -> bool:
        """Whether every read would now be answered from the local disk."""
        return ranges_told.all_here(self._ctx.volumes[volume])

    def zeroes_travel(self, volume: int) -> bool:
        """Whether zeroes reach the peer without being sent as data."""
        return ranges_told.zeroes_travel(self._ctx, self._ctx.volumes[volume])

    def status(self) -> NodeStatus:
        """A snapshot for people and machines."""
        return status_of(self._ctx, self._peer_writes, self._target, self._verify)

    def metadata_text(self, volume: int, verb: str, header: Sequence[str]) -> str:
        """What get-gi, show-gi or dump-md say of the metadata. Raises MetadataError."""
        return metadata_told.text(self._ctx.volumes[volume], verb, header)

    @property
    def volumes(self) -> dict[int, Volume]:
        """The volumes as they are: for simulator and tests, which look but do not touch."""
        return self._ctx.volumes

    @property
    def unconfirmed(self) -> list[tuple[int, range]]:
        """Volume and sectors of every write that the peer has not barrier-acknowledged."""
        return [
            (w.volume.number, range(w.sector, w.sector + (w.size >> 9)))
            for w in (*self._writes.log.writes(), *self._writes.frozen.writes())
        ]
