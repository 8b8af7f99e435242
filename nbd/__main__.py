"""``python -m nbd``: serve a disk in memory over NBD, to try clients and this package with.

    python -m nbd --memory 64M --unix /tmp/nbd.sock
    python -m nbd --memory 1G --listen 127.0.0.1:10809 --name disk

Serves on the sockets of systemd's socket activation as well. Prints the URI of every listener of
its own when it can be connected to; SIGINT and SIGTERM end it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from urllib.parse import quote

from nbd.address import Address, AddressError, parse_listen
from nbd.loops import fastest
from nbd.memory import MemoryExports
from nbd.server import TOTAL_BYTES_MAX, ListenError, Server
from nbd.tls import TlsError, psk_server_context, server_context

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def main() -> int:
    """Parse the arguments and serve until a signal; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nbd", description="An NBD disk in memory.")
    parser.add_argument("--memory", required=True, type=size, metavar="SIZE", help="64M, 1G, ...")
    parser.add_argument("--unix", action="append", default=[], metavar="PATH")
    parser.add_argument("--listen", action="append", default=[], metavar="HOST[:PORT]")
    parser.add_argument("--name", default="memory", help="name of the export")
    parser.add_argument("--block", type=size, default=1, metavar="SIZE", help="minimum block")
    parser.add_argument("--read-only", action="store_true")
    parser.add_argument(
        "--total-bytes", type=size, default=TOTAL_BYTES_MAX, metavar="SIZE", help="of all clients"
    )
    parser.add_argument("--stdlib", action="store_true", help="asyncio's own loop, not uvloop")
    parser.add_argument("--tls", choices=("off", "on", "require"), default="off")
    parser.add_argument("--tls-certificates", default=".", metavar="DIR")
    parser.add_argument("--tls-psk", metavar="FILE", help="keys shared in advance instead")
    parser.add_argument("--tls-verify-peer", action="store_true", help="clients need certificates")
    told = parser.parse_args()
    tls = None
    try:
        addresses = [parse_listen("unix:" + path) for path in told.unix]
        addresses += [parse_listen(text) for text in told.listen]
        exports = MemoryExports.single(
            told.memory, told.name, minimum_block=told.block, read_only=told.read_only
        )
        if told.tls != "off" and told.tls_psk:
            tls = psk_server_context(told.tls_psk)
        elif told.tls != "off":
            tls = server_context(told.tls_certificates, verify_peer=told.tls_verify_peer)
    except (AddressError, TlsError, ValueError) as bad:
        parser.error(str(bad))
    except (OSError, OverflowError) as bad:
        parser.error(f"{told.memory} bytes of memory can't be reserved: {bad}")
    if not addresses and "LISTEN_FDS" not in os.environ:
        parser.error("nothing to listen on: give --unix PATH or --listen HOST:PORT")
    try:
        with asyncio.Runner(loop_factory=None if told.stdlib else fastest()) as runner:
            server = partial(
                Server,
                exports,
                tls=tls,
                tls_required=told.tls == "require",
                total_bytes_max=told.total_bytes,
            )
            runner.run(serve(server, addresses, told.name))
    except ListenError as bad:
        print(f"python -m nbd: {bad}", file=sys.stderr)
        return 1
    return 0


async def serve(make: Callable[[], Server], addresses: list[Address], name: str) -> None:
    """Serve until SIGINT or SIGTERM."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    server = make()
    try:
        if not await server.listen_activated() and not addresses:
            raise ListenError("nothing to listen on: socket activation gave no socket")
        for address in addresses:
            address = replace(await server.listen(address), tls=server.tls_required)
            print(uri(address, name), flush=True)
        await stop.wait()
    finally:
        await server.close()


def uri(address: Address, name: str) -> str:
    """The NBD URI of an export."""
    scheme = "nbds" if address.tls else "nbd"
    if address.path:
        return f"{scheme}+unix:///{quote(name, safe='')}?socket={quote(address.path)}"
    return f"{scheme}://{address}/{quote(name, safe='')}"


def size(text: str) -> int:
    """Bytes, from a number with an optional K, M, G or T."""
    digits, unit = (text[:-1], text[-1:]) if text[-1:].upper() in _UNITS else (text, "")
    with contextlib.suppress(ValueError):
        return int(digits) * _UNITS[unit.upper()]
    raise argparse.ArgumentTypeError(f"{text!r} is not a size such as 4096, 64M or 1G")


if __name__ == "__main__":
    sys.exit(main())
