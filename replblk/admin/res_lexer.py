"""Cuts the text of a drbd.conf into tokens, each knowing its line and column (both from 1).

Tokens are made on demand, so an error is reported only when reading gets there. A word is at most
128 characters, a quoted string at most 255; ``\\x`` in quotes stands for x. Raises ConfigError.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from replblk.model.errors import ConfigError

WORD_MAX = 128
QUOTED_MAX = 255
_SHOWN_MAX = 20
_ADDRESS_MAX = 64

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)+")
_WORD = re.compile(r"[a-zA-Z0-9/._-]+")
_INTEGER = re.compile(r"[0-9]{1,8}[MKGs]?")
_IPV4 = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_IPV6 = re.compile(r"([0-9A-Fa-f:]*:[0-9A-Fa-f:.]*)(%[0-9A-Za-z._~-]+)?")


class Place(NamedTuple):
    """Where something is written; file as it was named."""

    file: str
    line: int
    column: int

    def error(self, text: str, exit_code: int = 10) -> ConfigError:
        """A ConfigError at this place."""
        return ConfigError(text, self.file, self.line, self.column, exit_code)


class TokenKind(Enum):
    """Classes of tokens; a keyword is a WORD, only the parser knows which words it waits for."""

    WORD = "word"
    QUOTED = "quoted string"
    INTEGER = "integer"
    IPV4 = "IPv4 address"
    IPV6 = "IPv6 address"
    OPERATOR = "operator"
    OTHER = "other"
    END = "end of file"


@dataclass(frozen=True, slots=True)
class Token:
    """One token; text without quotes and escapes, "" at the end of the file."""

    kind: TokenKind
    text: str
    place: Place

    def is_word(self, word: str) -> bool:
        """Whether this is the bare word *word*."""
        return self.kind is TokenKind.WORD and self.text == word

    def is_operator(self, operator: str) -> bool:
        """Whether this is the operator *operator*."""
        return self.kind is TokenKind.OPERATOR and self.text == operator


def shown(text: str) -> str:
    """*text* fit for a message: at most 20 characters, nothing that a terminal would act on."""
    cut = text if len(text) <= _SHOWN_MAX else text[:_SHOWN_MAX] + "..."
    return printable(cut)


def printable(text: str) -> str:
    """*text* with everything unprintable as backslash escapes."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def plain_kind(word: str) -> TokenKind:
    """The class a word of the STRING alphabet has when it stands bare."""
    if _INTEGER.fullmatch(word):
        return TokenKind.INTEGER
    if _IPV4.fullmatch(word):
        return TokenKind.IPV4
    return TokenKind.WORD


def is_plain(text: str) -> bool:
    """Whether *text* has only characters that need no quotes."""
    return _WORD.fullmatch(text) is not None


class Lexer:
    """The tokens of one file, with one token of look-ahead."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        self._text = text
        self._at = 0
        self._line = 1
        self._line_start = 0
        self._ahead: Token | None = None

    def peek(self) -> Token:
        """The next token, left where it is."""
        if self._ahead is None:
            self._ahead = self._read()
        return self._ahead

    def next(self) -> Token:
        """The next token; END again and again at the end."""
        token = self.peek()
        self._ahead = None
        return token

    def _read(self) -> Token:
        self._skip_blank()
        place = Place(self.file, self._line, self._at - self._line_start + 1)
        if self._at == len(self._text):
            return Token(TokenKind.END, "", place)
        char = self._text[self._at]
        if char == '"':
            text = self._quoted(place)
            if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
                raise place.error(f"string >>>{shown(text)}<<< is not UTF-8 text")
            return Token(TokenKind.QUOTED, text, place)
        # An IPv6 address may begin like a word or an operator: the longer reading wins.
        word = _WORD.match(self._text, self._at)
        address = self._ipv6()
        if len(address) > (len(word[0]) if word else 1):
            self._at += len(address)
            return Token(TokenKind.IPV6, address, place)
        if word:
            text = word[0]
            if len(text) > WORD_MAX:
                raise place.error(f"Token too long >>>{text[:_SHOWN_MAX]}...<<<")
            self._at = word.end()
            return Token(plain_kind(text), text, place)
        self._at += 1
        kind = TokenKind.OPERATOR if char in "{};[]:" else TokenKind.OTHER
        return Token(kind, char, place)

    def _skip_blank(self) -> None:
        blank = _BLANK.match(self._text, self._at)
        if blank is None:
            return
        self._at = blank.end()
        lines = blank[0].count("\n")
        if lines:
            self._line += lines
            self._line_start = blank.start() + blank[0].rindex("\n") + 1

    def _ipv6(self) -> str:
        """The IPv6 address that starts here, or ""."""
        match = _IPV6.match(self._text, self._at, self._at + _ADDRESS_MAX)
        if match is None or match[1].count(":") < 2:
            return ""
        try:
            ipaddress.IPv6Address(match[1])
        except ValueError:
            return ""
        return match[0]

    def _quoted(self, place: Place) -> str:
        parts: list[str] = []
        at = self._at + 1
        while True:
            char = self._text[at : at + 1]
            if char == "\\" and self._text[at + 1 : at + 2] not in ("", "\n"):
                parts.append(self._text[at + 1])
                at += 2
            elif char == '"':
                self._at = at + 1
                return "".join(parts)
            elif char in ("", "\n"):
                start = shown("".join(parts))
                raise place.error(
                    "Unterminated double quoted string\n"
                    f"  we don't allow embedded newlines\n  >>>{start}<<<"
                )
            else:
                parts.append(char)
                at += 1
            if len(parts) > QUOTED_MAX:
                start = shown("".join(parts[:_SHOWN_MAX]))
                raise place.error(f"Double quoted string too long >>>{start}...<<<")
