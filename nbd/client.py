"""A small blocking NBD client: for tests, benchmarks, demonstrations and scripts.

    with Client.connect("/run/nbd.sock") as client:        # or ("127.0.0.1", 10809)
        info = client.open("0")
        client.write(4096, b"..." , fua=True)
        client.read(4096, 3)

Requests may be pipelined: ``submit_read``, ``submit_write``, ... return a cookie at once and
``collect`` returns answers as they come, in any order; while sending, replies are received as
well, so no depth can deadlock. Offsets and lengths in bytes. Nothing a server says is trusted: a
length or offset that does not belong to the request is an error. Not for several threads at once.
Raises NbdError, with the server's sentence where it sent one.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import TracebackType

from nbd.export import Buffer
from nbd.link import Link, LinkError, connected
from nbd.protocol import (
    COMPACT_REQUEST,
    EXPORT_NAME_PADDING,
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    NBD_MAGIC,
    OLDSTYLE_MAGIC,
    OPTION_MAGIC,
    REPLY_ERROR_BIT,
    REQUEST_MAGIC,
    BlockStatusPayload,
    ClientFlags,
    Command,
    CommandFlag,
    ExportNameReply,
    Greeting,
    HandshakeFlag,
    Info,
    InfoBlockSize,
    InfoExport,
    InfoRequest,
    MetaContextReply,
    MetaQuery,
    Option,
    OptionReply,
    OptionRequest,
    Reply,
    ServerReply,
    TransmissionFlag,
)
from nbd.replies import Answer, Described, NbdError, Replies, Request, parsed, shown
from nbd.tls_stream import TlsStream

__all__ = ["Answer", "Client", "ExportInfo", "NbdError"]

OPTION_REPLY_MAX = 1 << 20
"""Longest option reply that is believed."""
SEND_BYTES = 256 << 10
"""Submitted requests leave when this much has gathered, or when an answer is waited for."""


@dataclass(frozen=True, slots=True)
class ExportInfo:
    """What a server tells of an export."""

    name: str
    size: int
    flags: TransmissionFlag
    description: str = ""
    minimum_block: int = 1
    preferred_block: int = 4096
    maximum_payload: int = 32 << 20


Answers = list[Answer]
Pieces = list[bytes]
Contexts = list[tuple[int, str]]
Texts = list[str]
Names = list[tuple[str, str]]
OptionReplies = list[tuple[int, bytes]]


class Client:
    """One connection. Negotiate with ``list``, ``info`` and ``open``; then use the disk."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        tls_hostname: str = "",
    ) -> None:
        """Greet the server on a connected socket, which belongs to the client from now on.

        timeout_s: how long the server may take to say or accept anything. tls: nothing but the
        greeting is said in clear; tls_hostname: what the server's certificate must name.
        """
        sock.setblocking(False)
        self._link = Link(sock, timeout_s)
        self._replies = Replies(structured=False)
        self._structured = False
        self._extended = False
        self._cookie = 0
        self.export: ExportInfo | None = None
        try:
            self._greet()
            if tls is not None:
                self._start_tls(sock, tls, tls_hostname, timeout_s)
        except BaseException:
            self.close()
            raise

    @classmethod
    def connect(
        cls,
        where: str | tuple[str, int],
        *,
        timeout_s: float = 30.0,
        tls: ssl.SSLContext | None = None,
        tls_hostname: str = "",
    ) -> Client:
        """Connect to the path of a unix socket (a leading NUL: abstract), or to (host, port)."""
        try:
            sock = connected(where, timeout_s)
        except LinkError as bad:
            raise NbdError(str(bad)) from bad
        return cls(sock, timeout_s=timeout_s, tls=tls, tls_hostname=tls_hostname)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection; ``disc`` or ``abort`` first is the polite way. Idempotent."""
        self._link.close()

    def hand_over(self) -> socket.socket:
        """The connected socket, for somebody else to use from here on; not one of TLS."""
        if self._link.unused or self.in_flight:
            raise NbdError("the connection is in the middle of something")
        stream = self._link.stream
        if not isinstance(stream, socket.socket):
            raise NbdError("a connection through TLS can't be handed over")
        return stream

    # --- haggling ---

    def list(self) -> Names:
        """The exports a server shows: (name, description)."""
        found = []
        for kind, data in self._ask(Option.LIST):
            if kind == Reply.SERVER:
                entry = parsed(ServerReply, data)
                found.append((shown(entry.name), shown(entry.description)))
        return found

    def info(self, name: str = "") -> ExportInfo:
        """What the server tells of an export, without opening it."""
        return self._info(Option.INFO, name, block_sizes=True)

    def contexts(self, name: str = "", *queries: str) -> Texts:
        """The meta contexts an export offers; *queries* as "namespace:" choose among them."""
        return [context for _id, context in self._meta(Option.LIST_META_CONTEXT, name, queries)]

    def open(
        self,
        name: str = "",
        *,
        structured: bool = True,
        block_sizes: bool = True,
        contexts: Iterable[str] = (),
        extended: bool = False,
    ) -> ExportInfo:
        """Enter transmission on an export.

        structured: ask for structured replies, which carry sentences with errors. block_sizes: ask
        for, and so promise to obey, the block sizes; without, any alignment must work. contexts:
        meta contexts for ``block_status``; those the export does not offer are left out. extended:
        ask for extended headers, which allow lengths above 4 GiB; falls back to structured replies.
        """
        if extended and not self._extended:
            self._extended = self._agreed(Option.EXTENDED_HEADERS)
        if structured and not self._structured and not self._extended:
            self._structured = self._agreed(Option.STRUCTURED_REPLY)
        wanted = tuple(contexts)
        selected = dict(self._meta(Option.SET_META_CONTEXT, name, wanted)) if wanted else {}
        self.export = self._info(Option.GO, name, block_sizes=block_sizes)
        self._replies = Replies(self._structured, selected, self._extended)
        return self.export

    def open_export_name(self, name: str = "") -> ExportInfo:
        """Enter transmission as old clients do. A refusal is a closed connection."""
        raw = name.encode()
        head = {"option": Option.EXPORT_NAME, "length": len(raw)}
        self._link.put(OptionRequest.build(head) + raw)
        data = self._take(10 + (len(EXPORT_NAME_PADDING) if not self._no_zeroes else 0))
        found = ExportNameReply.parse(data)
        self.export = ExportInfo(name, found.size, TransmissionFlag(found.flags))
        self._replies = Replies(self._structured)
        return self.export

    def abort(self) -> None:
        """End the haggling politely and close."""
        try:
            self._ask(Option.ABORT)
        finally:
            self.close()

    def _greet(self) -> None:
        raw = self._take(16)
        if int.from_bytes(raw[:8]) != NBD_MAGIC:
            raise NbdError("this is not an NBD server")
        if int.from_bytes(raw[8:]) == OLDSTYLE_MAGIC:
            raise NbdError("the server speaks the oldstyle protocol, which is not supported")
        if int.from_bytes(raw[8:]) != OPTION_MAGIC:
            raise NbdError("the server greets in an unknown way")
        offered = HandshakeFlag(Greeting.parse(raw + self._take(2)).flags & 3)
        if not offered & HandshakeFlag.FIXED_NEWSTYLE:
            raise NbdError("the server does not speak the fixed newstyle protocol")
        self._no_zeroes = bool(offered & HandshakeFlag.NO_ZEROES)
        self._link.put(ClientFlags.build({"flags": int(offered)}))

    def _start_tls(
        self, sock: socket.socket, context: ssl.SSLContext, hostname: str, timeout_s: float
    ) -> None:
        self._ask(Option.STARTTLS)
        if self._link.unused:
            raise NbdError("the server sent bytes in clear after STARTTLS")
        try:
            self._link.replace_stream(TlsStream(sock, context, hostname, timeout_s))
        except OSError as bad:
            raise NbdError(f"TLS did not come about: {bad}") from bad

    def _ask(self, option: Option, data: bytes = b"") -> OptionReplies:
        """Send an option; returns the replies up to ACK, or raises the server's error."""
        if self.export is not None:
            raise NbdError("the connection is in transmission; there is no more haggling")
        self._link.put(OptionRequest.build({"option": option, "length": len(data)}) + data)
        replies: OptionReplies = []
        while True:
            head = parsed(OptionReply, self._take(20))
            if head.option != option or head.length > OPTION_REPLY_MAX:
                raise NbdError("the server's reply does not belong to the option")
            body = self._take(head.length)
            if head.type & REPLY_ERROR_BIT:
                text = shown(body) or f"the server refused option {option.name}"
                raise NbdError(text, head.type)
            if head.type == Reply.ACK:
                return replies
            replies.append((head.type, body))

    def _agreed(self, option: Option) -> bool:
        """Does the server agree to an option?"""
        try:
            self._ask(option)
        except NbdError as refused:
            if refused.code is None:
                raise
            return False
        return True

    def _meta(self, option: Option, name: str, queries: Iterable[str]) -> Contexts:
        fields = {"name": name.encode(), "queries": [query.encode() for query in queries]}
        found = []
        for kind, data in self._ask(option, MetaQuery.build(fields)):
            if kind == Reply.META_CONTEXT:
                told = parsed(MetaContextReply, data)
                found.append((told.id, shown(told.name)))
        return found

    def _info(self, option: Option, name: str, *, block_sizes: bool) -> ExportInfo:
        asked = [Info.DESCRIPTION] + ([Info.BLOCK_SIZE] if block_sizes else [])
        request = InfoRequest.build({"name": name.encode(), "infos": [int(i) for i in asked]})
        size, flags, description = -1, 0, ""
        sizes = (1, 4096, 32 << 20)
        for kind, data in self._ask(option, request):
            topic = int.from_bytes(data[:2])
            if kind != Reply.INFO:
                continue
            if topic == Info.EXPORT:
                told = parsed(InfoExport, data)
                size, flags = told.size, told.flags
            elif topic == Info.DESCRIPTION:
                description = shown(data[2:])
            elif topic == Info.BLOCK_SIZE:
                told = parsed(InfoBlockSize, data)
                sizes = (told.minimum, told.preferred, told.maximum_payload)
        if size < 0:
            raise NbdError("the server did not tell the size of the export")
        return ExportInfo(name, size, TransmissionFlag(flags), description, *sizes)

    # --- transmission, one at a time ---

    def read(self, offset: int, length: int) -> bytes:
        """Read *length* bytes."""
        return self._wait(self.submit_read(offset, length)).data

    def write(self, offset: int, data: Buffer, *, fua: bool = False) -> None:
        """Write; fua: stable before this returns."""
        self._wait(self.submit_write(offset, data, fua=fua))

    def zero(
        self,
        offset: int,
        length: int,
        *,
        fua: bool = False,
        no_hole: bool = False,
        fast: bool = False,
    ) -> None:
        """Make the range read as zeroes; no_hole: keep the space allocated; fast: refuse (ENOTSUP)
        and change nothing if that takes as long as writing them."""
        flags = (CommandFlag.FUA if fua else 0) | (CommandFlag.NO_HOLE if no_hole else 0)
        flags |= CommandFlag.FAST_ZERO if fast else 0
        self._wait(self.submit(Command.WRITE_ZEROES, offset, length, flags=flags))

    def trim(self, offset: int, length: int, *, fua: bool = False) -> None:
        """Say that the range's content is no longer needed."""
        self._wait(self.submit(Command.TRIM, offset, length, flags=CommandFlag.FUA if fua else 0))

    def cache(self, offset: int, length: int) -> None:
        """Say that the range will be read soon."""
        self._wait(self.submit(Command.CACHE, offset, length))

    def block_status(
        self, offset: int, length: int, *, one: bool = False, contexts: Iterable[str] = ()
    ) -> Described:
        """Describe a range in the contexts that were selected with ``open``; the description may
        end early. one: a single extent. contexts: only in these (if the server offers the flag
        BLOCK_STATUS_PAYLOAD)."""
        flags = CommandFlag.REQ_ONE if one else 0
        data = b""
        chosen = [self._replies.ids[name] for name in contexts]
        if chosen:
            data = BlockStatusPayload.build({"length": length, "contexts": chosen})
        cookie = self.submit(
            Command.BLOCK_STATUS, offset, length, data=data, flags=flags, contexts=len(chosen)
        )
        return self._wait(cookie).extents

    def flush(self) -> None:
        """Make everything that was answered stable."""
        self._wait(self.submit(Command.FLUSH))

    def disc(self) -> None:
        """Say goodbye, let everything in flight finish and wait for the server to close."""
        self._put(Command.DISC)
        try:
            while True:
                self._exchange(self._link.unused + 1)
                self._parse()
        except NbdError:
            self._parse()
            if self._replies.pending:
                raise
        finally:
            self.close()

    # --- transmission, pipelined ---

    def submit_read(self, offset: int, length: int) -> int:
        """Begin a read; returns its cookie."""
        return self.submit(Command.READ, offset, length)

    def submit_write(self, offset: int, data: Buffer, *, fua: bool = False) -> int:
        """Begin a write; *data* must not change until it is answered."""
        flags = CommandFlag.FUA if fua else 0
        return self.submit(Command.WRITE, offset, len(data), data=data, flags=flags)

    def submit(
        self,
        command: int,
        offset: int = 0,
        length: int = 0,
        *,
        data: Buffer = b"",
        flags: int = 0,
        contexts: int = 0,
    ) -> int:
        """Begin any request; returns its cookie. What is sent is not judged here. contexts: how
        many a BLOCK_STATUS names in *data*."""
        if self.export is None:
            raise NbdError("no export is open")
        self._cookie += 1
        cookie = self._cookie
        self._replies.pending[cookie] = Request(command, offset, length, contexts)
        if self._extended and (data or command == Command.WRITE):
            self._put(command, flags | CommandFlag.PAYLOAD_LEN, cookie, offset, len(data))
        else:
            self._put(command, flags, cookie, offset, length)
        if data:
            self._link.put(data)
        if self._link.out_bytes >= SEND_BYTES:
            self._exchange()
        return cookie

    @property
    def in_flight(self) -> int:
        """Requests submitted and not answered yet, as far as is known."""
        return len(self._replies.pending)

    def collect(self, count: int | None = None) -> Answers:
        """Wait for at least *count* answers (all of them if None); returns all that are here."""
        replies = self._replies
        most = len(replies.pending) + len(replies.answers)
        target = most if count is None else count
        if target > most:
            raise NbdError(f"{target} answers are wanted, {most} requests were submitted")
        self._exchange()
        self._parse()
        while len(replies.answers) < target:
            self._exchange(self._link.unused + 1)
            self._parse()
        answers, replies.answers = replies.answers, []
        return answers

    def read_many(self, ranges: Iterable[tuple[int, int]], *, depth: int = 32) -> Pieces:
        """Read (offset, length) pairs, *depth* at a time; the data in the order of the ranges."""
        answers = self._pipeline((self.submit_read(*piece) for piece in ranges), depth)
        return [answer.data for answer in sorted(answers, key=lambda answer: answer.cookie)]

    def write_many(
        self, items: Iterable[tuple[int, Buffer]], *, depth: int = 32, fua: bool = False
    ) -> int:
        """Write (offset, data) pairs, *depth* at a time; returns how many. Raises the first error,
        after the answers to all that was in flight."""
        cookies = (self.submit_write(offset, data, fua=fua) for offset, data in items)
        return len(self._pipeline(cookies, depth))

    def _pipeline(self, cookies: Iterator[int], depth: int) -> Answers:
        if self._replies.pending or self._replies.answers:
            raise NbdError("other requests are in flight; collect their answers first")
        answers: Answers = []
        for _cookie in cookies:
            if self.in_flight >= depth:
                fresh = self.collect(1)
                answers += fresh
                if any(answer.error for answer in fresh):
                    break
        answers += self.collect()
        for answer in answers:
            answer.checked()
        return answers

    def _wait(self, cookie: int) -> Answer:
        answers = self._replies.answers
        self._exchange()
        while True:
            self._parse()
            for at, answer in enumerate(answers):
                if answer.cookie == cookie:
                    del answers[at]
                    return answer.checked()
            self._exchange(self._link.unused + 1)

    # --- bytes ---

    def _put(
        self, command: int, flags: int = 0, cookie: int = 0, offset: int = 0, length: int = 0
    ) -> None:
        if self._extended:
            head = EXTENDED_REQUEST.pack(
                EXTENDED_REQUEST_MAGIC, flags, command, cookie, offset, length
            )
        else:
            head = COMPACT_REQUEST.pack(REQUEST_MAGIC, flags, command, cookie, offset, length)
        self._link.put(head)

    def _parse(self) -> None:
        """See which answers the received bytes complete."""
        self._link.used(self._replies.receive(self._link.received, self._link.at))

    def _exchange(self, want_bytes: int = 0) -> None:
        try:
            self._link.exchange(want_bytes)
        except LinkError as bad:
            raise NbdError(str(bad)) from bad

    def _take(self, count: int) -> bytes:
        try:
            return self._link.take(count)
        except LinkError as bad:
            raise NbdError(str(bad)) from bad
