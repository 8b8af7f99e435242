"""A resource's status as Prometheus metrics, with drbd-reactor's names and labels.

Dashboards and alerts made for drbd-reactor's exporter work unchanged. Sizes in bytes (the status
counts KiB). ``drbd_peerdevice_sent_bytes`` and ``_received_bytes`` are counters without ``_total``
there; prometheus-client always adds the suffix, so the old names are gauges here and the counters
stand beside them. Peer and node id are those drbd-utils shows with an 8.4 kernel.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    StateSetMetricFamily,
)
from prometheus_client.registry import Collector

from replblk import __version__
from replblk.model.latency import BOUNDS_NS, Latencies
from replblk.model.state import State
from replblk.model.status import NodeStatus, VolumeStatus
from replblk.model.units import SECTOR_BYTES
from replblk.model.vocabulary import ConnState, DiskState, Role

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
WIRE_VERSIONS = "86-101"
PEER_NODE_ID = "0"
KIB = 1024

ROLES = ("Unknown", "Primary", "Secondary")
CONNECTIONS = (
    *("StandAlone", "Disconnecting", "Unconnected", "Timeout", "BrokenPipe", "NetworkFailure"),
    *("ProtocolError", "TearDown", "Connecting", "Connected"),
)
DISKS = (
    *("Diskless", "Attaching", "Detaching", "Failed", "Negotiating", "Inconsistent", "Outdated"),
    *("DUnknown", "Consistent", "UpToDate"),
)

_PROMOTION_SCORES = {
    DiskState.UP_TO_DATE: 10001,
    DiskState.CONSISTENT: 1001,
    DiskState.OUTDATED: 101,
    DiskState.INCONSISTENT: 11,
}
"""Better data, higher score; one more than a round number, as with one node that has data."""

_DeviceValue = Callable[[VolumeStatus], float]
_DEVICE_GAUGES: tuple[tuple[str, str, _DeviceValue], ...] = (
    ("drbd_device_client", "Intentionally without a disk.", lambda volume: 0),
    (
        "drbd_device_unintentionaldiskless",
        "Without a disk though one is configured.",
        lambda volume: volume.state.disk is DiskState.DISKLESS,
    ),
    ("drbd_device_quorum", "I/O is not frozen by fencing.", lambda v: not v.state.susp_fen),
    ("drbd_device_open", "Someone has the device open.", lambda volume: volume.open_count > 0),
    (
        "drbd_device_size_bytes",
        "Usable size of the device.",
        lambda volume: volume.size_sectors * SECTOR_BYTES,
    ),
    ("drbd_device_upperpending", "Requests not yet answered.", lambda v: v.app_pending),
    ("drbd_device_lowerpending", "Requests to the local disk.", lambda v: v.local_pending),
    ("drbd_device_alsuspended", "The activity log is not written.", lambda v: v.al_suspended),
)
_DEVICE_COUNTERS: tuple[tuple[str, str, _DeviceValue], ...] = (
    ("drbd_device_read_bytes", "Read from the local disk.", lambda v: v.read_kib * KIB),
    ("drbd_device_written_bytes", "Written to the local disk.", lambda v: v.written_kib * KIB),
    ("drbd_device_alwrites", "Writes of the activity log.", lambda v: v.al_writes),
    ("drbd_device_bmwrites", "Writes of the bitmap.", lambda v: v.bm_writes),
)
_PEER_AMOUNTS: tuple[tuple[str, str, _DeviceValue], ...] = (
    ("outofsync", "Not in sync with the peer.", lambda volume: volume.out_of_sync_kib),
    ("sent", "Sent to the peer.", lambda volume: volume.sent_kib),
    ("received", "Received from the peer.", lambda volume: volume.received_kib),
)


class NodeCollector(Collector):
    """Turns the status of one resource into metric families; call it on the loop's thread."""

    def __init__(self, status: Callable[[], NodeStatus]) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the node."""
        return []

    def collect(self) -> Iterator[Metric]:
        """All families, from one snapshot."""
        status = self._status()
        yield from _process_families()
        yield from _resource_families(status)
        if status.peer_name:  # also while StandAlone, which alerts are there for
            yield from _connection_families(status)
        for name, about, value in _DEVICE_GAUGES:
            gauge = GaugeMetricFamily(name, about, labels=("name", "volume", "minor"))
            for volume in status.volumes:
                gauge.add_metric(_device_labels(status, volume), float(value(volume)))
            yield gauge
        for name, about, value in _DEVICE_COUNTERS:
            counter = CounterMetricFamily(name, about, labels=("name", "volume", "minor"))
            for volume in status.volumes:
                counter.add_metric(_device_labels(status, volume), float(value(volume)))
            yield counter
        disks = StateSetMetricFamily(
            "drbd_device_state", "State of the local disk.", labels=("name", "volume", "minor")
        )
        for volume in status.volumes:
            shown = volume.state.disk.label
            disks.add_metric(_device_labels(status, volume), _one_of(DISKS, shown))
        yield disks
        yield _resync_family(status)


class LatencyCollector(Collector):
    """Turns the latencies of one resource into a histogram by phase."""

    def __init__(self, status: Callable[[], NodeStatus], latencies: Latencies) -> None:
        self._status = status
        self._latencies = latencies

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask the node."""
        return []

    def collect(self) -> Iterator[Metric]:
        """One family; bucket bounds are powers of two of microseconds, nearly."""
        family = HistogramMetricFamily(
            "replblk_phase_duration_seconds",
            "Time that requests spend in each phase (see 'replblk latency').",
            labels=("name", "phase"),
        )
        resource = self._status().resource
        for phase, found in self._latencies.phases.items():
            below = 0
            buckets: list[tuple[str, float]] = []
            for bound_ns, count in zip(BOUNDS_NS, found.counts, strict=False):
                below += count
                buckets.append((repr(bound_ns / 1e9), below))
            buckets.append(("+Inf", found.count))
            family.add_metric((resource, phase), buckets, sum_value=found.sum_ns / 1e9)
        yield family


