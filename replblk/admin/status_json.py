"""The status document: ``drbdsetup status --json``'s keys, under a document with a schema number.

Sizes in KiB unless a key says otherwise. Keys for what DRBD 8.4 does not have (quorum, TLS,
requests in flight per connection) carry the neutral value its tools print: readers find them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from replblk.admin.state_words import (
    connection_word,
    replication_word,
    resource_state,
    resync_suspended_words,
    write_ordering_word,
)
from replblk.admin.status_text import percent_in_sync
from replblk.model.status import NodeStatus, VolumeStatus
from replblk.model.vocabulary import ConnState

SCHEMA = 1
"""Grows when a key changes its meaning or goes; new keys do not change it."""
UNKNOWN_SECONDS = 987654321
"""What estimated-seconds-to-finish says when there is nothing to estimate from."""


def status_json(nodes: Iterable[NodeStatus]) -> dict[str, Any]:
    """``{"schema": 1, "resources": [...]}``; the list alone is what drbdsetup prints."""
    ordered = sorted(nodes, key=lambda node: node.resource)
    return {"schema": SCHEMA, "resources": [_resource(node) for node in ordered]}


def _resource(node: NodeStatus) -> dict[str, Any]:
    state = resource_state(node)
    return {
        "name": node.resource,
        "node-id": -1,  # 8.4 numbers no nodes
        "role": str(state.role),
        "suspended": state.suspended,
        "suspended-user": state.susp,
        "suspended-no-data": state.susp_nod,
        "suspended-fencing": state.susp_fen,
        "suspended-quorum": False,
        "force-io-failures": False,
        "write-ordering": write_ordering_word(node.write_ordering),
        "devices": [_device(volume) for volume in node.volumes],
        "connections": [_connection(node)] if node.has_net else [],
    }


def _device(volume: VolumeStatus) -> dict[str, Any]:
    return {
        "volume": volume.number,
        "minor": volume.minor,
        "disk-state": str(volume.state.disk),
        "client": False,
        "open": volume.open_count > 0,
        "quorum": True,
        "size": volume.size_sectors // 2,
        "read": volume.read_kib,
        "written": volume.written_kib,
        "al-writes": volume.al_writes,
        "bm-writes": volume.bm_writes,
        "upper-pending": volume.app_pending,
        "lower-pending": volume.local_pending,
    }


def _connection(node: NodeStatus) -> dict[str, Any]:
    state = resource_state(node)
    return {
        "peer-node-id": 0,
        "name": node.peer_name or "peer",
        "connection-state": connection_word(state.conn),
        "congested": node.congested,
        "peer-role": str(state.peer),
        "tls": False,
        "ap-in-flight": 0,
        "rs-in-flight": 0,
        "paths": [],
        "peer_devices": [_peer_device(volume) for volume in node.volumes],
    }


def _peer_device(volume: VolumeStatus) -> dict[str, Any]:
    state = volume.state
    resync = volume.resync
    verifying = state.conn in (ConnState.VERIFY_S, ConnState.VERIFY_T)
    values: dict[str, Any] = {
        "volume": volume.number,
        "replication-state": replication_word(state.conn),
        "peer-disk-state": str(state.pdsk),
        "peer-client": False,
        "resync-suspended": resync_suspended_words(state),
        "received": volume.received_kib,
        "sent": volume.sent_kib,
        "out-of-sync": volume.out_of_sync_kib,
        "pending": volume.peer_pending,
        "unacked": volume.unacked,
        "has-sync-details": resync is not None and not verifying,
        "has-online-verify-details": resync is not None and verifying,
        "percent-in-sync": round(percent_in_sync(volume), 2),
    }
    if resync is not None:
        estimate = UNKNOWN_SECONDS if resync.seconds_left is None else resync.seconds_left
        values |= {
            "rs-total": resync.total_kib * 2,  # sectors
            "rs-left": resync.left_kib * 2,  # sectors
            "want": resync.want_kib_s,
            "db0/dt0 [MiB/s]": round(resync.rate_kib_s / 1024, 2),
            "db/dt [MiB/s]": round(resync.rate_average_kib_s / 1024, 2),
            "estimated-seconds-to-finish": estimate,
            "percent-resync-done": round(resync.percent_done, 2),
            "stalled": resync.stalled,
        }
    return values
