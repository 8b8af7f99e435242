"""The fixed newstyle negotiation of one client, without any I/O: bytes in, bytes out.

    greeting -> client flags -> option, reply, option, reply, ... -> transmission or the end

Rules: an option that is unknown, malformed or too long is answered with an error and the stream
stays in step; only what would let a stranger hold memory or break the framing ends the connection
(wrong magic, unknown client flags, option data above 1 MiB, more than 1024 options). What a client
sent is never echoed in a message. Nothing of a client is believed before GO or EXPORT_NAME opened
an export. Source: proto.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import Enum

from nbd.export import Export, Exports, Geometry, Refused
from nbd.option_data import MalformedError, export_name, info_request, matching, meta_query
from nbd.protocol import (
    EXPORT_NAME_PADDING,
    OPTION_MAGIC,
    STRING_MAX,
    ExportNameReply,
    Greeting,
    HandshakeFlag,
    Info,
    InfoBlockSize,
    InfoExport,
    InfoText,
    MetaContextReply,
    Option,
    OptionReply,
    Reply,
    ServerReply,
    TransmissionFlag,
    wire_text,
)

OPTION_DATA_MAX = 64 << 10
"""Longer option data is skipped and answered TOO_BIG; no option of ours needs a tenth of it."""
OPTION_DRAIN_MAX = 1 << 20
"""Longer option data is not even skipped: the connection ends."""
OPTIONS_MAX = 1024
"""Options of one connection; a client needs about five, a browser of a long list a few hundred."""
REPLIES_MAX = 256 << 10
"""Bytes of replies that may wait for the client before its next option is looked at."""

_CLIENT_FLAGS = struct.Struct("!I")
_OPTION = struct.Struct("!QII")
_OFFERED = HandshakeFlag.FIXED_NEWSTYLE | HandshakeFlag.NO_ZEROES
_KNOWN = frozenset(
    (
        Option.LIST,
        Option.STRUCTURED_REPLY,
        Option.INFO,
        Option.GO,
        Option.LIST_META_CONTEXT,
        Option.SET_META_CONTEXT,
        Option.EXTENDED_HEADERS,
        Option.STARTTLS,
    )
)
"""Options beside ABORT and EXPORT_NAME, which are answered in their own ways."""


class Tls(Enum):
    """Which part TLS has. REQUIRED: before it there is nothing but STARTTLS and ABORT. RUNNING:
    the bytes come through it."""

    OFF = "off"
    OFFERED = "offered"
    REQUIRED = "required"
    RUNNING = "running"


@dataclass(frozen=True, slots=True)
class Opened:
    """How a negotiation ended well: what the transmission phase has to know.

    keeps_block_sizes: the client asked for the block sizes in GO and so promised to obey them.
    contexts: the meta contexts it selected for this export, by id. extended: the headers of
    requests and replies are extended ones (structured says nothing then).
    """

    name: str
    export: Export
    structured: bool
    keeps_block_sizes: bool
    contexts: dict[int, str] = field(default_factory=dict)
    extended: bool = False


def transmission_flags(
    geometry: Geometry, structured: bool, status_payload: bool = False
) -> TransmissionFlag:
    """The flags of an export: what a client may send it. structured: or extended; status_payload:
    extended, and contexts were selected."""
    flag = TransmissionFlag
    flags = flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.SEND_CACHE
    if geometry.read_only:
        flags |= flag.READ_ONLY
    if geometry.rotational:
        flags |= flag.ROTATIONAL
    if geometry.can_trim:
        flags |= flag.SEND_TRIM
    if geometry.can_zero:
        flags |= flag.SEND_WRITE_ZEROES
    if geometry.can_fast_zero:
        flags |= flag.SEND_FAST_ZERO
    if geometry.can_multi_conn:
        flags |= flag.CAN_MULTI_CONN
    if structured:
        flags |= flag.SEND_DF
    if status_payload:
        flags |= flag.BLOCK_STATUS_PAYLOAD
    return flags


class Handshake:
    """One client's negotiation.

    Give received bytes to ``receive``; send what ``take`` returns, first of all the greeting. The
    end is ``opened`` (go on with the transmission phase) or ``ended`` (a sentence: send what is
    left, then close). In between it may be ``starting_tls``: send what is left, make TLS of the
    stream, then call ``tls_is_running``; bytes that came in clear after that are an attack.
    """

    def __init__(self, exports: Exports, tls: Tls = Tls.OFF) -> None:
        self._exports = exports
        self._tls = tls
        self._replies: list[bytes] = [Greeting.build({"flags": int(_OFFERED)})]
        self._reply_bytes = 0
        self._client_flags: HandshakeFlag | None = None
        self._structured = False
        self._extended = False
        self._selected: tuple[str, dict[int, str]] = ("", {})
        """Meta contexts, and the export they were selected for."""
        self._options = 0
        self._option = 0
        self._data = bytearray()
        self._missing = -1  # bytes of the current option's data still to come; -1: no option
        self._skipping = False
        self.starting_tls = False
        self.opened: Opened | None = None
        self.ended: str | None = None
        self.stopping = False
        """Set when the server is shutting down: options are answered SHUTDOWN from now on."""

    def tls_is_running(self) -> None:
        """From now on the bytes come through TLS."""
        self.starting_tls = False
        self._tls = Tls.RUNNING

    @property
    def full(self) -> bool:
        """Replies wait for the client: take them before it is given more."""
        return self._reply_bytes >= REPLIES_MAX

    def take(self) -> list[bytes]:
        """The bytes to send, which are forgotten here."""
        replies, self._replies, self._reply_bytes = self._replies, [], 0
        return replies

    def receive(self, data: memoryview) -> int:
        """Look at received bytes; returns how many were used. Offer the rest again with more.

        Less than 17 bytes stay unused, except when ``full``, ``starting_tls`` or once the
        negotiation is over.
        """
        at = 0
        while not (self.opened or self.starting_tls or self.full) and self.ended is None:
            left = len(data) - at
            if self._client_flags is None:
                if left < _CLIENT_FLAGS.size:
                    break
                self._on_client_flags(_CLIENT_FLAGS.unpack_from(data, at)[0])
                at += _CLIENT_FLAGS.size
            elif self._missing < 0:
                if left < _OPTION.size:
                    break
                self._on_option_header(*_OPTION.unpack_from(data, at))
                at += _OPTION.size
            else:
                step = min(left, self._missing)
                if not self._skipping:
                    self._data += data[at : at + step]
                at += step
                self._missing -= step
                if self._missing:
                    break
            if self._missing == 0:
                self._missing = -1
                self._on_option(self._option, bytes(self._data))
                self._data.clear()
        return at

    def _on_client_flags(self, flags: int) -> None:
        if flags & ~int(_OFFERED):
            self.ended = f"the client set handshake flags that were not offered: {flags:#x}"
            return
        self._client_flags = HandshakeFlag(flags)

    def _on_option_header(self, magic: int, option: int, length: int) -> None:
        self._options += 1
        if magic != OPTION_MAGIC:
            self.ended = "the client sent something that is not an NBD option"
        elif self._options > OPTIONS_MAX:
            self.ended = f"the client sent more than {OPTIONS_MAX} options"
        elif length > OPTION_DRAIN_MAX:
            self.ended = f"the client announced an option of {length} bytes"
        else:
            self._option, self._missing = option, length
            self._skipping = length > OPTION_DATA_MAX

    def _on_option(self, option: int, data: bytes) -> None:
        assert self._client_flags is not None
        if option == Option.ABORT:
            self._reply(option, Reply.ACK)
            self.ended = ""
        elif option == Option.EXPORT_NAME:
            self._on_export_name(data)
        elif self.stopping:
            self._reply(option, Reply.ERR_SHUTDOWN, "the server is shutting down")
        elif not self._client_flags & HandshakeFlag.FIXED_NEWSTYLE:
            self._reply(option, Reply.ERR_INVALID, "only a fixed newstyle client may ask this")
        elif self._tls is Tls.REQUIRED and option != Option.STARTTLS:
            self._reply(option, Reply.ERR_TLS_REQD, "this server demands TLS first (STARTTLS)")
        elif option in _KNOWN:
            try:
                self._on_known_option(option, data)
            except MalformedError as bad:
                self._reply(option, bad.reply, str(bad))
        else:
            self._reply(option, Reply.ERR_UNSUP, "this server does not know the option")

    def _on_known_option(self, option: int, data: bytes) -> None:
        if option == Option.SET_META_CONTEXT:
            self._selected = ("", {})  # whatever becomes of it, the earlier selection is over
        if self._skipping:
            raise MalformedError(Reply.ERR_TOO_BIG, f"option data may have {OPTION_DATA_MAX} bytes")
        if option in (Option.INFO, Option.GO):
            self._on_info(option, data)
            return
        if option in (Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT):
            self._on_meta_context(option, data)
            return
        if data:
            raise MalformedError(Reply.ERR_INVALID, "this option takes no data")
        if option == Option.STARTTLS:
            self._on_starttls()
            return
        if option == Option.LIST:
            for name, description in self._exports.names():
                fields = {"name": wire_text(name), "description": wire_text(description)}
                self._reply(option, Reply.SERVER, ServerReply.build(fields))
        elif option == Option.EXTENDED_HEADERS:
            self._extended = True
        elif self._extended:
            text = "extended headers were negotiated already"
            raise MalformedError(Reply.ERR_EXT_HEADER_REQD, text)
        else:
            self._structured = True
        self._reply(option, Reply.ACK)

    def _on_starttls(self) -> None:
        if self._tls is Tls.OFF:
            raise MalformedError(Reply.ERR_UNSUP, "this server has no TLS")
        if self._tls is Tls.RUNNING:
            raise MalformedError(Reply.ERR_INVALID, "TLS is running already")
        # What was agreed in clear may have come from anybody: it is forgotten.
        self._structured = self._extended = False
        self._selected = ("", {})
        self._reply(Option.STARTTLS, Reply.ACK)
        self.starting_tls = True

    def _on_info(self, option: int, data: bytes) -> None:
        name, asked = info_request(data)
        found = self._exports.open(name) if option == Option.GO else self._exports.look(name)
        if isinstance(found, Refused):
            self._refuse(option, found)
            return
        geometry = found if isinstance(found, Geometry) else found.geometry
        for part in self._infos(name, geometry, asked):
            self._reply(option, Reply.INFO, part)
        self._reply(option, Reply.ACK)
        if not isinstance(found, Geometry):
            keeps = Info.BLOCK_SIZE in asked
            self.opened = Opened(
                name, found, self._structured, keeps, self._contexts_of(name), self._extended
            )

    def _on_meta_context(self, option: int, data: bytes) -> None:
        listing = option == Option.LIST_META_CONTEXT
        if not listing and not self._structured and not self._extended:
            text = "meta contexts need structured replies or extended headers"
            raise MalformedError(Reply.ERR_INVALID, text)
        name, queries = meta_query(data)
        found = self._exports.look(name)
        if isinstance(found, Refused):
            self._refuse(option, found)
            return
        contexts = matching(found.contexts, queries, listing=listing)
        for number, context in contexts.items():
            fields = {"id": 0 if listing else number, "name": context.encode()}
            self._reply(option, Reply.META_CONTEXT, MetaContextReply.build(fields))
        if not listing:
            self._selected = (name, contexts)
        self._reply(option, Reply.ACK)

    def _contexts_of(self, name: str) -> dict[int, str]:
        """What was selected counts only for the export it was selected for."""
        chosen, contexts = self._selected
        return contexts if chosen == name else {}

    def _refuse(self, option: int, refused: Refused) -> None:
        kind = Reply.ERR_UNKNOWN if refused.unknown else Reply.ERR_POLICY
        if refused.later:
            kind = Reply.ERR_SHUTDOWN
        self._reply(option, kind, refused.text)

    def _infos(self, name: str, geometry: Geometry, asked: set[int]) -> list[bytes]:
        chunks = self._structured or self._extended
        status_payload = self._extended and bool(self._contexts_of(name))
        flags = int(transmission_flags(geometry, chunks, status_payload))
        parts = [InfoExport.build({"size": geometry.size, "flags": flags})]
        if Info.NAME in asked:
            parts.append(InfoText.build({"type": Info.NAME, "text": wire_text(name)}))
        if Info.DESCRIPTION in asked and geometry.description:
            text = wire_text(geometry.description)
            parts.append(InfoText.build({"type": Info.DESCRIPTION, "text": text}))
        sizes = {
            "minimum": geometry.minimum_block,
            "preferred": geometry.preferred_block,
            "maximum_payload": geometry.maximum_payload,
        }
        parts.append(InfoBlockSize.build(sizes))
        return parts

    def _on_export_name(self, data: bytes) -> None:
        """EXPORT_NAME has no way to say no: every refusal closes."""
        try:
            if self._skipping:
                raise MalformedError(Reply.ERR_TOO_BIG, f"a name may have {STRING_MAX} bytes")
            name = export_name(data)
        except MalformedError as bad:
            self.ended = f"EXPORT_NAME: {bad}"
            return
        if self.stopping:
            self.ended = "EXPORT_NAME: the server is shutting down"
            return
        if self._tls is Tls.REQUIRED:
            self.ended = "EXPORT_NAME: this server demands TLS first"
            return
        if self._extended:
            self.ended = "EXPORT_NAME: extended headers were negotiated, which demand GO"
            return
        found = self._exports.open(name)
        if isinstance(found, Refused):
            self.ended = f"EXPORT_NAME: {found.text}"
            return
        flags = int(transmission_flags(found.geometry, self._structured))
        reply = ExportNameReply.build({"size": found.geometry.size, "flags": flags})
        if not self._client_flags or not self._client_flags & HandshakeFlag.NO_ZEROES:
            reply += EXPORT_NAME_PADDING
        self._send(reply)
        contexts = self._contexts_of(name)
        self.opened = Opened(name, found, self._structured, False, contexts)

    def _reply(self, option: int, kind: Reply, data: bytes | str = b"") -> None:
        raw = wire_text(data) if isinstance(data, str) else data
        head = {"option": option, "type": int(kind), "length": len(raw)}
        self._send(OptionReply.build(head) + raw)

    def _send(self, raw: bytes) -> None:
        self._replies.append(raw)
        self._reply_bytes += len(raw)