class MetricsPage:
    """The text of one scrape: the resource's metrics and those of the process."""

    def __init__(self, status: Callable[[], NodeStatus], latencies: Latencies) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(NodeCollector(status))
        self._registry.register(LatencyCollector(status, latencies))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        """Prometheus text format 0.0.4."""
        return generate_latest(self._registry)


def _process_families() -> Iterator[Metric]:
    yield GaugeMetricFamily("drbdreactor_up", "The exporter works.", value=1)
    version = GaugeMetricFamily("drbd_version", "Versions.", labels=("kmod", "utils"))
    version.add_metric((__version__, __version__), 1)
    yield version
    yield GaugeMetricFamily("drbd_resource_resources", "Resources of this exporter.", value=1)
    facts = {"version": __version__, "wire": WIRE_VERSIONS, "python": platform.python_version()}
    yield InfoMetricFamily("replblk_build", "Versions of what is running.", value=facts)


def _resource_families(status: NodeStatus) -> Iterator[Metric]:
    name = status.resource
    states = [volume.state for volume in status.volumes]
    role = _role(states)
    roles = StateSetMetricFamily("drbd_resource_role", "Role of the resource.", labels=("name",))
    roles.add_metric((name,), _one_of(ROLES, role.label))
    yield roles
    disk = min((state.disk for state in states), default=DiskState.DISKLESS)
    promotable = (
        role is Role.SECONDARY
        and disk >= DiskState.CONSISTENT
        and not any(state.peer is Role.PRIMARY for state in states)
    )
    score = _PROMOTION_SCORES.get(disk, 0)
    for family, about, value in (
        ("drbd_resource_suspended", "I/O is suspended.", any(s.suspended for s in states)),
        ("drbd_resource_maypromote", "It could become Primary now.", promotable),
        ("drbd_resource_promotionscore", "Higher is better to promote.", score),
        ("drbd_resource_forceiofailures", "I/O is made to fail.", 0),
        ("replblk_split_brain", "Split brain, unresolved.", status.split_brain),
    ):
        gauge = GaugeMetricFamily(family, about, labels=("name",))
        gauge.add_metric((name,), float(value))
        yield gauge


def _connection_families(status: NodeStatus) -> Iterator[Metric]:
    labels = ("name", "conn_name", "peer_node_id")
    values = (status.resource, status.peer_name, PEER_NODE_ID)
    state = StateSetMetricFamily("drbd_connection_state", "Connection to the peer.", labels=labels)
    state.add_metric(values, _one_of(CONNECTIONS, connection_word(status)))
    yield state
    congested = GaugeMetricFamily(
        "drbd_connection_congested", "The connection is congested.", labels=labels
    )
    congested.add_metric(values, float(status.congested))
    yield congested
    for family, about, amount_kib in _PEER_AMOUNTS:
        name = f"drbd_peerdevice_{family}_bytes"
        gauge = GaugeMetricFamily(name, about, labels=(*labels, "volume"))
        counter = CounterMetricFamily(name, about, labels=(*labels, "volume"))
        for volume in status.volumes:
            for metric in (gauge, counter):
                metric.add_metric((*values, str(volume.number)), amount_kib(volume) * KIB)
        yield gauge
        if family != "outofsync":
            yield counter


def _resync_family(status: NodeStatus) -> Metric:
    ratio = GaugeMetricFamily(
        "replblk_resync_progress_ratio",
        "Share of the running resync that is done; absent while none runs.",
        labels=("name", "volume"),
    )
    for volume in status.volumes:
        if volume.resync is not None:
            done = volume.resync.percent_done / 100
            ratio.add_metric((status.resource, str(volume.number)), done)
    return ratio


def connection_word(status: NodeStatus) -> str:
    """The connection's state in DRBD 9's words, which exporters use."""
    conn = max((volume.state.conn for volume in status.volumes), default=ConnState.STANDALONE)
    if conn > ConnState.WF_CONNECTION:
        return "Connected"
    return "Connecting" if conn is ConnState.WF_CONNECTION else conn.label


def _role(states: list[State]) -> Role:
    if any(state.role is Role.PRIMARY for state in states):
        return Role.PRIMARY
    return states[0].role if states else Role.UNKNOWN


def _one_of(names: tuple[str, ...], chosen: str) -> dict[str, bool]:
    assert chosen in names, f"{chosen} is not among {names}"
    return {name: name == chosen for name in names}


def _device_labels(status: NodeStatus, volume: VolumeStatus) -> tuple[str, str, str]:
    return status.resource, str(volume.number), str(volume.minor)
