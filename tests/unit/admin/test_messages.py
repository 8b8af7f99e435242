"""Requests and replies: what travels, and what is refused with which sentence."""

from __future__ import annotations

import pytest

from replblk.admin.messages import (
    REQUEST_BYTES_MAX,
    Lines,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from replblk.admin.status_values import status_to_json
from replblk.model.errors import AdminError
from replblk.model.status import ResyncStatus
from tests.support.status_builders import node, volume

PROGRESS = ResyncStatus(
    total_kib=100,
    left_kib=40,
    percent_done=60.0,
    rate_kib_s=1,
    rate_average_kib_s=1,
    want_kib_s=0,
    seconds_left=None,
)


def test_a_request_is_one_line_and_comes_back_the_same() -> None:
    request = Request("primary", 3, {"force": True, "timeout_s": 30, "who": "a\nb"})
    line = encode_request(request)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_request(line) == request
    assert decode_request(b'{"verb": "status"}') == Request("status")


def test_a_reply_with_a_status_comes_back_the_same() -> None:
    status = node(volume(resync=PROGRESS), volume(number=1, minor=1))
    reply = Reply(11, "State change failed: (-12) Device is held open by someone", -12, status)
    assert decode_reply(encode_reply(reply)) == reply
    assert decode_reply(encode_reply(Reply(0))) == Reply(0)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"", "request is no JSON object in one line"),
        (b"\xff\n", "request is no JSON object in one line"),
        (b"[" * 60000, "request is no JSON object in one line"),
        (b'{"verb": NaN}', "NaN is no number"),
        (b'{"verb": ' + b"9" * 5000 + b"}", "request is no JSON object in one line"),
        (b"[]", "request is no JSON object but []"),
        (b"{}", "'verb' must be a word, not None"),
        (b'{"verb": ""}', "'verb' must be a word, not ''"),
        (b'{"verb": "\\ud800"}', "'verb' must be a word"),
        (b'{"verb": "up", "volume": -1}', "'volume' must be a number from 0 to 65535"),
        (b'{"verb": "up", "volume": true}', "'volume' must be a number from 0 to 65535"),
        (b'{"verb": "up", "options": []}', "'options' must be an object, not []"),
        (b'{"verb": "up", "options": {"a": [1]}}', "'options.a' must be a number, a string"),
        (b'{"verb": "up", "options": {"a": 1e3}}', "'options.a' must be a number, a string"),
        (b'{"verb": "up", "options": {"a": 9223372036854775808}}', "'options.a' must be"),
        (b'{"verb": "up", "force": true}', "unknown key 'force', expected verb, volume, options"),
        (b'{"verb": "' + b"x" * REQUEST_BYTES_MAX + b'"}', "request longer than 65536 bytes"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_bad_request_is_refused_with_a_sentence(line: bytes, sentence: str) -> None:
    with pytest.raises(AdminError) as caught:
        decode_request(line)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 20
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b'{"text": "", "code": 1}', "'exit_code' must be a number from 0 to 255"),
        (b'{"exit_code": 0, "code": 1}', "'text' must be a string"),
        (b'{"exit_code": 0, "text": ""}', "'code' must be a number"),
        (b'{"exit_code": 0, "text": "", "code": 1, "status": 5}', "status: must be an object"),
        (b'{"exit_code": 0, "text": "", "code": 1, "status": {}}', "'resource' is missing"),
    ],
)
def test_a_bad_reply_is_refused_with_a_sentence(line: bytes, sentence: str) -> None:
    with pytest.raises(AdminError) as caught:
        decode_reply(line)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("minor", "0", r"status.volumes[0].minor: must be of type int, not '0'"),
        ("minor", True, "status.volumes[0].minor: must be of type int, not True"),
        ("uuids", [1, 2, 3], "status.volumes[0].uuids: must be a list of 4"),
        ("uuids", [1, 2, 3, "x"], "status.volumes[0].uuids[3]: must be of type int"),
        ("state", {"conn": "Bogus"}, "status.volumes[0].state.conn: must be one of StandAlone"),
        ("resync", 7, "status.volumes[0].resync: must be an object"),
    ],
)
def test_a_bad_status_names_the_place(key: str, value: object, sentence: str) -> None:
    status = status_to_json(node(volume()))
    status["volumes"][0][key] = value
    text = str(status).replace("'", '"').replace("True", "true").replace("False", "false")
    line = f'{{"exit_code": 0, "text": "", "code": 1, "status": {text.replace("None", "null")}}}'
    with pytest.raises(AdminError) as caught:
        decode_reply(line.encode())
    assert sentence in str(caught.value)


def test_what_a_newer_daemon_adds_is_passed_over() -> None:
    line = encode_reply(Reply(0, status=node(volume())))
    newer = line.replace(b'"resource"', b'"colour": "red", "resource"')
    newer = newer.replace(b'{"exit_code"', b'{"mood": 7, "exit_code"')
    assert decode_reply(newer) == decode_reply(line)


def test_a_request_too_long_is_not_sent() -> None:
    with pytest.raises(AdminError, match="at most 65536 are allowed"):
        encode_request(Request("x", None, {"a": "y" * REQUEST_BYTES_MAX}))


def test_lines_are_cut_however_the_bytes_arrive() -> None:
    lines = Lines()
    assert lines.feed(b"on") == []
    assert lines.feed(b"e\ntwo\nth") == [b"one\n", b"two\n"]
    assert lines.feed(b"ree") == []
    assert lines.feed(b"\n\n") == [b"three\n", b"\n"]


def test_a_line_without_end_is_cut_off_at_the_limit() -> None:
    lines = Lines(10)
    assert lines.feed(b"123456789") == []
    with pytest.raises(AdminError, match="message longer than 10 bytes"):
        lines.feed(b"0x")
    with pytest.raises(AdminError, match="message longer than 10 bytes"):
        Lines(10).feed(b"01234567890\n")
