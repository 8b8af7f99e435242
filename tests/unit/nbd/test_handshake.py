"""Option haggling, row by row."""

from __future__ import annotations

import pytest

from nbd.export import Refused
from nbd.handshake import OPTIONS_MAX, Handshake, transmission_flags
from nbd.memory import MemoryExports
from nbd.protocol import (
    ExportNameReply,
    Info,
    InfoBlockSize,
    InfoExport,
    Option,
    OptionRequest,
    Reply,
    TransmissionFlag,
)
from tests.support.nbd_bytes import CLIENT_FLAGS, fed, go, option, option_replies

SIZE = 1 << 20


@pytest.fixture
def exports() -> MemoryExports:
    return MemoryExports.single(SIZE, "disk")


@pytest.fixture
def handshake(exports: MemoryExports) -> Handshake:
    return Handshake(exports)


def types(raw: bytes) -> list[int]:
    return [kind for _, kind, _ in option_replies(raw)]


# --- 1.1 greeting ---


def test_greeting_offers_fixed_newstyle_and_no_zeroes(handshake: Handshake) -> None:
    assert b"".join(handshake.take()) == b"NBDMAGIC" + b"IHAVEOPT" + b"\x00\x03"


@pytest.mark.parametrize("flags", [4, 0x80000000, 7])
def test_unknown_client_flags_end_the_connection(handshake: Handshake, flags: int) -> None:
    assert fed(handshake, flags.to_bytes(4), option(Option.LIST)) == b""
    assert handshake.ended


def test_client_without_fixed_newstyle_may_only_name_an_export(handshake: Handshake) -> None:
    out = fed(handshake, bytes(4), option(Option.LIST), option(77, b"abc"))
    assert types(out) == [Reply.ERR_INVALID, Reply.ERR_INVALID]
    assert handshake.ended is None
    out = fed_more(handshake, option(Option.EXPORT_NAME, b"disk"))
    assert len(out) == 10 + 124
    assert handshake.opened


def fed_more(handshake: Handshake, data: bytes) -> bytes:
    handshake.receive(memoryview(data))
    return b"".join(handshake.take())


# --- 1.2 framing ---


def test_wrong_option_magic_ends_the_connection(handshake: Handshake) -> None:
    assert fed(handshake, CLIENT_FLAGS, b"GET / HTTP/1.1\r\n") == b""
    assert handshake.ended


def test_one_byte_at_a_time_works(handshake: Handshake) -> None:
    handshake.take()
    out, rest = b"", b""
    for byte in CLIENT_FLAGS + option(Option.LIST) + go("disk"):
        rest += bytes((byte,))
        rest = rest[handshake.receive(memoryview(rest)) :]
        assert len(rest) < 17
        out += b"".join(handshake.take())
    assert handshake.opened is not None
    assert types(out)[:2] == [Reply.SERVER, Reply.ACK]


def test_bytes_after_go_are_left_for_the_transmission_phase(handshake: Handshake) -> None:
    handshake.take()
    raw = CLIENT_FLAGS + go("disk") + b"early request"
    assert handshake.receive(memoryview(raw)) == len(raw) - len(b"early request")


# --- 1.3 options ---


def test_export_name_answers_size_flags_and_zeroes_unless_declined(exports: MemoryExports) -> None:
    for client_flags, padding in ((3, 0), (1, 124)):
        handshake = Handshake(exports)
        out = fed(handshake, client_flags.to_bytes(4), option(Option.EXPORT_NAME, b"disk"))
        assert out[10:] == bytes(padding)
        told = ExportNameReply.parse(out)
        assert told.size == SIZE
        assert told.flags & TransmissionFlag.HAS_FLAGS
        assert handshake.opened is not None
        assert not handshake.opened.keeps_block_sizes


@pytest.mark.parametrize("name", [b"other", b"x" * 4097, b"\xff", b"a\0b"])
def test_export_name_of_nothing_closes_without_a_word(handshake: Handshake, name: bytes) -> None:
    assert fed(handshake, CLIENT_FLAGS, option(Option.EXPORT_NAME, name)) == b""
    assert handshake.ended


@pytest.mark.parametrize("data", [b"", b"ignored"])
def test_abort_is_acknowledged_then_the_end(handshake: Handshake, data: bytes) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(Option.ABORT, data))
    assert option_replies(out) == [(Option.ABORT, Reply.ACK, b"")]
    assert handshake.ended == ""


