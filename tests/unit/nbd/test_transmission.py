"""Requests and replies, row by row."""

from __future__ import annotations

import errno

import pytest

from nbd.alignment import AlignedExport, RangeLocks
from nbd.export import Export, Refused
from nbd.memory import Call, MemoryDisk, MemoryExports
from nbd.protocol import Command, CommandFlag, Error
from nbd.transmission import BYTES_MAX, DRAIN_MAX, REPLIES_MAX, REQUESTS_MAX, Transmission
from tests.support.nbd_bytes import Said, replies, request

SIZE = 1 << 20
MAX = 32 << 20


class Session:
    """A Transmission on a memory disk, with the bytes it was given and the times it woke."""

    def __init__(
        self,
        *,
        structured: bool = True,
        promised: bool = False,
        size: int = SIZE,
        **geometry: object,
    ) -> None:
        exports = MemoryExports.single(size, "disk", **geometry)
        self.disk: MemoryDisk = exports.disks["disk"]
        self.disk.recording = True
        opened = exports.open("disk")
        assert not isinstance(opened, Refused)
        export: Export = opened
        if export.geometry.minimum_block > 1:
            export = AlignedExport(export, RangeLocks())
        self.woken = 0
        self.t = Transmission(
            export, structured=structured, promised_alignment=promised, wake=self._wake
        )
        self.rest = b""

    def _wake(self) -> None:
        self.woken += 1

    def send(self, *pieces: bytes) -> None:
        self.rest += b"".join(pieces)
        self.rest = self.rest[self.t.receive(memoryview(self.rest)) :]

    def said(self, **lengths: int) -> list[Said]:
        raw = b"".join(bytes(piece) for piece in self.t.take())
        return replies(raw, {int(k[1:]): v for k, v in lengths.items()})

    def one(self, *pieces: bytes) -> Said:
        self.send(*pieces)
        (only,) = self.said()
        return only


both_forms = pytest.mark.parametrize("structured", [True, False])

# --- 2.1, 2.3 commands ---


def test_write_then_read_back_structured() -> None:
    s = Session()
    assert s.one(request(Command.WRITE, 5, data=b"hello", cookie=7)) == Said("simple", 7)
    assert s.one(request(Command.READ, 5, 5, cookie=8)) == Said("chunk", 8, data=b"hello")


def test_write_then_read_back_simple() -> None:
    s = Session(structured=False)
    s.send(request(Command.WRITE, 5, data=b"hello"), request(Command.READ, 4, 7, cookie=2))
    assert s.said(c2=7) == [Said("simple", 1), Said("simple", 2, data=b"\0hello\0")]


def test_cookies_are_opaque_and_may_repeat() -> None:
    s = Session()
    cookie = 0xFFFF_FFFF_0000_0001
    s.send(request(Command.FLUSH, cookie=cookie), request(Command.FLUSH, cookie=cookie))
    assert [r.cookie for r in s.said()] == [cookie, cookie]


def test_disc_has_no_reply_and_later_bytes_are_ignored() -> None:
    s = Session()
    s.disk.hold()
    s.send(request(Command.WRITE, 0, data=b"x"), request(Command.DISC), request(Command.FLUSH))
    assert s.t.ended == ""
    assert s.t.in_flight == 1
    s.disk.release()
    assert s.said() == [Said("simple", 1)], "what was in flight is still answered"
    assert [c.kind for c in s.disk.calls] == ["write"]


@pytest.mark.parametrize("fields", [(0, 0, 0), (4096, 512, 0), (0, 0, CommandFlag.FUA)])
def test_flush_is_passed_on_whatever_its_fields(fields: tuple[int, int, int]) -> None:
    s = Session()
    offset, length, flags = fields
    assert s.one(request(Command.FLUSH, offset, length, flags=flags)).error == 0
    assert s.disk.calls == [Call("flush")]


@both_forms
def test_fua_reaches_the_export_on_every_writing_command(structured: bool) -> None:
    s = Session(structured=structured)
    fua = CommandFlag.FUA
    s.send(
        request(Command.WRITE, 0, data=b"x", flags=fua),
        request(Command.WRITE_ZEROES, 0, 8, flags=fua),
        request(Command.TRIM, 0, 8, flags=fua),
        request(Command.WRITE, 0, data=b"x"),
    )
    assert [c.fua for c in s.disk.calls] == [True, True, True, False]
    assert [r.error for r in s.said()] == [0] * 4


