"""The data plane's few packets by ``struct``: the same bytes as ``packets`` makes, much faster.

Everything is big-endian; sector counts 512 bytes, sizes are bytes, block_id is 8 opaque bytes.
``parse_*`` judge what can be judged from the bytes alone and raise ``PeerError``; a range is held
against the size of the device by whoever knows it. A property test keeps both in step.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from replblk.model.errors import PeerError
from replblk.model.units import DISCARD_BYTES_MAX, REQUEST_BYTES_MAX, SECTOR_BYTES

Buffer = bytes | bytearray | memoryview
NewPayload = Callable[[int], memoryview]
"""Fresh memory for a payload of just so many bytes."""
LENT_BYTES_MIN = 16 << 10
"""From here on a payload gets such memory: for less, asking costs more than a second copy."""

MAGIC_100 = 0x8620EC20

_HEADER_100 = Struct(">IHHII")
_DATA = Struct(">Q8sII")
_TRIM = Struct(">Q8sIII")
_ACK = Struct(">Q8sII")
_REQUEST = Struct(">Q8sI4x")
_DATA_PACKET = Struct(">IHHIIQ8sII")
_ACK_PACKET = Struct(">IHHIIQ8sII")
_BARRIER = Struct(">4s4x")
_BARRIER_ACK = Struct(">4sI")
_BARRIER_PACKET = Struct(">IHHII4sI")


AckPacket = tuple[int, int, int, int, int, int, bytes, int, int]
"""magic, volume, command, payload length, pad, sector, block_id, blksize, seq_num."""
ACK_PACKET_BYTES = _ACK_PACKET.size
BARRIER_PACKET_BYTES = _BARRIER_PACKET.size
DataPacket = tuple[int, int, bytes, int, int, Buffer]
"""volume, sector, block_id, seq_num, dp_flags, data."""


def header100(cmd: int, volume: int, length: int) -> bytes:
    """The 16-byte header of protocol 100 and up. length: payload bytes."""
    return _HEADER_100.pack(MAGIC_100, volume, cmd, length, 0)


def data_header(sector: int, block_id: bytes, seq: int, flags: int) -> bytes:
    """First 24 payload bytes of P_DATA, P_DATA_REPLY and P_RS_DATA_REPLY."""
    return _DATA.pack(sector, block_id, seq, flags)


def data_packet(
    cmd: int, volume: int, sector: int, block_id: bytes, seq: int, flags: int, size: int
) -> bytes:
    """Header 100 and ``data_header`` in one; *size* bytes of data without digest follow."""
    return _DATA_PACKET.pack(MAGIC_100, volume, cmd, 24 + size, 0, sector, block_id, seq, flags)


def ack_packet(
    cmd: int, volume: int, sector: int, block_id: bytes, blksize: int, seq: int
) -> bytes:
    """Header 100 and ``block_ack`` in one: a whole packet."""
    return _ACK_PACKET.pack(MAGIC_100, volume, cmd, 24, 0, sector, block_id, blksize, seq)


def acks_at(stream: bytes | bytearray, at: int, commands: frozenset[int]) -> list[AckPacket]:
    """The whole acknowledgements with headers 100 that *stream* holds from byte *at* on, up to the
    first packet that is none of *commands* or is odd in any way; each is ``ACK_PACKET_BYTES``."""
    found: list[AckPacket] = []
    count = (len(stream) - at) // ACK_PACKET_BYTES
    if not count:
        return found
    window = memoryview(stream)[at : at + count * ACK_PACKET_BYTES]
    for packet in _ACK_PACKET.iter_unpack(window):
        if packet[0] != MAGIC_100 or packet[3] != 24 or packet[4] or packet[2] not in commands:
            break
        found.append(packet)
    return found


def data_at(
    stream: bytes | bytearray,
    at: int,
    command: int,
    payload_max: int,
    new_payload: NewPayload | None = None,
) -> tuple[list[DataPacket], int]:
    """The whole P_DATA (*command*) with headers 100 that *stream* holds from byte *at* on, up to
    the first packet that is none or is odd in any way; and the byte behind them. The data share no
    memory with *stream*; long ones lie in that of *new_payload*."""
    found: list[DataPacket] = []
    end = len(stream)
    unpack = _DATA_PACKET.unpack_from
    while at + 40 <= end:
        magic, volume, cmd, length, pad, sector, block_id, seq, flags = unpack(stream, at)
        stop = at + 16 + length
        if cmd != command or magic != MAGIC_100 or pad or stop > end:
            break
        if not 24 <= length <= payload_max:
            break
        data: Buffer
        if new_payload is None or length < LENT_BYTES_MIN:
            data = bytes(stream[at + 40 : stop])
        else:
            data = new_payload(length)[24:]
            data[:] = memoryview(stream)[at + 40 : stop]
        found.append((volume, sector, block_id, seq, flags, data))
        at = stop
    return found, at


def parse_data(payload: Buffer) -> tuple[int, bytes, int, int]:
    """(sector, block_id, seq_num, dp_flags); digest and data follow from byte 24 on."""
    if len(payload) < _DATA.size:
        raise PeerError(f"a block of data with {len(payload)} bytes: its header alone has 24")
    sector, block_id, seq, flags = _DATA.unpack_from(payload)
    return sector, block_id, seq, flags


def trim_header(sector: int, block_id: bytes, seq: int, flags: int, size: int) -> bytes:
    """The 28 payload bytes of P_TRIM and P_ZEROES."""
    return _TRIM.pack(sector, block_id, seq, flags, size)


def parse_trim(payload: Buffer) -> tuple[int, bytes, int, int, int]:
    """(sector, block_id, seq_num, dp_flags, size) of P_TRIM or P_ZEROES."""
    _exactly(payload, 28, "a discard")
    sector, block_id, seq, flags, size = _TRIM.unpack(payload)
    judge_size("a discard", sector, size, 1, DISCARD_BYTES_MAX)
    return sector, block_id, seq, flags, size


def block_ack(sector: int, block_id: bytes, blksize: int, seq: int) -> bytes:
    """The 24 payload bytes of every acknowledgement, positive or negative."""
    return _ACK.pack(sector, block_id, blksize, seq)


def parse_block_ack(payload: Buffer) -> tuple[int, bytes, int, int]:
    """(sector, block_id, blksize, seq_num); blksize may be 0."""
    _exactly(payload, 24, "an acknowledgement")
    sector, block_id, blksize, seq = _ACK.unpack(payload)
    judge_size("an acknowledgement", sector, blksize, 0, DISCARD_BYTES_MAX)
    return sector, block_id, blksize, seq


def barrier(number: bytes) -> bytes:
    """The 8 payload bytes of P_BARRIER."""
    return _BARRIER.pack(number)


def parse_barrier(payload: Buffer) -> bytes:
    """The number of the epoch that ends: 4 opaque bytes."""
    _exactly(payload, 8, "a barrier")
    (number,) = _BARRIER.unpack(payload)
    return bytes(number)


def barrier_ack(number: bytes, set_size: int) -> bytes:
    """The 8 payload bytes of P_BARRIER_ACK."""
    return _BARRIER_ACK.pack(number, set_size)


def parse_barrier_ack(payload: Buffer) -> tuple[bytes, int]:
    """(number, set_size) of P_BARRIER_ACK."""
    _exactly(payload, 8, "a barrier's acknowledgement")
    number, set_size = _BARRIER_ACK.unpack(payload)
    return number, set_size


def barrier_packet(cmd: int, number: bytes, set_size: int) -> bytes:
    """Header 100 and ``barrier_ack`` in one; with 0 as *set_size* it is that of ``barrier``."""
    return _BARRIER_PACKET.pack(MAGIC_100, 0, cmd, 8, 0, number, set_size)


def barrier_at(stream: bytes | bytearray, at: int, command: int) -> tuple[bytes, int] | None:
    """(number, set_size) of the whole P_BARRIER or P_BARRIER_ACK (*command*) with a header 100 that
    *stream* holds at byte *at*; of the former only the number means anything. None: there is
    another packet, or anything is odd."""
    if at + BARRIER_PACKET_BYTES > len(stream):
        return None
    magic, _, cmd, length, pad, number, size = _BARRIER_PACKET.unpack_from(stream, at)
    if magic != MAGIC_100 or cmd != command or length != 8 or pad:
        return None
    return number, size


def block_request(sector: int, block_id: bytes, blksize: int) -> bytes:
    """The 24 payload bytes of the read-type requests; a digest may follow."""
    return _REQUEST.pack(sector, block_id, blksize)


def parse_block_request(payload: Buffer) -> tuple[int, bytes, int]:
    """(sector, block_id, blksize); where the packet has a digest it follows from byte 24 on."""
    if len(payload) < _REQUEST.size:
        raise PeerError(f"a request of {len(payload)} bytes: it has at least 24")
    sector, block_id, blksize = _REQUEST.unpack_from(payload)
    judge_size("a request", sector, blksize, 1, REQUEST_BYTES_MAX)
    return sector, block_id, blksize


def judge_size(what: str, sector: int, size: int, least: int, most: int) -> None:
    """Refuse a size that is not whole sectors or not in least..most bytes."""
    if size % SECTOR_BYTES or not least <= size <= most:
        raise PeerError(
            f"{what} for {size} bytes at sector {sector}: "
            f"expected a multiple of 512, {'more than 0 and ' if least else ''}at most {most}"
        )


def _exactly(payload: Buffer, length: int, what: str) -> None:
    if len(payload) != length:
        raise PeerError(f"{what} of {len(payload)} bytes: expected {length}")
