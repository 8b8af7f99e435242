"""Closed-loop users of the device, with data that tells which write it came from.

A ``Workload`` is shared by all clients of a run: where they write, what each sector may hold, which
ranges are busy. A ``Client`` keeps up to *depth* requests outstanding on the machine that serves
it, and thinks a little between them. When its node dies, what it had outstanding is in doubt.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

from replblk.sim.register import ZERO, Register, Write, sector_content, value_of
from replblk.sim.store import SECTOR_BYTES
from replblk.sim.world import MICRO_NS, SECOND_NS, SimulationError

if TYPE_CHECKING:
    from replblk.engine.ports import Buffer
    from replblk.sim.machine import Life, Machine
    from replblk.sim.world import World

KINDS = ("write", "read", "flush", "zero", "trim")
"""Of requests; the options say how often each."""
BLOCK_SECTORS = 8
PATIENCE = 64
BLOCKED_NS = 20_000 * MICRO_NS
"""A client that met nothing but busy places so many times waits longer: the node may be waiting for
a peer that does not answer, for seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadOptions:
    """What the clients of a run do. Weights are relative; sizes in sectors."""

    clients: int = 2
    depth: int = 2
    extents: int = 3
    """How many 4 MiB extents (or parts of the device) they touch."""
    blocks: int = 6
    """How many hot 4 KiB blocks in each."""
    sectors_max: int = 16
    think_ns: int = 200 * MICRO_NS
    overlap: bool = False
    """Whether requests may overlap others outstanding."""
    write: int = 10
    read: int = 6
    flush: int = 1
    zero: int = 1
    trim: int = 1
    fua: float = 0.1