def test_fua_on_reads_is_tolerated() -> None:
    assert Session().one(request(Command.READ, 0, 8, flags=CommandFlag.FUA)).data == bytes(8)


def test_write_zeroes_reads_back_zero_and_no_hole_reaches_the_export() -> None:
    s = Session()
    s.disk.put(0, b"x" * 8192)
    s.send(
        request(Command.WRITE_ZEROES, 0, 4096),
        request(Command.WRITE_ZEROES, 4096, 4095, flags=CommandFlag.NO_HOLE),
    )
    assert [c.may_unmap for c in s.disk.calls] == [True, False]
    assert s.disk.content(0, 8192) == bytes(8191) + b"x"


def test_write_zeroes_may_exceed_the_maximum_payload() -> None:
    s = Session(size=40 << 20)
    assert s.one(request(Command.WRITE_ZEROES, 0, 40 << 20)).error == 0


def test_cache_is_advice_and_succeeds() -> None:
    s = Session()
    assert s.one(request(Command.CACHE, 0, SIZE)).error == 0
    assert s.disk.calls == []


def test_df_is_served_in_one_chunk() -> None:
    s = Session()
    reply = s.one(request(Command.READ, 0, 65536, flags=CommandFlag.DF))
    assert len(reply.data) == 65536


# --- 2.7 bad input ---


def test_bad_request_magic_ends_the_connection() -> None:
    s = Session()
    s.send(b"\x12\x56\x09\x53" + bytes(24))
    assert s.t.ended


FUA, NO_HOLE, DF, FAST, LEN = (
    CommandFlag.FUA,
    CommandFlag.NO_HOLE,
    CommandFlag.DF,
    CommandFlag.FAST_ZERO,
    CommandFlag.PAYLOAD_LEN,
)


@both_forms
@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (7, 0),
        (8, 0),
        (9, 0),
        (0xFFFF, 0),  # unknown, or not offered
        (Command.READ, NO_HOLE),
        (Command.READ, 0x8000),
        (Command.READ, LEN),
        (Command.WRITE, DF),
        (Command.WRITE, NO_HOLE),
        (Command.WRITE, LEN),
        (Command.FLUSH, NO_HOLE),
        (Command.TRIM, NO_HOLE),
        (Command.CACHE, FUA),
        (Command.TRIM, FAST),
        (Command.WRITE_ZEROES, DF),
    ],
)
def test_unknown_commands_and_flags_are_einval_and_the_stream_stays_in_step(
    structured: bool, command: int, flags: int
) -> None:
    s = Session(structured=structured)
    payload = b"y" * 512 if command == Command.WRITE else b""
    s.send(request(command, 0, 512, flags=flags, data=payload), request(Command.FLUSH, cookie=2))
    bad, good = s.said()
    assert bad.error == Error.EINVAL
    assert bad.form == ("chunk" if structured else "simple")
    assert bool(bad.text) == structured
    assert (good.cookie, good.error) == (2, 0)
    assert s.disk.calls == [Call("flush")]


def test_df_without_structured_replies_is_einval() -> None:
    s = Session(structured=False)
    assert s.one(request(Command.READ, 0, 512, flags=DF)).error == Error.EINVAL


@pytest.mark.parametrize(("capability", "command"), [("can_trim", 4), ("can_zero", 6)])
def test_commands_that_were_not_advertised_are_einval(capability: str, command: int) -> None:
    s = Session(**{capability: False})
    assert s.one(request(command, 0, 512)).error == Error.EINVAL
    assert s.disk.calls == []


RANGES = [(SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), ((1 << 64) - 1, 1), ((1 << 64) - 512, 1024)]


@pytest.mark.parametrize(("offset", "length"), RANGES)
@pytest.mark.parametrize(
    ("command", "error"),
    [
        (Command.READ, Error.EINVAL),
        (Command.TRIM, Error.EINVAL),
        (Command.CACHE, Error.EINVAL),
        (Command.WRITE, Error.ENOSPC),
        (Command.WRITE_ZEROES, Error.ENOSPC),
    ],
)
def test_ranges_beyond_the_end_are_refused(
    command: int, error: Error, offset: int, length: int
) -> None:
    s = Session()
    payload = bytes(length) if command == Command.WRITE else b""
    s.send(request(command, offset, length, data=payload), request(Command.FLUSH, cookie=2))
    assert [r.error for r in s.said()] == [error, 0]
    assert s.disk.calls == [Call("flush")]


