"""How much a node holds of everything: bounded all the time, and nothing when it is at rest.

Counted where the node keeps it, in numbers of entries (bytes where the name says so). A limit is
what the configuration and the clients of the run allow, with room for what is under way twice, for
the connection before and the one now. What is not at 0 at rest was forgotten: it would grow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from replblk.engine.node import Node
from replblk.engine.resync_source import ANSWERED_MAX
from replblk.engine.write_peer import IN_PROGRESS_BYTES_MAX
from replblk.model.units import REQUEST_BYTES_MAX
from replblk.sim.world import SimulationError

if TYPE_CHECKING:
    from replblk.sim.machine import Machine
    from replblk.sim.options import Options

STEPS_PER_LOOK = 8
TIMERS_REST = 12
"""Deadlines of a node at rest: pings, and one or two of each volume."""
_MAY_REST = {"deadlines": TIMERS_REST, "handlers": 2, "answers for a resync that is over": 1 << 16}
"""What a node at rest may hold all the same. A handler takes its time; a source that has seen the
target's disk go does not answer what was asked before, nor does it say so."""


def holdings(node: Any) -> dict[str, int]:
    """What a node holds now."""
    ctx, writes, peer_writes = node._ctx, node._writes, node._peer_writes
    volumes = ctx.volumes.values()
    logs = [volume.al_gate.log for volume in volumes if volume.al_gate is not None]
    # What is empty nearly always is not walked through: this is asked often.
    abandoned, targets = node._target._abandoned, node._target._targets
    answered, data = node._source._answered, ctx.peer.data
    return {
        "writes in the transfer log": len(writes.log.writes()),
        "writes without an acknowledgement": len(writes._unacked),
        "frozen writes": len(list(writes.frozen.writes())),
        "flushes": len(writes.flushes.pending),
        "reads asked of the peer": len(node._reads._asked),
        "received epochs that are closed": len(peer_writes.epochs) - 1,
        "writes of the peer that wait": len(peer_writes._waiting),
        "bytes of the peer's writes": peer_writes._bytes,
        "resync data without an acknowledgement": sum(answered.values()) if answered else 0,
        "answers for a resync that is over": sum(
            [owed for key, owed in abandoned.items() if key[0] == data] if abandoned else ()
        ),
        "answers that a connection that is gone owed": sum(
            [owed for key, owed in abandoned.items() if key[0] != data] if abandoned else ()
        ),
        "blocks asked of the source": sum([len(t.asked) for t in targets.values()]),
        "disk operations": len(ctx.io._flying),
        "requests held": sum([len(volume.held) for volume in volumes]),
        "replies held": sum([len(volume.held_replies) for volume in volumes]),
        "claims of ranges": sum(
            [len(bucket) for volume in volumes for bucket in volume.ranges._buckets.values()]
        ),
        "activity-log references": sum([len(log._references) for log in logs]),
        "writes that wait for the activity log": sum(
            [len(volume.al_gate.waiting) for volume in volumes if volume.al_gate is not None]
        ),
        "handlers": len(ctx.handlers._running),
        "commands": len(node._commands._queue),
        "deadlines": len(ctx.timers._due),
    }


class Bounds:
    """Watches one run."""

    def __init__(self, options: Options, machines: tuple[Machine, ...]) -> None:
        load = options.workload
        clients = load.clients * load.depth * options.volumes
        blocks = options.device_bytes // 4096 * options.volumes
        under_way = 16 * clients + 32
        self._limits = {
            "bytes of the peer's writes": IN_PROGRESS_BYTES_MAX + REQUEST_BYTES_MAX,
            "resync data without an acknowledgement": min(ANSWERED_MAX, blocks),
            "answers for a resync that is over": blocks,
            "blocks asked of the source": blocks,
            "disk operations": under_way + blocks,
            "claims of ranges": under_way + blocks,
            "deadlines": 4 * TIMERS_REST,
        }
        self._otherwise = under_way
        self._steps = 0
        for machine in machines:
            machine.on_step.append(self._look)

    def _look(self, machine: Machine) -> None:
        self._steps += 1
        if self._steps % STEPS_PER_LOOK or not isinstance(machine.node, Node):
            return
        for name, held in holdings(machine.node).items():
            if held > self._limits.get(name, self._otherwise):
                raise SimulationError(f"I11: {machine} holds {held} {name}")

    @staticmethod
    def judge_rest(machine: Machine) -> None:
        """Nothing is under way: nothing is held."""
        if not isinstance(machine.node, Node):
            return
        for name, held in holdings(machine.node).items():
            if held > _MAY_REST.get(name, 0):
                raise SimulationError(f"I11: {machine} is at rest and holds {held} {name}")
