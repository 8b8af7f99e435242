"""Somebody else at the port of replication: connects, says something or nothing, and goes or stays.

What must hold: the pair goes on as if nobody had been there, and nothing of it is kept for ever.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

from replblk.sim.world import MILLI_NS, SECOND_NS
from replblk.wire.framing import frame_header
from replblk.wire.packets import Cmd

if TYPE_CHECKING:
    from replblk.sim.links import End, Network
    from replblk.sim.machine import Machine

CLOSED = "closed by the peer"


class _Elsewhere:
    """The computer of a stranger, as far as the network needs one. It hears and does nothing."""

    name = "stranger"
    powered = True

    def deliver(self, life: object, event: str, *args: object) -> None:
        """Whatever it is."""


class _StrangerLife:
    """Its process: lives for ever."""

    dead = False
    number = 0

    def __init__(self) -> None:
        self.machine = _Elsewhere()


def speech(chance: Random) -> bytes:
    """What a stranger says: nothing, rubbish, or the beginning of the protocol and then rubbish."""
    first = chance.choice((Cmd.P_INITIAL_DATA, Cmd.P_INITIAL_META))
    opening = frame_header(first, 0, 0, 80)
    rubbish = chance.randbytes(chance.choice((1, 7, 8, 80, 500)))
    return chance.choice((b"", rubbish, opening, opening + rubbish, opening[:5], opening * 3))


def visit(network: Network, target: Machine, chance: Random) -> None:
    """A stranger connects to *target*, if anybody listens there."""
    end = network.stranger(_StrangerLife(), target)
    if end is None:
        return
    words = speech(chance)
    cut = chance.randrange(len(words) + 1)
    for part in (words[:cut], words[cut:]):
        if part:
            network.world.after(chance.randrange(300 * MILLI_NS), _say, end, part)
    if chance.random() < 0.6:
        network.world.after(chance.randrange(3 * SECOND_NS), _leave, end)


def _say(end: End, words: bytes) -> None:
    if end.open:
        end.outgoing.push(words)


def _leave(end: End) -> None:
    if end.open:
        end.open = False
        end.outgoing.end(CLOSED)
