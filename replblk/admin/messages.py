"""Requests and replies of the control socket: one JSON object a line, judged as it comes in.

A request is at most 64 KiB long, a reply at most 16 MiB. AdminError (exit code 20) says what is
wrong with a message; whoever reads bytes from a socket cuts them into lines with ``Lines``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from replblk.admin.status_values import status_from_json, status_to_json
from replblk.model.errors import AdminError
from replblk.model.status import NodeStatus

REQUEST_BYTES_MAX = 64 << 10
REPLY_BYTES_MAX = 16 << 20

OptionValue = bool | int | str
_WHOLE_MAX = 1 << 63


@dataclass(frozen=True, slots=True)
class Request:
    """A command for the daemon: DRBD's verb, the volume (None: all of them), and options."""

    verb: str
    volume: int | None = None
    options: dict[str, OptionValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """What became of it. code: DRBD's result or error number; status: where one was asked for."""

    exit_code: int
    text: str = ""
    code: int = 1
    status: NodeStatus | None = None


def encode_request(request: Request) -> bytes:
    """The line to send, with its newline."""
    line = _encode(
        {"verb": request.verb, "volume": request.volume, "options": dict(request.options)}
    )
    if len(line) > REQUEST_BYTES_MAX:
        raise AdminError(
            f"request of {len(line)} bytes: at most {REQUEST_BYTES_MAX} are allowed", exit_code=20
        )
    return line


def decode_request(line: bytes) -> Request:
    """The request in a line, with or without its newline."""
    values = _object(line, "request", REQUEST_BYTES_MAX, ("verb", "volume", "options"))
    verb = values.get("verb")
    if not isinstance(verb, str) or not verb.isprintable() or not verb:
        raise _wrong("request", "verb", "a word", verb)
    volume = values.get("volume")
    if volume is not None and not (_is_whole(volume) and 0 <= volume <= 65535):
        raise _wrong("request", "volume", "a number from 0 to 65535, or null", volume)
    options = values.get("options", {})
    if not isinstance(options, dict):
        raise _wrong("request", "options", "an object", options)
    for name, value in options.items():
        if not (isinstance(value, (bool, str)) or _is_whole(value)):
            raise _wrong(
                "request", f"options.{name[:40]}", "a number, a string or a boolean", value
            )
    return Request(verb, volume, options)


def encode_reply(reply: Reply) -> bytes:
    """The line to send, with its newline."""
    values: dict[str, Any] = {
        "exit_code": reply.exit_code,
        "text": reply.text,
        "code": reply.code,
    }
    if reply.status is not None:
        values["status"] = status_to_json(reply.status)
    return _encode(values)


def decode_reply(line: bytes) -> Reply:
    """The reply in a line, with or without its newline; keys of later versions are passed over."""
    values = _object(line, "reply", REPLY_BYTES_MAX, None)
    exit_code, text, code = (values.get(key) for key in ("exit_code", "text", "code"))
    if not (_is_whole(exit_code) and 0 <= exit_code <= 255):
        raise _wrong("reply", "exit_code", "a number from 0 to 255", exit_code)
    if not isinstance(text, str):
        raise _wrong("reply", "text", "a string", text)
    if not _is_whole(code):
        raise _wrong("reply", "code", "a number", code)
    status = values.get("status")
    return Reply(exit_code, text, code, None if status is None else status_from_json(status))


class Lines:
    """Cuts a byte stream into lines; a line longer than *limit* bytes raises AdminError."""

    def __init__(self, limit: int = REQUEST_BYTES_MAX) -> None:
        self._limit = limit
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that *data* completes, each with its newline."""
        searched = len(self._rest)
        self._rest += data
        lines: list[bytes] = []
        start = 0
        while (end := self._rest.find(b"\n", max(start, searched))) >= 0:
            lines.append(bytes(self._rest[start : end + 1]))
            start = end + 1
        del self._rest[:start]
        longest = max((len(line) for line in lines), default=0)
        if max(longest, len(self._rest)) > self._limit:
            raise AdminError(f"message longer than {self._limit} bytes", exit_code=20)
        return lines


def _encode(values: dict[str, Any]) -> bytes:
    return json.dumps(values, ensure_ascii=True, allow_nan=False).encode("ascii") + b"\n"


def _object(line: bytes, what: str, limit: int, known: tuple[str, ...] | None) -> dict[str, Any]:
    """The JSON object in *line*, of which only *known* keys may occur (None: any)."""
    if len(line) > limit:
        raise AdminError(f"{what} longer than {limit} bytes", exit_code=20)
    try:
        values = json.loads(line.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise AdminError(f"{what} is no JSON object in one line: {error}", exit_code=20) from error
    if not isinstance(values, dict):
        raise AdminError(f"{what} is no JSON object but {_shown(values)}", exit_code=20)
    if known is not None:
        for key in values:
            if key not in known:
                raise AdminError(
                    f"{what}: unknown key {_shown(key)}, expected {', '.join(known)}", exit_code=20
                )
    return values


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is no number")


def _is_whole(value: Any) -> TypeGuard[int]:
    return (
        isinstance(value, int) and not isinstance(value, bool) and -_WHOLE_MAX <= value < _WHOLE_MAX
    )


def _wrong(what: str, key: str, expected: str, value: Any) -> AdminError:
    return AdminError(
        f"{what}: {_shown(key)} must be {expected}, not {_shown(value)}", exit_code=20
    )


def _shown(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