@both_forms
@pytest.mark.parametrize("command", [0, 1, 4, 5, 6])
@pytest.mark.parametrize("offset", [0, 7, SIZE])
def test_zero_length_succeeds_and_does_nothing(structured: bool, command: int, offset: int) -> None:
    s = Session(structured=structured)
    assert s.one(request(command, offset, 0)).error == 0
    assert s.disk.calls == []


@both_forms
@pytest.mark.parametrize("length", [MAX + 1, DRAIN_MAX])
def test_write_above_the_maximum_is_drained_and_refused(structured: bool, length: int) -> None:
    s = Session(structured=structured, size=128 << 20)
    s.send(request(Command.WRITE, 0, length))
    piece = bytes(1 << 20)
    left = length
    while left:
        s.send(piece[: min(left, len(piece))])
        left -= min(left, len(piece))
    s.send(request(Command.FLUSH, cookie=2))
    assert [r.error for r in s.said()] == [Error.EINVAL, 0]
    assert s.disk.calls == [Call("flush")]


@pytest.mark.parametrize("length", [DRAIN_MAX + 1, (1 << 32) - 1])
def test_absurd_write_closes_without_reading(length: int) -> None:
    s = Session()
    s.send(request(Command.WRITE, 0, length))
    assert s.t.ended


def test_read_above_the_maximum_is_refused() -> None:
    s = Session(size=128 << 20)
    assert s.one(request(Command.READ, 0, MAX + 1)).error == Error.EINVAL
    assert s.one(request(Command.READ, 0, MAX + 1, flags=DF)).error == Error.EOVERFLOW


@pytest.mark.parametrize("command", [Command.READ, Command.WRITE, Command.WRITE_ZEROES, 4, 5])
@pytest.mark.parametrize(("offset", "length"), [(1, 512), (0, 511), (256, 256)])
def test_who_promised_block_sizes_is_held_to_it(command: int, offset: int, length: int) -> None:
    s = Session(promised=True, minimum_block=512)
    payload = bytes(length) if command == Command.WRITE else b""
    assert s.one(request(command, offset, length, data=payload)).error == Error.EINVAL
    assert s.disk.calls == []


def test_who_did_not_promise_may_write_one_byte() -> None:
    s = Session(minimum_block=512)
    s.disk.put(0, b"a" * 1024)
    assert s.one(request(Command.WRITE, 700, data=b"B")).error == 0
    assert s.disk.content(0, 1024) == b"a" * 700 + b"B" + b"a" * 323
    assert s.one(request(Command.READ, 699, 3)).data == b"aBa"
    assert all(c.offset % 512 == 0 and c.length % 512 == 0 for c in s.disk.calls)


@pytest.mark.parametrize("command", [Command.WRITE, Command.WRITE_ZEROES, Command.TRIM])
def test_writes_to_a_read_only_export_are_eperm(command: int) -> None:
    s = Session(read_only=True)
    payload = bytes(512) if command == Command.WRITE else b""
    s.send(request(command, 0, 512, data=payload), request(Command.READ, 0, 4, cookie=2))
    bad, good = s.said()
    assert bad.error == Error.EPERM
    assert good.data == bytes(4)


@pytest.mark.parametrize("cut", [1, 27, 28, 29, 4000])
def test_truncated_write_is_not_applied(cut: int) -> None:
    s = Session()
    s.send(request(Command.WRITE, 0, data=b"x" * 4096)[:cut])
    s.t.close()
    assert s.disk.calls == []
    assert s.disk.open_count == 0


def test_one_byte_at_a_time_works() -> None:
    s = Session()
    for byte in request(Command.WRITE, 3, data=b"slow") + request(Command.READ, 0, 8, cookie=2):
        s.send(bytes((byte,)))
        assert len(s.rest) < 28
    assert [r.data for r in s.said()] == [b"", b"\0\0\0slow\0"]


def test_an_announced_payload_reserves_no_memory() -> None:
    import tracemalloc

    s = Session(size=64 << 20)
    tracemalloc.start()
    try:
        s.send(request(Command.WRITE, 0, MAX), b"x" * 100)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


# --- errors ---


