"""Commands that change what a resource does: up, down, run, roles, connection, disks, waiting."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence

import click

from replblk.admin.messages import OptionValue
from replblk.cli.device_commands import end_devices, make_again
from replblk.cli.options import force_option, resource_command
from replblk.cli.session import EXIT_USAGE, Session, complain, named, prefixed
from replblk.model.config import Resource
from replblk.model.errors import AdminError, ConfigError
from replblk.model.status import VolumeStatus
from replblk.model.vocabulary import ConnState, DiskState
from replblk.shell.control_client import EndedError, NotRunningError
from replblk.shell.spawn import ReadyPipe, spawn


@resource_command("up")
def up(session: Session, names: tuple[str, ...]) -> int:
    """Start the daemon of RES, attach its disks and connect to the peer.

    Returns once the daemon serves its control socket; it lives on in the background, with its log
    at RUN-DIR/RES/log.
    """

    def one(resource: Resource, volume: int | None) -> int:
        session.check_startable(resource)
        command = daemon_command(session, resource)
        if session.dry_run:
            click.echo(shlex.join(command))
            return 0
        try:
            return _up_again(session, resource)
        except (NotRunningError, EndedError):
            answer = spawn(command, session.files(resource))
        if answer.exit_code:
            complain(prefixed(resource.name, answer.text))
        return EXIT_USAGE if answer.exit_code else 0

    return session.each(names, one, whole="up")


def _up_again(session: Session, resource: Resource) -> int:
    """``up`` of what runs: attach and connect what is not; refused if everything is."""
    states = [volume.state for volume in session.status(resource).volumes]
    alone = resource.peer is not None and any(
        state.conn is ConnState.STANDALONE for state in states
    )
    if not alone and all(state.disk is not DiskState.DISKLESS for state in states):
        raise AdminError(f"{resource.name}: is up already, Device is configured!", EXIT_USAGE)
    for state, volume in zip(states, resource.local.volumes, strict=True):
        if state.disk is DiskState.DISKLESS:
            reply = session.ask(resource, "attach", volume.number)
            if reply.exit_code:
                raise AdminError(prefixed(resource.name, reply.text), EXIT_USAGE)
    if alone:
        reply = session.ask(resource, "connect")
        if reply.exit_code:
            raise AdminError(prefixed(resource.name, reply.text), EXIT_USAGE)
    return 0


def daemon_command(session: Session, resource: Resource) -> list[str]:
    """The command line of a resource's daemon, with every path absolute."""
    if session.config_path == "-":
        raise AdminError(
            "a daemon needs a configuration file: standard input is not enough", EXIT_USAGE
        )
    settings = session.settings_file
    return [
        *(sys.executable, "-P", "-m", "replblk.cli"),
        *("--config", os.path.abspath(session.config_path)),
        *(("--settings", str(settings.absolute())) if settings.exists() else ()),
        *("--node", session.node),
        *("--run-dir", session.run_dir),
        *("run", resource.name),
    ]


@click.command("run")
@click.argument("name", metavar="RES")
@click.option("--ready-fd", type=int, hidden=True)
@click.pass_obj
def run(session: Session, name: str, ready_fd: int | None) -> int:
    """Be the daemon of RES in the foreground, for a supervisor; the log goes to stderr.

    SIGTERM ends it as "replblk down" does.
    """
    # The daemon's half of the program is not loaded for commands that only talk to it.
    from replblk.shell.daemon import run_foreground

    ready = ReadyPipe(ready_fd)
    try:
        resource = session.configuration.find(name)
        session.check_startable(resource)
        if session.dry_run:
            click.echo(shlex.join(daemon_command(session, resource)))
            return 0
        return run_foreground(resource, session.settings, session.files(resource), ready.up)
    except (AdminError, ConfigError) as error:
        ready.failed(AdminError(str(error), error.exit_code))
        raise


