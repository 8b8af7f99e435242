"""A ``Pair`` with what scenarios about settings, disks and order need; still no random faults.

lab = Lab(net={"ping_int": 2}, disk={"on_io_error": OnIoError.PASS_ON})
with_secret = Lab(net_of={"alpha": {"shared_secret": "a"}, "beta": {"shared_secret": "b"}})
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from replblk.engine.node import Node
from replblk.engine.ports import Answer
from replblk.meta.al_transaction import replay
from replblk.meta.superblock import MdFlag
from replblk.model.config import Resource, Settings
from replblk.model.generation import UuidSet
from replblk.model.notices import StateChanged
from replblk.model.vocabulary import ConnState
from replblk.sim.disk import FOREVER, Drive, DriveFault
from replblk.sim.image import fresh_drive
from replblk.sim.machine import Machine, MakeNode
from replblk.sim.setup import build_pair
from replblk.sim.world import World
from tests.support.pair import STEADY, Pair, Request

BLOCK = 4096
EXTENT = 4 << 20
HELD = 50_000
"""Slowness of a drive that is held: an operation takes seconds, within every timeout."""
_FLAGS_AT, _UUIDS_AT = 56, 8
Fields = Mapping[str, Any]


class Lab(Pair):
    """Two machines; the options of each node can be set."""

    def __init__(
        self,
        *,
        net: Fields | None = None,
        disk: Fields | None = None,
        resource: Fields | None = None,
        settings: Fields | None = None,
        net_of: Mapping[str, Fields] | None = None,
        disk_of: Mapping[str, Fields] | None = None,
        sizes: Mapping[str, int] | None = None,
        make_node: MakeNode = Node,
        **options: Any,
    ) -> None:
        """net, disk, resource, settings: fields of both nodes; net_of, disk_of: of one.

        sizes: bytes of a backing device, with fresh metadata. options: of ``sim.options``.
        """
        self.options = replace(STEADY, **options)
        self.world = World(self.options.seed)
        self.network = build_pair(self.world, self.options, make_node)
        self.alpha, self.beta = self.network.machines
        self._seen: list[tuple[str, ConnState]] = []
        for machine in self.network.machines:
            name = machine.name
            machine.resource = _with(
                machine.resource,
                {**(net or {}), **(net_of or {}).get(name, {})},
                {**(disk or {}), **(disk_of or {}).get(name, {})},
            )
            machine.resource = replace(machine.resource, **(resource or {}))
            machine.settings = Settings(**(settings or {}))
            machine.on_state.append(self._saw)
            if sizes is not None:
                self.new_drive(name, sizes[name])

    # -- disks --------------------------------------------------------------------------------

    def drive(self, name: str, volume: int = 0) -> Drive:
        """A backing device."""
        return self[name].drives[volume]

    def new_drive(self, name: str, size_bytes: int, volume: int = 0) -> None:
        """Put a fresh device (create-md) into a machine that is off."""
        drive = fresh_drive(self[name], volume, size_bytes)
        drive.speed = self.options.drives
        self[name].drives[volume] = drive

    def hold(self, name: str) -> None:
        """From now on the disk of *name* takes seconds for everything; ``release`` ends it."""
        self.drive(name).slowness = HELD

    def release(self, name: str) -> None:
        """The disk is as fast as before."""
        self.drive(name).slowness = 1

    def fail(
        self, name: str, zone: str, kind: str, *, skip: int = 0, times: int = FOREVER
    ) -> DriveFault:
        """Let operations of the disk of *name* fail: zone data, bitmap, al, superblock or any."""
        fault = DriveFault(zone, kind, skip=skip, left=times)
        self.drive(name).faults.append(fault)
        return fault

    def durable_extents(self, name: str) -> set[int]:
        """Extents that the activity log would mark after a power cut now."""
        drive = self.drive(name)
        at = drive.layout.al_offset_bytes
        blocks = [drive.store.read_durable(at + n * BLOCK, BLOCK) for n in range(8)]
        return set(replay(blocks).extents)

    def durable_flags(self, name: str) -> MdFlag:
        """Flags the superblock would have after a power cut now."""
        return MdFlag(int.from_bytes(self._superblock(name)[_FLAGS_AT : _FLAGS_AT + 4], "big"))

    def durable_uuids(self, name: str) -> UuidSet:
        """Generation the superblock would have after a power cut now."""
        block = self._superblock(name)
        return UuidSet(
            *(
                int.from_bytes(block[at : at + 8], "big")
                for at in range(_UUIDS_AT, _UUIDS_AT + 32, 8)
            )
        )

    def durable_bits(self, name: str) -> set[int]:
        """Blocks the bitmap would mark after a power cut now."""
        drive = self.drive(name)
        start, end = drive.layout.bm_offset_bytes, drive.layout.al_offset_bytes
        raw = drive.store.read_durable(start, end - start)
        return {
            byte * 8 + bit
            for byte, value in enumerate(raw)
            if value
            for bit in range(8)
            if value >> bit & 1
        }

    def _superblock(self, name: str) -> bytes:
        drive = self.drive(name)
        return drive.store.read_durable(drive.layout.md_offset_bytes, BLOCK)

    # -- nodes --------------------------------------------------------------------------------

    def uuids(self, name: str, volume: int = 0) -> UuidSet:
        """The generation in the memory of a node."""
        node = self[name].node
        assert node is not None
        uuids: UuidSet = node.volumes[volume].uuids
        return uuids

    def open(self, name: str, volume: int = 0) -> str | None:
        """A client opens the device: None, or why it may not."""
        node = self[name].node
        assert node is not None
        return node.open_device(volume)

    def close(self, name: str, volume: int = 0) -> None:
        """The client goes."""
        node = self[name].node
        assert node is not None
        node.close_device(volume)

    def ask(self, name: str, verb: str, volume: int | None = None, **options: object) -> Waiting:
        """Give a command and go on."""
        waiting = Waiting()
        self[name].command(verb, waiting.answers.append, volume, **options)
        return waiting

    def told(self, name: str, text: str) -> bool:
        """Whether the log of a node says something like it."""
        return any(text in line for line in self[name].told)

    def done(self, request: Request) -> Request:
        """Wait for the reply to a client's request."""
        self.run_until(lambda: request.done, what="a reply to the request")
        return request

    def answered(self, waiting: Waiting) -> Answer:
        """Wait for the answer to a command."""
        self.run_until(lambda: bool(waiting.answers), what="an answer")
        return waiting.answers[0]

    def reaches(self, name: str, **fields: object) -> None:
        """Wait until the (first volume's) state of a node is like that."""
        self.run_until(lambda: self.shows(name, **fields), what=f"{name} with {fields}")

    def passes(self, name: str, conn: ConnState) -> None:
        """Wait until a node has entered that connection state, however briefly."""
        start = len(self._seen)
        self.run_until(lambda: (name, conn) in self._seen[start:], what=f"{name} in {conn}")

    def _saw(self, machine: Machine, change: StateChanged) -> None:
        if change.old.conn is not change.new.conn:
            self._seen.append((machine.name, change.new.conn))

    def shows(self, name: str, **fields: object) -> bool:
        """Whether the state of a node is like that now."""
        state = self[name].states[0]
        return all(getattr(state, field) == value for field, value in fields.items())

    def lose_power(self) -> None:
        """Both nodes at once; then the network works and both start anew."""
        for machine in self.network.machines:
            machine.power_off()
        self.heal()
        for machine in self.network.machines:
            self.boot(machine.name)

    def cut(self) -> None:
        """Break the connections; both nodes notice at once and will connect again."""
        self.network.cut()
        self.run_until(
            lambda: all(m.connection < ConnState.CONNECTED for m in self.network.machines),
            what="both noticing",
        )

    def partition(self) -> None:
        """Nothing passes between the nodes until ``heal``; both have noticed."""
        self.network.block(self.alpha, self.beta)
        self.network.block(self.beta, self.alpha)
        self.run_until(
            lambda: all(m.connection < ConnState.CONNECTED for m in self.network.machines),
            what="both noticing",
        )

    def heal(self) -> None:
        """The network works again."""
        self.network.heal()

    def shut_down(self, name: str) -> Answer:
        """Take a node down in order; the process ends if it was."""
        answer = self.command(name, "down")
        if answer.exit_code == 0:
            self[name].kill()
        return answer


class Waiting:
    """A command under way."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []


def _with(resource: Resource, net: Fields, disk: Fields) -> Resource:
    def host(host: Any) -> Any:
        volumes = tuple(replace(v, options=replace(v.options, **disk)) for v in host.volumes)
        return replace(host, volumes=volumes)

    return replace(
        resource,
        net=replace(resource.net, **net),
        local=host(resource.local),
        peer=host(resource.peer),
    )
