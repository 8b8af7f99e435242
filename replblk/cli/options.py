"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from replblk.cli.session import Session

Decorated = Callable[..., Any]


def _note_dry_run(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    session = ctx.find_object(Session)
    if value and session is not None:
        session.dry_run = True


def resource_command(name: str) -> Callable[[Decorated], click.Command]:
    """A command with ``-d`` and any number of RES arguments, called with session and names."""

    def decorate(function: Decorated) -> click.Command:
        function = click.pass_obj(function)
        function = click.argument("names", nargs=-1, metavar="{all|RES[/VOL]...}")(function)
        function = click.option(
            *("-d", "--dry-run"),
            is_flag=True,
            expose_value=False,
            callback=_note_dry_run,
            help="Print what would be done, and do nothing.",
        )(function)
        return click.command(name)(function)

    return decorate


force_option = click.option("--force", is_flag=True, help="Do it although it would be refused.")
