"""Records sessions of replblk with the kernel's DRBD for the fast tests.

Needs what ``make interop`` needs. Writes tests/conformance/transcripts/*.json.xz; UUIDs and timing
differ each time. Usage: record_transcripts.py [NAME ...]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.conformance.transcripts.recording import Act, Connection, Piece, Recording
from tests.interop.kernel.config import Options
from tests.interop.kernel.guest import Guest
from tests.interop.kernel.nodes import check, pattern, state, wait, wait_both
from tests.interop.kernel.pair import Pair

DISK_BYTES = (1 << 20) + 300 * 1024
KIB = 1 << 10


class Session:
    """A pair, and notes of what its replblk was told."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.acts: list[Act] = []

    def now(self) -> int:
        return int(time.monotonic() * 1e6)

    def command(self, verb: str, **options: bool) -> None:
        """A command for replblk's daemon."""
        self.acts.append(Act(self.now(), verb, options=options))
        status, text = self.pair.replblk.ask(verb, **options)
        assert status == 0, text

    def request(self, kind: str, offset: int, *, data: bytes = b"", length: int = 0) -> None:
        """A client's request to replblk."""
        self.acts.append(Act(self.now(), kind, offset, data, length or len(data)))
        with self.pair.replblk.device() as client:
            if kind == "write":
                client.write(offset, data)
            elif kind == "zero":
                client.zero(offset, length)
            elif kind == "trim":
                client.trim(offset, length)
            else:
                client.flush()

    def begin(self, options: Options) -> None:
        """Fresh and connected."""
        self.pair.configure(options)
        self.pair.create()
        self.acts.append(Act(self.now(), "up"))
        self.pair.up()
        wait_both(self.pair.kernel, self.pair.replblk, "cs:Connected ")


def kernel_primary(session: Session) -> None:
    """The kernel is forced to be Primary: full sync, every kind of write; it leaves and returns"""
    pair = session.pair
    with pair.kernel.disk.open("r+b") as disk:
        for block in range(0, 200, 9):
            disk.seek(4096 * block)
            disk.write(pattern(block, 2048))
    session.begin(Options())
    kernel = pair.kernel
    check(kernel, "primary", "--force")
    pair.wait_in_sync()
    kernel.write(0, pattern(1, 4096))
    kernel.write(64 * KIB + 512, pattern(2, 1024))
    kernel.write(128 * KIB, pattern(3, 256 * KIB))
    kernel.zero(256 * KIB, 64 * KIB)
    kernel.discard(512 * KIB, 64 * KIB)
    check(kernel, "disconnect")
    wait(pair.replblk, "cs:WFConnection")
    kernel.write(700 * KIB, pattern(4, 12 * KIB))
    check(kernel, "connect")
    pair.wait_in_sync()
    check(kernel, "secondary")


def replblk_primary(session: Session) -> None:
    """replblk is forced to be Primary: full sync, every kind of write, it steps down"""
    pair = session.pair
    session.begin(Options())
    session.command("primary", force=True)
    pair.wait_in_sync()
    session.request("write", 0, data=pattern(1, 4096))
    session.request("write", 64 * KIB + 512, data=pattern(2, 1024))
    session.request("write", 128 * KIB, data=pattern(3, 256 * KIB))
    session.request("flush", 0)
    session.request("zero", 256 * KIB, length=64 * KIB)
    session.request("trim", 512 * KIB, length=64 * KIB)
    session.command("secondary")


def replblk_returns(session: Session) -> None:
    """replblk is Primary, leaves, writes alone, and brings the kernel up to date when it returns"""
    pair = session.pair
    session.begin(Options())
    session.command("primary", force=True)
    pair.wait_in_sync()
    session.command("disconnect")
    session.request("write", 40 * KIB, data=pattern(5, 20 * KIB))
    session.request("write", 900 * KIB, data=pattern(6, 4 * KIB))
    time.sleep(0.5)
    session.command("connect")
    pair.wait_in_sync()


def roles(session: Session) -> None:
    """Roles go to and fro, a second Primary is refused, each writes"""
    pair = session.pair
    session.begin(Options())
    check(pair.kernel, "primary", "--force")
    pair.wait_in_sync()
    for turn in range(3):
        pair.kernel.write(turn * 8192, pattern(turn, 4096))
        check(pair.kernel, "secondary")
        session.command("primary")
        session.request("write", 400 * KIB + turn * 8192, data=pattern(turn, 4096))
        assert pair.kernel.adm("primary")[0] == 11
        session.command("secondary")
        check(pair.kernel, "primary")


def detached(session: Session) -> None:
    """Each detaches and attaches while the kernel is Primary and writes"""
    pair = session.pair
    session.begin(Options())
    check(pair.kernel, "primary", "--force")
    pair.wait_in_sync()
    session.command("detach")
    pair.kernel.write(0, pattern(1, 8192))
    session.command("attach")
    pair.wait_in_sync()
    check(pair.kernel, "detach")
    pair.kernel.write(16384, pattern(2, 8192))
    assert pair.kernel.read(0, 8192) == pattern(1, 8192)
    check(pair.kernel, "attach")
    pair.wait_in_sync()


SESSIONS: dict[str, Callable[[Session], None]] = {
    "kernel-primary": kernel_primary,
    "replblk-primary": replblk_primary,
    "replblk-returns": replblk_returns,
    "roles": roles,
    "detached": detached,
}


def record(guest: Guest, folder: Path, name: str) -> Path:
    """One session, from fresh disks to its end."""
    pair = Pair(guest, folder / name, "kernel", DISK_BYTES)
    session = Session(pair)
    try:
        SESSIONS[name](session)
        time.sleep(1)
        final = state(pair.replblk)
        connections = [
            Connection(
                talk.opener,
                int(talk.opened * 1e6),
                [Piece(int(at * 1e6), sender, data) for at, sender, data in talk.pieces],
            )
            for talk in pair.talks
        ]
    finally:
        pair.close()
    start = min([act.at for act in session.acts] + [found.opened for found in connections])
    for act in session.acts:
        act.at -= start
    for found in connections:
        found.opened -= start
        for piece in found.pieces:
            piece.at -= start
    told = (SESSIONS[name].__doc__ or "").strip()
    return Recording(name, told, DISK_BYTES, {}, session.acts, connections, final).save()


def main() -> int:
    """Record what is named, or everything."""
    with (
        tempfile.TemporaryDirectory(dir="/tmp", prefix="rt-") as folder,
        Guest(Path(folder) / "guest", DISK_BYTES) as guest,
    ):
        for name in sys.argv[1:] or SESSIONS:
            path = record(guest, Path(folder), name)
            print(f"{path.name}: {path.stat().st_size:,} bytes", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
