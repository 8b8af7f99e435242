"""What packets say, as frozen values in DRBD's field names.

Sectors are 512 bytes; sizes named blksize or size are bytes; d_size, u_size and c_size are sectors.
``block_id`` and ``barrier`` are opaque bytes of the peer's choice and are echoed as they are.
Values are made from judged bytes (``packets.decode``) or by us; they do not check themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from replblk.model.vocabulary import Policy, Protocol


@dataclass(frozen=True, slots=True)
class Features:
    """P_CONNECTION_FEATURES: versions and features a node offers."""

    protocol_min: int
    feature_flags: int
    protocol_max: int


@dataclass(frozen=True, slots=True)
class ProtocolPacket:
    """P_PROTOCOL and P_PROTOCOL_UPDATE. integrity_alg: "" for none; conn_flags: CF_*."""

    protocol: Protocol
    after_sb_0p: Policy
    after_sb_1p: Policy
    after_sb_2p: Policy
    conn_flags: int
    two_primaries: bool
    integrity_alg: str


@dataclass(frozen=True, slots=True)
class SyncParam:
    """P_SYNC_PARAM and P_SYNC_PARAM89: rates in KiB/s, times in 0.1 s, c_fill_target in sectors.

    What an old protocol version does not carry reads as DRBD's default.
    """

    resync_rate: int = 250
    verify_alg: str = ""
    csums_alg: str = ""
    c_plan_ahead: int = 20
    c_delay_target: int = 10
    c_fill_target: int = 100
    c_max_rate: int = 102400


@dataclass(frozen=True, slots=True)
class Sizes:
    """P_SIZES. The fields from physical_block_size on travel only with feature FF_WSAME.

    Those are hints about the peer's device (bytes; 0 or 1) and are not judged: use with care.
    dds_flags: DDSF_*. c_size 0 asks for the receiver's sizes in return.
    """

    d_size: int
    u_size: int
    c_size: int
    max_bio_size: int
    queue_order_type: int = 0
    dds_flags: int = 0
    physical_block_size: int = 512
    logical_block_size: int = 512
    alignment_offset: int = 0
    io_min: int = 512
    io_opt: int = 0
    discard_enabled: int = 0
    discard_zeroes_data: int = 0
    write_same_capable: int = 0


@dataclass(frozen=True, slots=True)
class Uuids:
    """P_UUIDS: generation identifiers, bits out of sync in the sender's bitmap, UUID_FLAG_*."""

    current: int
    bitmap: int
    history0: int
    history1: int
    dirty_bits: int
    flags: int


@dataclass(frozen=True, slots=True)
class StateWord:
    """P_STATE: a word that ``State.unpack`` is known to understand."""

    word: int


@dataclass(frozen=True, slots=True)
class StateChange:
    """P_STATE_CHG_REQ and P_CONN_ST_CHG_REQ: state words, any bits, in the sender's view."""

    mask: int
    val: int


@dataclass(frozen=True, slots=True)
class StateReply:
    """P_STATE_CHG_REPLY and P_CONN_ST_CHG_REPLY: a number of ``Code``; >= 1 means granted."""

    retcode: int


@dataclass(frozen=True, slots=True)
class SyncUuid:
    """P_SYNC_UUID: a resync starts; neither 0 nor "just created"."""

    uuid: int


@dataclass(frozen=True, slots=True)
class Barrier:
    """P_BARRIER: an epoch ends. barrier: 4 opaque bytes."""

    barrier: bytes


@dataclass(frozen=True, slots=True)
class BarrierAck:
    """P_BARRIER_ACK: that epoch and its *set_size* writes are done."""

    barrier: bytes
    set_size: int


@dataclass(frozen=True, slots=True)
class BlockData:
    """P_DATA, P_DATA_REPLY, P_RS_DATA_REPLY. body: digest (if the sender has one) and data."""

    sector: int
    block_id: bytes
    seq_num: int
    dp_flags: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class BlockRange:
    """P_TRIM, P_ZEROES, P_WSAME: *size* bytes from *sector*. body: only P_WSAME has one."""

    sector: int
    block_id: bytes
    seq_num: int
    dp_flags: int
    size: int
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class BlockRequest:
    """P_DATA_REQUEST, P_RS_DATA_REQUEST, P_RS_THIN_REQ, P_OV_REQUEST, and two with a digest.

    digest: only P_CSUM_RS_REQUEST and P_OV_REPLY carry one; its length is for the
    receiver to compare with the algorithm it has configured.
    """

    sector: int
    block_id: bytes
    blksize: int
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class BlockAck:
    """All 24-byte packets of the meta socket. blksize 0 is possible (a refused discard)."""

    sector: int
    block_id: bytes
    blksize: int
    seq_num: int


@dataclass(frozen=True, slots=True)
class BlockDesc:
    """P_OUT_OF_SYNC and P_RS_DEALLOCATED: a range without a request behind it."""

    sector: int
    blksize: int


@dataclass(frozen=True, slots=True)
class DelayProbe:
    """P_DELAY_PROBE: obsolete; to be read and ignored. offset: microseconds."""

    seq_num: int
    offset: int


Message = (
    Features
    | ProtocolPacket
    | SyncParam
    | Sizes
    | Uuids
    | StateWord
    | StateChange
    | StateReply
    | SyncUuid
    | Barrier
    | BarrierAck
    | BlockData
    | BlockRange
    | BlockRequest
    | BlockAck
    | BlockDesc
    | DelayProbe
    | bytes
    | None
)
"""bytes: challenges, responses and bitmap chunks, which have no fields. None: no payload."""
