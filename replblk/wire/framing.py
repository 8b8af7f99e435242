"""Headers 80, 95 and 100, and the way from a byte stream back to packets.

Which header is in use depends on the agreed protocol version (apv); before agreement it counts as
80. Length fields never include the header. A header is judged completely (magic, pad, command,
socket, length) before a byte of its payload is kept, so a connection holds at most one payload of
``PAYLOAD_BYTES_MAX`` bytes besides what was fed last. Errors: ``PeerError``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from replblk.model.errors import PeerError
from replblk.wire.commands import PRO_VERSION_UNAGREED, SPECS, UNAGREED_ONLY, Cmd, Socket, Spec
from replblk.wire.hot import (
    ACK_PACKET_BYTES,
    BARRIER_PACKET_BYTES,
    LENT_BYTES_MIN,
    MAGIC_100,
    AckPacket,
    Buffer,
    DataPacket,
    NewPayload,
    acks_at,
    barrier_at,
    data_at,
    header100,
)

MAGIC_80 = 0x83740267
MAGIC_95 = 0x835A
HEADER_80_PAYLOAD_MAX = 32768
"""Above this, versions 95 to 99 use the 95-header."""
PAYLOAD_BYTES_COPIED = 4096
"""Up to this a payload comes as bytes; above, as a memoryview that slices for free."""

_H80 = Struct(">IHH")
_H95 = Struct(">HHI")
_H100 = Struct(">IHHII")
_COMMAND_AT = 7
"""Of the data plane's commands, which are below 256, this byte of a header 100 tells most that come
from each other; the whole header is judged later."""
_ROWS: dict[int, Spec] = {int(cmd): spec for cmd, spec in SPECS.items()}
_AGREED: dict[Socket, dict[int, tuple[Cmd, int, int, bool]]] = {
    socket: {
        int(cmd): (cmd, spec.fixed_len, spec.max_len, spec.volume_meaningful)
        for cmd, spec in SPECS.items()
        if spec.socket in (socket, "both") and cmd not in UNAGREED_ONLY
    }
    for socket in ("data", "meta")
}
"""What may come on a socket once a version was agreed: what a header is judged by."""


_WRITE_ACKS = frozenset(
    int(cmd) for cmd in (Cmd.P_WRITE_ACK, Cmd.P_RS_WRITE_ACK, Cmd.P_RECV_ACK, Cmd.P_NEG_ACK)
)
_P_DATA, _P_DATA_MAX = int(Cmd.P_DATA), SPECS[Cmd.P_DATA].max_len


class HeaderKind(IntEnum):
    """The three header formats, by the protocol version that brought them."""

    H80 = 80
    H95 = 95
    H100 = 100


def header_kind(apv: int, length: int) -> HeaderKind:
    """The header to send a payload of *length* bytes with."""
    if apv >= 100:
        return HeaderKind.H100
    if apv >= 95 and length > HEADER_80_PAYLOAD_MAX:
        return HeaderKind.H95
    return HeaderKind.H80


def frame_header(cmd: Cmd, volume: int, length: int, apv: int) -> bytes:
    """The header alone, for a payload of *length* bytes that is sent without copying it."""
    if apv >= 100:
        return header100(cmd, volume, length)
    assert volume == 0, "headers before protocol 100 have no room for a volume"
    if header_kind(apv, length) is HeaderKind.H95:
        return _H95.pack(MAGIC_95, cmd, length)
    return _H80.pack(MAGIC_80, cmd, length)


def frame(cmd: Cmd, volume: int, payload_parts: Buffer | Sequence[Buffer], apv: int) -> bytes:
    """One whole packet: header and payload, the latter in one piece or several."""
    if isinstance(payload_parts, bytes | bytearray | memoryview):
        parts: Sequence[Buffer] = (payload_parts,)
    else:
        parts = payload_parts
    length = sum(len(part) for part in parts)
    return b"".join((frame_header(cmd, volume, length, apv), *parts))


@dataclass(slots=True)
class Packet:
    """One received packet. volume is 0 where the packet has none.

    The payload shares no memory with what was fed: bytes up to 4096, above that a memoryview,
    however it arrived.
    """

    cmd: Cmd
    volume: int
    payload: bytes | memoryview


class Deframer:
    """Turns the byte stream of one socket into packets, one at a time.

    Feed what arrives, then call ``next()`` until it gives None. ``apv`` is set as soon as the
    peer's features are known and applies from the next packet on; ``socket`` may be set once an
    accepted connection's initial packet has told which of the two it is. After a ``PeerError`` the
    stream is beyond repair: every further ``next()`` raises again. What the peer sends on the meta
    socket ahead of the agreement on the other one has to wait: do not ask for it before.
    new_payload: memory for a long payload (``engine.ports.Ports``).
    """

    __slots__ = (
        *("_body", "_head", "_missing", "_new_payload", "_stream", "_used", "apv", "empty"),
        "socket",
    )

    def __init__(self, socket: Socket, new_payload: NewPayload | None = None) -> None:
        self.socket: Socket = socket
        self._new_payload = new_payload
        self.apv = PRO_VERSION_UNAGREED
        self._stream: bytes | bytearray = b""  # fed and not yet used, from _used on
        self._used = 0
        self._head: tuple[Spec, int, int] | None = None  # judged header: row, volume, length
        self._body: memoryview | None = None  # a payload that arrives in pieces
        self._missing = 0  # bytes of it that are still to come
        self.empty = True
        """Whether there is nothing to ask for before more is fed."""

    def feed(self, data: Buffer) -> None:
        """Append received bytes. *data* may be reused by the caller afterwards."""
        view = memoryview(data)
        self.empty = self.empty and not view
        taken = 0
        if self._body is not None and self._missing:
            taken = min(len(view), self._missing)
            at = len(self._body) - self._missing
            self._body[at : at + taken] = view[:taken]
            self._missing -= taken
            view = view[taken:]
        if not view:
            return
        if self._used == len(self._stream):
            self._stream, self._used = (
                (data, taken) if isinstance(data, bytes) else (bytes(view), 0)
            )
            return
        if not isinstance(self._stream, bytearray):
            self._stream = bytearray(memoryview(self._stream)[self._used :])
            self._used = 0
        self._stream += view

    def next(self) -> Packet | None:
        """The next packet, or None until more bytes are fed. Raises ``PeerError``."""
        if self._head is None and self.apv >= 100:
            # Most packets: all of it has arrived and nothing is odd. Whatever is, is judged below.
            stream, used = self._stream, self._used
            begin = used + _H100.size
            if begin > len(stream):
                return None
            magic, volume, command, length, pad = _H100.unpack_from(stream, used)
            row = _AGREED[self.socket].get(command)
            end = begin + length
            if row is not None and magic == MAGIC_100 and not pad and end <= len(stream):
                cmd, least, most, volume_meaningful = row
                if least <= length <= most:
                    self._used = end
                    self.empty = end == len(stream)
                    piece = stream[begin:end]
                    payload = piece if type(piece) is bytes else bytes(piece)
                    return Packet(
                        cmd,
                        volume if volume_meaningful else 0,
                        payload if length <= PAYLOAD_BYTES_COPIED else memoryview(payload),
                    )
        if self._head is None:
            self._head = self._take_header()
            if self._head is None:
                return None
        spec, volume, length = self._head
        whole = self._take_payload(length)
        if whole is None:
            return None
        self._head = None
        self.empty = self._used == len(self._stream)
        return Packet(spec.cmd, volume, whole)

    def acks(self) -> list[AckPacket]:
        """The acknowledgements of writes that come next, if nothing is odd about them; whatever
        else comes next, ``next`` judges."""
        stream, at = self._stream, self._used + _COMMAND_AT
        if (
            self._head is not None
            or self.apv < 100
            or at >= len(stream)
            or stream[at] not in _WRITE_ACKS
        ):
            return []
        found = acks_at(self._stream, self._used, _WRITE_ACKS)
        if found:
            self._used += len(found) * ACK_PACKET_BYTES
            self.empty = self._used == len(self._stream)
        return found

    def writes(self) -> list[DataPacket]:
        """The same for P_DATA without a digest. Large ones arrive in pieces: ``next`` has them."""
        stream, at = self._stream, self._used + _COMMAND_AT
        if self._head is not None or self.apv < 100 or at >= len(stream) or stream[at] != _P_DATA:
            return []
        new_payload = self._new_payload
        found, self._used = data_at(self._stream, self._used, _P_DATA, _P_DATA_MAX, new_payload)
        self.empty = self._used == len(self._stream)
        return found

    def barrier(self, command: int) -> tuple[bytes, int] | None:
        """The same for one P_BARRIER or P_BARRIER_ACK, whichever *command* is: its number and, of
        the latter, the set size."""
        stream, used = self._stream, self._used
        at = used + _COMMAND_AT
        if self._head is not None or self.apv < 100 or at >= len(stream) or stream[at] != command:
            return None
        found = barrier_at(stream, used, command)
        if found is not None:
            self._used = used + BARRIER_PACKET_BYTES
            self.empty = self._used == len(stream)
        return found

    def _take_header(self) -> tuple[Spec, int, int] | None:
        stream, used = self._stream, self._used
        if self.apv >= 100:
            if len(stream) - used < _H100.size:
                return None
            magic, volume, command, length, pad = _H100.unpack_from(stream, used)
            if magic != MAGIC_100:
                raise PeerError(
                    f"header starts with {magic:#010x}: expected {MAGIC_100:#010x}, "
                    f"the only one at protocol version {self.apv}"
                )
            if pad:
                raise PeerError(f"header of command {command:#04x} has {pad:#x} in its pad, not 0")
            size = _H100.size
        else:
            if len(stream) - used < _H80.size:
                return None
            volume = 0
            magic, command, length = _H80.unpack_from(stream, used)
            if magic >> 16 == MAGIC_95:
                _, command, length = _H95.unpack_from(stream, used)
            elif magic != MAGIC_80:
                raise PeerError(
                    f"header starts with {magic:#010x}: expected {MAGIC_80:#010x} or "
                    f"{MAGIC_95:#06x} before protocol version 100"
                )
            size = _H80.size
        spec = self._judge(command, length)
        self._used = used + size
        return spec, volume if spec.volume_meaningful else 0, length

    def _judge(self, command: int, length: int) -> Spec:
        spec = _ROWS.get(command)
        if spec is None:
            raise PeerError(f"unknown command {command:#04x} with {length} bytes of payload")
        if spec.socket not in (self.socket, "both"):
            raise PeerError(f"{spec.cmd.name} on the {self.socket} socket, where it has no place")
        if (spec.cmd in UNAGREED_ONLY) != (self.apv == PRO_VERSION_UNAGREED):
            when = "before" if self.apv == PRO_VERSION_UNAGREED else "after"
            raise PeerError(f"{spec.cmd.name} {when} a protocol version was agreed")
        if not spec.fixed_len <= length <= spec.max_len:
            wanted = f"{spec.fixed_len}"
            if spec.max_len > spec.fixed_len:
                wanted += f" to {spec.max_len}"
            raise PeerError(f"{spec.cmd.name} with {length} bytes of payload: expected {wanted}")
        return spec

    def _take_payload(self, length: int) -> bytes | memoryview | None:
        if self._body is not None:
            if self._missing:
                return None
            body, self._body = self._body, None
            return body if length > PAYLOAD_BYTES_COPIED else bytes(body)
        elif self._used + length <= len(self._stream):
            end = self._used + length
            payload = bytes(memoryview(self._stream)[self._used : end])
            self._used = end
        else:
            # Every piece goes to its place when it comes: one copy, however many there are.
            have = memoryview(self._stream)[self._used :]
            if self._new_payload is not None and length >= LENT_BYTES_MIN:
                body = self._new_payload(length)
            else:
                body = memoryview(bytearray(length))
            body[: len(have)] = have
            self._body = body
            self._missing = length - len(have)
            self._used = 0
            self._stream = b""
            return None
        return payload if length <= PAYLOAD_BYTES_COPIED else memoryview(payload)
