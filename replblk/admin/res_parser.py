"""Reads global, common and resource blocks of a drbd.conf into the syntax tree.

The nesting is fixed by the grammar, so no input makes this recurse. A token that cannot stand where
it does ends the reading (ConfigError); everything else wrong is noted in the findings.
"""

from __future__ import annotations

from collections.abc import Callable

from replblk.admin.options import DRBD9_ONLY, lookup, section_options
from replblk.admin.res_hosts import HOST_STATEMENTS, HostReader
from replblk.admin.res_lexer import Place, Token, TokenKind, printable
from replblk.admin.res_model import RawBody, RawHost, RawOption, Tree
from replblk.admin.res_options import read_option, read_section
from replblk.admin.res_stream import Stream, near

Include = Callable[[str, Place], None]

_TOP = "global | common | resource | skip | include"
_BODY = "protocol | on | disk | net | syncer | startup | handlers | ignore-on | stacked-on-top-of"
_GLOBAL = "dialog-refresh | minor-count | disable-ip-verification"


class Parser:
    """Reads one file; *include* is called for every include statement, at once."""

    def __init__(self, stream: Stream, tree: Tree, include: Include) -> None:
        self._stream = stream
        self._findings = stream.findings
        self._tree = tree
        self._include = include
        self._hosts = HostReader(stream)

    def parse(self) -> None:
        """Read the file to its end."""
        while (token := self._stream.next()).kind is not TokenKind.END:
            if token.is_word("global"):
                self._global(token)
            elif token.is_word("common"):
                self._common(token)
            elif token.is_word("resource"):
                self._resource(token)
            elif token.is_word("skip"):
                self._skip()
            elif token.is_word("include"):
                pattern = self._stream.name("a file name or pattern")
                self._stream.take(";")
                self._include(pattern.text, pattern.place)
            else:
                self._stream.fail(_TOP, token)

    def _global(self, keyword: Token) -> None:
        tree = self._tree
        if tree.resources:
            self._findings.warn(
                keyword.place,
                "You should put the global {} section\n\tin front of any resource {} section",
            )
        if tree.global_place:
            self._findings.conflict(keyword.place, tree.global_place, "section", "global")
        tree.global_place = keyword.place
        self._stream.take("{")
        while not self._stream.accept("}"):
            token = self._stream.peek()
            if token.kind is not TokenKind.WORD or not _is_global(token.text):
                names = [option.name for option in section_options("global")]
                self._stream.fail(_GLOBAL, token, near(token.text, names))
            read_option(self._stream, "global", lambda _, option: tree.globals.append(option))

    def _common(self, keyword: Token) -> None:
        body = RawBody("", keyword.place)
        if self._tree.common:
            self._findings.conflict(keyword.place, self._tree.common.place, "section", "common")
        else:
            self._tree.common = body
        self._body(body, "common")
        # Device and disk statements mean nothing in common, and DRBD drops them without a word.
        for host in body.hosts:
            self._findings.error(
                host.place, "in the common section, there are no host sections allowed."
            )
        for volume in body.volumes:
            self._findings.warn(volume.place, "volumes mean nothing in the common section: ignored")
        body.hosts, body.volumes = [], []

    def _resource(self, keyword: Token) -> None:
        name = self._stream.name("a resource name")
        if not name.text or not name.text.isprintable():
            self._findings.error(
                name.place,
                f"invalid resource name '{printable(name.text)}': "
                "it must not be empty nor contain control characters",
            )
        body = RawBody(name.text, keyword.place)
        self._body(body, name.text)
        self._tree.resources.append(body)

    def _body(self, body: RawBody, owner: str) -> None:
        """Read a block up to its brace; the end of the file will do instead."""
        self._stream.take("{")
        while not self._stream.accept("}"):
            token = self._stream.peek()
            if token.kind is TokenKind.END:
                return
            if token.kind is not TokenKind.WORD or not self._statement(body, owner, token):
                self._stream.fail(_BODY, token, _DRBD9_SECTION.get(token.text, ""))

    def _statement(self, body: RawBody, owner: str, token: Token) -> bool:
        """Read one statement of a resource; False if the word starts none."""
        stream = self._stream
        word = token.text
        if word in ("on", "floating", "stacked-on-top-of", "_this_host", "_remote_host"):
            body.hosts.append(self._host(stream.next()))
        elif word == "volume":
            stream.next()
            self._hosts.volume(body.volumes, token.place)
        elif word == "protocol":
            self._once(body, owner, token)
            read_option(stream, "net", self._adder(body))
        elif word == "ignore-on":
            stream.next()
            stream.name("a host name")
            stream.take(";")
            self._findings.warn(
                token.place, f"in resource {owner}, WARN: The 'ignore-on' keyword is deprecated."
            )
        elif word in ("net", "syncer", "startup", "handlers", "options"):
            self._once(body, owner, stream.next())
            read_section(stream, word, self._adder(body))
        elif word == "proxy":
            self._once(body, owner, stream.next())
            self._hosts.proxy_section(body.sections["proxy"], body.plugins)
        elif word == "disk":
            stream.next()
            if stream.peek().is_operator("{"):
                self._once(body, owner, token)
                read_section(stream, "disk", self._adder(body))
            else:
                self._hosts.implicit_statement(body.volumes, token)
        elif word in HOST_STATEMENTS:
            self._hosts.implicit_statement(body.volumes, stream.next())
        else:
            return False
        return True

    def _host(self, keyword: Token) -> RawHost:
        if keyword.text == "on":
            return self._hosts.on(keyword)
        if keyword.text == "floating":
            return self._hosts.floating(keyword)
        if keyword.text == "stacked-on-top-of":
            return self._hosts.stacked(keyword)
        return self._hosts.shown(keyword)

    def _once(self, body: RawBody, owner: str, token: Token) -> None:
        """Note a section or statement that a resource may have only once."""
        first = body.seen.setdefault(token.text, token.place)
        if first is not token.place:
            what = "protocol statement" if token.text == "protocol" else f"{token.text} section"
            self._findings.conflict(token.place, first, what, owner)

    def _adder(self, body: RawBody) -> Callable[[str, RawOption], None]:
        return lambda section, option: body.sections[section].append(option)

    def _skip(self) -> None:
        """Skip a block with everything in it; a name may stand before it."""
        stream = self._stream
        if not stream.peek().is_operator("{"):
            token = stream.next()
            if token.kind not in (TokenKind.WORD, TokenKind.QUOTED, TokenKind.INTEGER):
                stream.fail("{", token)
            if token.is_word("resource"):
                stream.name("a resource name")
        opening = stream.take("{")
        depth = 1
        while depth:
            token = stream.next()
            if token.kind is TokenKind.END:
                raise opening.place.error("reached eof while parsing this skip block.")
            depth += token.is_operator("{") - token.is_operator("}")


def _is_global(word: str) -> bool:
    return lookup("global", word) is not None or word in DRBD9_ONLY["global"]


_DRBD9_SECTION = {
    name: f" ('{name}' is a section of DRBD 9; of DRBD 8.4, two nodes and their 'on' sections)"
    for name in ("connection", "connection-mesh", "path", "hosts", "host", "peer-device-options")
}
