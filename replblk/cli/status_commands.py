"""Commands that show: role, cstate, dstate, status, latency, proc, dump."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable

import click

from replblk.admin.proc_text import proc_text
from replblk.admin.state_words import UNCONFIGURED, cstate_line, dstate_line, role_line
from replblk.admin.status_json import status_json
from replblk.admin.status_text import status_text
from replblk.cli.options import resource_command
from replblk.cli.session import Session, tell, volumes_of
from replblk.model.config import Resource
from replblk.model.state import State
from replblk.model.status import NodeStatus
from replblk.shell.control_client import NotRunningError


def _state_lines(session: Session, names: tuple[str, ...], line: Callable[[State], str]) -> int:
    """One line for each volume; of a resource that does not run: Unconfigured."""

    def one(resource: Resource, volume: int | None) -> int:
        try:
            states = {found.number: found.state for found in session.status(resource).volumes}
        except NotRunningError:
            states = {}
        for number in volumes_of(resource, volume):
            click.echo(line(states[number]) if number in states else UNCONFIGURED)
        return 0

    return session.each(names, one)


@resource_command("role")
def role(session: Session, names: tuple[str, ...]) -> int:
    """Show the roles: own/peer's."""
    return _state_lines(session, names, role_line)


@resource_command("cstate")
def cstate(session: Session, names: tuple[str, ...]) -> int:
    """Show the connection state."""
    return _state_lines(session, names, cstate_line)


@resource_command("dstate")
def dstate(session: Session, names: tuple[str, ...]) -> int:
    """Show the disk states: own/peer's."""
    return _state_lines(session, names, dstate_line)


@resource_command("latency")
def latency(session: Session, names: tuple[str, ...]) -> int:
    """Show where the time of reads and writes went, phase by phase, since the daemon began."""

    def one(resource: Resource, volume: int | None) -> int:
        reply = session.ask(resource, "latency")
        if reply.exit_code:
            return tell(resource, None, reply)
        click.echo(f"{resource.name}:\n{reply.text}")
        return 0

    return session.each(names, one, whole="latency")


@resource_command("status")
@click.option("--json", "as_json", is_flag=True, help="A document for programs.")
@click.option("-v", "--verbose", is_flag=True, help="Also what is usual.")
@click.option("-s", "--statistics", is_flag=True, help="Also counters.")
@click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    help="Colours: auto means on a terminal.",
)
def status(
    session: Session,
    names: tuple[str, ...],
    as_json: bool,
    verbose: bool,
    statistics: bool,
    color: str,
) -> int:
    """Show roles, disks, connection and resync of RES, or of all."""
    nodes: list[NodeStatus] = []

    def one(resource: Resource, volume: int | None) -> int:
        nodes.append(session.status(resource))
        return 0

    result = session.each(names or ("all",), one)
    if as_json:
        click.echo(json.dumps(status_json(nodes), indent=2))
    else:
        text = status_text(
            nodes,
            verbose=verbose,
            statistics=statistics,
            colour=color == "always" or (color == "auto" and sys.stdout.isatty()),
            width=shutil.get_terminal_size((80, 24)).columns,
        )
        click.echo(text, nl=False, color=True)
    return result


@resource_command("proc")
def proc(session: Session, names: tuple[str, ...]) -> int:
    """Show the text of /proc/drbd for what runs here."""
    nodes: list[NodeStatus] = []

    def one(resource: Resource, volume: int | None) -> int:
        try:
            nodes.append(session.status(resource))
        except NotRunningError:
            if names:
                raise
        return 0

    result = session.each(names or ("all",), one)
    click.echo(proc_text(nodes), nl=False)
    return result


@resource_command("dump")
@click.option("--merged", is_flag=True, help="With inherited options in every resource.")
def dump(session: Session, names: tuple[str, ...], merged: bool) -> int:
    """Show the configuration as it was understood."""
    chosen = None if not names or "all" in names else names
    click.echo(session.configuration.dump(chosen, merged=merged), nl=False)
    return 0


STATUS_COMMANDS = (role, cstate, dstate, status, latency, proc, dump)