def test_list_names_every_export(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(Option.LIST))
    assert option_replies(out) == [
        (Option.LIST, Reply.SERVER, b"\0\0\0\x04diska disk in memory"),
        (Option.LIST, Reply.ACK, b""),
    ]


@pytest.mark.parametrize("number", [Option.LIST, Option.STRUCTURED_REPLY, 11])
def test_options_without_data_refuse_data(handshake: Handshake, number: int) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(number, b"x"), option(Option.LIST))
    assert types(out) == [Reply.ERR_INVALID, Reply.SERVER, Reply.ACK]


@pytest.mark.parametrize("number", [0, 4, 12, 0xFFFF, 0xFFFFFFFF])
@pytest.mark.parametrize("data", [b"", b"whatever" * 100, bytes(100_000)])
def test_unknown_options_are_unsupported_and_the_stream_stays_in_step(
    handshake: Handshake, number: int, data: bytes
) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(number, data), option(Option.LIST))
    assert option_replies(out)[0][:2] == (number, Reply.ERR_UNSUP)
    assert types(out)[1:] == [Reply.SERVER, Reply.ACK]


def test_go_tells_export_and_block_sizes_then_acknowledges(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, go("disk"))
    (_, _, export), (_, _, sizes), (_, last, nothing) = option_replies(out)
    assert InfoExport.parse(export).size == SIZE
    assert dict(InfoBlockSize.parse(sizes))["minimum"] == 1
    assert len(export) == 12
    assert len(sizes) == 14
    assert (last, nothing) == (Reply.ACK, b"")
    assert handshake.opened is not None
    assert handshake.opened.name == "disk"


def test_info_tells_the_same_as_go_and_opens_nothing(exports: MemoryExports) -> None:
    handshake = Handshake(exports)
    asked = (Info.NAME, Info.DESCRIPTION, Info.BLOCK_SIZE, 4711)
    out = fed(handshake, CLIENT_FLAGS, go("disk", *asked, number=Option.INFO))
    assert handshake.opened is None
    assert exports.disks["disk"].open_count == 0
    same = fed_more(handshake, go("disk", *asked))
    assert [r[1:] for r in option_replies(out)] == [r[1:] for r in option_replies(same)]
    assert handshake.opened is not None
    assert exports.disks["disk"].open_count == 1
    texts = [data[2:] for _, kind, data in option_replies(out) if kind == Reply.INFO]
    assert b"disk" in texts
    assert b"a disk in memory" in texts


def test_only_go_with_block_size_is_a_promise_to_obey(exports: MemoryExports) -> None:
    promised = Handshake(exports)
    fed(promised, CLIENT_FLAGS, go("disk", Info.BLOCK_SIZE))
    assert promised.opened is not None
    assert promised.opened.keeps_block_sizes
    silent = Handshake(exports)
    fed(silent, CLIENT_FLAGS, go("disk", Info.BLOCK_SIZE, number=Option.INFO), go("disk"))
    assert silent.opened is not None
    assert not silent.opened.keeps_block_sizes


@pytest.mark.parametrize("number", [Option.INFO, Option.GO])
@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", Reply.ERR_INVALID),
        (b"\0\0\0", Reply.ERR_INVALID),
        (b"\xff\xff\xff\xff\0\0", Reply.ERR_INVALID),  # name longer than the data
        (b"\0\0\0\x04disk", Reply.ERR_INVALID),  # no count
        (b"\0\0\0\x04disk\0\x02\0\x03", Reply.ERR_INVALID),  # one of two infos
        (b"\0\0\0\x04disk\0\0x", Reply.ERR_INVALID),  # trailing byte
        (b"\0\0\0\x02\xff\xfe\0\0", Reply.ERR_INVALID),  # not UTF-8
        (b"\0\0\0\x03a\0b\0\0", Reply.ERR_INVALID),  # NUL
        (b"\0\0\x10\x01" + b"x" * 4097 + b"\0\0", Reply.ERR_TOO_BIG),
        (b"\0\0\x10\0" + b"x" * 4096 + b"\0\0", Reply.ERR_UNKNOWN),  # longest legal name
        (b"\0\0\0\x05../..\0\0", Reply.ERR_UNKNOWN),
        (b"\0" * 65537, Reply.ERR_TOO_BIG),
        (b"\0" * (1 << 20), Reply.ERR_TOO_BIG),
    ],
)
def test_bad_info_and_go_are_refused_and_the_stream_stays_in_step(
    handshake: Handshake, number: int, data: bytes, kind: int
) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(number, data), option(Option.LIST))
    assert types(out) == [kind, Reply.SERVER, Reply.ACK]
    text = option_replies(out)[0][2].decode()
    assert text
    assert "xxx" not in text, "what a client sent is not echoed"
    assert "disk" not in text, "other names are not revealed"


