"""The transmission phase of one client, without any I/O: requests in, replies out.

Rules: a request is judged completely before the export hears of it; a bad one costs an error and
the stream stays in step (a WRITE's payload is consumed first), only a wrong magic or an absurd
payload ends the connection. A WRITE reaches the export whole or not at all. A read's data is in
hand before its reply begins. At most ``REQUESTS_MAX`` requests, ``BYTES_MAX`` bytes of payload and
``REPLIES_MAX`` bytes of unsent replies are held; then nothing more is parsed until that shrinks.
What replies look like is the business of ``reply_forms``. Sizes and offsets in bytes. Source:
proto.md; the tables of commands, flags and errors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nbd.block_status import Status, ask_status
from nbd.export import Buffer, Export, ManyWrites, Pieces, SparseReads, Writes
from nbd.judge import Judge, Refusal
from nbd.payload import NewMemory, Payload
from nbd.plain_numbers import (
    DISC,
    FLUSH,
    FUA,
    NO_HOLE,
    PAYLOAD_LEN,
    READ,
    REQ_ONE,
    STATUS,
    TRIM,
    WRITE,
    ZERO,
)
from nbd.protocol import (
    COMPACT_REQUEST,
    ERROR_TEXT,
    EXTENDED_REQUEST,
    EXTENDED_REQUEST_MAGIC,
    REQUEST_MAGIC,
    BlockStatusPayload,
    Error,
    nbd_error,
)
from nbd.reply_forms import ExtendedReplies, ReplyForm, SimpleReplies, StructuredReplies

REQUESTS_MAX = 128
"""Requests of one connection in flight: what the Linux kernel's client sends at most."""
BYTES_MAX = 64 << 20
"""Bytes of payload, in and out, of the requests in flight."""
REPLIES_MAX = 256 << 10
"""Bytes of replies that may wait for the client. Small, so that the memory of one batch of reads is
used again by the next: with 4 MiB, large reads took three times the system time."""
DRAIN_MAX = 64 << 20
"""A refused WRITE's payload is skipped up to here; no export's maximum is above it."""

_NOTHING = memoryview(b"")
SPARSE_BYTES_MIN = 32 << 10
"""A shorter read is sent as it is: looking for holes would cost more than moving the zeroes."""


