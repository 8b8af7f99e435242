"""Whatever stands in a file: a configuration or a ConfigError; and a dump loads to the same."""

from __future__ import annotations

import io
from contextlib import suppress
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from replblk.admin.options import OPTIONS, Kind, Option
from replblk.admin.res_stream import KEYWORDS
from replblk.admin.resolve import Configuration, load
from replblk.admin.settings import parse_settings
from replblk.model.config import Resource
from replblk.model.errors import ConfigError

WORDS = [
    *sorted(KEYWORDS),
    *("{", "}", ";", "[", "]", ":", '"', '"x y"', "#", "\n", "%", "\\", "no-disk-barrier"),
    *("alpha", "bravo", "r0", "10.0.0.1", "::1", "7788", "10M", "C", "/dev/drbd0", "/dev/sda"),
]


def load_text(text: str, node: str = "alpha") -> Configuration:
    return load("-", node=node, stdin=io.StringIO(text))


def placeless(resource: Resource) -> Resource:
    return replace(resource, config_line=0)


def contents(configuration: Configuration) -> list[str]:
    """The dump without the lines that say where a resource is defined."""
    return [line for line in configuration.dump().splitlines() if not line.startswith("# defined")]


VALID = """
global { usage-count no ; } common { disk { al-extents 500 ; } net { ping-int 20 ; } }
resource r0 { protocol C ; syncer { rate 200M ; } startup { become-primary-on alpha ; }
volume 0 { device minor 1 ; disk /dev/a ; meta-disk internal ; disk { size 5G ; } }
volume 1 { device drbd2 ; disk /dev/b ; meta-disk /dev/c [ 2 ] ; }
on alpha { address 10.0.0.1 : 7788 ; volume 1 { disk /dev/d ; }
proxy on alpha { inside 10.0.0.5 : 1 ; outside 10.0.0.6 : 1 ; options { memlimit 1M ; } } }
on bravo { address ipv6 [ ::1 ] : 7788 ; proxy on bravo { inside 10.0.0.5 : 1 ;
outside 10.0.0.6 : 1 ; options { plugin { zlib level 9 ; } } } } }
resource u { stacked-on-top-of r0 { address 10.0.0.3 : 1 ; volume 0 { device minor 9 ; } } }
resource f { device minor 4 ; disk /dev/f ; meta-disk internal ; handlers { pri-lost x ; }
floating 10.0.0.1 : 9 ; floating 10.0.0.2 : 9 { disk /dev/g ; } options { cpu-mask 3 ; } }
""".split()


def test_the_valid_file_is_valid() -> None:
    configuration = load_text(" ".join(VALID))
    assert [item.name for item in configuration.resources] == ["r0"]
    assert [item.name for item in configuration.stacked] == ["u"]
    assert configuration.ignored == ["f"]


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.tuples(
            st.integers(0, len(VALID) - 1), st.integers(0, 2), st.sampled_from([*WORDS, *VALID])
        ),
        max_size=4,
    )
)
def test_a_valid_file_with_some_words_changed_never_breaks_the_loader(
    changes: list[tuple[int, int, str]],
) -> None:
    words = list(VALID)
    for at, taken, word in changes:
        words[at : at + taken] = [word]
    for node in ("alpha", "bravo"):
        configuration = None
        with suppress(ConfigError):
            configuration = load_text(" ".join(words), node)
        if configuration:
            again = load_text(configuration.dump(), node)
            assert [placeless(item) for item in again.resources] == [
                placeless(item) for item in configuration.resources
            ]


@settings(deadline=None)
@given(st.lists(st.sampled_from(WORDS), max_size=60))
def test_a_soup_of_tokens_is_a_configuration_or_a_config_error(words: list[str]) -> None:
    for text in (" ".join(words), "resource r0 { " + " ".join(words)):
        configuration = None
        with suppress(ConfigError):
            configuration = load_text(text)
        if configuration:
            assert load_text(configuration.dump()).ignored == configuration.ignored


@settings(deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_a_configuration_or_a_config_error(text: str) -> None:
    with suppress(ConfigError):
        load_text(text)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_settings_or_a_config_error(data: bytes) -> None:
    with suppress(ConfigError):
        parse_settings(data, "replblk.toml")


def value_of(option: Option) -> st.SearchStrategy[str]:
    if option.kind is Kind.NUMBER:
        return st.integers(option.low, option.high).map(str)
    if option.kind is Kind.ENUM:
        return st.sampled_from(option.choices)
    if option.kind is Kind.BOOLEAN:
        return st.sampled_from(["yes", "no", ""])
    letters = st.characters(min_codepoint=32, exclude_categories=("Cs", "Cc"))
    return st.text(letters, max_size=60).map(quote)


def quote(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


@st.composite
def blocks(draw: st.DrawFn) -> str:
    """Some option sections with values in their ranges."""
    text = ""
    for section in draw(
        st.lists(st.sampled_from(["disk", "net", "startup", "handlers", "options"]), unique=True)
    ):
        known = [
            option
            for option in OPTIONS
            if option.section == section
            and option.kind not in (Kind.FLAG, Kind.NAMES)
            and option.name != "resync-after"
        ]
        chosen = draw(st.lists(st.sampled_from(known), max_size=6))
        lines = [f"{option.name} {draw(value_of(option))};" for option in chosen]
        text += f"{section} {{ {' '.join(lines)} }}\n"
    return text


names = st.text(
    st.characters(
        min_codepoint=32, exclude_categories=("Cs", "Cc", "Cf", "Zs", "Zl", "Zp", "Co", "Cn")
    ),
    min_size=1,
    max_size=30,
) | st.sampled_from(["net", "10", "10.0.0.1", "on"])


@settings(deadline=None, max_examples=60)
@given(
    names,
    names,
    blocks(),
    blocks(),
    st.lists(st.integers(0, 65535), unique=True, min_size=1, max_size=3),
)
def test_a_dump_loads_to_the_same_resources(
    name: str, disk: str, common: str, options: str, numbers: list[int]
) -> None:
    volumes = "".join(
        f"volume {number} {{ device minor {number}; disk {quote(f'/{number}{disk}')}; "
        "meta-disk internal; }\n"
        for number in numbers
    )
    first = load_text(
        f"common {{ {common} }}\nresource {quote(name)} {{ {options} {volumes}\n"
        'on alpha { address 10.0.0.1:7788; }\non "disk" { address 10.0.0.2:7788; } }'
    )
    again = load_text(first.dump())
    assert [placeless(item) for item in again.resources] == [
        placeless(item) for item in first.resources
    ]
    assert contents(again) == contents(first)
    merged = load_text(first.dump(merged=True))
    assert [placeless(item) for item in merged.resources] == [
        placeless(item) for item in first.resources
    ]
