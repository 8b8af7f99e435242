"""Two real nodes in a simulated world without random faults: for scenario tests.

    pair = Pair()                      # alpha and beta, in sync, both off
    pair.up()                          # both run, connected
    pair.primary("alpha")
    pair.write("alpha", 0, b"x" * 4096)
    pair["beta"].power_off()
    pair.run_until(lambda: pair.state("alpha").conn < ConnState.CONNECTED)

Everything that goes on is in ``pair.world.transcript``; a failed wait shows its end.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from replblk.engine.ports import Answer
from replblk.model.state import State
from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.disk import DriveSpeed
from replblk.sim.links import NetworkSpeed
from replblk.sim.machine import Machine
from replblk.sim.options import Options
from replblk.sim.setup import build_pair
from replblk.sim.store import differing_pages
from replblk.sim.world import MICRO_NS, SECOND_NS, World

LIMIT_NS = 60 * SECOND_NS
SHOWN = 40
STEADY = Options(
    seed=1,
    device_bytes=4 << 20,
    connect_int=1,
    network=NetworkSpeed(jitter_ns=1, cut_piece=0.0),
    drives=DriveSpeed(floor_ns=20 * MICRO_NS, spread_ns=1, flush_ns=20 * MICRO_NS),
)
"""The options of a pair unless a test says otherwise: no chance but the order of equals."""


class Pair:
    """Two machines with real nodes, and means to tell a story with them."""

    def __init__(self, **options: Any) -> None:
        """*options*: fields of ``sim.options.Options``, e.g. fresh=True, volumes=2, seed=7."""
        self.options = replace(STEADY, **options)
        self.world = World(self.options.seed)
        self.network = build_pair(self.world, self.options)
        self.alpha, self.beta = self.network.machines

    def __getitem__(self, name: str) -> Machine:
        """The machine of that name: ``kill``, ``power_off``, ``pause``, ``drives``, ``node``."""
        return {"alpha": self.alpha, "beta": self.beta}[name]

    # -- time ---------------------------------------------------------------------------------

    def run_until(
        self, predicate: Callable[[], bool], limit_ns: int = LIMIT_NS, what: str = ""
    ) -> None:
        """Let time pass until *predicate* holds; the test fails if it doesn't in time."""
        if not self.world.run_until(predicate, limit_ns):
            story = "\n".join(self.world.transcript.lines(SHOWN))
            raise AssertionError(
                f"{what or 'what the test waits for'} did not happen within "
                f"{limit_ns / SECOND_NS:g} s of virtual time; the last events:\n{story}"
            )

    def run_for(self, seconds: float) -> None:
        """Let that much time pass."""
        self.world.run_for(int(seconds * SECOND_NS))

    # -- commands -----------------------------------------------------------------------------

    def command(self, name: str, verb: str, **options: object) -> Answer:
        """Give a command and wait for its answer, whatever it is."""
        answers: list[Answer] = []
        self[name].command(verb, answers.append, None, **options)
        self.run_until(lambda: bool(answers), what=f"an answer to {verb!r} on {name}")
        return answers[0]

    def boot(self, name: str) -> Answer:
        """Start the daemon of one machine and bring the resource up."""
        self[name].boot()
        return self.command(name, "up")

    def up(self) -> None:
        """Start both and wait until they are connected."""
        for machine in self.network.machines:
            self._well(self.boot(machine.name), "up", machine.name)
        self.connected()

    def primary(self, name: str, *, force: bool = False) -> None:
        """Promote, and expect it to work."""
        self._well(self.command(name, "primary", force=force), "primary", name)

    def secondary(self, name: str) -> None:
        """Demote, and expect it to work."""
        self._well(self.command(name, "secondary"), "secondary", name)

    def connect(self, name: str, *, discard_my_data: bool = False) -> None:
        """Connect, and expect the command to be taken."""
        answer = self.command(name, "connect", discard_my_data=discard_my_data)
        self._well(answer, "connect", name)

    def disconnect(self, name: str, *, force: bool = False) -> None:
        """Disconnect, and expect it to work."""
        self._well(self.command(name, "disconnect", force=force), "disconnect", name)

    # -- states -------------------------------------------------------------------------------

    def state(self, name: str, volume: int = 0) -> State:
        """The state of a volume as the node announced it last."""
        return self[name].states[volume]

    def connected(self) -> None:
        """Wait until both nodes are Connected or further, on every volume."""
        self.run_until(
            lambda: all(m.connection >= ConnState.CONNECTED for m in self.network.machines),
            what="a connection",
        )

    def in_sync(self) -> None:
        """Wait until both nodes are Connected and UpToDate with nothing out of sync."""
        self.run_until(self.is_in_sync, what="Connected, UpToDate/UpToDate, oos 0")

    def is_in_sync(self) -> bool:
        """Whether that is so now."""
        return all(
            machine.all_volumes(
                conn=ConnState.CONNECTED, disk=DiskState.UP_TO_DATE, pdsk=DiskState.UP_TO_DATE
            )
            and machine.node is not None
            and not any(v.out_of_sync_kib for v in machine.node.status().volumes)
            for machine in self.network.machines
        )

    def out_of_sync_kib(self, name: str, volume: int = 0) -> int:
        """What the status of a node counts as out of sync."""
        node = self[name].node
        assert node is not None, f"{name} is dead"
        return node.status().volumes[volume].out_of_sync_kib

    # -- data ---------------------------------------------------------------------------------

    def submit(self, name: str, kind: str, offset: int, length: int = 0, **fields: Any) -> Request:
        """Ask for I/O (kind: read, write, zero, trim, flush) and go on; see ``Request``."""
        request = Request()
        fields.setdefault("volume", 0)
        self[name].request(request.answered, kind=kind, offset=offset, length=length, **fields)
        return request

    def write(self, name: str, offset: int, data: bytes, volume: int = 0, **fields: Any) -> None:
        """Write and wait for the acknowledgement."""
        self._io(name, "write", offset, len(data), data=data, volume=volume, **fields)

    def read(self, name: str, offset: int, length: int, volume: int = 0) -> bytes:
        """Read and wait for the data."""
        return self._io(name, "read", offset, length, volume=volume)

    def flush(self, name: str, volume: int = 0) -> None:
        """Flush and wait."""
        self._io(name, "flush", 0, 0, volume=volume)

    def on_disk(self, name: str, offset: int, length: int, volume: int = 0) -> bytes:
        """What the backing device of a machine holds there."""
        return self[name].drives[volume].store.read(offset, length)

    def differing_blocks(self, volume: int = 0) -> list[int]:
        """Numbers of the 4 KiB blocks of the data area in which the two disks differ."""
        drives = [m.drives[volume] for m in self.network.machines]
        ends = [drives[0].layout.usable_sectors * 512]
        ends += [m.node.size_bytes(volume) for m in self.network.machines if m.node is not None]
        end = min(size for size in ends if size)
        return differing_pages(drives[0].store.pages, drives[1].store.pages, end)

    def _io(self, name: str, kind: str, offset: int, length: int, **fields: Any) -> bytes:
        request = self.submit(name, kind, offset, length, **fields)
        self.run_until(lambda: request.done, what=f"an answer to the {kind}")
        assert request.errno == 0, f"{kind} at {offset} on {name} failed: errno {request.errno}"
        return request.data

    @staticmethod
    def _well(answer: Answer, verb: str, name: str) -> None:
        assert answer.exit_code == 0, f"{verb!r} on {name} was refused: {answer.text}"


class Request:
    """An I/O request under way. done, then errno and (reads) data."""

    def __init__(self) -> None:
        self.done = False
        self.errno = 0
        self.data = b""

    def answered(self, errno: int, data: Any) -> None:
        """The node replied."""
        assert not self.done
        self.done, self.errno = True, errno
        self.data = b"" if data is None else bytes(data)