class Transmission:
    """One client's requests on one export.

    Give received bytes to ``receive``, send what ``take`` returns. *wake* is called when replies
    become ready at any other time than inside ``receive``. ``ended`` is None until the client said
    DISC ("") or broke the protocol (a sentence): finish what is in flight, then close.
    promised_alignment: the client asked for block sizes and promised to obey them. contexts: the
    meta contexts it selected, by id. extended: requests and replies have the extended headers.
    requests_max, bytes_max: in flight, instead of the usual. new_memory: see ``Server``.
    """

    def __init__(
        self,
        export: Export,
        *,
        structured: bool,
        promised_alignment: bool,
        wake: Callable[[], None],
        contexts: dict[int, str] | None = None,
        extended: bool = False,
        requests_max: int = REQUESTS_MAX,
        bytes_max: int = BYTES_MAX,
        new_memory: NewMemory | None = None,
    ) -> None:
        geometry = export.geometry
        self._export = export
        self._contexts = contexts or {}
        self._extended = extended
        self._form: ReplyForm
        if extended:
            self._form = ExtendedReplies()
        else:
            self._form = StructuredReplies() if structured else SimpleReplies()
        self._wake = wake
        self._requests_max, self._bytes_max = requests_max, bytes_max
        self.allowance = 1 << 62
        """Bytes of payload that may be held now, whatever bytes_max says: the server's memory."""
        self.wants = 0
        """The payload of a request that exceeds it, and waits; 0: none."""
        self._sparse: SparseReads | None = None
        if (structured or extended) and isinstance(export, SparseReads):
            self._sparse = export
        self._payload_max = geometry.maximum_payload
        self._misaligned = geometry.minimum_block - 1 if promised_alignment else 0
        self._read_only = geometry.read_only
        self._judge = Judge(
            export,
            chunks=structured or extended,
            contexts=bool(self._contexts),
            misaligned=self._misaligned,
        )
        self._replies: list[Buffer] = []
        self._good: list[tuple[int, int]] = []
        """Cookie and offset of requests that are done and yield no data: replies of their own."""
        self._good_bytes = len(self._form.done(0, 0))
        self._give = export.writes if isinstance(export, ManyWrites) else self._give_each
        self._reply_bytes = 0
        self._requests = 0
        self.held_bytes = 0
        """Payload of requests in flight, and of one that is arriving."""
        self._woken = False
        """Whoever takes the replies knows of them, or looks by itself, as after ``receive``."""
        self._closed = False
        self.payload = Payload(new_memory)
        self._current = (0, 0, 0, 0)  # of the request it is of: command, flags, cookie, offset
        self._refused: Refusal | None = None  # its payload is skipped, then this is the answer
        self.quiet = False
        """After ``receive``: neither full nor ended, and no replies wait to be taken."""
        self.ended: str | None = None
        self.stopping = False
        """Set when the server is shutting down: requests are answered ESHUTDOWN from now on."""

    @property
    def full(self) -> bool:
        """No more is parsed until requests finish or replies are taken."""
        return (
            self._requests >= self._requests_max
            or self.held_bytes >= self._bytes_max
            or self._reply_bytes >= REPLIES_MAX
            or self.wants > 0
        )

    @property
    def in_flight(self) -> int:
        """Requests that the export has not answered yet."""
        return self._requests

    def take(self) -> list[Buffer]:
        """The replies to send, which are forgotten here."""
        if self._good:
            self._put_good()
        replies, self._replies, self._reply_bytes = self._replies, [], 0
        self._woken = False
        return replies

    def close(self) -> None:
        """The connection is gone; late answers of the export lead nowhere."""
        self._closed = True
        self._replies, self._good = [], []
        self.payload.drop()
        self._export.closed()

    def receive(self, data: memoryview) -> int:
        """Carry out every complete request in *data*; returns how many bytes were used.

        Offer the rest again with more. Less than a header stays unused, 28 or 32 bytes, except
        when ``full`` or ``ended``.
        """
        woken, self._woken = self._woken, True
        self.wants = 0
        at, end = 0, len(data)
        extended = self._extended
        header = EXTENDED_REQUEST if extended else COMPACT_REQUEST
        expected = EXTENDED_REQUEST_MAGIC if extended else REQUEST_MAGIC
        unpack, header_bytes = header.unpack_from, header.size
        read, give = self._export.read, self._give
        writes: Writes = []  # whole ones in a row, given to the export together
        size, payload_max = self._export.geometry.size, self._payload_max
        misaligned = self._misaligned
        requests_max, bytes_max = self._requests_max, self._bytes_max
        sparse_min = SPARSE_BYTES_MIN if self._sparse is not None else payload_max + 1
        payload = self.payload
        lent_min = payload.lent_min
        while self.ended is None:
            if payload.missing:
                at += payload.add(data[at:])
                if payload.missing:
                    break
                self._payload_is_in()
                continue
            if (
                end - at < header_bytes
                or self._requests >= requests_max
                or self.held_bytes >= bytes_max
                or self._reply_bytes >= REPLIES_MAX
            ):
                if not writes:
                    break
                give(writes)  # which may have made room at once
                writes = []
                continue
            magic, flags, command, cookie, offset, length = unpack(data, at)
            at += header_bytes
            if magic != expected:
                self.ended = "the client sent something that is not an NBD request"
                break
            if (
                self.held_bytes + length > self.allowance
                and command <= WRITE
                and length <= payload_max
            ):
                at -= header_bytes
                if writes:
                    give(writes)
                    writes = []
                    continue
                self.wants = length
                break
            if extended:
                if bool(flags & PAYLOAD_LEN) != (command == WRITE):
                    if writes:
                        give(writes)
                        writes = []
                    self._on_odd_payload(flags, command, cookie, offset, length)
                    continue
                flags &= ~PAYLOAD_LEN  # it is in order; from here on all requests are alike
            if (  # the two commands that matter for speed, when nothing is odd about them
                command <= WRITE
                and flags & ~FUA == 0
                and 0 < length <= payload_max
                and offset + length <= size
                and not (offset | length) & misaligned
                and not (command and self._read_only)
                and not self.stopping
            ):
                if command == READ:
                    if writes:
                        give(writes)
                        writes = []
                    self._requests += 1
                    self.held_bytes += length
                    if length >= sparse_min:
                        self._read_pieces(cookie, offset, length)
                        continue
                    read(offset, length, partial(self._read_done, cookie, offset, length))
                elif end - at >= length:
                    self._requests += 1
                    self.held_bytes += length
                    done = partial(self._done, cookie, offset, length)
                    came = data[at : at + length]
                    sent = bytes(came) if length < lent_min else payload.copied(came)
                    writes.append((offset, sent, flags == FUA, done))
                    at += length
                else:
                    self._await_payload((command, flags, cookie, offset), length, None)
            else:
                if writes:
                    give(writes)
                    writes = []
                self._on_request(flags, command, cookie, offset, length)
        if writes:
            give(writes)
        self._woken = woken
        self.quiet = (
            not self._replies
            and not self._good
            and not self.wants
            and self.ended is None
            and self._requests < requests_max
            and self.held_bytes < bytes_max
        )
        return at

    def payload_filled(self, count: int) -> None:
        """*count* bytes were received into the room of ``payload``, instead of by ``receive``."""
        self.payload.filled(count)
        if not self.payload.missing:
            woken, self._woken = self._woken, True
            self._payload_is_in()
            self._woken = woken
            self.receive(_NOTHING)  # which finds out whether it is quiet now

    def _give_each(self, writes: Writes) -> None:
        """For an export that takes them one by one."""
        for offset, data, fua, done in writes:
            self._export.write(offset, data, fua, done)

    def _on_request(self, flags: int, command: int, cookie: int, offset: int, length: int) -> None:
        """Any request, at leisure."""
        if command == DISC:
            self.ended = ""
            return
        refusal = self._judge(flags, command, offset, length, self.stopping)
        fua = bool(flags & FUA)
        if command == WRITE:
            # Judged good and yet not taken on the fast path means that there is nothing to write.
            if length > DRAIN_MAX:
                self.ended = f"the client announced a payload of {length} bytes"
            elif length:
                self._await_payload((command, flags, cookie, offset), length, refusal)
            elif refusal:
                self._send(self._form.error(cookie, offset, *refusal))
            else:
                self._send(self._form.done(cookie, offset))
        elif refusal:
            self._send(self._form.error(cookie, offset, *refusal))
        elif command == FLUSH:
            self._requests += 1
            self._export.flush(partial(self._done, cookie, offset, 0))
        elif command == READ and length:
            self._requests += 1
            self.held_bytes += length
            self._export.read(offset, length, partial(self._read_done, cookie, offset, length))
        elif command == READ:
            self._send(self._form.nothing_read(cookie, offset))
        elif command == TRIM and length:
            self._requests += 1
            self._export.trim(offset, length, fua, partial(self._done, cookie, offset, 0))
        elif command == ZERO and length:
            self._requests += 1
            done = partial(self._done, cookie, offset, 0)
            self._export.zero(offset, length, fua, not flags & NO_HOLE, done)
        elif command == STATUS and length:
            self._ask_status(flags, cookie, offset, length, self._contexts)
        else:  # CACHE, which is only advice, and everything of length zero
            self._send(self._form.done(cookie, offset))

    def _read_pieces(self, cookie: int, offset: int, length: int) -> None:
        assert self._sparse is not None
        done = partial(self._pieces_done, cookie, offset, length)
        self._sparse.read_pieces(offset, length, done)

    def _ask_status(
        self, flags: int, cookie: int, offset: int, length: int, contexts: dict[int, str]
    ) -> None:
        self._requests += 1
        one = bool(flags & REQ_ONE)
        done = partial(self._status_done, cookie, offset)
        ask_status(self._export, contexts, offset, length, one, done)

    def _on_odd_payload(
        self, flags: int, command: int, cookie: int, offset: int, length: int
    ) -> None:
        """An extended request with a payload that is no WRITE, or a WRITE without one."""
        if command == DISC:
            self.ended = ""
            return
        if not flags & PAYLOAD_LEN:
            text = "a WRITE must say with PAYLOAD_LEN that its data follow"
            self._send(self._form.error(cookie, offset, Error.EINVAL, text))
            return
        if length > DRAIN_MAX:
            self.ended = f"the client announced a payload of {length} bytes"
            return
        refusal = None
        if command != STATUS or not self._contexts:
            refusal = Error.EINVAL, f"command {command} takes no payload here"
        elif length > 8 + 4 * len(self._contexts):
            refusal = Error.EINVAL, "more contexts are named than were selected"
        if length:
            self._await_payload((command, flags & ~PAYLOAD_LEN, cookie, offset), length, refusal)
        else:
            refusal = refusal or (Error.EINVAL, "the payload is empty")
            self._send(self._form.error(cookie, offset, *refusal))

    def _on_status_payload(self, flags: int, cookie: int, offset: int, payload: bytes) -> None:
        """BLOCK_STATUS with a choice among the selected contexts."""
        refusal: Refusal | None = None
        numbers: list[int] = []
        length = int.from_bytes(payload[:8])
        if len(payload) < 12 or len(payload) % 4:
            refusal = Error.EINVAL, "the payload is not a length and context ids"
        else:
            numbers = BlockStatusPayload.parse(payload).contexts
            refusal = self._judge(flags, STATUS, offset, length, self.stopping)
        if not refusal and (len(set(numbers)) < len(numbers) or set(numbers) - set(self._contexts)):
            refusal = Error.EINVAL, "a context was named twice, or was not selected"
        if refusal:
            self._send(self._form.error(cookie, offset, *refusal))
        elif length:
            chosen = {number: self._contexts[number] for number in numbers}
            self._ask_status(flags, cookie, offset, length, chosen)
        else:
            self._send(self._form.done(cookie, offset))

    def _await_payload(
        self, request: tuple[int, int, int, int], length: int, refusal: Refusal | None
    ) -> None:
        self._current = request
        if not refusal:
            self.held_bytes += length  # what was announced must find room when it comes
        self._refused = refusal
        self.payload.begin(length, skipped=refusal is not None)

    def _payload_is_in(self) -> None:
        command, flags, cookie, offset = self._current
        payload = self.payload.take()
        if payload is None:
            assert self._refused is not None
            self._send(self._form.error(cookie, offset, *self._refused))
        elif command == STATUS:
            self.held_bytes -= len(payload)
            self._on_status_payload(flags, cookie, offset, bytes(payload))
        else:
            self._requests += 1
            done = partial(self._done, cookie, offset, len(payload))
            self._export.write(offset, payload, bool(flags & FUA), done)

    def _done(
        self, cookie: int, offset: int, counted: int, errno: int, _data: Buffer | None
    ) -> None:
        """The export has answered a request that yields no data."""
        self._requests -= 1
        self.held_bytes -= counted
        assert self._requests >= 0, "an export answered a request twice"
        if errno:
            self._send_errno(cookie, offset, errno)
        elif not self._closed:
            if not self._woken:
                self._woken = True
                self._wake()
            self._good.append((cookie, offset))
            self._reply_bytes += self._good_bytes

    def _status_done(self, cookie: int, offset: int, errno: int, status: Status) -> None:
        """The export has described a range in every selected context."""
        self._requests -= 1
        if errno:
            self._send_errno(cookie, offset, errno)
        else:
            self._send(self._form.status(cookie, offset, status))

    def _read_done(
        self, cookie: int, offset: int, length: int, errno: int, data: Buffer | None
    ) -> None:
        """The export has answered a read."""
        self._requests -= 1
        self.held_bytes -= length
        assert self._requests >= 0, "an export answered a request twice"
        if errno or data is None:
            self._send_errno(cookie, offset, errno)
            return
        assert len(data) == length, "an export answered a read with another length"
        if self._closed:
            return
        if not self._woken:
            self._woken = True
            self._wake()
        if self._good:
            self._put_good()
        head = self._form.data(cookie, offset, length)
        self._replies.append(head)
        self._replies.append(data)
        self._reply_bytes += len(head) + length

    def _pieces_done(
        self, cookie: int, offset: int, length: int, errno: int, pieces: Pieces | None
    ) -> None:
        """The export has answered a read in pieces."""
        self._requests -= 1
        self.held_bytes -= length
        assert self._requests >= 0, "an export answered a request twice"
        if errno or pieces is None:
            self._send_errno(cookie, offset, errno)
            return
        at, end = offset, offset + length
        for size, data in pieces:
            assert size > 0, "an export answered an empty piece"
            last = at + size == end
            if data is None:
                self._send(self._form.hole(cookie, offset, at, size, last), more=not last)
            else:
                assert len(data) == size, "an export answered a piece with another length"
                self._send(self._form.piece(cookie, offset, at, size, last), more=True)
                self._send(data, more=not last)
            at += size
        assert at == end, "an export answered a read with another length"

    def _put_good(self) -> None:
        """The replies that were only noted take their place before what comes next."""
        good, self._good = self._good, []
        if len(good) == 1:
            self._replies.append(self._form.done(*good[0]))
        else:
            self._replies.append(self._form.all_done(good))

    def _send_errno(self, cookie: int, offset: int, errno: int) -> None:
        error = nbd_error(errno)
        self._send(self._form.error(cookie, offset, error, ERROR_TEXT[error]))

    def _send(self, reply: Buffer, *, more: bool = False) -> None:
        if self._closed:
            return
        if self._good:
            self._put_good()
        self._replies.append(reply)
        self._reply_bytes += len(reply)
        if not more and not self._woken:
            self._woken = True
            self._wake()
