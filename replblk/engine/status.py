"""A node's snapshot, taken from its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.status import NodeStatus, VolumeStatus
from replblk.model.units import kib
from replblk.model.vocabulary import ConnState

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.resync_target import ResyncTarget
    from replblk.engine.verify import Verify
    from replblk.engine.volume import Volume
    from replblk.engine.write_peer import WritePeer


def status_of(
    ctx: Context, peer_writes: WritePeer, target: ResyncTarget, verify: Verify
) -> NodeStatus:
    """The whole resource as this node sees it now."""
    has_net = ctx.states.connection is not ConnState.STANDALONE
    peer = ctx.resource.peer
    return NodeStatus(
        resource=ctx.resource.name,
        protocol=str(ctx.net.protocol) if has_net else "",
        has_net=has_net,
        peer_name=peer.names[0] if peer is not None else "",
        epochs=len(peer_writes.epochs),
        write_ordering="f",
        agreed_protocol=ctx.peer.apv if ctx.states.connection is ConnState.WF_REPORT_PARAMS else 0,
        split_brain=ctx.split_brain,
        congested=peer_writes.congested,
        volumes=tuple(_volume(ctx, v, target, verify) for _, v in sorted(ctx.volumes.items())),
    )


def _volume(ctx: Context, volume: Volume, target: ResyncTarget, verify: Verify) -> VolumeStatus:
    uuids = volume.uuids
    resync = None
    verifying = verify.left_bits(volume)
    if volume.resync is not None:
        want = target.rate_kib_s(volume) if volume.state.conn is ConnState.SYNC_TARGET else 0
        left = volume.dirty_bits if verifying is None else verifying
        resync = volume.resync.status(left, ctx.now_ns(), want)
    return VolumeStatus(
        number=volume.number,
        minor=volume.config.minor,
        device=volume.config.device,
        disk_path=volume.config.disk,
        state=volume.state,
        size_sectors=volume.capacity_sectors,
        uuids=(uuids.current, uuids.bitmap, uuids.history0, uuids.history1),
        sent_kib=kib(volume.sent_sectors),
        received_kib=kib(volume.received_sectors),
        written_kib=kib(volume.written_sectors),
        read_kib=kib(volume.read_sectors),
        al_writes=volume.al_writes,
        bm_writes=volume.bm_writes,
        local_pending=volume.in_flight,
        peer_pending=volume.peer_pending,
        unacked=volume.unacked,
        app_pending=volume.app_pending,
        out_of_sync_kib=volume.dirty_bits * 4,
        al_suspended=False,
        open_count=volume.open_count,
        degraded=volume.degraded,
        resync=resync,
    )
