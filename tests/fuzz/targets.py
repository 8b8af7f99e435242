"""Every decoder that reads bytes from outside, with valid examples to spoil.

A target is given bytes and may raise nothing but the errors it declares. What it accepts and can
write again must read the same again. ``examples`` are where mutation begins.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from bitarray import bitarray

from nbd.handshake import Handshake
from nbd.memory import MemoryExport, MemoryExports
from nbd.protocol import COMPACT_REQUEST, EXTENDED_REQUEST, EXTENDED_REQUEST_MAGIC, REQUEST_MAGIC
from nbd.transmission import Transmission
from replblk.admin.messages import Lines, decode_reply, decode_request
from replblk.admin.resolve import load
from replblk.admin.settings import parse_settings
from replblk.meta.al_transaction import Transaction, crc32c_raw, initialised_block, replay
from replblk.meta.detect import existing_data, judge
from replblk.meta.layout import Layout
from replblk.meta.superblock import MdFlag, Superblock
from replblk.model.errors import AdminError, ConfigError, MetadataError, PeerError
from replblk.wire import hot
from replblk.wire.bitmap_code import BitmapDecoder, encode_bitmap
from replblk.wire.framing import Deframer, frame
from replblk.wire.packets import SPECS, Cmd, decode, encode
from tests.support.nbd_bytes import CLIENT_FLAGS, go, option

DEVICE_BYTES = 64 << 20
NBD_BYTES = 4096
BITS = 5000
FEATURES = 15
CRC_AT = 8


@dataclass(frozen=True)
class Target:
    """One decoder. weight: how many times as many inputs as the others it gets."""

    name: str
    feed: Callable[[bytes], None]
    declared: tuple[type[Exception], ...]
    examples: tuple[bytes, ...]
    weight: int = 1


def stream(socket: str, apv: int, data: bytes) -> None:
    """Packets out of a byte stream, each decoded."""
    deframer = Deframer(socket)  # type: ignore[arg-type]
    deframer.apv = apv
    middle = len(data) // 2
    for piece in (data[:middle], data[middle:]):
        deframer.feed(piece)
        while (packet := deframer.next()) is not None:
            assert len(packet.payload) <= len(data)
            if SPECS[packet.cmd].socket in (socket, "both"):
                message(packet.cmd, apv, bytes(packet.payload))


def message(cmd: Cmd, apv: int, payload: bytes) -> None:
    """One packet; what was accepted comes back the same."""
    found = decode(cmd, payload, features=FEATURES, apv=apv)
    if found is not None and cmd not in _NOT_ENCODED:
        again = encode(cmd, found, features=FEATURES, apv=apv)
        assert decode(cmd, again, features=FEATURES, apv=apv) == found


_NOT_ENCODED = frozenset({Cmd.P_SYNC_PARAM, Cmd.P_SYNC_PARAM89})
"""Older forms of these carry less than the message: they can't come back the same."""


def any_message(apv: int, data: bytes) -> None:
    """The first byte chooses the packet."""
    commands = sorted(SPECS)
    if data:
        message(commands[data[0] % len(commands)], apv, data[1:])


def hot_packets(data: bytes) -> None:
    """The fixed packets of the data path."""
    errors = 0
    parsers: tuple[Callable[[bytes], object], ...] = (
        *(hot.parse_data, hot.parse_trim, hot.parse_block_ack, hot.parse_barrier),
        *(hot.parse_barrier_ack, hot.parse_block_request),
    )
    for parse in parsers:
        try:
            parse(data)
        except PeerError:
            errors += 1
    assert errors >= len(parsers) - 3, "packets of different layouts were all accepted"


def bitmap_packets(apv: int, data: bytes) -> None:
    """One transfer of a bitmap: chunks of a length byte pair and a payload."""
    bits = bitarray(BITS, endian="little")
    bits.setall(0)
    decoder = BitmapDecoder(BITS, apv)
    at = 0
    while at + 3 <= len(data) and not decoder.complete:
        kind, length = struct.unpack_from("<BH", data, at)
        at += 3
        cmd = Cmd.P_COMPRESSED_BITMAP if kind & 1 else Cmd.P_BITMAP
        decoder.feed(cmd, data[at : at + length], bits)
        at += length
    assert len(bits) == BITS


