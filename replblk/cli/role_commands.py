"""Commands about who is Primary: primary, secondary, switchover."""

from __future__ import annotations

import click

from replblk.admin.messages import OptionValue
from replblk.cli.device_commands import attach_as_set, end_devices, make_again
from replblk.cli.options import resource_command
from replblk.cli.session import EXIT_USAGE, Session, named, tell
from replblk.model.config import Resource
from replblk.model.errors import AdminError


@resource_command("primary")
@click.option(
    *("--force", "--overwrite-data-of-peer", "force"),
    is_flag=True,
    help="Declare the local data good, though it is Inconsistent or Outdated.",
)
def primary(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Make this node Primary for RES: the device is then served over NBD."""
    status = session.command(names, "primary", {"force": force})
    return status or attach_as_set(session, names)


@resource_command("secondary")
def secondary(session: Session, names: tuple[str, ...]) -> int:
    """Make this node Secondary for RES; refused while a client has the device open."""
    if session.dry_run:
        return session.command(names, "secondary")

    def one(resource: Resource, volume: int | None) -> int:
        devices = end_devices(session, resource, volume)
        reply = session.ask(resource, "secondary", volume)
        if reply.exit_code:
            make_again(devices)
        return tell(resource, volume, reply)

    return session.each(names, one)


@resource_command("switchover")
@click.option("--to", "node", required=True, metavar="NODE", help="The node that is to be Primary.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.IntRange(1, 90),
    default=30,
    show_default=True,
    help="Seconds that clients' requests and the other node's promotion may take; after that the "
    "old Primary is Primary again.",
)
def switchover(session: Session, names: tuple[str, ...], node: str, timeout_s: int) -> int:
    """Move the Primary role of RES to NODE, under clients that connect again there.

    On either node. Both must be connected and UpToDate. Requests in flight are answered, then the
    clients are disconnected; prints how long none was served.
    """

    def one(resource: Resource, volume: int | None) -> int:
        name, to_peer = named(resource, volume), _is_peer(resource, node)
        options: dict[str, OptionValue] = {"to_peer": to_peer, "timeout_s": timeout_s}
        patience_s = (timeout_s + 30.0) * len(resource.local.volumes)
        if session.dry_run:
            return session.command([name], "switchover", options)
        devices = end_devices(session, resource, volume, only_fixed=True) if to_peer else []
        reply = session.ask(resource, "switchover", volume, options, patience_s)
        if reply.exit_code:
            make_again(devices)
        status = tell(resource, volume, reply)
        return status if status or to_peer else attach_as_set(session, (name,))

    return session.each(names, one)


def _is_peer(resource: Resource, node: str) -> bool:
    """Whether NODE is the other one; AdminError if it is neither."""
    if node in resource.local.names:
        return False
    if resource.peer is None:
        raise AdminError(f"{resource.name}: no peer is configured to switch over to", EXIT_USAGE)
    if node in resource.peer.names:
        return True
    known = " and ".join((resource.local.names[0], resource.peer.names[0]))
    raise AdminError(f"{resource.name} has no node '{node}': its nodes are {known}", EXIT_USAGE)


ROLE_COMMANDS = (primary, secondary, switchover)
