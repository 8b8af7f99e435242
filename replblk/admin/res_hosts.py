"""Reads host sections and what stands in them: addresses, devices, disks, metadata, proxies.

Device, disk and meta-disk outside of a volume describe the implicit volume 0.
"""

from __future__ import annotations

import ipaddress
import re

from replblk.admin.res_lexer import WORD_MAX, Place, Token, TokenKind
from replblk.admin.res_model import (
    Backing,
    Device,
    MetaDisk,
    RawAddress,
    RawHost,
    RawOption,
    RawProxy,
    RawVolume,
)
from replblk.admin.res_options import read_option, read_section
from replblk.admin.res_stream import Stream, is_name
from replblk.model.config import Address

MINOR_MAX = 1048575
VOLUME_MAX = 65535
INDEX_MAX = 99_999_999

HOST_STATEMENTS = ("device", "disk", "meta-disk", "flexible-meta-disk")
_HOST = "disk | device | address | meta-disk | flexible-meta-disk"
_VOLUME = "device | disk | meta-disk | flex-meta-disk | }"
_ADDRESS = "ssocks | sdp | ipv4 | ipv6 | <ipv4 address> "
_DIGITS = re.compile(r"/dev/drbd([0-9]{1,7})")


class HostReader:
    """Reads host sections, volumes and their statements from a stream."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._findings = stream.findings

    def on(self, keyword: Token) -> RawHost:
        """``on NAME {NAME} { ... }``, the keyword taken."""
        names = tuple(token.text for token in self._stream.names("a host name"))
        return self._body(RawHost("on", names, keyword.place))

    def shown(self, keyword: Token) -> RawHost:
        """``_this_host { ... }`` and ``_remote_host { ... }``, as drbdsetup show prints them."""
        return self._body(RawHost(keyword.text, (), keyword.place))

    def floating(self, keyword: Token) -> RawHost:
        """``floating ADDRESS;`` or ``floating ADDRESS { ... }``."""
        host = RawHost("floating", (), keyword.place, address=self._address())
        if self._stream.accept(";"):
            return host
        return self._body(host)

    def stacked(self, keyword: Token) -> RawHost:
        """``stacked-on-top-of LOWER { ... }``."""
        lower = self._stream.name("the name of the lower resource")
        return self._body(RawHost("stacked", (), keyword.place, lower=lower.text))

    def volume(self, volumes: list[RawVolume], place: Place) -> None:
        """``volume N { ... }``, the keyword taken; of two with one number the first wins."""
        number = self._stream.integer("volume", 0, VOLUME_MAX)
        volume = RawVolume(number, False, place)
        self._stream.take("{")
        while not self._stream.accept("}"):
            token = self._stream.next()
            if token.kind is not TokenKind.WORD or token.text not in HOST_STATEMENTS:
                self._stream.fail(_VOLUME, token)
            self._statement(volume, token)
        if any(other.number == number and not other.implicit for other in volumes):
            self._findings.warn(place, f"volume {number} is repeated: the first one counts")
        else:
            volumes.append(volume)

    def implicit_statement(self, volumes: list[RawVolume], keyword: Token) -> None:
        """A device, disk or meta-disk statement that describes the implicit volume 0."""
        implicit = next((volume for volume in volumes if volume.implicit), None)
        if implicit is None:
            implicit = RawVolume(0, True, keyword.place)
            volumes.append(implicit)
        self._statement(implicit, keyword)

    def proxy_section(self, options: list[RawOption], plugins: list[tuple[str, ...]]) -> None:
        """``{ ... }`` of a proxy section, with its ``plugin { words; ... }``."""
        self._stream.take("{")
        while not self._stream.accept("}"):
            if self._stream.accept_word("plugin"):
                self._plugins(plugins)
            else:
                read_option(self._stream, "proxy", lambda _, option: options.append(option))

    def _plugins(self, plugins: list[tuple[str, ...]]) -> None:
        self._stream.take("{")
        while not self._stream.accept("}"):
            words = [self._stream.value("a plugin").text]
            while not self._stream.accept(";"):
                words.append(self._stream.value(";").text)
            plugins.append(tuple(words))

    def _body(self, host: RawHost) -> RawHost:
        self._stream.take("{")
        while not self._stream.accept("}"):
            token = self._stream.next()
            if token.kind is not TokenKind.WORD or not self._host_statement(host, token):
                self._stream.fail(_HOST, token)
        if host.kind == "stacked":
            for volume in host.volumes:
                if wrong := volume.disk or volume.meta_disk:
                    self._findings.error(
                        wrong.place,
                        "disk and meta-disk are not allowed in stacked-on-top-of {} sections: "
                        "the disk is the device of the lower resource",
                    )
        return host

    def _host_statement(self, host: RawHost, keyword: Token) -> bool:
        word = keyword.text
        if word == "address":
            if host.kind == "floating":
                raise keyword.place.error(
                    "address statement not allowed for floating {} host sections"
                )
            address = self._address(";")
            if host.address:
                self._again(keyword, host.address.place)
            else:
                host.address = address
        elif word == "alternate-link-address":
            address = self._address(";")
            if host.alternate:
                self._again(keyword, host.alternate.place)
            else:
                host.alternate = address
        elif word == "volume":
            self.volume(host.volumes, keyword.place)
        elif word in HOST_STATEMENTS:
            self.implicit_statement(host.volumes, keyword)
        elif word == "options":
            if host.options_place:
                self._again(keyword, host.options_place)
            host.options_place = keyword.place
            read_section(self._stream, "options", lambda _, option: host.options.append(option))
        elif word == "proxy":
            if host.proxy:
                self._again(keyword, host.proxy.place)
            host.proxy = self._proxy(keyword)
        elif word == "node-id":
            self._stream.integer("node-id", 0, 31)
            self._stream.take(";")
            self._findings.warn(
                keyword.place, "'node-id' is an option of DRBD 9 and has no effect here: ignored"
            )
        else:
            return False
        return True

    def _again(self, keyword: Token, first: Place) -> None:
        self._findings.conflict(keyword.place, first, "statement", keyword.text)

    def _statement(self, volume: RawVolume, keyword: Token) -> None:
        """One device, disk or meta-disk statement, the keyword taken."""
        if keyword.text == "disk" and self._stream.peek().is_operator("{"):
            if volume.options_place:
                self._findings.conflict(
                    keyword.place, volume.options_place, "disk section", f"volume {volume.number}"
                )
            volume.options_place = keyword.place
            read_section(self._stream, "disk", lambda _, option: volume.options.append(option))
        elif keyword.text == "disk":
            path = self._stream.name("a backing device")
            if volume.disk:
                self._again(keyword, volume.disk.place)
            else:
                volume.disk = Backing(path.text, keyword.place)
            self._stream.take(";")
        elif keyword.text == "device":
            device = self._device(keyword.place)
            if volume.device:
                self._again(keyword, volume.device.place)
            else:
                volume.device = device
        else:
            meta_disk = self._meta_disk(keyword.place)
            if volume.meta_disk:
                self._again(keyword, volume.meta_disk.place)
            else:
                volume.meta_disk = meta_disk

    def _device(self, place: Place) -> Device:
        """``[NAME] [minor N];`` with its rules on names and numbers."""
        name = ""
        if is_name(self._stream.peek()):
            name = self._stream.next().text
        if name and not name.startswith("/dev/"):
            name = f"/dev/{name}"
        minor = -1
        token = self._stream.peek()
        if token.is_word("minor"):
            self._stream.next()
            minor = self._stream.integer("minor", 0, MINOR_MAX)
        elif not name:
            self._stream.fail("a device name | minor", token)
        self._stream.take(";")
        if not name:
            return Device("", minor, place)
        if len(name) > WORD_MAX:
            text = f"device name too long: {len(name)} characters, at most {WORD_MAX} are allowed"
            self._findings.error(place, text)
        if not name.startswith("/dev/drbd"):
            self._findings.error(
                place,
                "device name must start with /dev/drbd\n"
                "\t(/dev/ is optional, but drbd is required)",
            )
            return Device(name, minor, place)
        digits = _DIGITS.fullmatch(name)
        if digits and minor in (-1, int(digits[1])):
            minor = int(digits[1])
            if minor > MINOR_MAX:
                text = f"minor {minor} => {minor} out of range [0..{MINOR_MAX}]."
                self._findings.error(place, text)
        elif digits:
            self._findings.error(
                place,
                "explicit minor number must match with device name\n"
                f"\tNAME=/dev/drbd{minor} minor {minor}, or leave one of the two out,\n"
                "\tor choose an arbitrary name that starts with /dev/drbd_",
            )
        elif minor == -1:
            self._findings.error(place, "no minor given nor device name contains a minor number")
        elif not name.startswith("/dev/drbd_"):
            self._findings.error(
                place,
                "arbitrary device name must start with /dev/drbd_\n"
                "\t(so that it can't be mistaken for the device of another minor)",
            )
        return Device(name, minor, place)

    def _meta_disk(self, place: Place) -> MetaDisk:
        """``internal;`` or ``DEVICE[INDEX];`` or ``DEVICE;``."""
        if self._stream.accept_word("internal"):
            self._stream.take(";")
            return MetaDisk("internal", None, place)
        path = self._stream.name("internal | a metadata device")
        index = None
        if self._stream.accept("["):
            index = self._stream.integer("index", 0, INDEX_MAX)
            self._stream.take("]")
        self._stream.take(";")
        return MetaDisk(path.text, index, place)

    def _proxy(self, keyword: Token) -> RawProxy:
        """``proxy on NAME {NAME} { inside ADDRESS; outside ADDRESS; [options { }] }``."""
        if not self._stream.accept_word("on"):
            self._stream.fail("on", self._stream.peek())
        names = tuple(token.text for token in self._stream.names("a host name"))
        proxy = RawProxy(names, keyword.place)
        self._stream.take("{")
        while not self._stream.accept("}"):
            token = self._stream.next()
            if token.is_word("inside"):
                proxy.inside = self._address(";")
            elif token.is_word("outside"):
                proxy.outside = self._address(";")
            elif token.is_word("options"):
                self.proxy_section(proxy.options, proxy.plugins)
            else:
                self._stream.fail("inside | outside | options", token)
        return proxy

    def _address(self, end: str = "") -> RawAddress:
        """``[FAMILY] A.B.C.D:PORT`` or ``ipv6 [A]:PORT``, and the *end* behind it."""
        stream = self._stream
        token = stream.next()
        place = token.place
        family = "ipv4"
        if token.kind is TokenKind.WORD and token.text in ("ipv4", "ssocks", "sdp", "sci", "ipv6"):
            # sci is what ssocks was called before it had a name of its own
            family = "ssocks" if token.text == "sci" else token.text
            if family == "ipv6":
                stream.take("[")
            token = stream.next()
        wanted = TokenKind.IPV6 if family == "ipv6" else TokenKind.IPV4
        if token.kind is not wanted:
            stream.fail(_ADDRESS if family == "ipv4" else f"<{wanted.value}>", token)
        try:
            ipaddress.ip_address(token.text)
        except ValueError:
            text = f"'{token.text}' is not a valid {wanted.value}: four numbers from 0 to 255"
            self._findings.error(token.place, text)
        if family == "ipv6":
            stream.take("]")
        stream.take(":")
        port = stream.integer("port", 1, 65535)
        if end:
            stream.take(end)
        return RawAddress(Address(family=family, host=token.text, port=port), place)
