"""One invocation of ``replblk``: which configuration, which node, where daemons live.

Everything is loaded when first asked for, so that ``--help`` needs no configuration.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click

from replblk.admin.messages import OptionValue, Reply, Request
from replblk.admin.resolve import Configuration, load
from replblk.admin.settings import load_settings
from replblk.admin.unsupported import unsupported
from replblk.model.config import Resource, Settings
from replblk.model.errors import AdminError, ConfigError
from replblk.model.status import NodeStatus
from replblk.shell.control_client import call
from replblk.shell.run_files import ROOT_RUN_DIR, RunFiles
from replblk.shell.socket_address import is_own_address

EXIT_USAGE = 1
EXIT_CONFIG = 10
EXIT_EXEC = 20
COMMAND_S = 121.0
"""How long a command may take: drbdadm's limit for those that change states."""
SETTINGS_NAME = "replblk.toml"

One = Callable[[Resource, "int | None"], int]


@dataclass
class Session:
    """The global options, and what follows from them."""

    config_path: str
    settings_path: str | None
    node: str
    run_dir_option: str | None
    dry_run: bool = False

    @cached_property
    def configuration(self) -> Configuration:
        """The configuration as this node sees it; its warnings are told once."""
        loaded = load(
            self.config_path, node=self.node, stdin=sys.stdin, terminal=sys.stderr.isatty()
        )
        for warning in loaded.warnings:
            complain(warning)
        return loaded

    @cached_property
    def settings(self) -> Settings:
        """What is ours and not DRBD's; the usual file may be absent, a named one may not."""
        path = self.settings_file
        try:
            return load_settings(path)
        except FileNotFoundError as error:
            if self.settings_path is None:
                return Settings()
            raise ConfigError("there is no such settings file", str(path)) from error

    @property
    def settings_file(self) -> Path:
        """The settings beside the configuration, unless named."""
        if self.settings_path is not None:
            return Path(self.settings_path)
        return Path(os.path.abspath(self.config_path)).parent / SETTINGS_NAME

    @cached_property
    def run_dir(self) -> str:
        """Where the daemons' folders are: option, settings, or the usual place."""
        chosen = self.run_dir_option or self.settings.run_dir
        if chosen:
            return os.path.abspath(chosen)
        if os.geteuid() == 0:
            return ROOT_RUN_DIR
        if home := os.environ.get("XDG_RUNTIME_DIR"):
            return os.path.join(home, "replblk")
        raise AdminError(
            "no run directory: XDG_RUNTIME_DIR is not set; name one with --run-dir or "
            "REPLBLK_RUN_DIR",
            EXIT_EXEC,
        )

    def files(self, resource: Resource) -> RunFiles:
        """Socket, lock, pid and log of a resource's daemon."""
        return RunFiles.of(self.run_dir, resource.name)

    def ask(
        self,
        resource: Resource,
        verb: str,
        volume: int | None = None,
        options: dict[str, OptionValue] | None = None,
        timeout_s: float | None = COMMAND_S,
    ) -> Reply:
        """One request to the daemon of *resource*."""
        return call(self.files(resource), Request(verb, volume, options or {}), timeout_s)

    def status(self, resource: Resource) -> NodeStatus:
        """The running node's snapshot."""
        reply = self.ask(resource, "status")
        if reply.status is None:
            raise AdminError(f"{resource.name}: the daemon gave no status: {reply.text}", EXIT_EXEC)
        return reply.status

    def check_startable(self, resource: Resource) -> None:
        """Refuse, with sentences, a resource that can't be served as it is configured."""
        found = unsupported(resource)
        for severity, sentence in found:
            if severity == "warn":
                complain(sentence)
        errors = [sentence for severity, sentence in found if severity == "error"]
        if errors:
            raise ConfigError("\n".join(errors))
        own = resource.local.address
        self.configuration.check_own_addresses(
            [resource], {own.host} if is_own_address(own) else set()
        )

    def each(self, names: Sequence[str], one: One, *, whole: str = "") -> int:
        """Do *one* to everything named; the highest exit status, and 20 or more ends it at once.

        whole: the name of a command that takes no single volumes; "" for one that does.
        """
        if not names:
            raise click.UsageError("No resource names specified")
        highest = 0
        for resource, volume in self.configuration.select(names):
            if whole and volume is not None and not resource.volume(volume).implicit:
                raise AdminError(
                    f"{whole} operates on whole resources, but you specified a specific volume!",
                    EXIT_USAGE,
                )
            try:
                status = one(resource, None if whole else volume)
            except (AdminError, ConfigError) as error:
                complain(str(error))
                status = error.exit_code
            highest = max(highest, status)
            if status >= EXIT_EXEC:
                break
        return highest

    def command(
        self,
        names: Sequence[str],
        verb: str,
        options: dict[str, OptionValue] | None = None,
        *,
        whole: bool = False,
        timeout_s: float | None = COMMAND_S,
    ) -> int:
        """Give one command to the daemons of everything named."""
        wanted = {name: value for name, value in (options or {}).items() if value is not False}

        def one(resource: Resource, volume: int | None) -> int:
            if self.dry_run:
                said = "".join(f" {name}={value}" for name, value in wanted.items())
                where = self.files(resource).control
                click.echo(f"{where}: {verb} {named(resource, volume)}{said}")
                return 0
            reply = self.ask(resource, verb, volume, wanted, timeout_s)
            return tell(resource, volume, reply)

        return self.each(names, one, whole=verb if whole else "")


def named(resource: Resource, volume: int | None) -> str:
    """RES or RES/VOL."""
    return resource.name if volume is None else f"{resource.name}/{volume}"


def tell(resource: Resource, volume: int | None, reply: Reply) -> int:
    """Show what became of a command; its exit status."""
    if reply.text:
        text = prefixed(named(resource, volume), reply.text)
        if reply.exit_code:
            complain(text)
        else:
            click.echo(text)
    return reply.exit_code


def prefixed(subject: str, text: str) -> str:
    """Each line of *text* with what it is about."""
    return "\n".join(f"{subject}: {line}" for line in text.rstrip("\n").split("\n"))


def complain(text: str) -> None:
    """A sentence on stderr."""
    click.echo(text.rstrip("\n"), err=True)


def volumes_of(resource: Resource, volume: int | None) -> Iterable[int]:
    """The named volume, or all of the resource."""
    return [volume] if volume is not None else [found.number for found in resource.local.volumes]
