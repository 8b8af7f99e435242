"""Reads one option section: names, values, ranges, and the old and the too new spellings.

Values are judged here, by the table in ``options``: nobody after us does. Numbers out of range and
unknown words are noted and reading goes on; what is no number at all ends it (exit code 20).
"""

from __future__ import annotations

from collections.abc import Callable

from replblk.admin.options import (
    ALIASES,
    DRBD9_ONLY,
    NEGATED,
    OBSOLETE,
    OPTIONS,
    SYNCER,
    Kind,
    Option,
    lookup,
    number,
    section_options,
)
from replblk.admin.res_lexer import Token, TokenKind, printable
from replblk.admin.res_model import RawOption
from replblk.admin.res_stream import Stream, is_name, near

Add = Callable[[str, RawOption], None]
"""Receives (section, option); the section differs from the one read only for syncer."""


def read_section(stream: Stream, section: str, add: Add) -> None:
    """Read ``{ NAME [VALUE]; ... }`` of *section* up to and with the closing brace."""
    stream.take("{")
    while not stream.accept("}"):
        read_option(stream, section, add)


def read_option(stream: Stream, section: str, add: Add) -> None:
    """Read one ``NAME [VALUE];``."""
    token = stream.next()
    if token.kind is TokenKind.END:
        stream.fail("an option", token)
    word = token.text if token.kind is TokenKind.WORD else ""
    if section == "syncer":
        if word not in SYNCER:
            stream.fail("a syncer option keyword", token, _hint(section, word))
        target, name = SYNCER[word]
        option = lookup(target, name)
        assert option is not None
        add(target, _valued(stream, option, token))
    elif (section, word) in NEGATED:
        option = lookup(section, NEGATED[section, word])
        assert option is not None
        add(section, RawOption(option, ("no",), token.place))
        stream.take(";")
    elif known := lookup(section, ALIASES.get((section, word), word)):
        add(section, _valued(stream, known, token))
    elif word in OBSOLETE or (section, word) == ("disk", "use-bmbv"):
        _ignore(stream, token, "is obsolete and ignored")
    elif word in DRBD9_ONLY.get(section, ()):
        _ignore(stream, token, "is an option of DRBD 9 and has no effect here: ignored")
    else:
        stream.fail("an option keyword", token, _hint(section, word))


def _hint(section: str, word: str) -> str:
    """What may have been meant by an unknown option."""
    elsewhere = [option.section for option in OPTIONS if option.name == word]
    if section != "syncer" and elsewhere:
        return f" ('{word}' belongs into the {' or '.join(elsewhere)} section)"
    if section == "net" and word in ("discard-my-data", "tentative"):
        return f" ('{word}' is for the command line of connect only)"
    if section == "syncer":
        return near(word, SYNCER)
    return near(word, [option.name for option in section_options(section)])


def _ignore(stream: Stream, name: Token, why: str) -> None:
    """Skip the value of an option that has no effect, with a warning."""
    while not stream.accept(";"):
        token = stream.next()
        if token.kind in (TokenKind.END, TokenKind.OTHER, TokenKind.OPERATOR):
            stream.fail(";", token)
    stream.findings.warn(name.place, f"'{name.text}' {why}")


def _valued(stream: Stream, option: Option, name: Token) -> RawOption:
    """Read and judge the value of *option*, and the semicolon behind it."""
    words: tuple[str, ...]
    if option.kind is Kind.FLAG:
        words = ("yes",)
    elif option.kind is Kind.BOOLEAN:
        words = (_boolean(stream),)
    elif option.kind is Kind.NAMES:
        words = tuple(token.text for token in stream.names("a host name"))
    elif option.name == "usage-count":
        token = stream.next()
        if not (token.kind is TokenKind.WORD and token.text in option.choices):
            stream.fail("yes | no | ask", token)
        words = (token.text,)
    else:
        token = stream.value(_expected_value(option))
        _judge(stream, option, token)
        words = (token.text,)
    end = stream.next()
    if not end.is_operator(";"):
        hint = "" if not is_name(end) or option.kind is not Kind.STRING else _QUOTE_HINT
        stream.fail(";", end, hint)
    return RawOption(option, words, name.place)


_QUOTE_HINT = " (a value with blanks must be quoted)"


def _boolean(stream: Stream) -> str:
    token = stream.peek()
    if token.is_operator(";"):
        return "yes"
    if not (token.is_word("yes") or token.is_word("no")):
        stream.fail("yes | no | ;", token)
    return stream.next().text


def _expected_value(option: Option) -> str:
    if option.kind is Kind.ENUM:
        return " | ".join(option.choices)
    if option.kind is Kind.NUMBER:
        return f"a number for {option.name}"
    return f"a value for {option.name}"


def _judge(stream: Stream, option: Option, token: Token) -> None:
    """Hold a value against the option's type, range or choices."""
    text, place, findings = token.text, token.place, stream.findings
    if option.kind is Kind.NUMBER:
        value = number(option, text)
        if value is None:
            raise place.error(f"{printable(text)} is not a valid number", exit_code=20)
        if not option.low <= value <= option.high:
            letter = option.letter
            sentence = (
                f"{option.name} {text} => {value}{letter} "
                f"out of range [{option.low}..{option.high}]{letter}."
            )
            if option.clamped:
                findings.warn(place, sentence + " The nearest allowed value is used.")
            else:
                findings.error(place, sentence)
    elif option.name == "protocol":
        if text.upper() not in option.choices:
            findings.error(place, f"unknown protocol '{printable(text)}', should be one of A,B,C")
    elif option.kind is Kind.ENUM:
        named = option.name == "after-sb-0pri" and text.startswith("discard-node-")
        if text not in option.choices and not named:
            findings.error(
                place,
                f"Option --{option.name}: invalid argument '{printable(text)}', "
                f"should be one of {', '.join(option.choices)}{near(text, option.choices)}",
            )
    elif len(text) > option.longest:
        findings.error(
            place,
            f"Option --{option.name}: the value has {len(text)} characters, "
            f"at most {option.longest} are allowed",
        )
