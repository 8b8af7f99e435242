"""An export as one of the Linux kernel's NBD devices, kept connected by whoever calls ``mind``.

    start ─► mind, mind, ... ─► end
               │ LINK_DEAD ─► call the server again ─► the kernel takes the new connections
               │ the server says no ─► the device is ended, its users get errors

The kernel keeps what it was asked while no connection is left, and sends again what was not
answered. That is right only while the server's disk is the one that the device was made of: a
server that answers, and refuses to serve it by policy (another node may have written to it
meanwhile), ends the device. Sizes in bytes, times in seconds. Raises KernelError, NbdError.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from nbd import netlink
from nbd.client import ExportInfo, NbdError
from nbd.dial import dial
from nbd.netlink import DeathNotices, KernelError, Shape
from nbd.protocol import Reply, TransmissionFlag
from nbd.sysfs import indexes_of, make_link, queue_value, remove_link, size_of, used_by

IO_TIMEOUT_MS = 2000
"""After so long the kernel looks again at a request that was on a dead connection, and sends it
again. A server that is merely slow is left alone, unless a timeout is wished."""
RETRY_S = (0.05, 0.25)
"""Between two tries to reach the server: while some connections live, and when none does."""
NOTICE_S = 1.0
"""How long the kernel may take to notice a death that we have seen."""
HANDSHAKE_S = 60.0
POLL_MS = 500
BLOCK_SIZES = (512, 1024, 2048, 4096)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a device shall be like. block_size 0: 4096 if the export's size is a multiple, else 512.

    timeout_s: a connection that leaves a request unanswered for so long is given up, and the
    request is sent again on another; 0: a request may take for ever. dead_connection_s: how long
    requests wait when no connection is left, before they fail.
    """

    connections: int = 4
    block_size: int = 0
    timeout_s: int = 0
    dead_connection_s: int = 600


class EndedError(Exception):
    """The device had to be ended; the text says why."""


