"""``python -m nbd.attach URI``: an export as the kernel's /dev/nbdX, connected again whenever that
is needed, until it is ended.

    python -m nbd.attach 'nbd+unix:///0?socket=/run/replblk/r0/nbd.sock' --identifier replblk:r0/0

Haggles with the server, hands the connections to the kernel and watches them. When they die, the
kernel keeps requests waiting; new connections are made, however long that takes, and what was not
answered is sent again. A device that bears the identifier already, from a helper that was killed,
is taken over. Prints the device's path once it is there. SIGTERM and SIGINT end the device, unless
somebody uses it: then they are refused, and the process goes on. Only for Linux; needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import select
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from nbd import netlink
from nbd.address import AddressError, parse_uri
from nbd.client import ExportInfo, NbdError
from nbd.dial import dial
from nbd.netlink import KernelError, Shape
from nbd.protocol import TransmissionFlag
from nbd.sysfs import LinkExistsError, index_of, make_link, remove_link, used_by
from nbd.tls import TlsError

IO_TIMEOUT_MS = 2000
"""After so long the kernel looks again at a request that was on a dead connection, and sends it
again. A server that is merely slow is left alone: the kernel's own timeout is off."""
RETRY_S = (0.05, 1.0)
"""Between two tries to reach the server: at first, and at most."""
NOTICE_S = 0.1
HANDSHAKE_S = 60.0
POLL_MS = 500


class Attachment:
    """One device and its connections. links: symbolic links to it, made and removed with it."""

    def __init__(
        self,
        uri: str,
        identifier: str,
        connections: int,
        dead_connection_s: int,
        links: list[Path],
        index: int | None = None,
    ) -> None:
        self._uri = uri
        self._identifier = identifier
        self._connections = connections
        self._dead_connection_s = dead_connection_s
        self._links = links
        self._watched: dict[int, socket.socket] = {}
        self._poller = select.poll()
        self.index = index if index is not None else index_of(identifier)

    @property
    def path(self) -> str:
        """The device."""
        return f"/dev/nbd{self.index}"

    def start(self) -> None:
        """Make the device, or take over the one that is there. Raises KernelError, NbdError."""
        there = index_of(self._identifier)
        sockets, shape = self._call(self._connections)
        with contextlib.ExitStack() as stack:
            for sock in sockets:
                stack.enter_context(sock)
            numbers = [sock.fileno() for sock in sockets]
            if there is not None:
                self.index = there
                netlink.reconfigure(there, numbers, shape)
            else:
                self.index = netlink.connect(numbers, shape, self.index)
            stack.pop_all()
        self._watch(sockets)
        queue = Path(f"/sys/block/nbd{self.index}/queue")
        (queue / "io_timeout").write_text(str(IO_TIMEOUT_MS))
        for link in self._links:
            make_link(link, self.path)

    def mind(self) -> bool:
        """Wait a little; replace what died. False once the device has been ended by others."""
        try:
            ready = self._poller.poll(POLL_MS)
        except InterruptedError:
            return True
        for number, _events in ready:
            self._forget(number)
        if ready:
            # Only connections that the kernel knows to be dead are replaced, and it learns of it
            # at the same moment as we do.
            time.sleep(NOTICE_S)
        if ready or len(self._watched) < self._connections:
            return self._mend()
        return index_of(self._identifier) == self.index

    def end(self) -> None:
        """End the device. Raises KernelError if somebody uses it."""
        users = used_by(f"nbd{self.index}")
        if users:
            raise KernelError(f"{self.path} is in use: {users}", errno.EBUSY)
        assert self.index is not None
        netlink.disconnect(self.index)
        for link in self._links:
            remove_link(link, self.path)
        for number in list(self._watched):
            self._forget(number)

    def _mend(self) -> bool:
        missing = self._connections - len(self._watched)
        try:
            sockets, shape = self._call(missing)
        except NbdError:
            wait_s = RETRY_S[0] if self._watched else RETRY_S[1] / 4
            time.sleep(wait_s)
            return index_of(self._identifier) == self.index
        assert self.index is not None
        if index_of(self._identifier) != self.index:
            for sock in sockets:
                sock.close()
            return False
        netlink.reconfigure(self.index, [sock.fileno() for sock in sockets], shape)
        self._watch(sockets)
        return True

    def _call(self, count: int) -> tuple[list[socket.socket], Shape]:
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
        return sockets, self._shape(info)

    def _shape(self, info: ExportInfo) -> Shape:
        block = 4096 if info.size % 4096 == 0 and info.minimum_block <= 4096 else 512
        size = info.size // block * block
        return Shape(size, block, int(info.flags), self._identifier, 0, self._dead_connection_s)

    def _watch(self, sockets: list[socket.socket]) -> None:
        """The kernel has its own hold on them; ours tells when the other side is gone."""
        for sock in sockets:
            self._watched[sock.fileno()] = sock
            self._poller.register(sock.fileno(), select.POLLRDHUP)

    def _forget(self, number: int) -> None:
        self._poller.unregister(number)
        self._watched.pop(number).close()


def main() -> int:
    """Parse the arguments; attach, mind, end."""
    parser = argparse.ArgumentParser(prog="python -m nbd.attach", description="A kernel device.")
    parser.add_argument("uri")
    parser.add_argument("--identifier", help="by which the device is found again; default: the URI")
    parser.add_argument("--connections", type=int, default=4, metavar="N")
    parser.add_argument("--dead-connection-timeout", type=int, default=600, metavar="SECONDS")
    parser.add_argument(
        "--index", type=int, metavar="N", help="N of /dev/nbdN; default: a free one"
    )
    parser.add_argument("--link", action="append", default=[], type=Path, metavar="PATH")
    told = parser.parse_args()
    wishes: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        wishes.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, on_signal)
    try:
        parse_uri(told.uri)
        attachment = Attachment(
            told.uri,
            told.identifier or told.uri,
            told.connections,
            told.dead_connection_timeout,
            told.link,
            told.index,
        )
        attachment.start()
        print(attachment.path, flush=True)
        while attachment.mind():
            if wishes:
                wishes.clear()
                try:
                    attachment.end()
                except KernelError as refused:
                    print(f"python -m nbd.attach: {refused}", file=sys.stderr, flush=True)
                else:
                    return 0
    except (AddressError, KernelError, LinkExistsError, NbdError, TlsError, OSError) as bad:
        print(f"python -m nbd.attach: {bad}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
