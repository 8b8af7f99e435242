"""From a drbd.conf to the resources of this host: the only door to configuration files.

``load`` reads, checks, inherits and fills in defaults; what it returns needs no further judging,
except ``unsupported`` for what replblk does not do yet. Raises ConfigError with all that is wrong.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from replblk.admin.res_checks import check
from replblk.admin.res_dump import dump_text
from replblk.admin.res_files import FileReader, absolute
from replblk.admin.res_lexer import Place, printable
from replblk.admin.res_merge import Side, disk_options, over, section, sides_of, values
from replblk.admin.res_model import Findings, RawBody, RawOption, RawVolume, Tree
from replblk.model.config import (
    HostConfig,
    NetOptions,
    Resource,
    StartupOptions,
    VolumeConfig,
)
from replblk.model.errors import AdminError

LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Globals:
    """``global { }``: what concerns the tools and no resource. Times in seconds."""

    minor_count: int = 0
    dialog_refresh: int = 1
    usage_count: str = "ask"
    cmd_timeout_short: int = 5
    cmd_timeout_medium: int = 121
    cmd_timeout_long: int = 600
    disable_ip_verification: bool = False
    udev_always_use_vnr: bool = False


@dataclass(frozen=True, slots=True)
class Configuration:
    """A loaded configuration as the node *node* sees it.

    resources: those of this host, in file order; stacked: those it serves on top of another one;
    ignored: names of those it has no part in; warnings: sentences with their place.
    """

    path: str
    node: str
    resources: list[Resource]
    stacked: list[Resource]
    ignored: list[str]
    files: list[str]
    warnings: list[str]
    globals: Globals
    _tree: Tree
    _sides: list[list[Side]]

    def find(self, name: str) -> Resource:
        """The resource of that name; AdminError (1) when it is not one of this host's."""
        for resource in self.resources:
            if resource.name == name:
                return resource
        if any(resource.name == name for resource in self.stacked):
            raise AdminError(
                f"'{name}' is a stacked resource, and not available in normal mode.", exit_code=1
            )
        raise AdminError(
            f"'{printable(name)}' not defined in your config (for this host).", exit_code=1
        )

    def select(self, arguments: Sequence[str]) -> list[tuple[Resource, int | None]]:
        """Resources (and volume numbers, None for all) named as ``NAME``, ``NAME/VOLUME``,
        ``minor-N`` or ``all``; AdminError for what names nothing here."""
        if "all" in arguments:
            if not (self.resources or self.stacked or self.ignored):
                raise AdminError("no resources defined!", exit_code=1)
            if not self.resources:
                hint = "\nMisspelled name of the local machine with the 'on' keyword ?"
                raise AdminError(
                    f"WARN: no normal resources defined for this host ({self.node})!?"
                    + (hint if self.ignored else ""),
                    exit_code=1,
                )
            return [(resource, None) for resource in self.resources]
        return [self._selected(argument) for argument in arguments]

    def _selected(self, argument: str) -> tuple[Resource, int | None]:
        names = [resource.name for resource in self.resources]
        minor = argument.removeprefix("minor-")
        if argument not in names and minor != argument and minor.isascii() and minor.isdigit():
            for resource in self.resources:
                for volume in resource.local.volumes:
                    if str(volume.minor) == minor:
                        return resource, volume.number
        name, slash, number = argument.rpartition("/")
        if argument in names or not slash:
            return self.find(argument), None
        if not (number.isascii() and number.isdigit()):
            raise AdminError(f"{printable(argument)} is not a valid number", exit_code=20)
        found = self.find(name)
        for volume in found.local.volumes:
            if str(volume.number) == number:
                return found, volume.number
        raise AdminError(
            f"'{printable(argument)}' not defined in your config (for this host).", exit_code=1
        )

    def why_no_peer(self, resource: Resource) -> str:
        """The sentence for a command that needs a peer when ``resource.peer`` is None."""
        where = f"{resource.config_file}:{resource.config_line}: in resource {resource.name}:\n\t"
        for body in self._tree.resources:
            if body.name == resource.name and len(body.hosts) > 2:
                return (
                    f"{where}There are multiple host sections for the peer node.\n"
                    "\tUse the --peer option to select which peer section to use."
                )
        return (
            f"{where}Missing section 'on <PEER> {{ ... }}'.\n"
            f"resource {resource.name}: cannot configure network without knowing my peer."
        )

    def check_own_addresses(self, resources: Sequence[Resource], local: Collection[str]) -> None:
        """Raise ConfigError if an own address is none of *local*, those this machine has."""
        if self.globals.disable_ip_verification:
            return
        findings = Findings()
        for resource in resources:
            address = resource.local.address
            if address.host not in local:
                place = Place(resource.config_file, resource.config_line, 1)
                name = " ".join(resource.local.names) or str(address)
                findings.error(
                    place,
                    f"in resource {resource.name}, on {name}:\n"
                    f"\tIP {address.host} not found on this host.",
                )
        findings.raise_errors()

    def dump(self, names: Sequence[str] | None = None, *, merged: bool = False) -> str:
        """The configuration (or the named resources of it) as text that loads to the same.

        merged: with inherited options in every resource. AdminError for an unknown name.
        """
        known = [body.name for body in self._tree.resources]
        for name in names or ():
            if name not in known:
                raise AdminError(f"'{printable(name)}' not defined in your config.", exit_code=1)
        return dump_text(self._tree, self._sides, self.path, self.node, names or (), merged)