class KernelDevice:
    """One device and its connections. links: symbolic links to it, made and removed with it."""

    def __init__(
        self,
        uri: str,
        identifier: str,
        wish: Wish,
        links: list[Path],
        index: int | None = None,
    ) -> None:
        self._uri = uri
        self._identifier = identifier
        self._wish = wish
        self._links = links
        self._connections = wish.connections
        self._watched: dict[int, socket.socket] = {}
        self._dead = 0  # connections that the kernel has given up and we have not replaced
        self._poller = select.poll()
        self._notices = DeathNotices()
        self._poller.register(self._notices.fileno(), select.POLLIN)
        self.index = index if index is not None else -1

    @property
    def path(self) -> str:
        """The device."""
        return f"/dev/{self.name}"

    @property
    def name(self) -> str:
        """As /sys/block has it."""
        return f"nbd{self.index}"

    def start(self) -> None:
        """Make the device, or take over the one that bears the identifier already."""
        there = self._there()
        try:
            sockets, info = self._call(self._connections)
        except NbdError as refused:
            if there is not None and refused.code == Reply.ERR_POLICY:
                self.index = there
                self._give_up(f"it is served no more: {refused}")
            raise
        with ExitStack() as stack:
            for sock in sockets:
                stack.enter_context(sock)
            numbers = [sock.fileno() for sock in sockets]
            if there is not None:
                self.index = there
                netlink.reconfigure(there, numbers, self._shape(info))
            else:
                wanted = self.index if self.index >= 0 else None
                self.index = netlink.connect(numbers, self._first_shape(info), wanted)
            stack.pop_all()
        self._watch(sockets)
        queue = Path(f"/sys/block/{self.name}/queue")
        if not self._wish.timeout_s:
            (queue / "io_timeout").write_text(str(IO_TIMEOUT_MS))
        (queue / "scheduler").write_text("none")
        # The kernel's own event of the new device comes before it bears the identifier.
        Path(f"/sys/block/{self.name}/uevent").write_text("change")
        self._let_scan()
        for link in self._links:
            make_link(link, self.path)

    def mind(self) -> bool:
        """Wait a little; replace what died. False once the device has been ended by others.

        Raises EndedError where nothing is left to connect to.
        """
        self._dead = min(self._connections, self._dead + self._deaths())
        if self._dead:
            self._mend()
        return self.index in indexes_of(self._identifier)

    def ask_size(self) -> None:
        """The export may have got another size: the device follows, if it grew."""
        try:
            client, name = dial(self._uri, timeout_s=HANDSHAKE_S)
            info = client.info(name)
            client.abort()
        except NbdError:
            return  # the size is asked for with every new connection
        before = size_of(self.name)
        try:
            shape = self._shape(info)
        except EndedError as refused:
            _say(f"{refused}; {self.path} keeps its size")
            return
        if shape.size != before:
            netlink.reconfigure(self.index, (), shape)
            self._let_scan()
            _say(f"{self.path} has {size_of(self.name)} bytes, it had {before}")

    def end(self) -> None:
        """End the device. Raises KernelError if somebody uses it."""
        users = used_by(self.name)
        if users:
            raise KernelError(f"{self.path} is in use: {users}", errno.EBUSY)
        self._end()

    def _end(self) -> None:
        netlink.disconnect(self.index)
        for link in self._links:
            remove_link(link, self.path)
        for number in list(self._watched):
            self._forget(number)

    def _let_scan(self) -> None:
        """The kernel reads the partition table when a device is opened for the first time. That is
        to happen now, while there is a server, and not when we ask who uses the device; and in a
        thread, for should the server go away, the reading waits for us."""
        threading.Thread(target=_open_and_close, args=(self.path,), daemon=True).start()

    def _there(self) -> int | None:
        found = indexes_of(self._identifier)
        return next((index for index in found if netlink.alive(index, self._identifier)), None)

    # -- connections that die -----------------------------------------------------------------

    def _deaths(self) -> int:
        """How many connections died, as the kernel tells and as we see ourselves: of a device that
        was taken over, the kernel may use connections that we do not have."""
        seen = told = 0
        deadline_s = None
        wait_ms = 0.0 if self._dead else float(POLL_MS)
        while True:
            ready = self._poller.poll(wait_ms)
            for number, _events in ready:
                if number == self._notices.fileno():
                    told += self._notices.take().count(self.index)
                else:
                    self._forget(number)
                    seen += 1
            if told >= seen:
                return max(told, seen)
            # Only what the kernel has given up can be replaced: wait for its word.
            now = time.monotonic()
            deadline_s = deadline_s or now + NOTICE_S
            if now >= deadline_s:
                return seen
            wait_ms = (deadline_s - now) * 1000

    def _mend(self) -> None:
        try:
            sockets, info = self._call(self._dead)
        except NbdError as failed:
            if failed.code == Reply.ERR_POLICY:
                self._give_up(f"it is served no more: {failed}")
            time.sleep(RETRY_S[1] if self._dead >= self._connections else RETRY_S[0])
            return
        if self.index not in indexes_of(self._identifier):
            for sock in sockets:
                sock.close()
            return
        try:
            netlink.reconfigure(self.index, [sock.fileno() for sock in sockets], self._shape(info))
        except EndedError as bad:
            for sock in sockets:
                sock.close()
            self._give_up(str(bad))
        self._watch(sockets)
        self._let_scan()
        self._dead = 0
        _say(f"{self.path}: {len(sockets)} connections had died and were replaced")

    def _give_up(self, why: str) -> None:
        self._end()
        raise EndedError(f"{self.path} was ended, its users get errors: {why}")

    def _call(self, count: int) -> tuple[list[socket.socket], ExportInfo]:
        """So many connections in the transmission phase, fewer if the export allows only one."""
        sockets: list[socket.socket] = []
        try:
            while len(sockets) < count:
                client, name = dial(self._uri, timeout_s=HANDSHAKE_S)
                info = client.open(name, structured=False, block_sizes=True)
                sockets.append(client.hand_over())
                sockets[-1].setblocking(True)
                if not info.flags & TransmissionFlag.CAN_MULTI_CONN:
                    self._connections = count = 1
        except BaseException:
            for sock in sockets:
                sock.close()
            raise
        return sockets, info

    def _first_shape(self, info: ExportInfo) -> Shape:
        """Of a device that is to be made."""
        block = self._wish.block_size
        if not block:
            block = 4096 if info.size % 4096 == 0 else 512
        if block < info.minimum_block:
            raise KernelError(
                f"blocks of {block} bytes are too small for this export, which wants at least "
                f"{info.minimum_block}",
                errno.EINVAL,
            )
        return self._shaped(info, block)

    def _shape(self, info: ExportInfo) -> Shape:
        """Of the device that is there. Raises EndedError if the export has become smaller."""
        shape = self._shaped(info, queue_value(self.name, "logical_block_size"))
        before = size_of(self.name)
        if shape.size < before:
            raise EndedError(f"the export has only {shape.size} bytes now, the device has {before}")
        return shape

    def _shaped(self, info: ExportInfo, block: int) -> Shape:
        size = info.size // block * block
        wish = self._wish
        return Shape(
            size, block, int(info.flags), self._identifier, wish.timeout_s, wish.dead_connection_s
        )

    def _watch(self, sockets: list[socket.socket]) -> None:
        """The kernel has its own hold on them; ours tells when the other side is gone."""
        for sock in sockets:
            self._watched[sock.fileno()] = sock
            self._poller.register(sock.fileno(), select.POLLRDHUP)

    def _forget(self, number: int) -> None:
        self._poller.unregister(number)
        self._watched.pop(number).close()


def _open_and_close(path: str) -> None:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError as failed:
        _say(f"{path} can't be opened: {failed.strerror}")


def _say(text: str) -> None:
    print(f"python -m nbd.attach: {text}", file=sys.stderr, flush=True)
