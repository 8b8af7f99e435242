"""Which acknowledgements a write asks for: by its flags, or, before protocol 100, by the protocol.

Protocol C: P_WRITE_ACK. B: P_RECV_ACK. A: none, the barrier's acknowledgement is all. While a
resync runs a write also asks for P_WRITE_ACK at protocol 100 and up, so that its bits can be
cleared on both nodes. Source: protocol, data path, dp_flags.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from replblk.model.vocabulary import ConnState, Protocol
from replblk.wire.packets import DP_MAY_SET_IN_SYNC, DP_SEND_RECEIVE_ACK, DP_SEND_WRITE_ACK

if TYPE_CHECKING:
    from replblk.engine.context import Context
    from replblk.engine.volume import Volume

FLAGS_SINCE = 100
"""Protocol version from which the flags decide."""
SYNC_STATES = range(ConnState.SYNC_SOURCE, ConnState.PAUSED_SYNC_T + 1)
_ACKS = DP_SEND_RECEIVE_ACK | DP_SEND_WRITE_ACK


def flags_to_send(ctx: Context, volume: Volume) -> int:
    """What a write of ours asks for now."""
    protocol, apv = ctx.net.protocol, ctx.peer.apv
    syncing = volume.state.conn in SYNC_STATES
    flags = DP_SEND_RECEIVE_ACK if protocol is Protocol.B else 0
    if protocol is Protocol.C or (syncing and apv >= FLAGS_SINCE):
        flags |= DP_SEND_WRITE_ACK | (DP_MAY_SET_IN_SYNC if syncing else 0)
    return flags


def flags_received(flags: int, protocol: Protocol) -> int:
    """What a write of a peer before protocol 100 asks for.

    A block is in sync only when the source hears of it, too: without P_RS_WRITE_ACK it isn't.
    """
    if protocol is Protocol.C:
        return flags & ~_ACKS | DP_SEND_WRITE_ACK
    receipt = DP_SEND_RECEIVE_ACK if protocol is Protocol.B else 0
    return flags & ~(_ACKS | DP_MAY_SET_IN_SYNC) | receipt
