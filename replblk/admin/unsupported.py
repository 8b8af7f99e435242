"""What a configuration may ask for and replblk does not do yet: refused or told, never ignored.

One table: an entry goes when its feature comes. ``unsupported`` is asked before a resource goes up;
``error`` refuses it, ``warn`` is a sentence for the administrator and the resource goes up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from replblk.model.config import DiskOptions, HostConfig, Resource
from replblk.model.vocabulary import Fencing, Protocol

Severity = Literal["error", "warn"]


@dataclass(frozen=True, slots=True)
class Limitation:
    """One thing not done yet. what: in drbd.conf's words; instead: what to do, or what happens."""

    severity: Severity
    what: str
    instead: str
    used: Callable[[Resource], bool]


def _hosts(resource: Resource) -> Iterator[HostConfig]:
    yield resource.local
    if resource.peer:
        yield resource.peer


def _kind(kind: str) -> Callable[[Resource], bool]:
    return lambda resource: any(host.kind == kind for host in _hosts(resource))


def _family(name: str) -> Callable[[Resource], bool]:
    return lambda resource: any(host.address.family == name for host in _hosts(resource))


def _any_disk(test: Callable[[DiskOptions], bool]) -> Callable[[Resource], bool]:
    return lambda resource: any(test(volume.options) for volume in resource.local.volumes)


def _unfit_name(resource: Resource) -> bool:
    return "/" in resource.name or resource.name in (".", "..")


LIMITATIONS: tuple[Limitation, ...] = (
    Limitation(
        *("error", "a resource name that is '.' or '..' or contains '/'"),
        *("invalid resource name: choose another one", _unfit_name),
    ),
    Limitation("error", "address ssocks", "use an ipv4 or ipv6 address", _family("ssocks")),
    Limitation("error", "address sdp", "use an ipv4 or ipv6 address", _family("sdp")),
    Limitation("error", "floating", "use 'on HOST { address ...; }'", _kind("floating")),
    Limitation("error", "stacked-on-top-of", "replicate between two nodes only", _kind("stacked")),
    Limitation(
        *("error", "proxy", "remove the proxy sections and connect directly"),
        lambda resource: resource.has_proxy,
    ),
    Limitation(
        *("error", "meta-disk DEVICE (external)", "use 'meta-disk internal;'"),
        lambda resource: any(volume.meta_disk != "internal" for volume in resource.local.volumes),
    ),
    Limitation(
        *("error", "allow-two-primaries", "use one Primary at a time"),
        lambda resource: resource.net.allow_two_primaries,
    ),
    Limitation(
        *("error", "fencing resource-and-stonith with protocol A"),
        "use protocol B or C: with A an acknowledged write may be the peer's loss unseen",
        lambda resource: (
            resource.net.protocol is Protocol.A
            and any(
                volume.options.fencing is Fencing.RESOURCE_AND_STONITH
                for volume in resource.local.volumes
            )
        ),
    ),
    Limitation(
        *("error", "on-congestion other than block", "remove the option"),
        lambda resource: resource.net.on_congestion != "block",
    ),
    Limitation(
        *("warn", "fencing without a handler fence-peer"),
        "nothing fences the peer: without it nobody is promoted, frozen I/O waits for resume-io",
        lambda resource: (
            not resource.handlers.get("fence-peer")
            and any(
                volume.options.fencing is not Fencing.DONT_CARE for volume in resource.local.volumes
            )
        ),
    ),
    Limitation(
        *("warn", "resync-after", "resources resync side by side"),
        _any_disk(lambda disk: bool(disk.resync_after)),
    ),
    Limitation(
        *("warn", "cpu-mask", "the system chooses the CPUs"),
        lambda resource: bool(resource.cpu_mask),
    ),
)


def unsupported(resource: Resource) -> list[tuple[Severity, str]]:
    """What in *resource* replblk can't do: (severity, sentence), errors first."""
    return [
        (
            limit.severity,
            f"resource {resource.name}: not supported: {limit.what}; {limit.instead}."
            if limit.severity == "error"
            else f"resource {resource.name}: without full effect: {limit.what}; {limit.instead}.",
        )
        for limit in sorted(LIMITATIONS, key=lambda limit: limit.severity)
        if limit.used(resource)
    ]
