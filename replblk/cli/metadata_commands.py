"""Commands on a device's metadata: create-md, dump-md, wipe-md, ...

While a daemon has the device, it answers those that only look; the others are refused.

What reads and writes metadata is imported where it is used: commands that only talk to a daemon
start faster without it.
"""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Sequence

import click

from replblk.cli.options import force_option, resource_command
from replblk.cli.session import Session, complain, named, volumes_of
from replblk.model.config import Resource, VolumeConfig
from replblk.model.errors import AdminError
from replblk.shell.control_client import NotRunningError
from replblk.shell.last_known import LastKnownSize

EXIT_CONFIGURED = 20
DEVICE_UUID_BITS = 64

_OnVolume = Callable[[VolumeConfig], int]


def _each_volume(
    session: Session, names: tuple[str, ...], what: str, one: _OnVolume, *, ask: bool = False
) -> int:
    """Do *one* to each volume's metadata, unless a daemon has it; ask: then the daemon tells."""
    return _each_with_resource(session, names, what, lambda _, volume: one(volume), ask=ask)


def _each_with_resource(
    session: Session,
    names: Sequence[str],
    what: str,
    one: Callable[[Resource, VolumeConfig], int],
    *,
    ask: bool = False,
) -> int:
    def on_resource(resource: Resource, chosen: int | None) -> int:
        for number in volumes_of(resource, chosen):
            volume = resource.volume(number)
            if session.dry_run:
                where = volume.disk if volume.meta_disk == "internal" else volume.meta_disk
                click.echo(f"{what} {named(resource, number)}: v08 {volume.meta_disk} on {where}")
                continue
            if ask and _is_attached(session, resource, volume):
                status = _told_by_daemon(session, resource, number, what)
            else:
                _refuse_attached(session, resource, volume)
                status = one(resource, volume)
            if status:
                return status
        return 0

    return session.each(names, on_resource)


def _is_attached(session: Session, resource: Resource, volume: VolumeConfig) -> bool:
    try:
        running = session.status(resource)
    except NotRunningError:
        return False
    return any(v.number == volume.number and v.state.disk > 0 for v in running.volumes)


def _told_by_daemon(session: Session, resource: Resource, number: int, verb: str) -> int:
    reply = session.ask(resource, verb, number)
    if reply.exit_code:
        raise AdminError(f"{named(resource, number)}: {reply.text}", reply.exit_code)
    click.echo(reply.text)
    return 0


def _refuse_attached(session: Session, resource: Resource, volume: VolumeConfig) -> None:
    if _is_attached(session, resource, volume):
        name = named(resource, volume.number)
        raise AdminError(
            f"{name}: Device '{volume.minor}' is configured! Its daemon has {volume.disk} "
            f"attached; 'replblk detach {name}' or 'replblk down {resource.name}' first",
            EXIT_CONFIGURED,
        )


def _confirm(question: str) -> bool:
    """Ask on stderr; only a typed "yes" counts."""
    click.echo(f"{question}\n[need to type 'yes' to confirm] ", err=True, nl=False)
    if not sys.stdin.isatty():
        complain("stdin not a TTY, not waiting for confirmation")
        return False
    return sys.stdin.readline().rstrip("\n") == "yes"


def _place(volume: VolumeConfig) -> tuple[str, str, int | None]:
    return volume.disk, volume.meta_disk, volume.meta_index


def _known(session: Session, resource: Resource, volume: VolumeConfig) -> LastKnownSize:
    folder = session.files(resource).state_folder(session.settings.state_dir)
    return LastKnownSize(folder, volume.minor, volume.disk, complain)


@resource_command("create-md")
@force_option
def create(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Write new metadata to the backing device of RES.

    Existing metadata or data is told and needs a confirmation, or --force. Data that the metadata
    would overwrite is refused even then (exit status 40).
    """
    from replblk.shell.create_md import create_md

    return _each_volume(
        session,
        names,
        "create-md",
        lambda volume: create_md(
            *_place(volume),
            device_uuid=secrets.randbits(DEVICE_UUID_BITS),
            force=force,
            confirm=_confirm,
            out=click.echo,
        ),
    )


@resource_command("dump-md")
@force_option
def dump(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Show the metadata as text."""
    from replblk.shell.offline_md import dump_md

    return _each_volume(
        session,
        names,
        "dump-md",
        lambda volume: dump_md(
            *_place(volume), force=force, command=f"dump-md {' '.join(names)}", out=click.echo
        ),
        ask=True,
    )


@resource_command("wipe-md")
@force_option
def wipe(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Remove the metadata."""
    from replblk.shell.offline_md import wipe_md

    return _each_volume(
        session,
        names,
        "wipe-md",
        lambda volume: wipe_md(*_place(volume), force=force, confirm=_confirm, out=click.echo),
    )


@resource_command("apply-al")
def apply(session: Session, names: tuple[str, ...]) -> int:
    """After a crash: mark what the activity log names as out of sync. "up" does it by itself."""
    from replblk.shell.offline_md import apply_al

    return _each_with_resource(
        session,
        names,
        "apply-al",
        lambda resource, volume: apply_al(
            *_place(volume), known=_known(session, resource, volume), out=click.echo
        ),
    )


@resource_command("check-resize")
def check(session: Session, names: tuple[str, ...]) -> int:
    """A backing device of RES grew: move the metadata to its new end, or note its size.

    What runs is resized as far as that is possible now; "up" moves metadata by itself.
    """
    from replblk.shell.offline_md import check_resize

    def on_resource(resource: Resource, chosen: int | None) -> int:
        for number in volumes_of(resource, chosen):
            volume = resource.volume(number)
            if not session.dry_run and _is_attached(session, resource, volume):
                session.ask(resource, "resize", number)  # refused or not: as far as it goes
                continue
            status = _each_with_resource(
                session,
                [named(resource, number)],
                "check-resize",
                lambda of, volume: check_resize(
                    *_place(volume), known=_known(session, of, volume), out=click.echo
                ),
            )
            if status:
                return status
        return 0

    return session.each(names, on_resource)


@resource_command("show-gi")
def show_generation(session: Session, names: tuple[str, ...]) -> int:
    """Show the generation identifiers and flags, explained."""
    from replblk.shell.offline_md import show_gi

    return _each_volume(
        *(session, names, "show-gi", lambda volume: show_gi(*_place(volume), out=click.echo)),
        ask=True,
    )


@resource_command("get-gi")
def get_generation(session: Session, names: tuple[str, ...]) -> int:
    """Show the generation identifiers and flags in one line."""
    from replblk.shell.offline_md import get_gi

    return _each_volume(
        *(session, names, "get-gi", lambda volume: get_gi(*_place(volume), out=click.echo)),
        ask=True,
    )


METADATA_COMMANDS = (create, dump, wipe, apply, check, show_generation, get_generation)
