"""``python -m nbd.attach URI``: an export as the kernel's /dev/nbdX, connected again whenever that
is needed, until it is ended.

    python -m nbd.attach 'nbd+unix:///0?socket=/run/replblk/r0/nbd.sock' --identifier replblk:r0/0

Haggles with the server, hands the connections to the kernel and watches them. When they die, the
kernel keeps requests waiting; new connections are made, however long that takes, and what was not
answered is sent again. A device that bears the identifier already, from a helper that was killed,
is taken over. Prints the device's path once it is there. SIGTERM and SIGINT end the device, unless
somebody uses it: then they are refused, and the process goes on. SIGWINCH: the export may have
another size; the device follows. Only for Linux; needs root.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from nbd.address import AddressError, parse_uri
from nbd.client import NbdError
from nbd.kernel_device import BLOCK_SIZES, EndedError, KernelDevice, Wish
from nbd.netlink import KernelError
from nbd.reclaim import spare_this_process
from nbd.sysfs import LinkExistsError
from nbd.tls import TlsError


def main() -> int:
    """Parse the arguments; attach, mind, end."""
    told = _arguments()
    wish = Wish(
        connections=told.connections,
        block_size=told.block_size,
        timeout_s=told.timeout,
        dead_connection_s=told.dead_connection_timeout,
    )
    wishes: list[int] = []

    def on_signal(number: int, _frame: FrameType | None) -> None:
        wishes.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGWINCH):
        signal.signal(number, on_signal)
    refused = spare_this_process()
    try:
        parse_uri(told.uri)
        device = KernelDevice(told.uri, told.identifier or told.uri, wish, told.link, told.index)
        device.start()
        print(device.path, flush=True)
        for what in refused:
            print(f"python -m nbd.attach: {what}", file=sys.stderr, flush=True)
        while device.mind():
            asked, wishes[:] = set(wishes), []
            if asked & {signal.SIGTERM, signal.SIGINT}:
                try:
                    device.end()
                except KernelError as used:
                    print(f"python -m nbd.attach: {used}", file=sys.stderr, flush=True)
                else:
                    return 0
            elif asked:
                device.ask_size()
    except (AddressError, EndedError, KernelError, LinkExistsError, NbdError, TlsError) as bad:
        print(f"python -m nbd.attach: {bad}", file=sys.stderr)
        return 1
    except OSError as bad:
        print(f"python -m nbd.attach: {bad}", file=sys.stderr)
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m nbd.attach", description="A kernel device.")
    parser.add_argument("uri")
    parser.add_argument("--identifier", help="by which the device is found again; default: the URI")
    parser.add_argument("--connections", type=_at_least(1), default=4, metavar="N")
    parser.add_argument(
        "--block-size",
        type=int,
        default=0,
        choices=(0, *BLOCK_SIZES),
        metavar="BYTES",
        help="512, 1024, 2048 or 4096; default: 4096 if the size is a multiple of it, else 512",
    )
    parser.add_argument(
        "--timeout",
        type=_at_least(0),
        default=0,
        metavar="SECONDS",
        help="give a connection up that leaves a request unanswered for so long; default: 0, never",
    )
    parser.add_argument(
        "--dead-connection-timeout",
        type=_at_least(1),
        default=600,
        metavar="SECONDS",
        help="requests fail if there was no connection for so long; default: 600",
    )
    parser.add_argument(
        "--index", type=_at_least(0), metavar="N", help="N of /dev/nbdN; default: a free one"
    )
    parser.add_argument("--link", action="append", default=[], type=Path, metavar="PATH")
    return parser.parse_args()


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"{text} is less than {least}")
        return int(text)

    return number


if __name__ == "__main__":
    sys.exit(main())
