"""Snapshots of nodes for the tests of what is shown of them."""

from __future__ import annotations

from typing import Any

from replblk.model.state import State
from replblk.model.status import NodeStatus, VolumeStatus
from replblk.model.vocabulary import ConnState, DiskState, Role

CONNECTED = State(
    role=Role.SECONDARY,
    peer=Role.SECONDARY,
    conn=ConnState.CONNECTED,
    disk=DiskState.UP_TO_DATE,
    pdsk=DiskState.UP_TO_DATE,
)


def volume(state: State = CONNECTED, **more: Any) -> VolumeStatus:
    """A volume 0 with minor 0 of 32728 KiB."""
    values: dict[str, Any] = {
        "number": 0,
        "minor": 0,
        "device": "/dev/drbd0",
        "disk_path": "/dev/loop0",
        "size_sectors": 65456,
        "uuids": (4, 0, 0, 0),
    }
    return VolumeStatus(state=state, **(values | more))


def node(*volumes: VolumeStatus, **more: Any) -> NodeStatus:
    """Resource left with those volumes."""
    values: dict[str, Any] = {
        "resource": "left",
        "protocol": "C",
        "has_net": True,
        "peer_name": "bravo",
        "epochs": 1,
        "write_ordering": "f",
        "agreed_protocol": 101,
        "split_brain": False,
        "congested": False,
    }
    return NodeStatus(volumes=volumes, **(values | more))
