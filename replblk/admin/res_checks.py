"""What a configuration as a whole must keep: complete host sections, agreeing hosts, nothing twice.

Everything found is noted, nothing raised: an administrator sees all of it at once.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from replblk.admin.res_lexer import Place, printable
from replblk.admin.res_merge import Side, last_of, over, section
from replblk.admin.res_model import Findings, RawBody, RawOption, Tree

Sides = Sequence[Sequence[Side]]


def check(tree: Tree, sides: Sides, findings: Findings, *, terminal: bool) -> None:
    """Note everything that is wrong between the parts of a configuration.

    terminal: whether someone watches; a dangling resync-after is an error then, else a warning,
    so that a machine boots with it.
    """
    unique = _Unique(findings)
    for body, hosts in zip(tree.resources, sides, strict=True):
        unique.use("resource name", body.name, body.place)
        for side in hosts:
            _check_side(body, side, findings)
            _note_use(unique, side)
        _check_agreement(body, hosts, findings)
        _check_mine(body, hosts, findings)
        _check_proxies(body, hosts, findings)
        _check_names(tree, body, hosts, findings)
        _check_resync_after(tree, sides, body, hosts, findings, terminal)


class _Unique:
    """Who used what first."""

    def __init__(self, findings: Findings) -> None:
        self._first: dict[tuple[str, str], Place] = {}
        self._findings = findings

    def use(self, what: str, key: str, place: Place) -> None:
        first = self._first.setdefault((what, key), place)
        if first is not place:
            self._findings.conflict(place, first, what, printable(key))


def _check_side(body: RawBody, side: Side, findings: Findings) -> None:
    """Note statements that a host section lacks."""
    start = f"in resource {body.name}, {side.raw} {{ ... }}: "
    if side.raw.address is None:
        findings.error(side.raw.place, f"{start}'address' keyword missing.")
    if side.raw.kind == "_remote_host":
        return
    if not side.volumes and not body.volumes and not any(host.volumes for host in body.hosts):
        for word in ("device", "disk", "meta-disk"):
            findings.error(side.raw.place, f"{start}'{word}' keyword missing.")
    for volume in side.volumes:
        where = "" if volume.implicit else f" (volume {volume.number})"
        needed = {"device": volume.device, "disk": volume.disk, "meta-disk": volume.meta_disk}
        for word, statement in needed.items():
            from_below = side.raw.kind == "stacked" and word != "device"
            if statement is None and not from_below:
                findings.error(side.raw.place, f"{start}'{word}' keyword missing.{where}")


def _note_use(unique: _Unique, side: Side) -> None:
    """Note what a host section uses up: minors, devices, disks and addresses."""
    hosts = side.names
    address = side.raw.address
    if address:
        loopback = _is_loopback(address.address.host)
        if side.raw.kind == "floating":
            hosts = (str(address.address),)
        for owner in [f"{host}:" for host in hosts] if loopback else [""]:
            unique.use("IP", f"{owner}{address.address}", address.place)
    for host in hosts:
        for volume in side.volumes:
            if device := volume.device:
                name = device.name or f"/dev/drbd{device.minor}"
                if device.minor >= 0:
                    unique.use("device-minor", f"{host}:{device.minor}", device.place)
                unique.use("device", f"{host}:{name}", device.place)
            if side.raw.kind == "stacked":
                continue
            if disk := volume.disk:
                unique.use("disk", f"{host}:{disk.path}", disk.place)
            meta_disk = volume.meta_disk
            if meta_disk and meta_disk.path != "internal":
                index = "" if meta_disk.index is None else f"[{meta_disk.index}]"
                unique.use("meta-disk", f"{host}:{meta_disk.path}{index}", meta_disk.place)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False  # noted when it was read


def _check_agreement(body: RawBody, hosts: Sequence[Side], findings: Findings) -> None:
    """Note volumes that only one of the hosts has, or has in another way."""
    for other in hosts[1:]:
        one = hosts[0]
        mine = {volume.number: volume.implicit for volume in one.volumes}
        theirs = {volume.number: volume.implicit for volume in other.volumes}
        start = f"in resource {body.name}, {one.raw} {{ ... }}: "
        name = " ".join(other.names) or str(other.raw)
        for number in sorted(mine.keys() - theirs.keys()):
            text = f"{start}volume {number} not defined on {name}"
            findings.error(one.raw.place, text)
        for number in sorted(theirs.keys() - mine.keys()):
            text = f"{start}volume {number} missing (present on {name})"
            findings.error(one.raw.place, text)
        if 0 in mine and 0 in theirs and mine[0] != theirs[0]:
            findings.error(
                one.raw.place,
                f"in resource {body.name}, {one.raw} resp. {name}: "
                "volume 0 must not be implicit on one but not the other",
            )


def _check_mine(body: RawBody, hosts: Sequence[Side], findings: Findings) -> None:
    mine = [side for side in hosts if side.mine]
    for side in mine[1:]:
        findings.error(
            side.raw.place,
            f"in resource {body.name}, {mine[0].raw} {{ ... }} ... {side.raw} {{ ... }}:\n"
            "\tThere are multiple host sections for this node.",
        )


def _check_proxies(body: RawBody, hosts: Sequence[Side], findings: Findings) -> None:
    with_proxy = [side for side in hosts if side.raw.proxy]
    if with_proxy and len(with_proxy) != len(hosts):
        findings.error(
            with_proxy[0].raw.place,
            f"in resource {body.name}: "
            "Either both 'on' sections must contain a proxy subsection, or none.",
        )
    for side in with_proxy:
        proxy = side.raw.proxy
        if proxy and not (proxy.inside and proxy.outside):
            word = "outside" if proxy.inside else "inside"
            text = f"in resource {body.name}, {side.raw} {{ ... }}: '{word}' keyword missing."
            findings.error(proxy.place, text)


def _check_names(tree: Tree, body: RawBody, hosts: Sequence[Side], findings: Findings) -> None:
    """Note options that name hosts which are none of the resource's."""
    names = [name for side in hosts for name in side.names]
    net = section(tree, body, "net")
    promote = last_of(section(tree, body, "startup"), "become-primary-on")
    if promote and promote.words == ("both",):
        both = last_of(net, "allow-two-primaries")
        if both is None or both.value != "yes":
            findings.error(
                promote.place,
                f"in resource {body.name}:\n"
                "\tbecome-primary-on is set to both, but allow-two-primaries is not set.",
            )
    elif promote:
        for name in promote.words:
            if name not in names:
                findings.error(
                    promote.place,
                    f"in resource {body.name}:\n\tbecome-primary-on contains '{printable(name)}', "
                    "which is not named with the 'on' sections.",
                )
    policy = last_of(net, "after-sb-0pri")
    if policy and policy.value.startswith("discard-node-"):
        name = policy.value.removeprefix("discard-node-")
        if name not in names:
            findings.error(
                policy.place,
                f"in resource {body.name}:\n"
                f"\tthe nodename in the '{printable(policy.value)}' option is not known.\n"
                f"\tvalid nodenames are: '{' '.join(names)}'.",
            )


