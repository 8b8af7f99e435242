"""Recorded talks as a capture file, and what tshark's DRBD dissector makes of it.

Ethernet and IPv4 headers are made up, so that each talk is a TCP stream of its own towards port
7788; segments are what the recorder saw, cut at 32 KiB. Format: pcap 2.4, LINKTYPE_RAW.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.interop.kernel.recorder import Talk

SEGMENT_BYTES = 32 << 10
LINKTYPE_RAW = 101
SYN, ACK, PSH = 2, 16, 8


def _segment(
    way: tuple[int, int], ports: tuple[int, int], seq: int, ack: int, flags: int, data: bytes
) -> bytes:
    tcp = struct.pack("!HHIIBBHHH", *ports, seq, ack, 5 << 4, flags, 65535, 0, 0)
    source, sink = (bytes((10, 0, 0, host)) for host in way)
    length = 20 + len(tcp) + len(data)
    ip = struct.pack("!BBHHHBBH4s4s", 0x45, 0, length, 0, 0x4000, 64, 6, 0, source, sink)
    return ip + tcp + data


def write_capture(path: Path, talks: Iterable[Talk]) -> int:
    """Write the talks that carried anything; how many."""
    count = 0
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, LINKTYPE_RAW))

        def put(when: float, packet: bytes) -> None:
            seconds, micros = divmod(int(when * 1e6), 1_000_000)
            file.write(struct.pack("<IIII", seconds, micros, len(packet), len(packet)) + packet)

        for talk in talks:
            if not any(data for _, _, data in talk.pieces):
                continue
            count += 1
            opener_port = 40_000 + count  # where no other dissector looks
            sent = {True: 1, False: 1}
            put(talk.opened, _segment((1, 2), (opener_port, 7788), 0, 0, SYN, b""))
            put(talk.opened, _segment((2, 1), (7788, opener_port), 0, 1, SYN | ACK, b""))
            for when, sender, data in list(talk.pieces):
                forward = sender == talk.opener
                way = (1, 2) if forward else (2, 1)
                ports = (opener_port, 7788) if forward else (7788, opener_port)
                for at in range(0, len(data), SEGMENT_BYTES):
                    piece = data[at : at + SEGMENT_BYTES]
                    seq, ack = (sent[forward], sent[not forward])
                    put(
                        when,
                        _segment(way, ports, seq & 0xFFFFFFFF, ack & 0xFFFFFFFF, ACK | PSH, piece),
                    )
                    sent[forward] += len(piece)
    return count


def complaints(path: Path) -> list[str]:
    """Every packet that tshark's dissector calls malformed or gives an error to; empty is good."""
    return _tshark(path, "_ws.malformed || (drbd && _ws.expert.severity == error)")


def dissected(path: Path) -> int:
    """How many packets were recognized as DRBD's."""
    return len(_tshark(path, "drbd"))


def _tshark(path: Path, wanted: str) -> list[str]:
    done = subprocess.run(
        ["tshark", "-r", str(path), "--enable-heuristic", "drbd_tcp", "-Y", wanted],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()