@pytest.mark.parametrize(
    ("number", "error"),
    [
        (errno.EIO, Error.EIO),
        (errno.EROFS, Error.EPERM),
        (errno.EACCES, Error.EPERM),
        (errno.EPERM, Error.EPERM),
        (errno.EDQUOT, Error.ENOSPC),
        (errno.EFBIG, Error.ENOSPC),
        (errno.ENOSPC, Error.ENOSPC),
        (errno.ENODEV, Error.EIO),
        (errno.ETIMEDOUT, Error.EIO),
        (errno.EOPNOTSUPP, Error.EIO),
        (errno.EOVERFLOW, Error.EIO),
        (12345, Error.EIO),
        (errno.ESHUTDOWN, Error.ESHUTDOWN),
    ],
)
@pytest.mark.parametrize(("kind", "command"), [("read", 0), ("write", 1), ("flush", 3)])
def test_an_exports_errno_becomes_an_nbd_error(
    kind: str, command: int, number: int, error: Error
) -> None:
    for structured in (True, False):
        s = Session(structured=structured)
        s.disk.fail(kind, number)
        payload = bytes(16) if command == Command.WRITE else b""
        length = 0 if command == Command.FLUSH else 16
        reply = s.one(request(command, 0, length, data=payload))
        assert reply.error == error
        assert reply.data == b""
        assert bool(reply.text) == structured


# --- limits and order ---


def test_at_most_128_requests_are_in_flight() -> None:
    s = Session()
    s.disk.hold()
    s.send(*(request(Command.WRITE, i, data=b"x", cookie=i) for i in range(200)))
    assert s.t.full
    assert s.t.in_flight == s.disk.held == REQUESTS_MAX
    s.disk.release(8)
    assert not s.t.full
    s.send()
    assert s.t.in_flight == REQUESTS_MAX


@pytest.mark.parametrize("command", [Command.READ, Command.WRITE])
def test_at_most_64_mib_of_payload_is_in_flight(command: int) -> None:
    s = Session(size=64 << 20)
    s.disk.hold()
    length = 16 << 20
    payload = bytes(length) if command == Command.WRITE else b""
    for _ in range(6):
        s.send(request(command, 0, length, data=payload))
    assert s.t.full
    assert s.t.in_flight == BYTES_MAX // length


def test_replies_that_nobody_takes_stop_the_parser() -> None:
    s = Session()
    s.disk.put(0, b"x" * 65536)
    s.send(request(Command.READ, 0, 65536) * 1000)
    assert s.t.full
    assert sum(map(len, s.t.take())) <= REPLIES_MAX + 65536 + 28
    assert not s.t.full


def test_replies_come_in_the_order_of_completion_and_wake_the_server() -> None:
    s = Session()
    s.disk.hold()
    s.send(request(Command.WRITE, 0, data=b"x", cookie=1))
    s.disk.holding = False
    s.send(request(Command.READ, 1, 1, cookie=2))
    assert s.woken == 0, "inside receive the server looks anyway"
    s.disk.release()
    assert s.woken == 1
    assert [r.cookie for r in s.said()] == [2, 1]


def test_while_stopping_new_requests_get_eshutdown_and_old_ones_their_answer() -> None:
    s = Session()
    s.disk.hold()
    s.send(request(Command.WRITE, 0, data=b"x", cookie=1))
    s.t.stopping = True
    s.send(request(Command.WRITE, 0, data=b"y", cookie=2), request(Command.FLUSH, cookie=3))
    s.disk.release()
    errors = {r.cookie: r.error for r in s.said()}
    assert errors == {1: 0, 2: Error.ESHUTDOWN, 3: Error.ESHUTDOWN}
    assert s.disk.content(0, 1) == b"x"


def test_late_answers_after_the_connection_is_gone_lead_nowhere() -> None:
    s = Session()
    s.disk.hold()
    s.send(request(Command.READ, 0, 512), request(Command.WRITE, 0, data=b"x", cookie=2))
    s.t.close()
    s.disk.release()
    assert s.t.take() == []
    assert s.woken == 0


@pytest.mark.parametrize("command", [Command.READ, Command.FLUSH])
def test_an_export_that_answers_twice_is_a_bug_that_shows(command: int) -> None:
    s = Session()
    s.disk.hold()
    s.send(request(command, 0, 0 if command == Command.FLUSH else 4))
    (answer,) = s.disk._held
    answer()
    with pytest.raises(AssertionError, match="twice"):
        answer()
