"""The syntax tree of a configuration: what is written, where, nothing merged and nothing assumed.

Values stay as text, in the spelling of the file; defaults and inheritance are ``resolve``'s work.
Legacy spellings are already translated (syncer options stand in disk, net and options).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from replblk.admin.options import Option
from replblk.admin.res_lexer import Place
from replblk.model.config import Address
from replblk.model.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RawOption:
    """An option as written. words: one value; several only for ``become-primary-on``."""

    option: Option
    words: tuple[str, ...]
    place: Place

    @property
    def name(self) -> str:
        """DRBD's present name of the option."""
        return self.option.name

    @property
    def value(self) -> str:
        """The value of an option that has one."""
        return self.words[0]


@dataclass(frozen=True, slots=True)
class Device:
    """A ``device`` statement. name: "" when only the minor is given; minor: -1 when refused."""

    name: str
    minor: int
    place: Place


@dataclass(frozen=True, slots=True)
class Backing:
    """A ``disk`` statement: the backing device."""

    path: str
    place: Place


@dataclass(frozen=True, slots=True)
class MetaDisk:
    """A ``meta-disk`` statement. path: "internal" or a device; index None: internal or flexible."""

    path: str
    index: int | None
    place: Place


@dataclass(slots=True)
class RawVolume:
    """A volume, or the statements outside of one that describe volume 0 (implicit)."""

    number: int
    implicit: bool
    place: Place
    device: Device | None = None
    disk: Backing | None = None
    meta_disk: MetaDisk | None = None
    options: list[RawOption] = field(default_factory=list)
    options_place: Place | None = None


@dataclass(frozen=True, slots=True)
class RawAddress:
    """An address and where it is written."""

    address: Address
    place: Place


@dataclass(slots=True)
class RawProxy:
    """``proxy on NAMES { }`` of a host section."""

    names: tuple[str, ...]
    place: Place
    inside: RawAddress | None = None
    outside: RawAddress | None = None
    options: list[RawOption] = field(default_factory=list)
    plugins: list[tuple[str, ...]] = field(default_factory=list)


@dataclass(slots=True)
class RawHost:
    """A host section. kind: on, floating, stacked, _this_host, _remote_host.

    names: of ``on``; lower: the resource below a stacked section.
    """

    kind: str
    names: tuple[str, ...]
    place: Place
    lower: str = ""
    address: RawAddress | None = None
    alternate: RawAddress | None = None
    volumes: list[RawVolume] = field(default_factory=list)
    options: list[RawOption] = field(default_factory=list)
    options_place: Place | None = None
    proxy: RawProxy | None = None

    def __str__(self) -> str:
        if self.kind == "floating":
            return f"floating {self.address.address if self.address else '?'}"
        if self.kind == "stacked":
            return f"stacked-on-top-of {self.lower}"
        return f"on {' '.join(self.names)}" if self.kind == "on" else self.kind


SECTIONS = ("options", "net", "disk", "startup", "proxy", "handlers")
"""The option sections of a resource, in the order ``dump`` prints them."""


@dataclass(slots=True)
class RawBody:
    """What ``common { }`` or ``resource NAME { }`` holds. name: "" for common."""

    name: str
    place: Place
    hosts: list[RawHost] = field(default_factory=list)
    volumes: list[RawVolume] = field(default_factory=list)
    sections: dict[str, list[RawOption]] = field(
        default_factory=lambda: {name: [] for name in SECTIONS}
    )
    plugins: list[tuple[str, ...]] = field(default_factory=list)
    seen: dict[str, Place] = field(default_factory=dict)


@dataclass(slots=True)
class Tree:
    """A whole configuration as written."""

    globals: list[RawOption] = field(default_factory=list)
    global_place: Place | None = None
    common: RawBody | None = None
    resources: list[RawBody] = field(default_factory=list)


@dataclass
class Findings:
    """What is wrong (collected; loading fails at the end) and what is odd (loading goes on).

    locate: how a place is named in messages from now on.
    """

    errors: list[ConfigError] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    locate: Callable[[Place], Place] = field(default=lambda place: place)

    def error(self, place: Place, text: str) -> None:
        """Note an error and go on."""
        self.errors.append(self.locate(place).error(text))

    def warn(self, place: Place, text: str) -> None:
        """Note something that is not as it was probably meant."""
        place = self.locate(place)
        self.warnings.append(f"{place.file}:{place.line}:{place.column}: {text}")

    def conflict(self, place: Place, first: Place, what: str, key: str) -> None:
        """Note the second use of something that may be used once."""
        place, first = self.locate(place), self.locate(first)
        self.errors.append(
            place.error(
                f"conflicting use of {what} '{key}' ...\n"
                f"{first.file}:{first.line}:{first.column}: {what} '{key}' first used here."
            )
        )

    def raise_errors(self) -> None:
        """Raise everything noted as one ConfigError at the place of the first."""
        if not self.errors:
            return
        first, *others = self.errors
        if not others:
            raise first
        text = "\n".join(str(error) for error in self.errors)
        prefix = f"{first.file}:{first.line}:{first.column}: "
        text = text.removeprefix(prefix)
        raise ConfigError(text, first.file, first.line, first.column, first.exit_code)
