"""Commands that make a volume a block device of this machine, and what the roles do with it."""

from __future__ import annotations

import click

from replblk.cli.options import resource_command
from replblk.cli.session import Session, complain, named, volumes_of
from replblk.model.config import Resource
from replblk.model.errors import AdminError
from replblk.shell.block_devices import BlockDevice


@resource_command("attach-nbd")
def attach_nbd(session: Session, names: tuple[str, ...]) -> int:
    """Make RES a block device of this machine by the kernel's NBD client. Needs root."""
    return _each(session, names, "attach-nbd")


@resource_command("detach-nbd")
def detach_nbd(session: Session, names: tuple[str, ...]) -> int:
    """End the block device that attach-nbd made; refused while it is in use."""
    return _each(session, names, "detach-nbd")


@resource_command("attach-fuse")
def attach_fuse(session: Session, names: tuple[str, ...]) -> int:
    """Make RES a loop device by nbdfuse, where the kernel has no NBD client. Needs root."""
    return _each(session, names, "attach-fuse")


@resource_command("detach-fuse")
def detach_fuse(session: Session, names: tuple[str, ...]) -> int:
    """End the block device that attach-fuse made; refused while it is in use."""
    return _each(session, names, "detach-fuse")


def _each(session: Session, names: tuple[str, ...], verb: str) -> int:
    def one(resource: Resource, volume: int | None) -> int:
        for number in volumes_of(resource, volume):
            subject = named(resource, number)
            if session.dry_run:
                click.echo(f"{verb} {subject}")
                continue
            device = BlockDevice(resource, number, session.files(resource))
            if verb == "attach-nbd":
                click.echo(f"{subject}: {device.attach_nbd()}")
            elif verb == "attach-fuse":
                click.echo(f"{subject}: {device.attach_fuse()}")
            elif not (device.detach_nbd() if verb == "detach-nbd" else device.detach_fuse()):
                complain(f"{subject}: is no block device here, nothing to do")
        return 0

    return session.each(names, one)


def attach_as_set(session: Session, names: tuple[str, ...]) -> int:
    """After ``primary``: what ``nbd_device`` says."""
    wish = session.settings.nbd_device
    return 0 if wish == "no" else _each(session, names, f"attach-{wish}")


def detach_before(session: Session, names: tuple[str, ...]) -> int:
    """Before ``secondary`` and ``down``: a block device that is not in use is ended first."""
    if session.dry_run:
        return 0

    def one(resource: Resource, volume: int | None) -> int:
        for number in volumes_of(resource, volume):
            device = BlockDevice(resource, number, session.files(resource))
            try:
                device.detach_nbd()
                device.detach_fuse()
            except AdminError as error:
                complain(str(error))
                return error.exit_code
        return 0

    return session.each(names, one)


DEVICE_COMMANDS = (attach_nbd, detach_nbd, attach_fuse, detach_fuse)
