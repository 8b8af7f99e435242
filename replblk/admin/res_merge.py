"""Inheritance: what a host's volumes are, and which of several settings of an option counts.

Disk options: host volume, then resource volume, then resource, then common; inside one section the
first of two wins. All other options: resource, then common; inside one section the last wins.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from replblk.admin.options import Kind, member, number
from replblk.admin.res_model import (
    Backing,
    Findings,
    MetaDisk,
    RawBody,
    RawHost,
    RawOption,
    RawVolume,
    Tree,
)
from replblk.model.config import DiskOptions
from replblk.model.vocabulary import Policy

_DISCARD_NODE = "discard-node-"


@dataclass(slots=True)
class Side:
    """A host section with the resource's volumes merged in, in ascending order.

    names: every node it stands for; of a stacked section those of the lower resource.
    """

    raw: RawHost
    names: tuple[str, ...]
    volumes: list[RawVolume] = field(default_factory=list)
    mine: bool = False


def sides_of(
    tree: Tree, node: str, addresses: Collection[str], findings: Findings
) -> list[list[Side]]:
    """The sides of every resource, in the order of the tree."""
    merged = [
        [Side(host, _names(host, node), _volumes(body, host, findings)) for host in body.hosts]
        for body in tree.resources
    ]
    for sides in merged:
        for side in sides:
            side.mine = _is_mine(side.raw, node, addresses)
    by_name = {
        body.name: sides for body, sides in reversed(list(zip(tree.resources, merged, strict=True)))
    }
    for body, sides in zip(tree.resources, merged, strict=True):
        for side in sides:
            if side.raw.kind == "stacked":
                _stack(body, side, by_name.get(side.raw.lower), findings)
            elif side.raw.kind == "_remote_host" and not side.volumes:
                side.volumes = next((other.volumes for other in sides if other.volumes), [])
    return merged


def _names(host: RawHost, node: str) -> tuple[str, ...]:
    if host.kind == "_this_host":
        return (node,)
    return host.names


def _is_mine(host: RawHost, node: str, addresses: Collection[str]) -> bool:
    if host.kind == "floating":
        return host.address is not None and host.address.address.host in addresses
    return host.kind == "_this_host" or node in host.names


def _stack(body: RawBody, side: Side, lower: list[Side] | None, findings: Findings) -> None:
    """Put a stacked section on the devices of its lower resource; metadata is internal there."""
    if lower is None:
        findings.error(
            side.raw.place,
            f"in resource {body.name}, referenced resource '{side.raw.lower}' not defined.",
        )
        return
    plain = [other for other in lower if other.raw.kind != "stacked"]
    side.names = tuple(name for other in plain for name in other.names)
    side.mine = any(other.mine for other in plain)
    below = next((other for other in plain if other.mine), plain[0] if plain else None)
    devices = {volume.number: volume.device for volume in below.volumes} if below else {}
    for volume in side.volumes:
        device = devices.get(volume.number)
        if device is None:
            findings.error(
                side.raw.place,
                f"in resource {body.name}, {side.raw} {{ ... }}: "
                f"volume {volume.number} not defined on {side.raw.lower}",
            )
            continue
        volume.disk = Backing(device.name or f"/dev/drbd{device.minor}", side.raw.place)
        volume.meta_disk = MetaDisk("internal", None, side.raw.place)


def _volumes(body: RawBody, host: RawHost, findings: Findings) -> list[RawVolume]:
    """The volumes of one host: its own statements over those of the resource."""
    if _mixed(body.volumes) or _mixed(host.volumes):
        place = next(v.place for v in (*body.volumes, *host.volumes) if not v.implicit)
        findings.error(place, "mixing explicit and implicit volumes is not allowed")
    elif _mixed([*body.volumes, *host.volumes]):
        findings.error(
            host.place, f"in resource {body.name}: you must not mix implicit and explicit volumes"
        )
    merged: dict[int, RawVolume] = {}
    for volume in (*host.volumes, *body.volumes):
        target = merged.setdefault(
            volume.number, RawVolume(volume.number, volume.implicit, volume.place)
        )
        target.device = target.device or volume.device
        target.disk = target.disk or volume.disk
        target.meta_disk = target.meta_disk or volume.meta_disk
        target.options = over(target.options, volume.options)
    return [merged[number] for number in sorted(merged)]


def _mixed(volumes: Iterable[RawVolume]) -> bool:
    return len({volume.implicit for volume in volumes}) > 1


def over(narrow: list[RawOption], wide: list[RawOption]) -> list[RawOption]:
    """*narrow* and those options of *wide* that it does not set."""
    own = {option.name for option in narrow}
    return [*narrow, *(option for option in wide if option.name not in own)]


def section(tree: Tree, body: RawBody, name: str) -> list[RawOption]:
    """The options of a resource's section with those of common that it does not set."""
    return over(body.sections[name], tree.common.sections[name] if tree.common else [])


def last_of(options: list[RawOption], name: str) -> RawOption | None:
    """The setting of *name* that counts outside of disk sections: the last one."""
    return next((option for option in reversed(options) if option.name == name), None)


def values(options: Iterable[RawOption], names: Collection[str] = ()) -> dict[str, Any]:
    """The model's fields from checked options; of two settings the last one.

    names: those of this node, which decide what discard-node-NAME discards.
    """
    return {option.option.field: _value(option, names) for option in options}


def disk_options(options: list[RawOption]) -> DiskOptions:
    """The model's disk options; of two settings the first one."""
    return DiskOptions(**values(reversed(options)))


def _value(raw: RawOption, names: Collection[str]) -> object:
    option = raw.option
    if option.kind in (Kind.BOOLEAN, Kind.FLAG):
        return raw.value == "yes"
    if option.kind is Kind.NAMES:
        return raw.words
    if option.kind is Kind.NUMBER:
        value = number(option, raw.value)
        assert value is not None  # judged when it was read
        return min(max(value, option.low), option.high)
    if option.name == "after-sb-0pri" and raw.value.startswith(_DISCARD_NODE):
        mine = raw.value.removeprefix(_DISCARD_NODE) in names
        return Policy.DISCARD_LOCAL if mine else Policy.DISCARD_REMOTE
    if option.name == "resync-after" and raw.value == "-1":
        return ""
    return member(option, raw.value) if option.enum else raw.value
