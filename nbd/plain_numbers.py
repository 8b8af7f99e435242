"""Commands and their flags as plain integers, for what happens with each request."""

from __future__ import annotations

from nbd.protocol import Command, CommandFlag

FUA = int(CommandFlag.FUA)
DF = int(CommandFlag.DF)
NO_HOLE = int(CommandFlag.NO_HOLE)
REQ_ONE = int(CommandFlag.REQ_ONE)
FAST_ZERO = int(CommandFlag.FAST_ZERO)
PAYLOAD_LEN = int(CommandFlag.PAYLOAD_LEN)
READ, WRITE, DISC, FLUSH = (
    int(Command.READ),
    int(Command.WRITE),
    int(Command.DISC),
    int(Command.FLUSH),
)
TRIM, CACHE, ZERO, STATUS = (
    int(Command.TRIM),
    int(Command.CACHE),
    int(Command.WRITE_ZEROES),
    int(Command.BLOCK_STATUS),
)
