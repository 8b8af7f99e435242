"""Commands that make a volume a block device of this machine, and what the roles do with it."""

from __future__ import annotations

from collections.abc import Callable

import click

from replblk.cli.options import resource_command
from replblk.cli.session import Session, complain, named, volumes_of
from replblk.model.config import Resource
from replblk.model.errors import AdminError
from replblk.model.vocabulary import CODE_TEXT, Code
from replblk.shell.block_devices import EXIT_IN_USE, BlockDevice

IN_USE = Code.DEVICE_IN_USE


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
@click.option(
    "--force",
    is_flag=True,
    help="Whoever uses the device waits for no node any more, and gets I/O errors.",
)
def detach_fuse(session: Session, names: tuple[str, ...], force: bool) -> int:
    """End the block device that attach-fuse made; refused while it is in use."""
    return _each(session, names, "detach-fuse", force=force)


def _each(
    session: Session,
    names: tuple[str, ...],
    verb: str,
    *,
    keep: bool = False,
    force: bool = False,
) -> int:
    """keep: a block device that is there already is as good as a new one."""

    def one(resource: Resource, volume: int | None) -> int:
        for number in volumes_of(resource, volume):
            subject = named(resource, number)
            if session.dry_run:
                click.echo(f"{verb} {subject}")
                continue
            device = _device(session, resource, number)
            if keep and device.is_minded():
                continue
            if verb == "attach-nbd":
                click.echo(f"{subject}: {device.attach_nbd()}")
            elif verb == "attach-fuse":
                click.echo(f"{subject}: {device.attach_fuse()}")
            elif not (
                device.detach_nbd() if verb == "detach-nbd" else device.detach_fuse(force=force)
            ):
                complain(f"{subject}: is no block device here, nothing to do")
        return 0

    return session.each(names, one)


def attach_as_set(session: Session, names: tuple[str, ...]) -> int:
    """After ``primary``: what ``nbd_device`` says."""
    wish = session.settings.nbd_device
    return 0 if wish == "no" else _each(session, names, f"attach-{wish}", keep=True)


def end_devices(
    session: Session, resource: Resource, volume: int | None, *, only_fixed: bool = False
) -> list[Callable[[], str]]:
    """Before ``secondary`` and ``down``: the block devices that nobody uses are ended; how to make
    them again. Raises AdminError, as DRBD refuses it, if somebody uses one. only_fixed: not one
    that can follow the Primary to the other node."""
    again: list[Callable[[], str]] = []
    for number in volumes_of(resource, volume):
        device = _device(session, resource, number)
        if only_fixed and not device.keeps_here():
            continue
        try:
            if device.detach_nbd():
                again.append(device.attach_nbd)
            if device.detach_fuse():
                again.append(device.attach_fuse)
        except AdminError as error:
            make_again(again)
            if error.exit_code != EXIT_IN_USE:
                raise
            sentence = f"State change failed: ({int(IN_USE)}) {CODE_TEXT[IN_USE]}"
            raise AdminError(
                f"{named(resource, number)}: {sentence}\n{error}", error.exit_code
            ) from error
    return again


def make_again(devices: list[Callable[[], str]]) -> None:
    """What was ended for a change of roles that was refused then."""
    for attach in devices:
        attach()


def _device(session: Session, resource: Resource, number: int) -> BlockDevice:
    return BlockDevice(resource, number, session.files(resource), session.settings)


DEVICE_COMMANDS = (attach_nbd, detach_nbd, attach_fuse, detach_fuse)