@resource_command("down")
@force_option
def down(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Demote, disconnect and detach RES, and end its daemon."""

    if session.dry_run:
        return session.command(names, "down", {"force": force}, whole=True)

    def one(resource: Resource, volume: int | None) -> int:
        devices: list[Callable[[], str]] = []
        try:
            devices = end_devices(session, resource, None)
        except AdminError as error:
            if not force:
                raise
            complain(str(error))
        try:
            reply = session.ask(resource, "down", None, {"force": True} if force else {})
        except NotRunningError:
            if sys.stderr.isatty():
                complain(f"{resource.name}: not running on this node, nothing to do")
            return 0
        if reply.exit_code:
            complain(prefixed(resource.name, reply.text))
            make_again(devices)
        return reply.exit_code

    return session.each(names, one, whole="down")


@resource_command("connect")
@click.option(
    "--discard-my-data",
    is_flag=True,
    help="After a split brain: give up this node's changes and take the peer's data.",
)
def connect(session: Session, names: tuple[str, ...], discard_my_data: bool) -> int:
    """Connect RES to its peer, and stay ready to."""
    return session.command(names, "connect", {"discard_my_data": discard_my_data}, whole=True)


@resource_command("disconnect")
@force_option
def disconnect(session: Session, names: tuple[str, ...], force: bool) -> int:
    """End the connection of RES and go StandAlone."""
    return session.command(names, "disconnect", {"force": force}, whole=True)


@resource_command("attach")
def attach(session: Session, names: tuple[str, ...]) -> int:
    """Attach the backing device of RES."""
    return session.command(names, "attach")


@resource_command("detach")
@force_option
def detach(session: Session, names: tuple[str, ...], force: bool) -> int:
    """Let the backing device of RES go; reads and writes go to the peer."""
    return session.command(names, "detach", {"force": force})


@resource_command("invalidate")
def invalidate(session: Session, names: tuple[str, ...]) -> int:
    """Declare the local data of RES bad: all of it is fetched from the peer."""
    return session.command(names, "invalidate")


@resource_command("invalidate-remote")
def invalidate_remote(session: Session, names: tuple[str, ...]) -> int:
    """Declare the peer's data of RES bad: all of it is sent there again."""
    return session.command(names, "invalidate-remote")


@resource_command("outdate")
def outdate(session: Session, names: tuple[str, ...]) -> int:
    """Mark the local data of RES as old; without effect while connected."""
    return session.command(names, "outdate")


@resource_command("pause-sync")
def pause_sync(session: Session, names: tuple[str, ...]) -> int:
    """Hold a running resync of RES."""
    return session.command(names, "pause-sync")


@resource_command("resume-sync")
def resume_sync(session: Session, names: tuple[str, ...]) -> int:
    """Let a held resync of RES go on."""
    return session.command(names, "resume-sync")


@resource_command("new-current-uuid")
@click.option(
    "--clear-bitmap",
    is_flag=True,
    help="Also declare that nothing is out of sync; on two fresh connected nodes: skip the "
    "first sync.",
)
def new_current_uuid(session: Session, names: tuple[str, ...], clear_bitmap: bool) -> int:
    """Begin a new data generation for RES, which has to be StandAlone."""
    return session.command(names, "new-current-uuid", {"clear_bitmap": clear_bitmap})


@resource_command("suspend-io")
def suspend_io(session: Session, names: tuple[str, ...]) -> int:
    """Hold the reads and writes of RES; clients wait."""
    return session.command(names, "suspend-io")


@resource_command("resume-io")
def resume_io(session: Session, names: tuple[str, ...]) -> int:
    """Let held reads and writes go on, whatever held them: a command, fencing, or lack of data."""
    return session.command(names, "resume-io")


@resource_command("verify")
@click.option("--start", type=click.IntRange(0), metavar="SECTOR", help="Begin there.")
@click.option("--stop", type=click.IntRange(0), metavar="SECTOR", help="End before there.")
def verify(session: Session, names: tuple[str, ...], start: int | None, stop: int | None) -> int:
    """Compare RES with its peer block by block; differences are marked out of sync."""
    options = {"start": start, "stop": stop}
    return session.command(
        names, "verify", {name: at for name, at in options.items() if at is not None}
    )


_wfc_timeout = click.option(
    *("-t", "--wfc-timeout", "wfc_timeout"),
    type=click.IntRange(0, 1 << 31),
    help="Seconds to wait, 0 for ever. Default: the configuration's wfc-timeout.",
)
_degr_wfc_timeout = click.option(
    "--degr-wfc-timeout",
    type=click.IntRange(0, 1 << 31),
    help="The same if this node was Primary without its peer when it stopped.",
)
_outdated_wfc_timeout = click.option(
    "--outdated-wfc-timeout",
    type=click.IntRange(0, 1 << 31),
    help="The same if the peer's disk is known to be Outdated.",
)
_wait_after_sb = click.option(
    "--wait-after-sb/--no-wait-after-sb",
    default=None,
    help="Go on waiting when the node is StandAlone, as after a split brain.",
)


@resource_command("wait-connect")
@_wfc_timeout
@_degr_wfc_timeout
@_outdated_wfc_timeout
@_wait_after_sb
def wait_connect(
    session: Session,
    names: tuple[str, ...],
    wfc_timeout: int | None,
    degr_wfc_timeout: int | None,
    outdated_wfc_timeout: int | None,
    wait_after_sb: bool | None,
) -> int:
    """Wait until RES is connected. Exit status 5: timed out."""
    given = (wfc_timeout, degr_wfc_timeout, outdated_wfc_timeout)
    return _wait(session, names, "wait-connect", given, wait_after_sb)


@resource_command("wait-sync")
@_wfc_timeout
@_degr_wfc_timeout
@_outdated_wfc_timeout
@_wait_after_sb
def wait_sync(
    session: Session,
    names: tuple[str, ...],
    wfc_timeout: int | None,
    degr_wfc_timeout: int | None,
    outdated_wfc_timeout: int | None,
    wait_after_sb: bool | None,
) -> int:
    """Wait until RES is connected and no resync runs. Exit status 5: timed out."""
    given = (wfc_timeout, degr_wfc_timeout, outdated_wfc_timeout)
    return _wait(session, names, "wait-sync", given, wait_after_sb)


def _wait(
    session: Session,
    names: tuple[str, ...],
    verb: str,
    given: tuple[int | None, int | None, int | None],
    wait_after_sb: bool | None,
) -> int:
    def one(resource: Resource, volume: int | None) -> int:
        startup = resource.startup
        configured = (startup.wfc_timeout, startup.degr_wfc_timeout, startup.outdated_wfc_timeout)
        waits = tuple(
            option if option is not None else default
            for option, default in zip(given, configured, strict=True)
        )
        after_sb = startup.wait_after_sb if wait_after_sb is None else wait_after_sb
        timeout_s = waits[0]
        if not session.dry_run:
            timeout_s = patience_s(waits, session.status(resource).volumes, volume)
        options: dict[str, OptionValue] = {"timeout_s": timeout_s, "wait_after_sb": after_sb}
        return session.command([named(resource, volume)], verb, options, timeout_s=None)

    return session.each(names, one)


def patience_s(waits: tuple[int, ...], volumes: Sequence[VolumeStatus], volume: int | None) -> int:
    """Which timeout counts: the peer's disk is Outdated, this node was degraded, or neither.

    waits: wfc-, degr-wfc- and outdated-wfc-timeout in seconds, 0: for ever. The special ones are
    never longer than wfc-timeout. With several volumes the longest wait counts.
    """
    wfc, degr, outdated = waits
    if wfc and (not degr or degr > wfc):
        degr = wfc
    if degr and (not outdated or outdated > degr):
        outdated = wfc
    of_each = [
        outdated if found.state.pdsk is DiskState.OUTDATED else degr if found.degraded else wfc
        for found in volumes
        if volume in (None, found.number)
    ]
    return 0 if 0 in of_each else max(of_each, default=wfc)


RESOURCE_COMMANDS = (
    *(up, down, run, connect, disconnect, attach, detach),
    *(
        invalidate,
        invalidate_remote,
        outdate,
        pause_sync,
        resume_sync,
        suspend_io,
        resume_io,
        verify,
    ),
    new_current_uuid,
    *(wait_connect, wait_sync),
)
