"""The Linux kernel's NBD devices by generic netlink: connect, reconfigure, resize, disconnect,
status, and the kernel's own notice that a connection has died.

Each call is one exchange on a socket of its own and blocks; none may run in the thread that serves
the very device, for the kernel may wait for its requests. Sizes in bytes, times in seconds. Raises
KernelError with a sentence. Needs CAP_SYS_ADMIN. Source: linux/nbd-netlink.h, family "nbd" 1.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink import NETLINK_GENERIC, NLM_F_ACK, NLM_F_REQUEST, genlmsg, nla
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.generic import GenericNetlinkSocket

CONNECT, DISCONNECT, RECONFIGURE, LINK_DEAD, STATUS = 1, 2, 3, 4, 5
"""NBD_CMD_*; LINK_DEAD is what the kernel says by itself, to NOTICE_GROUP."""
NOTICE_GROUP = "nbd_mc_group"
SOL_NETLINK, ADD_MEMBERSHIP = 270, 1
"""linux/netlink.h."""
NOTICE_BYTES_MAX = 1 << 16


class KernelError(Exception):
    """The kernel refused; errno: its number, 0 if it was not asked."""

    def __init__(self, text: str, number: int = 0) -> None:
        super().__init__(text)
        self.errno = number


class NbdMessage(genlmsg):  # type: ignore[misc]
    """NBD_ATTR_* with their types."""

    prefix = "NBD_ATTR_"
    nla_map = (
        ("NBD_ATTR_UNSPEC", "none"),
        ("NBD_ATTR_INDEX", "uint32"),
        ("NBD_ATTR_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_BLOCK_SIZE_BYTES", "uint64"),
        ("NBD_ATTR_TIMEOUT", "uint64"),
        ("NBD_ATTR_SERVER_FLAGS", "uint64"),
        ("NBD_ATTR_CLIENT_FLAGS", "uint64"),
        ("NBD_ATTR_SOCKETS", "sockets"),
        ("NBD_ATTR_DEAD_CONN_TIMEOUT", "uint64"),
        ("NBD_ATTR_DEVICE_LIST", "devices"),
        ("NBD_ATTR_BACKEND_IDENTIFIER", "asciiz"),
    )

    class sockets(nla):  # type: ignore[misc]  # noqa: N801  named in nla_map
        """Descriptors to serve the device by."""

        nla_map = (("NBD_SOCK_ITEM_UNSPEC", "none"), ("NBD_SOCK_ITEM", "item"))

        class item(nla):  # type: ignore[misc]  # noqa: N801
            """One of them."""

            nla_map = (("NBD_SOCK_UNSPEC", "none"), ("NBD_SOCK_FD", "uint32"))

    class devices(nla):  # type: ignore[misc]  # noqa: N801
        """What STATUS tells."""

        nla_map = (("NBD_DEVICE_ITEM_UNSPEC", "none"), ("NBD_DEVICE_ITEM", "item"))

        class item(nla):  # type: ignore[misc]  # noqa: N801
            """One device."""

            nla_map = (
                ("NBD_DEVICE_UNSPEC", "none"),
                ("NBD_DEVICE_INDEX", "uint32"),
                ("NBD_DEVICE_CONNECTED", "uint8"),
            )


@dataclass(frozen=True, slots=True)
class Shape:
    """How a device looks and how it waits. timeout_s 0: a request may take for ever.

    dead_connection_s: how long requests wait for a connection when none is left; then they fail.
    """

    size: int
    block_size: int
    server_flags: int
    identifier: str
    timeout_s: int = 0
    dead_connection_s: int = 600

    def attributes(self) -> dict[str, Any]:
        """As netlink attributes."""
        return {
            "SIZE_BYTES": self.size,
            "BLOCK_SIZE_BYTES": self.block_size,
            "SERVER_FLAGS": self.server_flags,
            "TIMEOUT": self.timeout_s,
            "DEAD_CONN_TIMEOUT": self.dead_connection_s,
            "CLIENT_FLAGS": 0,
            "BACKEND_IDENTIFIER": self.identifier,
        }


def connect(descriptors: Sequence[int], shape: Shape, index: int | None = None) -> int:
    """Make a device of connected sockets in the transmission phase; returns its index. index: which
    one, None: the first that is free."""
    wanted = {} if index is None else {"INDEX": index}
    for reply in _exchange(CONNECT, descriptors, {**wanted, **shape.attributes()}):
        found = reply.get_attr("NBD_ATTR_INDEX")
        if found is not None:
            return int(found)
    raise KernelError("the kernel did not tell which device it made")


def reconfigure(index: int, descriptors: Sequence[int], shape: Shape) -> None:
    """Replace dead connections, and take a new size. Connections that live stay: descriptors for
    which no dead one is left are ignored. Block size and timeout stay as they are."""
    told = shape.attributes()
    del told["SERVER_FLAGS"], told["BLOCK_SIZE_BYTES"]
    del told["TIMEOUT"]  # which would set the queue's io_timeout back to 30 s
    _exchange(RECONFIGURE, descriptors, {"INDEX": index, **told})


def disconnect(index: int) -> None:
    """End a device: what is queued fails."""
    _exchange(DISCONNECT, (), {"INDEX": index})


def alive(index: int, identifier: str) -> bool:
    """Whether a device of that identifier takes connections, now or again; not so one that was
    ended, and is still there because somebody has it open."""
    try:
        _exchange(RECONFIGURE, (), {"INDEX": index, "BACKEND_IDENTIFIER": identifier})
    except KernelError as refused:
        if refused.errno not in (errno.EINVAL, errno.ENXIO):
            raise
        return False
    return True


def connected(index: int) -> bool:
    """Whether the kernel counts a device as configured: also while its connections are dead, or
    when it was ended and somebody still has it open."""
    for reply in _exchange(STATUS, (), {"INDEX": index}):
        listed = reply.get_attr("NBD_ATTR_DEVICE_LIST")
        for item in listed.get_attrs("NBD_DEVICE_ITEM") if listed is not None else ():
            if item.get_attr("NBD_DEVICE_INDEX") == index:
                return bool(item.get_attr("NBD_DEVICE_CONNECTED"))
    return False


def message(command: int, descriptors: Sequence[int], attributes: dict[str, Any]) -> NbdMessage:
    """A request as the kernel wants it."""
    made = NbdMessage()
    made["cmd"], made["version"] = command, 1
    made["attrs"] += [[f"NBD_ATTR_{name}", value] for name, value in attributes.items()]
    if descriptors:
        items = [["NBD_SOCK_ITEM", {"attrs": [["NBD_SOCK_FD", fd]]}] for fd in descriptors]
        made["attrs"].append(["NBD_ATTR_SOCKETS", {"attrs": items}])
    return made


class DeathNotices:
    """LINK_DEAD, once for each connection that the kernel has given up: poll ``fileno``, ``take``.

    From the moment of the notice the kernel accepts another connection in its place.
    """

    def __init__(self) -> None:
        with _kernel() as kernel:
            group = kernel.mcast_groups[NOTICE_GROUP]
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_GENERIC)
        self._socket.setblocking(False)
        self._socket.bind((0, 0))
        self._socket.setsockopt(SOL_NETLINK, ADD_MEMBERSHIP, group)

    def fileno(self) -> int:
        """Readable when there is something to take."""
        return self._socket.fileno()

    def take(self) -> list[int]:
        """The devices, by index, whose connections died since the last call: as often as so many
        died. Notices that the kernel had no room for are lost."""
        found: list[int] = []
        while True:
            try:
                data, (sender, _groups) = self._socket.recvfrom(NOTICE_BYTES_MAX)
            except BlockingIOError:
                return found
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            if sender == 0 and (index := dead_link(data)) is not None:  # 0: the kernel
                found.append(index)

    def close(self) -> None:
        """Listen no more."""
        self._socket.close()


def dead_link(data: bytes) -> int | None:
    """The device that a notice of the kernel is about, None if it says something else."""
    notice = NbdMessage(data)
    notice.decode()
    if notice["cmd"] != LINK_DEAD:
        return None
    index = notice.get_attr("NBD_ATTR_INDEX")
    return None if index is None else int(index)


@contextmanager
def _kernel() -> Iterator[Any]:
    """A socket that speaks with the family "nbd"."""
    quiet = logging.getLogger("pyroute2")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)  # a family that is not there is told by the exception
    try:
        with GenericNetlinkSocket() as kernel:
            try:
                kernel.bind("nbd", NbdMessage)
            except NetlinkError as error:
                raise KernelError(
                    "the kernel has no NBD devices: 'modprobe nbd', or a kernel that has the "
                    "module",
                    error.code,
                ) from error
            yield kernel
    finally:
        quiet.setLevel(level)


def _exchange(command: int, descriptors: Sequence[int], attributes: dict[str, Any]) -> list[Any]:
    request = message(command, descriptors, attributes)
    flags = NLM_F_REQUEST | NLM_F_ACK
    try:
        with _kernel() as kernel:
            return list(kernel.nlm_request(request, msg_type=kernel.prid, msg_flags=flags))
    except NetlinkError as error:
        raise KernelError(_why(command, error.code), error.code) from error


def _why(command: int, number: int) -> str:
    name = {CONNECT: "connect", DISCONNECT: "disconnect", RECONFIGURE: "reconfigure"}
    what = f"the kernel refused to {name.get(command, 'ask')}"
    if number == errno.EPERM:
        return f"{what}: that needs CAP_SYS_ADMIN"
    if number == errno.EBUSY:
        return f"{what}: the device is in use"
    return f"{what}: {os.strerror(number)}"