def superblock(data: bytes) -> None:
    """A superblock; what was accepted comes back the same."""
    layout_of = partial(Layout.internal, DEVICE_BYTES)
    found = Superblock.decode(data.ljust(4096, b"\0")[:4096], layout_of)
    layout_of(found.al_stripes, found.al_stripe_size_4k)
    assert Superblock.decode(found.encode(), layout_of) == found


def al_ring(data: bytes) -> None:
    """A ring of eight blocks, some of them spoilt."""
    blocks = [data[at : at + 4096].ljust(4096, b"\0") for at in range(0, 8 * 4096, 4096)]
    found = replay(blocks)
    assert found.corrupt <= 8
    assert len(found.extents) <= 8 * (919 + 64)


def al_block(data: bytes) -> None:
    """One block; what was accepted says the same again."""
    found = Transaction.decode(data.ljust(4096, b"\0")[:4096])
    assert Transaction.decode(found.encode()).updates == found.updates


def al_block_with_its_checksum(data: bytes) -> None:
    """As al_block, with the checksum put right: what lies behind it is judged, too."""
    block = bytearray(data.ljust(4096, b"\0")[:4096])
    block[CRC_AT : CRC_AT + 4] = bytes(4)
    block[CRC_AT : CRC_AT + 4] = crc32c_raw(bytes(block)).to_bytes(4, "big")
    al_block(bytes(block))


def foreign_data(data: bytes) -> None:
    """What create-md looks for before it writes."""
    found = existing_data(data.ljust(1 << 17, b"\0"), DEVICE_BYTES)
    if found is not None:
        judge(found, Layout.internal(DEVICE_BYTES))


def configuration(data: bytes) -> None:
    """drbd.conf."""
    load("-", node="alpha", stdin=io.StringIO(data.decode(errors="replace")))


def settings(data: bytes) -> None:
    """The TOML file beside it."""
    parse_settings(data, "settings.toml")


def control_lines(data: bytes) -> None:
    """Requests and replies on the control socket."""
    for line in Lines().feed(data):
        for read in (decode_request, decode_reply):
            try:
                read(line)
            except AdminError:
                continue


def nbd_handshake(data: bytes) -> None:
    """A client that haggles."""
    handshake = Handshake(MemoryExports.single(NBD_BYTES, "disk"))
    rest = data
    while rest and handshake.opened is None and handshake.ended is None:
        used = handshake.receive(memoryview(rest))
        out = b"".join(handshake.take())
        assert len(out) < 200_000
        if not used:
            break
        rest = rest[used:]


def nbd_requests(extended: bool, data: bytes) -> None:
    """A client that reads and writes."""
    disk = MemoryExports.single(NBD_BYTES, "disk").disks["disk"]
    transmission = Transmission(
        MemoryExport(disk),
        structured=True,
        promised_alignment=False,
        wake=lambda: None,
        contexts={1: "base:allocation"},
        extended=extended,
    )
    transmission.receive(memoryview(data))
    transmission.take()
    assert transmission.in_flight == 0
    transmission.close()


def _superblocks() -> tuple[bytes, ...]:
    layout = Layout.internal(DEVICE_BYTES)
    fresh = bytearray(Superblock.fresh(layout).encode())
    struct.pack_into(">QQ", fresh, 0, layout.usable_sectors, 0x1122334455667788)
    struct.pack_into(">I", fresh, 56, MdFlag.CONSISTENT | MdFlag.PRIMARY_IND)
    return Superblock.fresh(layout).encode()[:128], bytes(fresh)[:128]


def _transfers(apv: int) -> tuple[bytes, ...]:
    bits = bitarray(BITS, endian="little")
    bits.setall(0)
    bits[100:900] = 1
    bits[4000] = 1
    made = []
    for use_rle in (False, True):
        whole = b""
        for cmd, payload in encode_bitmap(bits, apv=apv, use_rle=use_rle):
            kind = int(cmd is Cmd.P_COMPRESSED_BITMAP)
            whole += struct.pack("<BH", kind, len(payload)) + payload
        made.append(whole)
    return tuple(made)


