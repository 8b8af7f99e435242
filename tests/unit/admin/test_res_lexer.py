"""Tokens and their classes, places and limits."""

from __future__ import annotations

import pytest

from replblk.admin.res_lexer import Lexer, Token, TokenKind, shown
from replblk.model.errors import ConfigError


def tokens(text: str) -> list[Token]:
    lexer, found = Lexer(text, "t.conf"), []
    while (token := lexer.next()).kind is not TokenKind.END:
        found.append(token)
    return found


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("r0", TokenKind.WORD),
        ("/dev/drbd0", TokenKind.WORD),
        ("a.b-c_d", TokenKind.WORD),
        ("-1", TokenKind.WORD),
        ("10k", TokenKind.WORD),
        ("123456789", TokenKind.WORD),
        ("10KB", TokenKind.WORD),
        ("1.2.3", TokenKind.WORD),
        ("1.2.3.4.5", TokenKind.WORD),
        ("10", TokenKind.INTEGER),
        ("12345678G", TokenKind.INTEGER),
        ("10s", TokenKind.INTEGER),
        ("10.0.0.1", TokenKind.IPV4),
        ("999.0.0.1", TokenKind.IPV4),
        ("::1", TokenKind.IPV6),
        ("::", TokenKind.IPV6),
        ("fe80::1%eth0", TokenKind.IPV6),
        ("::ffff:10.0.0.1", TokenKind.IPV6),
        ("1:2:3:4:5:6:7:8", TokenKind.IPV6),
        ("{", TokenKind.OPERATOR),
        (";", TokenKind.OPERATOR),
        ("%", TokenKind.OTHER),
        ("\0", TokenKind.OTHER),
    ],
)
def test_one_token_of_each_class(text: str, kind: TokenKind) -> None:
    (token,) = tokens(text)
    assert (token.kind, token.text) == (kind, text)


def test_an_ipv4_address_and_its_port_are_three_tokens() -> None:
    assert [token.text for token in tokens("10.0.0.1:7788;")] == ["10.0.0.1", ":", "7788", ";"]


def test_an_ipv6_address_in_brackets() -> None:
    assert [token.text for token in tokens("ipv6 [::1]:7788")] == [
        *("ipv6", "[", "::1", "]", ":", "7788")
    ]


def test_quotes_hold_everything_and_a_backslash_takes_the_next_as_it_is() -> None:
    (token,) = tokens(r'"a b # { \" \\ \n"')
    assert (token.kind, token.text) == (TokenKind.QUOTED, 'a b # { " \\ n')


def test_lines_and_columns_count_from_one_over_comments_and_blanks() -> None:
    found = tokens('a # b {\n\t c\r\n\n  "d"e')
    assert [(token.text, token.place.line, token.place.column) for token in found] == [
        ("a", 1, 1),
        ("c", 2, 3),
        ("d", 4, 3),
        ("e", 4, 6),
    ]


def test_the_longest_word_and_string_are_just_allowed() -> None:
    assert len(tokens("x" * 128)[0].text) == 128
    assert len(tokens('"' + "x" * 255 + '"')[0].text) == 255
    assert len(tokens('"' + r"\"" * 255 + '"')[0].text) == 255
    with pytest.raises(ConfigError, match="Token too long"):
        tokens("x" * 129)
    with pytest.raises(ConfigError, match="quoted string too long"):
        tokens('"' + "x" * 256 + '"')


@pytest.mark.parametrize("text", ['"', '"abc', '"abc\\', '"abc\\\n"', '"a\nb"'])
def test_an_open_string_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="Unterminated double quoted string"):
        tokens(text)


def test_the_end_comes_again_and_again() -> None:
    lexer = Lexer("", "t.conf")
    assert [lexer.next().kind for _ in range(3)] == [TokenKind.END] * 3


def test_messages_show_twenty_harmless_characters() -> None:
    assert shown("x" * 21) == "x" * 20 + "..."
    assert shown("\x1b[31m\n") == "\\x1b[31m\\n"
