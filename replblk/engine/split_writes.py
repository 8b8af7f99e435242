"""Acknowledgements of a write that went to the peer in several packets.

Zeroes that have to travel as data may be longer than one packet can be. Each piece has a block id
of its own and is acknowledged by itself; the write is done at the peer when all of them are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.errors import PeerError
from replblk.wire.packets import Cmd

if TYPE_CHECKING:
    from replblk.engine.volume import Volume
    from replblk.engine.write_request import WriteRequest


class SplitWrites:
    """Pieces outstanding. done(write, ok): the last piece of a write is acknowledged."""

    def __init__(self, done: Callable[[WriteRequest, bool], None]) -> None:
        self._done = done
        self._pieces: dict[bytes, tuple[WriteRequest, int, int]] = {}
        self._left: dict[bytes, int] = {}
        """How many pieces of a write are outstanding, by the block id of the write."""
        self._refused: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._pieces)

    def sent(self, write: WriteRequest, block_id: bytes, sector: int, size: int) -> None:
        """A piece is on its way."""
        self._pieces[block_id] = (write, sector, size)
        self._left[write.block_id] = self._left.get(write.block_id, 0) + 1

    def on_ack(self, cmd: Cmd, volume: Volume, ack: tuple[int, bytes, int, int]) -> bool:
        """An acknowledgement; False if it is not for a piece. Raises PeerError if it is wrong."""
        sector, block_id, blksize, _ = ack
        if block_id not in self._pieces:
            return False
        write, at, size = self._pieces[block_id]
        if write.volume is not volume or sector != at:
            raise PeerError(f"{cmd.name} for sector {sector}: no such write is outstanding")
        if cmd is Cmd.P_RECV_ACK:
            raise PeerError("P_RECV_ACK for a write that did not ask for it")
        if cmd is not Cmd.P_NEG_ACK and blksize != size:
            raise PeerError(f"{cmd.name}: {blksize} bytes acknowledged of {size} sent")
        del self._pieces[block_id]
        if cmd is Cmd.P_NEG_ACK:
            self._refused.add(write.block_id)
        write.rs_ack = write.rs_ack and cmd is Cmd.P_RS_WRITE_ACK
        self._left[write.block_id] -= 1
        if not self._left[write.block_id]:
            del self._left[write.block_id]
            ok = write.block_id not in self._refused
            self._refused.discard(write.block_id)
            self._done(write, ok)
        return True

    def connection_lost(self) -> None:
        """Nothing will be acknowledged any more; the writes themselves are in the transfer log."""
        self._pieces.clear()
        self._left.clear()
        self._refused.clear()
