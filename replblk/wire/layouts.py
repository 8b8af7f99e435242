"""The layout of every packet's fixed part, by ``construct``: big-endian, packed, pads named.

Names of fields are those of ``messages``. Source: the packet layouts of protocol 86..101.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from construct import Bytes, Int8ub, Int16ub, Int32sb, Int32ub, Int64ub, Padding, Struct

from replblk.wire.commands import SPECS, STRING_BYTES, Cmd
from replblk.wire.messages import (
    Barrier,
    BarrierAck,
    BlockAck,
    BlockData,
    BlockDesc,
    BlockRange,
    BlockRequest,
    DelayProbe,
    Features,
    StateChange,
    StateReply,
    StateWord,
    SyncUuid,
    Uuids,
)

P_FEATURES = Struct(
    "protocol_min" / Int32ub,
    "feature_flags" / Int32ub,
    "protocol_max" / Int32ub,
    Padding(4 + 7 * 8),
)
P_PROTOCOL_FIXED = Struct(
    "protocol" / Int32ub,
    "after_sb_0p" / Int32ub,
    "after_sb_1p" / Int32ub,
    "after_sb_2p" / Int32ub,
    "conn_flags" / Int32ub,
    "two_primaries" / Int32ub,
)
P_SYNC_PARAM_OLD = Struct("resync_rate" / Int32ub)
P_SYNC_PARAM_89 = Struct(
    "resync_rate" / Int32ub,
    "verify_alg" / Bytes(STRING_BYTES),
    "csums_alg" / Bytes(STRING_BYTES),
)
P_SYNC_PARAM_95 = Struct(
    *P_SYNC_PARAM_89.subcons,
    "c_plan_ahead" / Int32ub,
    "c_delay_target" / Int32ub,
    "c_fill_target" / Int32ub,
    "c_max_rate" / Int32ub,
)
P_SIZES_FIXED = Struct(
    "d_size" / Int64ub,
    "u_size" / Int64ub,
    "c_size" / Int64ub,
    "max_bio_size" / Int32ub,
    "queue_order_type" / Int16ub,
    "dds_flags" / Int16ub,
)
P_SIZES_WSAME = Struct(
    *P_SIZES_FIXED.subcons,
    "physical_block_size" / Int32ub,
    "logical_block_size" / Int32ub,
    "alignment_offset" / Int32ub,
    "io_min" / Int32ub,
    "io_opt" / Int32ub,
    "discard_enabled" / Int8ub,
    "discard_zeroes_data" / Int8ub,
    "write_same_capable" / Int8ub,
    Padding(1),
)
P_UUIDS_FIXED = Struct(
    "current" / Int64ub,
    "bitmap" / Int64ub,
    "history0" / Int64ub,
    "history1" / Int64ub,
    "dirty_bits" / Int64ub,
    "flags" / Int64ub,
)
P_STATE_FIXED = Struct("word" / Int32ub)
P_STATE_CHANGE = Struct("mask" / Int32ub, "val" / Int32ub)
P_STATE_REPLY = Struct("retcode" / Int32sb)
P_SYNC_UUID_FIXED = Struct("uuid" / Int64ub)
P_BARRIER_FIXED = Struct("barrier" / Bytes(4), Padding(4))
P_BARRIER_ACK_FIXED = Struct("barrier" / Bytes(4), "set_size" / Int32ub)
P_BLOCK_DATA = Struct(
    "sector" / Int64ub, "block_id" / Bytes(8), "seq_num" / Int32ub, "dp_flags" / Int32ub
)
P_BLOCK_RANGE = Struct(*P_BLOCK_DATA.subcons, "size" / Int32ub)
P_BLOCK_REQUEST = Struct("sector" / Int64ub, "block_id" / Bytes(8), "blksize" / Int32ub, Padding(4))
P_BLOCK_ACK = Struct(
    "sector" / Int64ub, "block_id" / Bytes(8), "blksize" / Int32ub, "seq_num" / Int32ub
)
P_BLOCK_DESC = Struct("sector" / Int64ub, "blksize" / Int32ub, Padding(4))
P_DELAY = Struct("seq_num" / Int32ub, "offset" / Int32ub)


class Plain(NamedTuple):
    """A packet whose layout never varies. tail: the message's field for what follows, if any."""

    layout: Any
    message: type[Any]
    tail: str = ""


PLAIN: dict[Cmd, Plain] = {
    Cmd.P_CONNECTION_FEATURES: Plain(P_FEATURES, Features),
    Cmd.P_UUIDS: Plain(P_UUIDS_FIXED, Uuids),
    Cmd.P_STATE: Plain(P_STATE_FIXED, StateWord),
    Cmd.P_STATE_CHG_REQ: Plain(P_STATE_CHANGE, StateChange),
    Cmd.P_CONN_ST_CHG_REQ: Plain(P_STATE_CHANGE, StateChange),
    Cmd.P_STATE_CHG_REPLY: Plain(P_STATE_REPLY, StateReply),
    Cmd.P_CONN_ST_CHG_REPLY: Plain(P_STATE_REPLY, StateReply),
    Cmd.P_SYNC_UUID: Plain(P_SYNC_UUID_FIXED, SyncUuid),
    Cmd.P_BARRIER: Plain(P_BARRIER_FIXED, Barrier),
    Cmd.P_BARRIER_ACK: Plain(P_BARRIER_ACK_FIXED, BarrierAck),
    Cmd.P_DELAY_PROBE: Plain(P_DELAY, DelayProbe),
    Cmd.P_DATA: Plain(P_BLOCK_DATA, BlockData, "body"),
    Cmd.P_DATA_REPLY: Plain(P_BLOCK_DATA, BlockData, "body"),
    Cmd.P_RS_DATA_REPLY: Plain(P_BLOCK_DATA, BlockData, "body"),
    Cmd.P_TRIM: Plain(P_BLOCK_RANGE, BlockRange),
    Cmd.P_ZEROES: Plain(P_BLOCK_RANGE, BlockRange),
    Cmd.P_WSAME: Plain(P_BLOCK_RANGE, BlockRange, "body"),
    Cmd.P_DATA_REQUEST: Plain(P_BLOCK_REQUEST, BlockRequest),
    Cmd.P_RS_DATA_REQUEST: Plain(P_BLOCK_REQUEST, BlockRequest),
    Cmd.P_RS_THIN_REQ: Plain(P_BLOCK_REQUEST, BlockRequest),
    Cmd.P_OV_REQUEST: Plain(P_BLOCK_REQUEST, BlockRequest),
    Cmd.P_CSUM_RS_REQUEST: Plain(P_BLOCK_REQUEST, BlockRequest, "digest"),
    Cmd.P_OV_REPLY: Plain(P_BLOCK_REQUEST, BlockRequest, "digest"),
    Cmd.P_OUT_OF_SYNC: Plain(P_BLOCK_DESC, BlockDesc),
    Cmd.P_RS_DEALLOCATED: Plain(P_BLOCK_DESC, BlockDesc),
}
PLAIN.update(
    {
        spec.cmd: Plain(P_BLOCK_ACK, BlockAck)
        for spec in SPECS.values()
        if spec.socket == "meta" and spec.fixed_len == P_BLOCK_ACK.sizeof()
    }
)
