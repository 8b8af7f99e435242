"""Headers by protocol version, and streams that a connection does not survive."""

from __future__ import annotations

import tracemalloc

import pytest

from replblk.model.errors import PeerError
from replblk.wire.commands import PAYLOAD_BYTES_MAX, Cmd, Socket
from replblk.wire.framing import Deframer, HeaderKind, Packet, frame, frame_header, header_kind
from replblk.wire.hot import data_header


def deframer(socket: Socket = "data", apv: int = 101) -> Deframer:
    stream = Deframer(socket)
    stream.apv = apv
    return stream


def fed(data: bytes, socket: Socket = "data", apv: int = 101) -> list[Packet]:
    stream = deframer(socket, apv)
    stream.feed(data)
    packets = []
    while (packet := stream.next()) is not None:
        packets.append(packet)
    return packets


# --- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("apv", "length", "kind"),
    [
        (80, 72, HeaderKind.H80),
        (86, 32768, HeaderKind.H80),
        (94, 32788, HeaderKind.H80),
        (95, 32768, HeaderKind.H80),
        (95, 32769, HeaderKind.H95),
        (99, 1 << 20, HeaderKind.H95),
        (100, 0, HeaderKind.H100),
        (101, 1 << 20, HeaderKind.H100),
    ],
)
def test_header_by_version_and_length(apv: int, length: int, kind: HeaderKind) -> None:
    assert header_kind(apv, length) is kind


def test_headers_byte_for_byte() -> None:
    assert frame_header(Cmd.P_CONNECTION_FEATURES, 0, 72, 80).hex(" ") == "83 74 02 67 ff fe 00 48"
    assert frame_header(Cmd.P_DATA, 0, 65560, 95).hex(" ") == "83 5a 00 00 00 01 00 18"
    assert (
        frame_header(Cmd.P_DATA, 258, 4120, 101).hex(" ")
        == "86 20 ec 20 01 02 00 00 00 00 10 18 00 00 00 00"
    )


def test_payload_in_pieces_is_the_same_packet() -> None:
    assert frame(Cmd.P_DATA, 1, (b"a" * 24, memoryview(b"b" * 512)), 101) == frame(
        Cmd.P_DATA, 1, b"a" * 24 + b"b" * 512, 101
    )


def test_a_volume_needs_protocol_100() -> None:
    with pytest.raises(AssertionError):
        frame_header(Cmd.P_STATE, 1, 4, 99)


@pytest.mark.parametrize("apv", [80, 86, 95, 99])
def test_before_100_both_old_headers_are_understood(apv: int) -> None:
    cmd = Cmd.P_CONNECTION_FEATURES if apv == 80 else Cmd.P_UUIDS
    body = bytes(72 if apv == 80 else 48)
    old = bytes.fromhex("83740267") + cmd.to_bytes(2, "big") + len(body).to_bytes(2, "big")
    newer = bytes.fromhex("835a") + cmd.to_bytes(2, "big") + len(body).to_bytes(4, "big")
    assert fed(old + body + newer + body, apv=apv) == [Packet(cmd, 0, body)] * 2


# --- streams --------------------------------------------------------------------------------------


def test_version_changes_in_the_middle_of_a_stream() -> None:
    stream = Deframer("data")
    stream.feed(frame(Cmd.P_INITIAL_DATA, 0, b"", 80))
    stream.feed(frame(Cmd.P_CONNECTION_FEATURES, 0, bytes(72), 80))
    stream.feed(frame(Cmd.P_STATE, 3, bytes(4), 101))
    assert stream.next() == Packet(Cmd.P_INITIAL_DATA, 0, b"")
    assert stream.next() == Packet(Cmd.P_CONNECTION_FEATURES, 0, bytes(72))
    stream.apv = 101
    assert stream.next() == Packet(Cmd.P_STATE, 3, bytes(4))
    assert stream.next() is None


def test_the_socket_of_an_accepted_connection_shows_in_its_first_packet() -> None:
    stream = Deframer("data")
    stream.feed(frame(Cmd.P_INITIAL_META, 0, b"", 80))
    assert stream.next() == Packet(Cmd.P_INITIAL_META, 0, b"")
    stream.socket, stream.apv = "meta", 101
    stream.feed(frame(Cmd.P_PING, 0, b"", 101))
    assert stream.next() == Packet(Cmd.P_PING, 0, b"")


def test_volume_of_a_connection_wide_packet_is_ignored() -> None:
    assert fed(frame(Cmd.P_BARRIER, 7, bytes(8), 101)) == [Packet(Cmd.P_BARRIER, 0, bytes(8))]


