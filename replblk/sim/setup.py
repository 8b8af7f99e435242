"""Builds what a run needs: two configured machines, their drives, the network between them."""

from __future__ import annotations

from replblk.engine.node import Node
from replblk.model.config import (
    Address,
    DiskOptions,
    HostConfig,
    NetOptions,
    Resource,
    Settings,
    VolumeConfig,
)
from replblk.sim.image import fresh_drive, synced_drive
from replblk.sim.links import Network
from replblk.sim.machine import Machine, MakeNode
from replblk.sim.options import Options
from replblk.sim.policies import HANDLERS
from replblk.sim.world import World

NAMES = ("alpha", "beta")


def resource_for(options: Options, own: int) -> Resource:
    """The resource as node *own* (0 or 1) sees it."""
    policies = options.policies
    hosts = [
        HostConfig(
            names=(name,),
            address=Address(family="ipv4", host=f"127.0.0.{number + 1}", port=7788),
            volumes=tuple(
                VolumeConfig(
                    number=volume,
                    minor=volume,
                    device=f"/dev/drbd{volume}",
                    disk=f"/sim/{name}/{volume}",
                    options=DiskOptions(
                        al_extents=options.al_extents,
                        on_io_error=policies.on_io_error,
                        fencing=policies.fencing,
                        disk_timeout=policies.disk_timeout,
                    ),
                )
                for volume in range(options.volumes)
            ),
        )
        for number, name in enumerate(NAMES)
    ]
    net = NetOptions(
        connect_int=options.connect_int,
        ping_int=options.ping_int,
        ping_timeout=options.ping_timeout,
        timeout=options.timeout,
        ko_count=options.ko_count,
        max_epoch_size=options.max_epoch_size,
        use_rle=options.use_rle,
        protocol=options.protocol,
        csums_alg=options.csums_alg,
        data_integrity_alg=options.integrity_alg,
        verify_alg=options.verify_alg,
    )
    return Resource(
        name="r0",
        local=hosts[own],
        peer=hosts[1 - own],
        net=net,
        handlers={name: f"/sim/{name}" for name in HANDLERS} if policies.handlers else {},
        on_no_data_accessible=policies.on_no_data,
    )


def build_pair(world: World, options: Options, make_node: MakeNode = Node) -> Network:
    """Two machines that are off, with their drives, on one network."""
    first, second = (
        Machine(
            world,
            name,
            resource_for(options, own),
            Settings(durability=options.durability),
            make_node,
        )
        for own, name in enumerate(NAMES)
    )
    generation = world.chance("generation").getrandbits(64) | 1 << 63
    for machine in (first, second):
        machine.step_gap_ns = options.step_gap_ns
        machine.gather_ns = options.gather_ns
        for volume in range(options.volumes):
            if options.fresh:
                drive = fresh_drive(machine, volume, options.device_bytes)
            else:
                current = generation + 2 * volume & (1 << 64) - 1
                drive = synced_drive(machine, volume, options.device_bytes, current)
            drive.speed = options.drives
            machine.drives[volume] = drive
    network = Network(world, (first, second))
    network.speed = options.network
    return network
