"""A small resource and its status, for tests of the shell."""

from __future__ import annotations

from replblk.model.config import Address, HostConfig, Resource, VolumeConfig
from replblk.model.state import State
from replblk.model.status import NodeStatus, ResyncStatus, VolumeStatus
from replblk.model.vocabulary import ConnState, DiskState, Role


def resource(disk: str = "/nowhere/disk", port: int = 17780) -> Resource:
    """r0 between alpha (127.0.0.1) and beta (127.0.0.2), seen from alpha: one volume, minor 5."""

    def host(name: str, address: str) -> HostConfig:
        return HostConfig(
            names=(name,),
            address=Address(family="ipv4", host=address, port=port),
            volumes=(VolumeConfig(number=0, minor=5, device="/dev/drbd5", disk=disk),),
        )

    return Resource(name="r0", local=host("alpha", "127.0.0.1"), peer=host("beta", "127.0.0.2"))


def volume_status(**changes: object) -> VolumeStatus:
    """A volume in the middle of a resync."""
    values: dict[str, object] = {
        "number": 0,
        "minor": 5,
        "device": "/dev/drbd5",
        "disk_path": "/nowhere/disk",
        "state": State(
            role=Role.PRIMARY,
            peer=Role.SECONDARY,
            conn=ConnState.SYNC_SOURCE,
            disk=DiskState.UP_TO_DATE,
            pdsk=DiskState.INCONSISTENT,
        ),
        "size_sectors": 65456,
        "uuids": (1, 2, 3, 4),
        "sent_kib": 10,
        "received_kib": 20,
        "written_kib": 30,
        "read_kib": 40,
        "al_writes": 5,
        "bm_writes": 6,
        "out_of_sync_kib": 16,
        "open_count": 1,
        "resync": ResyncStatus(
            total_kib=64,
            left_kib=16,
            percent_done=75.0,
            rate_kib_s=1,
            rate_average_kib_s=1,
            want_kib_s=0,
            seconds_left=16,
        ),
    }
    return VolumeStatus(**(values | changes))  # type: ignore[arg-type]


def node_status(*volumes: VolumeStatus, **changes: object) -> NodeStatus:
    """r0 with these volumes, or the one of ``volume_status``."""
    values: dict[str, object] = {
        "resource": "r0",
        "protocol": "C",
        "has_net": True,
        "peer_name": "beta",
        "epochs": 1,
        "write_ordering": "f",
        "agreed_protocol": 101,
        "split_brain": False,
        "congested": False,
        "volumes": volumes or (volume_status(),),
    }
    return NodeStatus(**(values | changes))  # type: ignore[arg-type]
