"""Acknowledgements of a write that went to the peer in several packets.

Zeroes that have to travel as data may be longer than one packet can be, and so may any write to a
peer of a protocol before 100. Each piece has a block id
of its own and is acknowledged by itself; the write is done at the peer when all of them are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from replblk.model.errors import PeerError
from replblk.wire.hot import data_header
from replblk.wire.packets import DP_SEND_RECEIVE_ACK, DP_SEND_WRITE_ACK, Cmd

if TYPE_CHECKING:
    from replblk.engine.peer_link import PeerLink
    from replblk.engine.volume import Volume
    from replblk.engine.write_request import WriteRequest


class SplitWrites:
    """Pieces outstanding.

    done(write, ok): the last piece of a write is acknowledged. received(write): the peer has them
    all in memory, which is all that protocol B asks for.
    """

    def __init__(
        self,
        done: Callable[[WriteRequest, bool], None],
        received: Callable[[WriteRequest], None],
    ) -> None:
        self._done = done
        self._received = received
        self._receipts: dict[bytes, tuple[WriteRequest, int]] = {}
        """Pieces of which only P_RECV_ACK is expected, and the barrier's acknowledgement."""
        self._pieces: dict[bytes, tuple[WriteRequest, int, int]] = {}
        self._left: dict[bytes, int] = {}
        """How many pieces of a write are outstanding, by the block id of the write."""
        self._refused: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._pieces)

    def send(self, peer: PeerLink, write: WriteRequest, fresh_id: Callable[[], bytes]) -> None:
        """Send a write whose flags say what is to be acknowledged, piece by piece."""
        volume, most = write.volume, peer.request_bytes_max
        data = memoryview(write.data) if write.kind == "write" else memoryview(bytes(most))
        for start in range(0, write.size, most):
            block_id, sector = fresh_id(), write.sector + (start >> 9)
            size = min(most, write.size - start)
            if write.flags & DP_SEND_WRITE_ACK:
                self.sent(write, block_id, sector, size)
            elif write.flags & DP_SEND_RECEIVE_ACK:
                self.sent_for_receipt(write, block_id, sector)
            head = data_header(sector, block_id, volume.next_seq(), write.flags)
            piece = data[start : start + size] if write.kind == "write" else data[:size]
            peer.send_data(Cmd.P_DATA, volume.number, head, piece)

    def sent(self, write: WriteRequest, block_id: bytes, sector: int, size: int) -> None:
        """A piece is on its way."""
        self._pieces[block_id] = (write, sector, size)
        self._left[write.block_id] = self._left.get(write.block_id, 0) + 1

    def sent_for_receipt(self, write: WriteRequest, block_id: bytes, sector: int) -> None:
        """A piece is on its way, and will be acknowledged when it has arrived."""
        self._receipts[block_id] = (write, sector)
        self._left[write.block_id] = self._left.get(write.block_id, 0) + 1

    def on_ack(self, cmd: Cmd, volume: Volume, sector: int, block_id: bytes, blksize: int) -> bool:
        """An acknowledgement; False if it is not for a piece. Raises PeerError if it is wrong."""
        if block_id in self._receipts and cmd is Cmd.P_RECV_ACK:
            self._on_receipt(volume, sector, block_id)
            return True
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

    def _on_receipt(self, volume: Volume, sector: int, block_id: bytes) -> None:
        write, at = self._receipts.pop(block_id)
        if write.volume is not volume or sector != at:
            raise PeerError(f"P_RECV_ACK for sector {sector}: no such write is outstanding")
        self._left[write.block_id] -= 1
        if not self._left[write.block_id]:
            del self._left[write.block_id]
            self._received(write)

    def connection_lost(self) -> None:
        """Nothing will be acknowledged any more; the writes themselves are in the transfer log."""
        self._pieces.clear()
        self._receipts.clear()
        self._left.clear()
        self._refused.clear()
