"""``python -m nbd.relay --unix PATH URI...``: an NBD server whose clients never see a restart.

    python -m nbd.relay --unix /tmp/disk.sock 'nbd+unix:///0?socket=/run/replblk/r0/nbd.sock' \\
        nbd://other-node/0

Passes everything on to the first URI that serves; when all refuse to, it ends. When a connection
ends, the next one, to the same server or to another of the list, gets what was not answered again,
and clients that can't connect again themselves (nbdfuse, fio) only wait. Prints its own URI once it
serves; SIGINT and SIGTERM end it.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
from collections.abc import Iterator
from urllib.parse import quote

from nbd.address import AddressError, parse_uri
from nbd.client import ExportInfo
from nbd.export import Buffer, Done, Export, Geometry, Refused
from nbd.loops import fastest
from nbd.protocol import Command, CommandFlag, TransmissionFlag
from nbd.replies import NbdError
from nbd.server import ListenError, Server
from nbd.upstream import Upstream

RANGE_MAX = 1 << 30
"""Longer zeroes and trims are passed on in parts: compact requests have 32 bits for a length."""
GRACE_S = 2.0


class RelayExports:
    """The one export, under the name it has there and as the default."""

    def __init__(self, upstream: Upstream, info: ExportInfo) -> None:
        self._upstream = upstream
        self._name = info.name
        flags = info.flags
        self._geometry = Geometry(
            size=info.size,
            description=info.description,
            minimum_block=info.minimum_block,
            preferred_block=info.preferred_block,
            maximum_payload=min(info.maximum_payload, 64 << 20),
            read_only=bool(flags & TransmissionFlag.READ_ONLY),
            rotational=bool(flags & TransmissionFlag.ROTATIONAL),
            can_trim=bool(flags & TransmissionFlag.SEND_TRIM),
            can_zero=bool(flags & TransmissionFlag.SEND_WRITE_ZEROES),
            can_multi_conn=True,  # all connections share the one upstream
        )
        self._flags = flags

    def names(self) -> list[tuple[str, str]]:
        """The one."""
        return [(self._name, self._geometry.description)]

    def look(self, name: str) -> Geometry | Refused:
        """As the server behind told it first."""
        if name not in ("", self._name):
            return Refused("there is no export of that name", unknown=True)
        return self._geometry

    def open(self, name: str) -> Export | Refused:
        """One more user of the upstream."""
        found = self.look(name)
        return found if isinstance(found, Refused) else _Relayed(self._upstream, found, self._flags)


class _Relayed:
    """``nbd.export.Export``: everything is passed on."""

    def __init__(self, upstream: Upstream, geometry: Geometry, flags: TransmissionFlag) -> None:
        self.geometry = geometry
        self._upstream = upstream
        self._has_flush = bool(flags & TransmissionFlag.SEND_FLUSH)
        self._has_fua = bool(flags & TransmissionFlag.SEND_FUA)

    def read(self, offset: int, length: int, done: Done) -> None:
        """Read."""
        self._upstream.submit(Command.READ, 0, offset, length, b"", done)

    def write(self, offset: int, data: Buffer, fua: bool, done: Done) -> None:
        """Write; without FUA there, a flush follows."""
        then = self._stable(fua, done)
        self._upstream.submit(Command.WRITE, self._fua(fua), offset, len(data), data, then)

    def zero(self, offset: int, length: int, fua: bool, may_unmap: bool, done: Done) -> None:
        """Make the range read as zeroes."""
        flags = self._fua(fua) | (0 if may_unmap else int(CommandFlag.NO_HOLE))
        self._in_parts(Command.WRITE_ZEROES, flags, offset, length, self._stable(fua, done))

    def trim(self, offset: int, length: int, fua: bool, done: Done) -> None:
        """The range's content is no longer needed."""
        self._in_parts(Command.TRIM, self._fua(fua), offset, length, self._stable(fua, done))

    def flush(self, done: Done) -> None:
        """Make what was answered stable, there."""
        if self._has_flush:
            self._upstream.submit(Command.FLUSH, 0, 0, 0, b"", done)
        else:
            done(0, None)

    def closed(self) -> None:
        """What is in flight goes on."""

    def _fua(self, fua: bool) -> int:
        return int(CommandFlag.FUA) if fua and self._has_fua else 0

    def _stable(self, fua: bool, done: Done) -> Done:
        if not fua or self._has_fua:
            return done

        def written(errno: int, data: Buffer | None) -> None:
            if errno:
                done(errno, None)
            else:
                self.flush(done)

        return written

    def _in_parts(self, command: int, flags: int, offset: int, length: int, done: Done) -> None:
        starts: Iterator[int] = iter(range(0, length, RANGE_MAX))

        def step(errno: int, _data: Buffer | None) -> None:
            start = next(starts, None)
            if errno or start is None:
                done(errno, None)
            else:
                size = min(RANGE_MAX, length - start)
                self._upstream.submit(command, flags, offset + start, size, b"", step)

        step(0, None)


async def relay(path: str, uris: list[str], patience_s: float) -> None:
    """Serve until a signal. Raises NbdError, also when all servers refuse; ListenError."""
    stop = asyncio.Event()
    ended: list[str] = []

    def on_ended(why: str) -> None:
        ended.append(why)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    upstream = Upstream(uris, patience_s=patience_s, on_ended=on_ended)
    info = await upstream.start()
    server = Server(RelayExports(upstream, info))
    try:
        await server.listen_unix(path, 0o600)
        print(f"nbd+unix:///{quote(info.name, safe='')}?socket={quote(path)}", flush=True)
        await stop.wait()
    finally:
        await server.close(GRACE_S)
        upstream.close()
    if ended:
        raise NbdError(ended[0])


def main() -> int:
    """Parse the arguments and relay; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m nbd.relay", description="An NBD relay.")
    parser.add_argument("uris", nargs="+", metavar="URI")
    parser.add_argument("--unix", required=True, metavar="PATH", help="serve here")
    parser.add_argument(
        *("--patience", "-p"),
        type=float,
        default=600.0,
        metavar="SECONDS",
        help="how long requests wait for a server before they fail",
    )
    told = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    try:
        for uri in told.uris:
            parse_uri(uri)
        with asyncio.Runner(loop_factory=fastest()) as runner:
            runner.run(relay(os.path.abspath(told.unix), told.uris, told.patience))
    except (AddressError, ListenError, NbdError) as bad:
        print(f"python -m nbd.relay: {bad}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