def _packets() -> tuple[bytes, ...]:
    head = hot.data_header(8, bytes(8), 1, 0) + bytes(512)
    block = hot.block_request(8, bytes(8), 4096)
    return (
        frame(Cmd.P_DATA, 0, head, 101)
        + frame(Cmd.P_BARRIER, 0, hot.barrier(b"abcd") + bytes(4), 101),
        frame(Cmd.P_RS_DATA_REQUEST, 1, block, 101) * 3,
        frame(Cmd.P_UUIDS, 0, struct.pack(">6Q", 1, 2, 3, 4, 5, 6), 101),
        frame(Cmd.P_STATE, 0, struct.pack(">I", 0x1234), 101),
        frame(Cmd.P_WRITE_ACK, 0, hot.block_ack(8, bytes(8), 4096, 1), 101) * 2,
    )


def _messages() -> tuple[bytes, ...]:
    commands = sorted(SPECS)
    return tuple(
        bytes((number,)) + bytes(SPECS[cmd].fixed_len) for number, cmd in enumerate(commands)
    )


_CONF = b"""resource r0 { protocol C; device /dev/drbd0; meta-disk internal;
 disk { al-extents 67; on-io-error detach; } net { ping-int 3; }
 on alpha { address 127.0.0.1:7788; disk /dev/sda; }
 on beta { address 127.0.0.2:7788; disk /dev/sdb; } }
"""
_NBD_WRITE = COMPACT_REQUEST.pack(REQUEST_MAGIC, 0, 1, 7, 512, 16) + bytes(16)
_NBD_READ = COMPACT_REQUEST.pack(REQUEST_MAGIC, 0, 0, 8, 0, 512)
_NBD_WIDE = EXTENDED_REQUEST.pack(EXTENDED_REQUEST_MAGIC, 0, 7, 9, 0, 4096)

TARGETS = (
    Target("packets on the data socket", partial(stream, "data", 101), (PeerError,), _packets(), 4),
    Target("packets on the meta socket", partial(stream, "meta", 101), (PeerError,), _packets(), 2),
    Target("packets, protocol 86", partial(stream, "data", 86), (PeerError,), _packets()),
    Target("messages, protocol 101", partial(any_message, 101), (PeerError,), _messages(), 4),
    Target("messages, protocol 86", partial(any_message, 86), (PeerError,), _messages(), 2),
    Target("fixed packets", hot_packets, (), (hot.data_header(1, bytes(8), 1, 1), bytes(16))),
    Target("bitmap transfer", partial(bitmap_packets, 101), (PeerError,), _transfers(101), 2),
    Target("superblock", superblock, (MetadataError,), _superblocks(), 2),
    Target("activity-log block", al_block, (MetadataError,), (initialised_block(),)),
    Target(
        "activity-log block, checksum right",
        al_block_with_its_checksum,
        (MetadataError,),
        (initialised_block()[:200], Transaction(3, ((0, 5), (1, 9)), 67, 2, (7,)).encode()[:300]),
    ),
    Target("activity-log ring", al_ring, (), (initialised_block() * 8,)),
    Target("foreign data", foreign_data, (), (bytes(1 << 12), b"XFSB" + bytes(4096))),
    Target("drbd.conf", configuration, (ConfigError,), (_CONF,)),
    Target("settings", settings, (ConfigError,), (b'durability = "disk"\nlog_level = "info"\n',)),
    Target("control socket", control_lines, (AdminError,), (b'{"verb": "up", "volume": 1}\n' * 2,)),
    Target("NBD handshake", nbd_handshake, (), (CLIENT_FLAGS + option(3, b"") + go("disk", 3),)),
    Target("NBD requests", partial(nbd_requests, False), (), (_NBD_WRITE + _NBD_READ,), 2),
    Target("NBD extended requests", partial(nbd_requests, True), (), (_NBD_WIDE, _NBD_READ)),
)