def test_payload_is_not_touched_by_reuse_of_the_fed_buffer() -> None:
    buffer = bytearray(frame(Cmd.P_DATA, 0, b"\x11" * 8216, 101))
    stream = deframer()
    stream.feed(memoryview(buffer)[:5000])
    stream.feed(memoryview(buffer)[5000:])
    buffer[:] = bytes(len(buffer))
    packet = stream.next()
    assert packet is not None
    assert packet.payload == b"\x11" * 8216


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("cut", [0, 1, 16, 40, 70, 5000, 16440, 16500])
def test_a_long_payload_lies_in_lent_memory_however_it_arrives(cut: int, together: bool) -> None:
    """Cut at all places that matter; taken as one of a run of P_DATA where it came at once."""
    lent: list[memoryview] = []

    def new_payload(length: int) -> memoryview:
        lent.append(memoryview(bytearray(b"\xee" * length)))
        return lent[-1]

    data = bytes(range(256)) * 64
    head = data_header(8, b"block_id", 3, 0)
    whole = frame(Cmd.P_DATA, 0, head + data, 101)
    stream = Deframer("data", new_payload)
    stream.apv = 101
    found: list[bytes] = []
    for piece in (whole[:cut], whole[cut:] + whole):
        stream.feed(piece)
        while True:
            run = stream.writes() if together else []
            found += [bytes(packet[5]) for packet in run]
            if not run:
                packet = stream.next()
                if packet is None:
                    break
                found.append(bytes(packet.payload[24:]))
    assert found == [data, data]
    if together:
        assert [bytes(memory[24:]) for memory in lent] == [data, data]


@pytest.mark.parametrize("pieces", [1, 2])
@pytest.mark.parametrize(("length", "kind"), [(4096, bytes), (4097, memoryview)])
def test_type_of_a_payload_depends_on_its_length_alone(
    length: int, kind: type, pieces: int
) -> None:
    whole = frame(Cmd.P_DATA, 0, bytes(length), 101)
    stream = deframer()
    if pieces == 2:
        stream.feed(whole[:100])
        assert stream.next() is None
        stream.feed(whole[100:])
    else:
        stream.feed(whole)
    packet = stream.next()
    assert packet is not None
    assert isinstance(packet.payload, kind)


def test_a_megabyte_in_tiny_pieces_costs_a_megabyte() -> None:
    """Neither the number of pieces nor what follows makes memory grow beyond the packet itself."""
    whole = frame(Cmd.P_DATA, 0, bytes(PAYLOAD_BYTES_MAX), 101)
    stream = deframer()
    tracemalloc.start()
    try:
        for start in range(0, len(whole), 64):
            assert stream.next() is None
            stream.feed(whole[start : start + 64])
        packet = stream.next()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert packet is not None
    assert packet.payload == bytes(PAYLOAD_BYTES_MAX)
    assert peak < PAYLOAD_BYTES_MAX + 64 * 1024


# --- what ends a connection -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "apv", "socket", "why"),
    [
        ("8620ec20 0000 0007 00000000 00000001", 101, "data", "0x1 in its pad"),
        ("8620ec21 0000 0007 00000000 00000000", 101, "data", "starts with 0x8620ec21"),
        ("83740267 0007 0000 0000000000000000", 101, "data", "the only one at protocol ver"),
        ("8620ec20 0000 0007", 99, "data", "expected 0x83740267 or 0x835a"),
        ("47455420 2f204854", 80, "data", "starts with 0x47455420"),
        ("8620ec20 0000 0005 00000000 00000000", 101, "data", "unknown command 0x05"),
        ("8620ec20 0000 0025 00000000 00000000", 101, "data", "unknown command 0x25"),
        ("8620ec20 0000 0100 00000000 00000000", 101, "data", "unknown command 0x100"),
        ("8620ec20 0000 0013 00000000 00000000", 101, "data", "P_PING on the data socket"),
        ("8620ec20 0000 0000 00000018 00000000", 101, "meta", "P_DATA on the meta socket"),
        ("8620ec20 0000 0013 00000001 00000000", 101, "meta", "P_PING with 1 bytes.*expected 0"),
        ("8620ec20 0000 0000 00000017 00000000", 101, "data", "P_DATA with 23 bytes"),
        ("8620ec20 0000 0000 ffffffff 00000000", 101, "data", "expected 24 to 1048664"),
        ("8620ec20 0000 0000 00100059 00000000", 101, "data", "P_DATA with 1048665 bytes"),
        ("8620ec20 0000 fffe 00000048 00000000", 101, "data", "FEATURES after a protocol"),
        ("8620ec20 0000 fff2 00000000 00000000", 101, "data", "INITIAL_DATA after a protocol"),
        ("83740267 000b 0019", 80, "data", "P_PROTOCOL before a protocol version was agreed"),
        ("83740267 fffe 0047", 80, "data", "with 71 bytes of payload: expected 72"),
        ("83740267 fff2 0001", 80, "data", "with 1 bytes of payload: expected 0"),
    ],
)
def test_a_header_is_judged_before_its_payload_is_kept(
    header: str, apv: int, socket: Socket, why: str
) -> None:
    stream = deframer(socket, apv)
    stream.feed(bytes.fromhex(header))
    for _ in range(2):  # and the stream stays broken
        with pytest.raises(PeerError, match=why):
            stream.next()


def test_acknowledgements_taken_together_leave_it_empty_or_with_what_follows() -> None:
    ack = frame(Cmd.P_WRITE_ACK, 0, bytes(24), 101)
    stream = deframer("meta")
    stream.feed(ack + ack)
    assert not stream.empty
    assert len(stream.acks()) == 2
    assert stream.empty
    stream.feed(ack + frame(Cmd.P_PING, 0, b"", 101) + ack)
    assert len(stream.acks()) == 1
    assert not stream.empty, "a P_PING is next"
    assert stream.acks() == []
    assert not stream.empty
    assert [packet.cmd for packet in iter(stream.next, None)] == [Cmd.P_PING, Cmd.P_WRITE_ACK]
    assert stream.empty
