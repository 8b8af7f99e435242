"""What a disk has under way on its ring: batches of writes, their runs, and reads.

Offsets, lengths and addresses in bytes.
"""

from __future__ import annotations

from replblk.shell.buffers import Slot
from replblk.shell.disk_writer import WriteOp


class Batch:
    """Operations that become durable together. slots: the memory of their data."""

    __slots__ = ("began_ns", "flush", "left", "ops", "slots")

    def __init__(self, ops: list[WriteOp], flush: bool, now_ns: int) -> None:
        self.began_ns = now_ns
        self.ops = ops
        self.flush = flush
        self.left = 0
        self.slots: list[Slot] = []


First = tuple[Batch, list[WriteOp], int, int, int]
"""The first try of a run, which most often is all of it: batch, operations, address, length,
flags."""


class Run:
    """One write of neighbouring operations, after its first try.

    done: bytes of it that were written. judging: the error of a RWF_DSYNC being looked into.
    """

    __slots__ = ("address", "batch", "done", "flags", "judging", "length", "offset", "ops")

    def __init__(self, first: First) -> None:
        self.batch, self.ops, self.address, self.length, self.flags = first
        self.offset = self.ops[0].offset
        self.done = 0
        self.judging = 0


class Read:
    """One read. had: bytes of it that an earlier, short try brought."""

    __slots__ = ("address", "had", "length", "offset", "op", "view")

    def __init__(self, op: int, offset: int, view: memoryview, address: int) -> None:
        self.op = op
        self.offset = offset
        self.view = view
        self.address = address
        self.length = len(view)
        self.had = 0
