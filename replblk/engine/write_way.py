"""What a volume's state means for an application write, judged once for all writes in that state.

A write asks eight questions of the state; at thousands of writes between two changes of it the
answers are worth keeping. They depend on nothing but what ``WriteWay`` is made of, and it is made
anew when any of that is another object: a state, like the net options, is never changed in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.engine.write_acks import flags_to_send
from replblk.model.vocabulary import ConnState, DiskState, Protocol
from replblk.wire.packets import DP_SEND_RECEIVE_ACK, DP_SEND_WRITE_ACK

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume
    from replblk.model.config import NetOptions
    from replblk.model.state import State

_BEFORE_RESYNC = (
    *(ConnState.STARTING_SYNC_S, ConnState.STARTING_SYNC_T),
    *(ConnState.WF_BITMAP_T, ConnState.WF_SYNC_UUID),
)
"""The peer gets no writes, and whose data count is not durable yet: writes wait."""


class WriteWay:
    """The way of writes in one state.

    suspended: no I/O of clients goes on, reads neither. wait: writes wait for another state.
    replicate: they go to the peer. has_disk: they go to the local disk. good_here, good_there: a
    copy there counts.
    flags: what P_DATA asks for; enough: it asks for nothing but the barrier's acknowledgement.
    plain: P_DATA of up to *bytes_max* bytes is a header of protocol 100 and the data, no digest
    between. barrier_tells: each write has to be followed by its barrier. straight: nothing about a
    write is out of the ordinary: both disks are good, and it goes to both.
    """

    __slots__ = (
        *("apv", "barrier_tells", "bytes_max", "enough", "flags", "good_here"),
        *("good_there", "has_disk", "net", "plain", "primary", "replicate", "state"),
        *("straight", "suspended", "wait"),
    )

    def __init__(self, ctx: Context, volume: Volume) -> None:
        self.state: State = volume.state
        self.net: NetOptions = ctx.net
        self.apv = ctx.peer.apv
        state = self.state
        # While a disk is being attached it is not known whose data are newer. What went to the peer
        # alone, behind the generation that it compares, a resync from here might overwrite.
        self.suspended = state.suspended or state.disk is DiskState.NEGOTIATING
        # Promoted in the middle of a bitmap exchange, in the generation that both have: it is the
        # start of the resync that gives the data a name of their own.
        nameless = state.conn is ConnState.WF_BITMAP_S and not volume.uuids.bitmap
        self.wait = self.suspended or nameless or state.conn in _BEFORE_RESYNC
        self.primary = volume.primary
        self.has_disk = volume.has_disk
        self.replicate = replicates(state)
        self.good_here = state.disk is DiskState.UP_TO_DATE
        self.good_there = state.pdsk is DiskState.UP_TO_DATE
        self.flags = flags_to_send(ctx, volume)
        self.enough = not self.flags & (DP_SEND_WRITE_ACK | DP_SEND_RECEIVE_ACK)
        self.plain = self.apv >= 100 and not ctx.net.data_integrity_alg
        self.bytes_max = ctx.peer.request_bytes_max
        self.barrier_tells = not self.good_here and ctx.net.protocol is not Protocol.C
        both_good = self.good_here and self.good_there and self.has_disk
        self.straight = (
            both_good and self.replicate and self.plain and self.primary and not self.wait
        )


def way_of(ctx: Context, volume: Volume) -> WriteWay:
    """The way of a write of *volume* now."""
    way = volume.way
    if (
        way is None
        or way.state is not volume.state
        or way.net is not ctx.net
        or way.apv != ctx.peer.apv
    ):
        way = volume.way = WriteWay(ctx, volume)
    return way


def replicates(state: State) -> bool:
    """Whether writes go to the peer in this state."""
    return state.conn >= ConnState.CONNECTED and (
        state.pdsk is DiskState.UP_TO_DATE
        or (
            state.pdsk >= DiskState.INCONSISTENT
            and ConnState.WF_BITMAP_T <= state.conn <= ConnState.PAUSED_SYNC_T
        )
    )


def misses_writes(state: State) -> bool:
    """Whether a peer that is Primary writes here alone: it has no disk, or (in WFBitMapS) has not
    heard yet that its own is to be synced from ours, for then its writes would wait."""
    return state.pdsk < DiskState.INCONSISTENT or state.conn is ConnState.WF_BITMAP_S
