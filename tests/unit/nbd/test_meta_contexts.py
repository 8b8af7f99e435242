"""LIST_META_CONTEXT, SET_META_CONTEXT and BLOCK_STATUS, row by row."""

from __future__ import annotations

import errno

import pytest

from nbd.alignment import AlignedExport, RangeLocks
from nbd.block_status import EXTENTS_MAX, wire_extents
from nbd.export import Export, Extents, ExtentsDone, Geometry, Refused
from nbd.handshake import Handshake
from nbd.memory import MemoryExport, MemoryExports
from nbd.option_data import QUERIES_MAX
from nbd.protocol import Command, CommandFlag, Error, Option, Reply
from nbd.transmission import Transmission
from tests.support.nbd_bytes import (
    CLIENT_FLAGS,
    Said,
    fed,
    go,
    meta,
    option,
    option_replies,
    replies,
    request,
)

SIZE = 1 << 20
PAGE = 4096
LIST, SET = Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT
OWN = "x-test:dirty"
DATA, ZERO, HOLE = 0, 2, 3


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(SIZE, "disk", contexts=(OWN,))


@pytest.fixture
def handshake(exports: MemoryExports) -> Handshake:
    return Handshake(exports)


def told(raw: bytes) -> list[tuple[int, str]]:
    """(id, name) of the contexts in the replies to one option, which ends with ACK."""
    *contexts, (_, last, nothing) = option_replies(raw)
    assert (last, nothing) == (Reply.ACK, b"")
    assert all(kind == Reply.META_CONTEXT for _, kind, _ in contexts)
    return [(int.from_bytes(data[:4]), data[4:].decode()) for _, _, data in contexts]


def selected(handshake: Handshake) -> dict[int, str]:
    assert handshake.opened is not None
    return handshake.opened.contexts


# --- 1.3: LIST_META_CONTEXT ---


@pytest.mark.parametrize(
    ("queries", "names"),
    [
        ((), ["base:allocation", OWN]),  # no query: everything selectable
        (("base:",), ["base:allocation"]),  # a bare namespace is a wildcard
        (("x-test:",), [OWN]),
        (("base:", "x-test:", "base:allocation"), ["base:allocation", OWN]),
        (("base:allocation",), ["base:allocation"]),
        (("base:nothing", "unknown:", "other:leaf"), []),  # ignored, plain ACK
    ],
)
def test_list_tells_what_could_be_selected(
    handshake: Handshake, queries: tuple[str, ...], names: list[str]
) -> None:
    out = fed(handshake, CLIENT_FLAGS, meta(LIST, "disk", *queries))
    assert told(out) == [(0, name) for name in names]


def test_list_selects_nothing(handshake: Handshake) -> None:
    fed(handshake, CLIENT_FLAGS, option(8), meta(LIST, "disk"), go("disk"))
    assert selected(handshake) == {}


# --- 1.3: SET_META_CONTEXT ---


def test_set_gives_every_context_an_id_of_its_own(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(8), meta(SET, "disk", OWN, "base:allocation"))
    contexts = told(out[20:])
    assert {name for _, name in contexts} == {OWN, "base:allocation"}
    assert len({number for number, _ in contexts}) == 2
    handshake.receive(memoryview(go("disk")))
    assert selected(handshake) == dict(contexts)


@pytest.mark.parametrize("queries", [(), ("base:",), ("base:nothing",), ("unknown:leaf",)])
def test_set_without_a_full_name_selects_nothing(
    handshake: Handshake, queries: tuple[str, ...]
) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(8), meta(SET, "disk", *queries), go("disk"))
    assert option_replies(out)[1] == (SET, Reply.ACK, b"")
    assert selected(handshake) == {}


def test_duplicate_queries_select_once(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(8), meta(SET, "disk", *["base:allocation"] * 3))
    assert told(out[20:]) == [(1, "base:allocation")]


def test_set_before_structured_replies_is_invalid(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, meta(SET, "disk", "base:allocation"), go("disk"))
    assert option_replies(out)[0][:2] == (SET, Reply.ERR_INVALID)
    assert selected(handshake) == {}


