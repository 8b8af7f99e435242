"""A snapshot of a running node: what status text, JSON and metrics are made from."""

from __future__ import annotations

from dataclasses import dataclass, field

from replblk.model.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class ResyncStatus:
    """A running resync or verify of one volume. Sizes in KiB, times in seconds."""

    total_kib: int
    left_kib: int
    percent_done: float
    rate_kib_s: int  # over the last seconds
    rate_average_kib_s: int  # since the start
    want_kib_s: int  # the target's aim; 0 if unknown
    seconds_left: int | None  # None if unknown
    stalled: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeStatus:
    """One volume. Counters as in /proc/drbd; sizes in KiB unless named otherwise."""

    number: int
    minor: int
    device: str
    disk_path: str
    state: State
    size_sectors: int
    uuids: tuple[int, int, int, int]
    sent_kib: int = 0  # ns
    received_kib: int = 0  # nr
    written_kib: int = 0  # dw
    read_kib: int = 0  # dr
    al_writes: int = 0  # al
    bm_writes: int = 0  # bm
    local_pending: int = 0  # lo
    peer_pending: int = 0  # pe
    unacked: int = 0  # ua
    app_pending: int = 0  # ap
    out_of_sync_kib: int = 0  # oos
    al_suspended: bool = False
    open_count: int = 0
    degraded: bool = False  # was Primary without its peer when it stopped
    resync: ResyncStatus | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A resource on this node."""

    resource: str
    protocol: str  # A, B, C, or "" without a net config
    has_net: bool
    peer_name: str
    epochs: int  # ep
    write_ordering: str  # n, d, f, b
    agreed_protocol: int  # 0 while not connected
    split_brain: bool
    congested: bool
    volumes: tuple[VolumeStatus, ...] = field(default_factory=tuple)