def load(
    path: str | Path,
    *,
    node: str,
    stdin: TextIO | None = None,
    peer: str | None = None,
    addresses: Collection[str] = LOOPBACK,
    terminal: bool = True,
) -> Configuration:
    """Load the configuration at *path* (``-``: *stdin*) as node *node* sees it.

    peer: which host section is the peer where there are more than two. addresses: those of this
    machine, for floating sections. terminal: whether someone watches (see ``res_checks.check``).
    """
    tree, findings = Tree(), Findings()
    reader = FileReader(tree, findings)
    reader.read_main(str(path), stdin)
    findings.locate = _absolute_place  # messages after parsing name files by their absolute path
    sides = sides_of(tree, node, addresses, findings)
    check(tree, sides, findings, terminal=terminal)
    findings.raise_errors()
    resources: list[Resource] = []
    stacked: list[Resource] = []
    ignored: list[str] = []
    for body, hosts in zip(tree.resources, sides, strict=True):
        mine = next((side for side in hosts if side.mine), None)
        if mine is None:
            ignored.append(body.name)
        else:
            resource = _resource(tree, body, hosts, mine, peer)
            (stacked if mine.raw.kind == "stacked" else resources).append(resource)
    return Configuration(
        path=absolute(reader.files[0]),
        node=node,
        resources=resources,
        stacked=stacked,
        ignored=ignored,
        files=reader.files,
        warnings=findings.warnings,
        globals=Globals(**_globals(tree)),
        _tree=tree,
        _sides=sides,
    )


def _absolute_place(place: Place) -> Place:
    return place._replace(file=absolute(place.file))


def _globals(tree: Tree) -> dict[str, Any]:
    return values(tree.globals)


def _resource(
    tree: Tree, body: RawBody, hosts: list[Side], mine: Side, peer: str | None
) -> Resource:
    """The model's resource; everything in it has been checked."""
    wide = section(tree, body, "disk")
    others = [side for side in hosts if side is not mine]
    theirs = _peer(body, others, peer)
    handlers = section(tree, body, "handlers")
    return Resource(
        name=body.name,
        local=_host(mine, wide),
        peer=_host(theirs, wide) if theirs else None,
        net=NetOptions(**values(section(tree, body, "net"), mine.names)),
        startup=StartupOptions(**values(section(tree, body, "startup"))),
        handlers={option.name: option.value for option in handlers},
        **values(section(tree, body, "options")),
        has_proxy=mine.raw.proxy is not None,
        config_file=absolute(body.place.file),
        config_line=body.place.line,
    )


def _peer(body: RawBody, others: list[Side], peer: str | None) -> Side | None:
    """The peer's side: the only other one, or the one asked for; None if that is open."""
    if len(others) <= 1:
        return others[0] if others else None
    if peer is None:
        return None
    for side in others:
        address = side.raw.address
        if peer in side.names or (address and peer in (address.address.host, str(address.address))):
            return side
    raise _absolute_place(body.place).error(
        f"No host ('on' or 'floating') section matches --peer '{printable(peer)}'", exit_code=20
    )


def _host(side: Side, wide: list[RawOption]) -> HostConfig:
    assert side.raw.address is not None
    return HostConfig(
        names=side.names,
        address=side.raw.address.address,
        volumes=tuple(_volume(volume, wide) for volume in side.volumes),
        kind=side.raw.kind,
    )


def _volume(volume: RawVolume, wide: list[RawOption]) -> VolumeConfig:
    assert volume.device is not None
    assert volume.disk is not None
    assert volume.meta_disk is not None
    return VolumeConfig(
        number=volume.number,
        minor=volume.device.minor,
        device=volume.device.name or f"/dev/drbd{volume.device.minor}",
        disk=volume.disk.path,
        meta_disk=volume.meta_disk.path,
        meta_index=volume.meta_disk.index,
        options=disk_options(over(volume.options, wide)),
        implicit=volume.implicit,
    )