@pytest.mark.parametrize(
    "second", [meta(SET, "disk", "x:"), meta(SET, "nowhere", OWN), option(SET, b"rubbish")]
)
def test_set_replaces_the_previous_set_even_when_it_fails(
    handshake: Handshake, second: bytes
) -> None:
    first = meta(SET, "disk", "base:allocation")
    fed(handshake, CLIENT_FLAGS, option(8), first, second, go("disk"))
    assert selected(handshake) == {}


def test_a_selection_is_valid_only_for_the_export_it_names(exports: MemoryExports) -> None:
    exports.disks["other"] = MemoryExports.single(SIZE).disks["memory"]
    for name, contexts in (("other", {}), ("", {}), ("disk", {1: "base:allocation"})):
        for last in (go(name), option(Option.EXPORT_NAME, name.encode())):
            handshake = Handshake(exports)
            chosen = meta(SET, "disk", "base:allocation")
            fed(handshake, CLIENT_FLAGS, option(8), chosen, go("x", number=Option.INFO), last)
            assert selected(handshake) == contexts


@pytest.mark.parametrize("number", [LIST, SET])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Reply.ERR_INVALID),
        (b"\0\0\0\x04disk", Reply.ERR_INVALID),  # no count
        (b"\0\0\0\x04disk\0\0\0\x01", Reply.ERR_INVALID),  # one query announced, none there
        (b"\0\0\0\x04disk\0\0\0\0x", Reply.ERR_INVALID),  # trailing byte
        (b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x09base:", Reply.ERR_INVALID),
        (b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x04base", Reply.ERR_INVALID),  # no colon
        (b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x02:x", Reply.ERR_INVALID),  # no namespace
        (b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x00", Reply.ERR_INVALID),
        (b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x02\xff:", Reply.ERR_INVALID),
        (b"\0\0\0\x04disk\0\0\0\x01\0\0\0\x03a:\0", Reply.ERR_INVALID),
        (b"\0\0\0\x02\xff\xfe\0\0\0\0", Reply.ERR_INVALID),
        (b"\0\0\0\x07nowhere\0\0\0\0", Reply.ERR_UNKNOWN),
        (b"\0\0\0\x04disk" + (QUERIES_MAX + 1).to_bytes(4), Reply.ERR_TOO_BIG),
        (b"\0\0\0\x04disk\0\0\0\x01\0\0\x10\x01" + b"x:" * 2048 + b"y", Reply.ERR_TOO_BIG),
        (bytes(70_000), Reply.ERR_TOO_BIG),
    ],
)
def test_bad_queries_are_refused_and_the_stream_stays_in_step(
    handshake: Handshake, number: int, data: bytes, kind: int
) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(8), option(number, data), option(Option.LIST))
    assert [reply[1] for reply in option_replies(out)] == [
        Reply.ACK,
        kind,
        Reply.SERVER,
        Reply.ACK,
    ]


def test_refused_exports_say_why(exports: MemoryExports) -> None:
    exports.refusal = Refused("disk is Secondary here")
    out = fed(Handshake(exports), CLIENT_FLAGS, meta(LIST, "disk"))
    assert option_replies(out) == [(LIST, Reply.ERR_POLICY, b"disk is Secondary here")]


@pytest.mark.parametrize(
    "names", [("plain",), (":leaf",), ("space:",), ("base:mine",), ("x-a:b", "x-a:b")]
)
def test_impossible_context_names_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="context"):
        Geometry(SIZE, contexts=names)


# --- 2.3: BLOCK_STATUS ---


class Described(MemoryExport):
    """A memory disk that describes a context of its own as it is told to."""

    answer: Extents = ((PAGE, 1), (PAGE, 0))
    errno = 0

    def extents(self, context: str, offset: int, length: int, done: ExtentsDone) -> None:
        if context == OWN:
            done(self.errno, None if self.errno else self.answer)
        else:
            super().extents(context, offset, length, done)


class Mute:
    """An export that describes nothing."""

    def __init__(self, inner: Export) -> None:
        self.geometry = inner.geometry
        self.read, self.write, self.zero = inner.read, inner.write, inner.zero
        self.trim, self.flush, self.closed = inner.trim, inner.flush, inner.closed


class Session:
    """A Transmission over a described disk with both contexts selected."""

    def __init__(self, *names: str, block: int = 1, promised: bool = False, mute: bool = False):
        exports = MemoryExports.single(SIZE, "disk", minimum_block=block, contexts=(OWN,))
        self.disk = exports.disks["disk"]
        self.export = Described(self.disk)
        export: Export = Mute(self.export) if mute else self.export
        if block > 1:
            export = AlignedExport(export, RangeLocks())
        known = {1: "base:allocation", 2: OWN}
        self.t = Transmission(
            export,
            structured=True,
            promised_alignment=promised,
            wake=lambda: None,
            contexts={n: name for n, name in known.items() if name in names},
        )

    def one(self, raw: bytes) -> Said:
        assert self.t.receive(memoryview(raw)) == len(raw)
        (only,) = replies(b"".join(bytes(piece) for piece in self.t.take()))
        return only

    def allocation(self, offset: int = 0, length: int = SIZE, flags: int = 0) -> object:
        said = self.one(request(Command.BLOCK_STATUS, offset, length, flags=flags))
        assert (said.error, said.form) == (0, "chunk")
        return said.extents[1]


def test_base_allocation_tells_data_zeroes_and_holes() -> None:
    s = Session("base:allocation")
    assert s.allocation() == [(SIZE, HOLE)]
    s.one(request(Command.WRITE, 3 * PAGE + 5, data=b"x" * PAGE))
    s.one(request(Command.WRITE_ZEROES, 8 * PAGE, 2 * PAGE, flags=CommandFlag.NO_HOLE))
    assert s.allocation() == [
        (3 * PAGE, HOLE),
        (2 * PAGE, DATA),
        (3 * PAGE, HOLE),
        (2 * PAGE, ZERO),
        (SIZE - 10 * PAGE, HOLE),
    ]
    s.one(request(Command.TRIM, 4 * PAGE, PAGE))
    assert s.allocation(PAGE, 5 * PAGE) == [(2 * PAGE, HOLE), (PAGE, DATA), (2 * PAGE, HOLE)]


def test_no_hole_zeroes_of_parts_leave_no_hole_behind() -> None:
    s = Session("base:allocation")
    s.one(request(Command.WRITE_ZEROES, 100, PAGE, flags=CommandFlag.NO_HOLE))
    assert s.allocation(0, 3 * PAGE) == [(2 * PAGE, ZERO), (PAGE, HOLE)]


def test_written_data_is_never_reported_zero() -> None:
    s = Session("base:allocation")
    s.one(request(Command.WRITE, PAGE - 1, data=b"x"))
    s.one(request(Command.WRITE_ZEROES, 0, PAGE - 1))
    s.one(request(Command.TRIM, 1, PAGE - 2))
    assert s.allocation(0, 2 * PAGE) == [(PAGE, DATA), (PAGE, HOLE)]


def test_the_last_unit_of_an_odd_sized_disk_is_a_hole_again_after_trim() -> None:
    disk = MemoryExports.single(PAGE + 100).disks["memory"]
    disk.put(PAGE, b"x" * 100)
    assert list(disk.extents(0, PAGE + 100)) == [(PAGE, HOLE), (100, DATA)]
    disk.wipe(PAGE, 100)
    assert sum(length for length, _ in disk.extents(0, PAGE + 100)) == PAGE + 100
    assert {flags for _, flags in disk.extents(0, PAGE + 100)} == {HOLE}


def test_every_selected_context_is_answered_in_one_reply() -> None:
    s = Session("base:allocation", OWN)
    said = s.one(request(Command.BLOCK_STATUS, 0, 2 * PAGE))
    assert said.extents == {1: [(2 * PAGE, HOLE)], 2: [(PAGE, 1), (PAGE, 0)]}


def test_req_one_gets_one_extent_that_never_overruns() -> None:
    s = Session("base:allocation", OWN)
    one = CommandFlag.REQ_ONE
    said = s.one(request(Command.BLOCK_STATUS, 0, 100, flags=one))
    assert said.extents == {1: [(100, HOLE)], 2: [(100, 1)]}
    assert s.one(request(Command.BLOCK_STATUS, 0, SIZE, flags=one)).extents[2] == [(PAGE, 1)]


@pytest.mark.parametrize(
    ("told", "length", "wired"),
    [
        ([(4, 1), (4, 1), (4, 0)], 100, [(8, 1), (4, 0)]),  # equal neighbours are merged
        ([(4, 1), (400, 0)], 100, [(4, 1), (96, 0)]),  # nothing beyond what was asked
        ([(100, 1), (5, 0)], 100, [(100, 1)]),
        ([(1, i % 2) for i in range(3 * EXTENTS_MAX)], 1 << 30, EXTENTS_MAX),
    ],
)
def test_extents_are_brought_into_wire_form(
    told: Extents, length: int, wired: list[tuple[int, int]] | int
) -> None:
    found = wire_extents(told, length, EXTENTS_MAX)
    assert (len(found) if isinstance(wired, int) else found) == wired


@pytest.mark.parametrize("told", [[], [(0, 1)], [(4, 1), (0, 0)]])
def test_an_export_that_describes_nothing_is_a_bug_that_shows(told: Extents) -> None:
    with pytest.raises(AssertionError, match="extent"):
        wire_extents(told, 100, EXTENTS_MAX)


def test_without_a_selected_context_block_status_is_einval_and_the_session_goes_on() -> None:
    s = Session()
    assert s.one(request(Command.BLOCK_STATUS, 0, 512)).error == Error.EINVAL
    assert s.one(request(Command.READ, 0, 4)).data == bytes(4)


@pytest.mark.parametrize("flags", [CommandFlag.FUA, CommandFlag.NO_HOLE, CommandFlag.DF, 0x8000])
def test_other_flags_on_block_status_are_einval(flags: int) -> None:
    s = Session("base:allocation")
    assert s.one(request(Command.BLOCK_STATUS, 0, 512, flags=flags)).error == Error.EINVAL


@pytest.mark.parametrize(("offset", "length"), [(SIZE, 1), (0, SIZE + 1), ((1 << 64) - 1, 2)])
def test_block_status_beyond_the_end_is_einval(offset: int, length: int) -> None:
    s = Session("base:allocation")
    assert s.one(request(Command.BLOCK_STATUS, offset, length)).error == Error.EINVAL


def test_block_status_of_nothing_succeeds() -> None:
    s = Session("base:allocation")
    assert s.one(request(Command.BLOCK_STATUS, 0, 0)).error == 0


def test_who_promised_block_sizes_is_held_to_it_here_as_well() -> None:
    s = Session("base:allocation", block=512, promised=True)
    assert s.one(request(Command.BLOCK_STATUS, 1, 512)).error == Error.EINVAL


def test_who_did_not_promise_may_ask_about_any_bytes() -> None:
    s = Session("base:allocation", OWN, block=512)
    s.disk.put(PAGE, b"x")
    assert s.allocation(PAGE - 7, 20) == [(7, HOLE), (13, DATA)]
    s.export.answer = ((512, 1), (512, 0))
    said = s.one(request(Command.BLOCK_STATUS, 500, 100))
    assert said.extents[2] == [(12, 1), (88, 0)]


@pytest.mark.parametrize("block", [1, 512])
def test_an_export_that_describes_nothing_has_data_everywhere(block: int) -> None:
    s = Session("base:allocation", mute=True, block=block)
    assert s.allocation(3, 1000) == [(1000, DATA)]
    s = Session("base:allocation", OWN, mute=True, block=block)
    assert s.one(request(Command.BLOCK_STATUS, 0, 512)).error == Error.EIO


def test_a_context_that_fails_fails_the_request() -> None:
    s = Session("base:allocation", OWN)
    s.export.errno = errno.EIO
    said = s.one(request(Command.BLOCK_STATUS, 0, 512))
    assert (said.error, said.extents) == (Error.EIO, {})
    assert s.t.in_flight == 0


def test_late_extents_count_as_in_flight_and_come_when_the_last_context_has_answered() -> None:
    s = Session("base:allocation", OWN)
    s.disk.hold()
    s.t.receive(memoryview(request(Command.BLOCK_STATUS, 0, PAGE)))
    assert (s.t.in_flight, s.t.take()) == (1, [])
    s.disk.release()
    assert s.t.in_flight == 0
    (said,) = replies(b"".join(bytes(piece) for piece in s.t.take()))
    assert set(said.extents) == {1, 2}