class Workload:
    """What all clients share. ``registers`` is per machine: two only in a split brain."""

    def __init__(
        self, world: World, options: WorkloadOptions, sizes_sectors: dict[int, int]
    ) -> None:
        self.world = world
        self.options = options
        self.sizes_sectors = sizes_sectors
        self.capped: set[int] = set()
        """Volumes that became smaller once: larger again, their new part is not used."""
        self.register = Register()
        self.registers: dict[str, Register] = {}
        self.enough = 1 << 30
        """From so many acknowledged writes on, clients take their time: a fault raises it, so that
        traffic is dense when something happens and thin while nothing does."""
        self.idle_ns = SECOND_NS // 2
        """How long they think then."""
        self.writes_begun = 0
        self.writes_acked = 0
        self.acked_place = (0, 0)
        """First sector and sectors of what was acknowledged last."""
        self.acked_data = b""
        """What it wrote there."""
        self.reads_answered = 0
        self.errors = 0
        self.on_write: list[Callable[[], None]] = []
        """Called when a client asks for a write: triggers of faults."""
        self.on_ack: list[Callable[[Machine, int], None]] = []
        """Told machine and volume of every acknowledged write, zero or trim."""
        self.on_error: list[Callable[[Machine, str, int], None]] = []
        self.busy: list[tuple[int, int, int, bool]] = []
        """Ranges outstanding: volume, first sector, end sector, whether it is a write."""
        self.shares = list(accumulate(getattr(options, kind) for kind in KINDS))
        """Of the kinds of requests, each with those before it."""
        self.chance = world.chance("workload")
        self.hot = self._choose_hot()

    def register_of(self, machine: Machine) -> Register:
        """The truth as that machine's clients know it."""
        return self.registers.get(machine.name, self.register)

    def split(self, machines: tuple[Machine, Machine]) -> None:
        """From now on the two machines' data go separate ways."""
        first, second = machines
        self.registers = {first.name: self.register, second.name: self.register.fork()}

    def rejoin(self, winner: Machine) -> None:
        """The data of *winner* is the truth for both."""
        self.register = self.register_of(winner)
        self.registers = {}

    def grown(self, volume: int, sectors: int) -> None:
        """The device is larger: clients use the new part, at its beginning and its end."""
        old = self.sizes_sectors[volume]
        self.sizes_sectors[volume] = sectors
        fresh = {old // BLOCK_SECTORS, max(sectors - 1, 0) // BLOCK_SECTORS}
        fresh.add(self.chance.randrange(old, sectors) // BLOCK_SECTORS)
        fresh.difference_update(at // BLOCK_SECTORS for at in self.hot[volume])
        self.hot[volume] += [block * BLOCK_SECTORS for block in sorted(fresh)]

    def reopened(self, volume: int, sectors: int, name: str) -> None:
        """The machine *name* serves a device that ends there: it never heard of what the other made
        larger. Nothing acknowledged may be behind."""
        if sectors >= self.sizes_sectors[volume]:
            return
        self.world.mark("promoted with the size from before")
        for at, sector in self.register.written():
            if (
                at == volume
                and sector >= sectors
                and ZERO not in self.register.expected(at, sector)
            ):
                raise SimulationError(
                    f"I1: {name} was promoted, but its vol {volume} ends before sector {sector}, "
                    "which was written to"
                )
        self.cut_off(volume, sectors)

    def cut_off(self, volume: int, sectors: int) -> None:
        """The device ends there: what was behind is forgotten, and not used again."""
        self.capped.add(volume)
        self.sizes_sectors[volume] = sectors
        self.register.forget_from(volume, sectors)
        kept = [at for at in self.hot[volume] if at < sectors]
        self.hot[volume] = kept or [0]

    def writing(self, volume: int, sectors: range) -> bool:
        """Whether a write to any of these sectors is outstanding."""
        return any(
            write and v == volume and first < sectors.stop and sectors.start < end
            for v, first, end, write in self.busy
        )

    def is_free(self, volume: int, first: int, end: int) -> bool:
        """Whether no outstanding request touches that range."""
        return not any(v == volume and a < end and first < b for v, a, b, _ in self.busy)

    def _choose_hot(self) -> dict[int, list[int]]:
        """First sectors of the hot blocks of each volume, clustered."""
        hot: dict[int, list[int]] = {}
        for volume, size in self.sizes_sectors.items():
            blocks = size // BLOCK_SECTORS
            starts = [self.chance.randrange(blocks) for _ in range(self.options.extents)]
            chosen = {
                min(start + self.chance.randrange(2 * self.options.blocks), blocks - 1)
                for start in starts
                for _ in range(self.options.blocks)
            }
            if self.chance.random() < 0.3:
                chosen.add(blocks - 1)
            hot[volume] = [block * BLOCK_SECTORS for block in sorted(chosen)]
        return hot


class _Request:
    __slots__ = ("begin", "data", "first", "fua", "kind", "place", "sectors", "volume", "write")

    def __init__(self, kind: str, volume: int, first: int, sectors: int) -> None:
        self.kind = kind
        self.volume = volume
        self.first = first
        self.sectors = sectors
        self.begin = 0
        self.data = b""
        self.fua = False
        self.write: Write | None = None
        self.place: tuple[int, int, int, bool] | None = None


class Client:
    """One user of the device."""

    def __init__(self, workload: Workload, number: int) -> None:
        self.number = number
        self._workload = workload
        self._world = workload.world
        self._chance = workload.world.chance(f"client/{number}")
        self._machine: Machine | None = None
        self._life: Life | None = None
        self._open: list[int] = []
        self._running = False
        self._in_vain = 0
        """Times in a row that no place was free to write to."""
        self._outstanding: list[_Request] = []
        self._stopped: Callable[[], None] | None = None

    @property
    def machine(self) -> Machine | None:
        """Where this client has the device open."""
        return self._machine

    @property
    def outstanding(self) -> int:
        """Requests without an answer."""
        return len(self._outstanding)

    def start(self, machine: Machine) -> str | None:
        """Open the device on *machine* and begin; the reason if it is refused."""
        assert self._machine is None
        assert machine.node is not None
        for volume in self._workload.sizes_sectors:
            refusal = machine.node.open_device(volume)
            if refusal is not None:
                for opened in self._open:
                    machine.node.close_device(opened)
                self._open.clear()
                return refusal
            self._open.append(volume)
            served = machine.node.size_bytes(volume) // SECTOR_BYTES
            self._workload.reopened(volume, served, machine.name)
        self._machine, self._life = machine, machine.life
        self._running = True
        self._stopped = None
        machine.on_death.append(self._node_died)
        self._world.note(machine.name, "client {} opens the device", self.number)
        for _ in range(self._workload.options.depth):
            self._think(self._life)
        return None

    def stop(self, then: Callable[[], None]) -> None:
        """Wait for what is outstanding, close the device, and call *then*."""
        self._running = False
        self._stopped = then
        self._finish_if_idle()

    def _node_died(self, machine: Machine) -> None:
        if self._machine is not machine:
            return
        register = self._workload.register_of(machine)
        for request in self._outstanding:
            if request.write is not None:
                register.end_write(request.write, certain=False)
            if request.kind == "read":
                register.forget_read(request.begin)
            if request.place is not None:
                self._workload.busy.remove(request.place)
        if any(r.write is not None for r in self._outstanding):
            self._world.mark("node died with writes in doubt")
        self._outstanding.clear()
        self._open.clear()
        self._leave()

    def _leave(self) -> None:
        assert self._machine is not None
        self._machine.on_death.remove(self._node_died)
        self._machine, self._life = None, None
        self._running = False
        if self._stopped is not None:
            then, self._stopped = self._stopped, None
            self._world.after(0, then)

    def _finish_if_idle(self) -> None:
        if self._running or self._outstanding:
            return
        if self._machine is None:
            if self._stopped is not None:
                then, self._stopped = self._stopped, None
                self._world.after(0, then)
            return
        if self._machine.node is not None:
            for volume in self._open:
                self._machine.node.close_device(volume)
        self._open.clear()
        self._world.note(self._machine.name, "client {} closes the device", self.number)
        self._leave()

    def _think(self, life: Life | None) -> None:
        workload = self._workload
        pace = workload.options.think_ns
        if workload.writes_acked + workload.errors >= workload.enough:
            pace = max(pace, workload.idle_ns)
        if self._in_vain > PATIENCE:
            pace = max(pace, BLOCKED_NS)
        self._world.after(self._chance.randrange(pace), self._go, life)

    def _go(self, life: Life | None) -> None:
        if not self._running or life is not self._life or life is None:
            return
        if self._machine is not None and self._machine.paused:
            self._world.after(20_000 * MICRO_NS, self._go, life)
            return
        request = self._draw()
        if request is None:
            self._in_vain += 1
            self._think(life)
            return
        self._in_vain = 0
        self._submit(request)

    def _draw(self) -> _Request | None:
        options, chance = self._workload.options, self._chance
        kind = chance.choices(KINDS, cum_weights=self._workload.shares)[0]
        volume = chance.choice(list(self._workload.sizes_sectors))
        if kind == "flush":
            return _Request(kind, volume, 0, 0)
        first = chance.choice(self._workload.hot[volume])
        if chance.random() < 0.6:
            sectors = BLOCK_SECTORS
        else:
            first += chance.randrange(BLOCK_SECTORS)
            sectors = chance.randrange(1, options.sectors_max + 1)
        size = self._workload.sizes_sectors[volume]
        first = min(first, size - 1)
        sectors = min(sectors, size - first)
        if not options.overlap and not self._workload.is_free(volume, first, first + sectors):
            return None
        return _Request(kind, volume, first, sectors)

    def _submit(self, request: _Request) -> None:
        machine, workload = self._machine, self._workload
        assert machine is not None
        register = workload.register_of(machine)
        fields: dict[str, object] = {"volume": request.volume, "kind": request.kind}
        sectors = range(request.first, request.first + request.sectors)
        if request.kind != "flush":
            fields["offset"] = request.first * SECTOR_BYTES
            fields["length"] = request.sectors * SECTOR_BYTES
            changes = request.kind != "read"
            request.place = (request.volume, sectors.start, sectors.stop, changes)
            workload.busy.append(request.place)
        number = 0
        if request.kind in ("write", "zero", "trim"):
            workload.writes_begun += 1
            number = workload.writes_begun
            zero = request.kind != "write"
            request.write = register.begin_write(number, request.volume, sectors, zero=zero)
            request.fua = self._chance.random() < workload.options.fua
            fields["fua"] = request.fua
            if not zero:
                request.data = b"".join([sector_content(number, s) for s in sectors])
                fields["data"] = request.data
            else:
                fields["unmap"] = request.kind == "trim" or self._chance.random() < 0.5
        else:
            request.begin = register.begin_read() if request.kind == "read" else register.tick()
        self._outstanding.append(request)
        self._world.note(
            machine.name,
            "client {} {}{} vol {} sector {}+{}",
            *(self.number, request.kind, f" {number}" if number else "", request.volume),
            *(request.first, request.sectors),
        )
        machine.request(lambda code, data: self._answered(machine, request, code, data), **fields)
        if number:
            for hook in workload.on_write:
                hook()

    def _answered(
        self, machine: Machine, request: _Request, code: int, data: Buffer | None
    ) -> None:
        """Inside the node's step: judge and count; go on later."""
        workload = self._workload
        self._outstanding.remove(request)
        if request.place is not None:
            workload.busy.remove(request.place)
        register = workload.register_of(machine)
        if request.kind == "read":
            register.forget_read(request.begin)
        cut = request.first + request.sectors > workload.sizes_sectors[request.volume]
        if code and cut:
            self._world.mark("request behind the end of a device that became smaller")
            if request.write is not None:
                register.end_write(request.write, certain=False)
        elif code:
            workload.errors += 1
            name = errno.errorcode.get(code, str(code))
            self._world.note(machine.name, "client {} {}: {}", self.number, request.kind, name)
            if request.write is not None:
                register.end_write(request.write, certain=False, failed=True)
            for hook in workload.on_error:
                hook(machine, request.kind, code)
        elif request.write is not None:
            self._world.note(
                machine.name,
                "client {} {} {} done",
                self.number,
                request.kind,
                request.write.number,
            )
            register.end_write(request.write, certain=request.kind != "trim", fua=request.fua)
            workload.writes_acked += 1
            workload.acked_place = (request.first, request.sectors)
            workload.acked_data = request.data or bytes(request.sectors * SECTOR_BYTES)
            for acked in workload.on_ack:
                acked(machine, request.volume)
        elif request.kind == "read":
            self._judge_read(machine, register, request, data)
        else:
            register.flushed(request.volume, request.begin)
        life = self._life
        if self._running:
            self._think(life)
        else:
            self._world.after(0, self._finish_if_idle)

    def _judge_read(
        self, machine: Machine, register: Register, request: _Request, data: Buffer | None
    ) -> None:
        if data is None or len(data) != request.sectors * SECTOR_BYTES:
            raise SimulationError(f"a read of {request.sectors} sectors returned {data!r:.80}")
        whole = bytes(data)
        self._workload.reads_answered += 1
        for at in range(request.sectors):
            sector = request.first + at
            if sector >= self._workload.sizes_sectors[request.volume]:
                break  # cut off meanwhile
            value = value_of(whole[at * SECTOR_BYTES : (at + 1) * SECTOR_BYTES], sector)
            register.end_read(request.begin, request.volume, sector, value)
        state = machine.states.get(request.volume)
        if state is not None and state.disk.name != "UP_TO_DATE":
            self._world.mark("read served by the peer")
