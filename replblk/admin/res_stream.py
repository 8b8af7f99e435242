"""Takes the token that must come next, or says in DRBD's words what came instead.

A word equal to a keyword is no name and no value unless it is quoted; ``on`` may be a value.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import NoReturn

from replblk.admin.options import ALIASES, NEGATED, OBSOLETE, OPTIONS, SYNCER
from replblk.admin.res_lexer import Lexer, Token, TokenKind, is_plain, plain_kind, shown
from replblk.admin.res_model import Findings

_STATEMENTS = (
    "global common resource skip include protocol on floating stacked-on-top-of ignore-on "
    "_this_host _remote_host disk net syncer startup handlers options proxy device minor "
    "meta-disk flexible-meta-disk internal volume address alternate-link-address inside "
    "outside plugin ipv4 ipv6 ssocks sdp sci yes no ask"
)
KEYWORDS = frozenset(
    [
        *_STATEMENTS.split(),
        *(option.name for option in OPTIONS),
        *(name for _, name in (*ALIASES, *NEGATED)),
        *SYNCER,
        *OBSOLETE,
    ]
)


def needs_quotes(text: str, *, value: bool = False) -> bool:
    """Whether *text* must be quoted to be read back as a name (or as the value of an option)."""
    if not is_plain(text) or len(text) > 80:
        return True
    if text in KEYWORDS:
        return not (value and text == "on")
    allowed = (TokenKind.WORD, TokenKind.INTEGER) if value else (TokenKind.WORD,)
    return plain_kind(text) not in allowed


class Stream:
    """The tokens of one file, and where to note what is wrong with them."""

    def __init__(self, lexer: Lexer, findings: Findings) -> None:
        self._lexer = lexer
        self.findings = findings

    def peek(self) -> Token:
        """The next token, left where it is."""
        return self._lexer.peek()

    def next(self) -> Token:
        """The next token."""
        return self._lexer.next()

    def fail(self, expected: str, token: Token, hint: str = "") -> NoReturn:
        """Stop reading: *token* is not what the grammar allows here."""
        if not hint and token.kind is TokenKind.WORD and token.text in KEYWORDS:
            hint = f" ('{token.text}' is a keyword: quote it to use it as a name or value)"
        text = f"Parse error: '{expected}' expected,\n\tbut got '{shown(token.text)}'{hint}"
        raise token.place.error(text)

    def accept(self, operator: str) -> bool:
        """Take the operator if it comes next."""
        if not self.peek().is_operator(operator):
            return False
        self.next()
        return True

    def take(self, operator: str) -> Token:
        """Take the operator, which must come next."""
        token = self.next()
        if not token.is_operator(operator):
            self.fail(operator, token)
        return token

    def accept_word(self, word: str) -> bool:
        """Take the bare word if it comes next."""
        if not self.peek().is_word(word):
            return False
        self.next()
        return True

    def name(self, expected: str) -> Token:
        """Take a name: a quoted string, or a word that is no keyword and no number."""
        token = self.next()
        if not is_name(token):
            self.fail(expected, token)
        return token

    def names(self, expected: str) -> list[Token]:
        """Take one name and all that follow it directly."""
        found = [self.name(expected)]
        while is_name(self.peek()):
            found.append(self.next())
        return found

    def value(self, expected: str) -> Token:
        """Take the value of an option: a name, a number, or ``on``."""
        token = self.next()
        if not (is_name(token) or token.kind is TokenKind.INTEGER or token.is_word("on")):
            self.fail(expected, token)
        return token

    def integer(self, what: str, low: int, high: int) -> int:
        """Take a whole number without unit; out of low..high is noted as an error."""
        token = self.next()
        if token.kind is not TokenKind.INTEGER or not token.text.isdigit():
            self.fail(f"{what}: a number of at most 8 digits", token)
        number = int(token.text)
        if not low <= number <= high:
            text = f"{what} {token.text} => {number} out of range [{low}..{high}]."
            self.findings.error(token.place, text)
        return number


def is_name(token: Token) -> bool:
    """Whether the token can be a name."""
    if token.kind is TokenKind.WORD:
        return token.text not in KEYWORDS
    return token.kind is TokenKind.QUOTED


def near(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` for the known words most like *word*, or ""."""
    matches = difflib.get_close_matches(word[:64], list(known), n=2, cutoff=0.7)
    if not matches:
        return ""
    return " (did you mean " + " or ".join(f"'{match}'" for match in matches) + "?)"
