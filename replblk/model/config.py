"""A resource as configured, every default resolved; made by ``admin``, read by all.

Field names are DRBD's option names with ``_`` for ``-`` and units as DRBD has them (see comments).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from replblk.model.vocabulary import Fencing, OnIoError, OnNoData, Policy, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskOptions:
    """``disk { }`` of one volume."""

    size_sectors: int = 0  # 0: the whole device
    on_io_error: OnIoError = OnIoError.DETACH
    fencing: Fencing = Fencing.DONT_CARE
    disk_barrier: bool = False
    disk_flushes: bool = True
    disk_drain: bool = True
    md_flushes: bool = True
    resync_rate: int = 250  # KiB/s
    resync_after: str = ""  # RES or RES/VOL; "" for none
    al_extents: int = 1237
    al_updates: bool = True
    c_plan_ahead: int = 20  # 0.1 s
    c_delay_target: int = 10  # 0.1 s
    c_fill_target: int = 100  # sectors
    c_max_rate: int = 102400  # KiB/s
    c_min_rate: int = 250  # KiB/s
    disk_timeout: int = 0  # 0.1 s, 0: off
    read_balancing: str = "prefer-local"
    rs_discard_granularity: int = 0  # bytes
    discard_zeroes_if_aligned: bool = True
    disable_write_same: bool = False
    max_bio_bvecs: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class NetOptions:
    """``net { }`` of a resource."""

    protocol: Protocol = Protocol.C
    timeout: int = 60  # 0.1 s
    connect_int: int = 10  # s
    ping_int: int = 10  # s
    ping_timeout: int = 5  # 0.1 s
    socket_check_timeout: int = 0  # 0.1 s, 0: ping_timeout
    ko_count: int = 7
    max_epoch_size: int = 2048
    max_buffers: int = 2048  # pages of 4 KiB
    unplug_watermark: int = 128
    sndbuf_size: int = 0  # bytes, 0: the system's choice
    rcvbuf_size: int = 0
    allow_two_primaries: bool = False
    cram_hmac_alg: str = ""
    shared_secret: str = field(default="", repr=False)
    after_sb_0pri: Policy = Policy.DISCONNECT
    after_sb_1pri: Policy = Policy.DISCONNECT
    after_sb_2pri: Policy = Policy.DISCONNECT
    always_asbp: bool = False
    rr_conflict: Policy = Policy.DISCONNECT
    data_integrity_alg: str = ""
    tcp_cork: bool = True
    on_congestion: str = "block"
    congestion_fill: int = 0  # sectors
    congestion_extents: int = 1237
    csums_alg: str = ""
    csums_after_crash_only: bool = False
    verify_alg: str = ""
    use_rle: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class StartupOptions:
    """``startup { }`` of a resource; seconds, 0: wait for ever."""

    wfc_timeout: int = 0
    degr_wfc_timeout: int = 0
    outdated_wfc_timeout: int = 0
    wait_after_sb: bool = False
    stacked_timeouts: bool = False
    become_primary_on: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where a node listens. family: ipv4, ipv6 (ssocks and sdp parse but can't be served)."""

    family: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.family == "ipv6" else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeConfig:
    """One volume on one host."""

    number: int
    minor: int
    device: str  # /dev/drbdN or the free name
    disk: str  # path of the backing device or file
    meta_disk: str = "internal"  # internal, or the path of another device
    meta_index: int | None = None  # index for `meta-disk DEV[i]`; None: internal or flexible
    options: DiskOptions = field(default_factory=DiskOptions)
    implicit: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """An ``on`` (or floating) section: one node's side of a resource."""

    names: tuple[str, ...]
    address: Address
    volumes: tuple[VolumeConfig, ...]
    kind: str = "on"  # on, floating, stacked, or _this_host and _remote_host of `drbdsetup show`


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """A resource as one node sees it: itself, its peer (None if there is none), the options."""

    name: str
    local: HostConfig
    peer: HostConfig | None
    net: NetOptions = field(default_factory=NetOptions)
    startup: StartupOptions = field(default_factory=StartupOptions)
    handlers: dict[str, str] = field(default_factory=dict)
    cpu_mask: str = ""
    on_no_data_accessible: OnNoData = OnNoData.IO_ERROR
    has_proxy: bool = False
    config_file: str = ""
    config_line: int = 0

    def volume(self, number: int) -> VolumeConfig:
        """The local volume with that number; KeyError if there is none."""
        for volume in self.local.volumes:
            if volume.number == number:
                return volume
        raise KeyError(number)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is ours and not DRBD's: the TOML file beside the configuration.

    durability: "disk" (default): a write is acknowledged, to the client and to the peer, once it is
    flushed; "kernel": once it is handed to the device, and flushed at barriers, as the kernel does.
    """

    nbd_listen: tuple[str, ...] = ()  # host:port, [ipv6]:port, unix:/path
    nbd_peer: tuple[str, ...] = ()  # the same, of the other node
    metrics_listen: str = ""  # host:port, "" for none
    durability: str = "disk"
    run_dir: str = ""
    state_dir: str = ""
    nbd_connections_max: int = 64
    nbd_half_open_max: int = 64
    nbd_handshake_timeout: int = 10  # s
    nbd_requests_max: int = 128  # of one connection, in flight
    nbd_bytes_max: int = 64  # MiB; of one connection, in flight
    nbd_total_bytes_max: int = 512  # MiB; of all connections
    nbd_tls: str = "off"  # off, on, require
    nbd_tls_certificates: str = ""
    nbd_tls_verify_peer: bool = False
    nbd_tls_psk_file: str = ""
    nbd_device: str = "no"  # no, nbd, fuse
    nbd_device_connections: int = 4
    nbd_device_block_size: int = 0  # bytes, 0: by the device's size
    nbd_device_timeout: int = 0  # s, 0: none
    nbd_device_dead_timeout: int = 600  # s
    resume_primary: bool = False
    resync: str = "fair"  # fair, gentle: to an application beside it
    log_level: str = "info"