@pytest.mark.parametrize("number", [Option.INFO, Option.GO])
def test_refusals_reach_the_client_as_sentences(exports: MemoryExports, number: int) -> None:
    sentence = "resource r0 is Secondary here: promote it, or connect to the Primary"
    for unknown, kind in ((False, Reply.ERR_POLICY), (True, Reply.ERR_UNKNOWN)):
        exports.refusal = Refused(sentence, unknown=unknown)
        out = fed(Handshake(exports), CLIENT_FLAGS, go("disk", number=number))
        assert option_replies(out) == [(number, kind, sentence.encode())]


def test_a_message_is_never_longer_than_the_protocol_allows(exports: MemoryExports) -> None:
    exports.refusal = Refused("é" * 5000)
    out = fed(Handshake(exports), CLIENT_FLAGS, go("disk"))
    assert option_replies(out)[0][2].decode() == "é" * 2048


def test_structured_replies_may_be_asked_for_twice_and_set_df(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, option(8), option(8), go("disk"))
    assert types(out)[:2] == [Reply.ACK, Reply.ACK]
    told = InfoExport.parse(option_replies(out)[2][2])
    assert told.flags & TransmissionFlag.SEND_DF
    assert handshake.opened is not None
    assert handshake.opened.structured


def test_without_structured_replies_df_is_not_offered(handshake: Handshake) -> None:
    out = fed(handshake, CLIENT_FLAGS, go("disk"))
    assert not InfoExport.parse(option_replies(out)[0][2]).flags & TransmissionFlag.SEND_DF


def test_flags_follow_the_geometry() -> None:
    flag = TransmissionFlag
    plain = MemoryExports.single(SIZE).look("")
    assert not isinstance(plain, Refused)
    always = flag.HAS_FLAGS | flag.SEND_FLUSH | flag.SEND_FUA | flag.SEND_CACHE
    all_can = flag.SEND_TRIM | flag.SEND_WRITE_ZEROES | flag.CAN_MULTI_CONN
    assert transmission_flags(plain, False) == always | all_can | flag.SEND_FAST_ZERO
    poor = MemoryExports.single(
        SIZE, can_trim=False, can_zero=False, can_multi_conn=False, read_only=True, rotational=True
    ).look("")
    assert not isinstance(poor, Refused)
    assert transmission_flags(poor, False) == always | flag.READ_ONLY | flag.ROTATIONAL


# --- 1.4 limits, 1.5 the end ---


@pytest.mark.parametrize("length", [(1 << 20) + 1, (1 << 31) - 1, (1 << 32) - 1])
@pytest.mark.parametrize("number", [Option.GO, Option.LIST, Option.EXPORT_NAME, 99])
def test_absurd_option_lengths_close_at_once(
    handshake: Handshake, number: int, length: int
) -> None:
    fed(handshake, CLIENT_FLAGS, OptionRequest.build({"option": number, "length": length}))
    assert handshake.ended


def test_more_than_1024_options_close(handshake: Handshake) -> None:
    fed(handshake, CLIENT_FLAGS, option(99) * OPTIONS_MAX)
    assert handshake.ended is None
    fed_more(handshake, option(99))
    assert handshake.ended


def test_a_client_that_does_not_read_gets_no_further(handshake: Handshake) -> None:
    """Replies that wait are bounded: the next option is not looked at before they are taken."""
    handshake.take()
    raw = CLIENT_FLAGS + option(Option.LIST) * 1000
    exports = MemoryExports.single(1, "n" * 4000)
    handshake = Handshake(exports)
    assert handshake.receive(memoryview(raw)) < len(raw)
    assert handshake.full
    assert sum(map(len, handshake.take())) < 300 << 10
    assert not handshake.full


def test_while_stopping_options_are_answered_shutdown(handshake: Handshake) -> None:
    handshake.stopping = True
    out = fed(handshake, CLIENT_FLAGS, go("disk"), option(Option.LIST), option(Option.ABORT))
    assert types(out) == [Reply.ERR_SHUTDOWN, Reply.ERR_SHUTDOWN, Reply.ACK]


def test_while_stopping_export_name_closes(handshake: Handshake) -> None:
    handshake.stopping = True
    assert fed(handshake, CLIENT_FLAGS, option(Option.EXPORT_NAME, b"disk")) == b""
    assert handshake.ended
    assert handshake.opened is None
