"""drbd.conf for the two nodes of a test: the same text for both, but for addresses and disks.

``kernel`` lies behind its machine's network, so each node knows itself and its peer by other
addresses. Options by their DRBD names, with ``_`` for ``-``. Time-outs are wider than DRBD's own:
an emulated CPU answers late. Each has a value of its own, which tests of them rely on.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tests.interop.kernel.initramfs import DRBD_PORT

NET = {
    "protocol": "C",
    "connect-int": "1",
    "ping-int": "2",
    "ping-timeout": "20",
    "timeout": "30",
    "socket-check-timeout": "5",
}
DISK = {"c-plan-ahead": "0", "resync-rate": "200M"}


@dataclass(frozen=True)
class Options:
    """What goes into net, disk and handlers sections; None takes an option out."""

    net: dict[str, str | None] = field(default_factory=dict)
    disk: dict[str, str | None] = field(default_factory=dict)
    handlers: dict[str, str | None] = field(default_factory=dict)

    def but(self, **net: str | None) -> Options:
        """The same with other net options."""
        return replace(self, net={**self.net, **_dashed(net)})

    def but_disk(self, **disk: str | None) -> Options:
        """The same with other disk options."""
        return replace(self, disk={**self.disk, **_dashed(disk)})


def _dashed(options: dict[str, str | None]) -> dict[str, str | None]:
    return {name.replace("_", "-"): value for name, value in options.items()}


@dataclass(frozen=True)
class Host:
    """One ``on`` section."""

    name: str
    disk: str
    address: str


def guest_side(name: str, peer: str, peer_port: int) -> tuple[Host, Host]:
    """The hosts as a kernel in a guest sees them; peer_port: where it reaches its peer."""
    return (
        Host(name, "/dev/vda", f"10.0.2.15:{DRBD_PORT}"),
        Host(peer, "/dev/vda", f"10.0.2.2:{peer_port}"),
    )


def host_side(name: str, disk: str, port: int, peer: str, peer_port: int) -> tuple[Host, Host]:
    """The hosts as replblk on this machine sees them."""
    return (
        Host(name, disk, f"127.0.0.1:{port}"),
        Host(peer, "/dev/vda", f"127.0.0.1:{peer_port}"),
    )


def drbd_conf(hosts: tuple[Host, Host], options: Options) -> str:
    """The whole file."""

    def section(name: str, chosen: dict[str, str | None]) -> str:
        body = "".join(f"        {key} {value};\n" for key, value in chosen.items() if value)
        return f"    {name} {{\n{body}    }}\n"

    text = "global { usage-count no; }\nresource r0 {\n"
    text += section("net", {**NET, **options.net})
    text += section("disk", {**DISK, **options.disk})
    if options.handlers:
        text += section("handlers", options.handlers)
    for host in hosts:
        text += (
            f"    on {host.name} {{\n        device /dev/drbd0 minor 0;\n"
            f"        disk {host.disk};\n        meta-disk internal;\n"
            f"        address {host.address};\n    }}\n"
        )
    return text + "}\n"