def _check_resync_after(
    tree: Tree,
    sides: Sides,
    body: RawBody,
    hosts: Sequence[Side],
    findings: Findings,
    terminal: bool,
) -> None:
    """Note resync-after options that lead nowhere or to several volumes."""
    wide = section(tree, body, "disk")
    told: set[Place] = set()
    for side in hosts:
        for volume in side.volumes:
            options = over(volume.options, wide)
            after = next((option for option in options if option.name == "resync-after"), None)
            if after is None or after.value in ("", "-1") or after.place in told:
                continue
            told.add(after.place)
            text = _dangling(tree, sides, after, any(other.mine for other in hosts))
            if text and (terminal or "is not known" not in text):
                findings.error(after.place, f"in resource {body.name}:\n\t{text}")
            elif text:
                findings.warn(after.place, f"in resource {body.name}:\n\t{text}")


def _dangling(tree: Tree, sides: Sides, after: RawOption, here: bool) -> str:
    """What is wrong with a resync-after value; "" if it names one volume."""
    value = printable(after.value)
    known = {body.name: hosts for body, hosts in zip(tree.resources, sides, strict=True)}
    name, slash, number = after.value, "", ""
    if name not in known:
        name, slash, number = after.value.rpartition("/")
    hosts = known.get(name)
    unknown = (
        f"resource '{printable(name or value)}' mentioned in 'resync-after' option is not known"
    )
    if hosts is None:
        return f"{unknown}."
    if here and not any(side.mine for side in hosts):
        return f"{unknown} on this host."
    numbers = sorted({volume.number for side in hosts for volume in side.volumes})
    if slash:
        if number.isascii() and number.isdigit() and int(number[:9]) in numbers:
            return ""
        return f"resync-after contains '{value}', but {name} has no such volume"
    if len(numbers) > 1:
        count = f"since it contains {len(numbers)} volumes"
        return f"resync-after contains '{value}', which is ambiguous, {count}"
    return ""
