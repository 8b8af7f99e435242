"""What loads but can't be served is refused or told, entry by entry of the table."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from replblk.admin.resolve import Configuration
from replblk.admin.unsupported import LIMITATIONS, unsupported

Loaded = Callable[..., Configuration]

ALPHA = "on alpha { device minor 0; disk /dev/sda; address 10.0.0.1:7788; meta-disk internal; }"
BRAVO = "on bravo { device minor 0; disk /dev/sda; address 10.0.0.2:7788; meta-disk internal; }"
PROXY = "proxy on x {{ inside 127.0.0.1:{0}; outside 10.0.0.9:{0}; }} }}"

CASES = [
    ("error", "contains '/'", "", ALPHA, BRAVO, "a/b"),
    ("error", "contains '/'", "", ALPHA, BRAVO, ".."),
    ("error", "ssocks", "", ALPHA.replace("10.0.0.1", "sci 10.0.0.1"), BRAVO, "r0"),
    ("error", "sdp", "", ALPHA, BRAVO.replace("10.0.0.2", "sdp 10.0.0.2"), "r0"),
    (
        "error",
        "floating",
        "device minor 0; disk /dev/sda; meta-disk internal;",
        "floating 127.0.0.1:1;",
        "floating 10.0.0.2:1;",
        "r0",
    ),
    (
        "error",
        "proxy",
        "",
        ALPHA.removesuffix("}") + PROXY.format(1),
        BRAVO.removesuffix("}") + PROXY.format(2),
        "r0",
    ),
    ("error", "external", "", ALPHA.replace("internal", "/dev/md[0]"), BRAVO, "r0"),
    ("error", "allow-two-primaries", "net { allow-two-primaries; }", ALPHA, BRAVO, "r0"),
    (
        "error",
        "protocol A",
        "net { protocol A; } disk { fencing resource-and-stonith; } handlers { fence-peer /x; }",
        ALPHA,
        BRAVO,
        "r0",
    ),
    ("error", "on-congestion", "net { on-congestion pull-ahead; }", ALPHA, BRAVO, "r0"),
    ("warn", "fence-peer", "disk { fencing resource-only; }", ALPHA, BRAVO, "r0"),
    ("warn", "resync-after", "disk { resync-after r0; }", ALPHA, BRAVO, "r0"),
    ("warn", "cpu-mask", "options { cpu-mask 3; }", ALPHA, BRAVO, "r0"),
]


@pytest.mark.parametrize(("severity", "word", "extra", "one", "two", "name"), CASES)
def test_each_limitation_is_found_alone(
    loaded: Loaded, severity: str, word: str, extra: str, one: str, two: str, name: str
) -> None:
    configuration = loaded(f'resource "{name}" {{ {extra} {one} {two} }}')
    ((found, sentence),) = unsupported(configuration.resources[0])
    assert found == severity
    assert word in sentence
    assert sentence.startswith(f"resource {name}: ")


def test_stacked_resources_are_refused(loaded: Loaded) -> None:
    upper = "resource u { stacked-on-top-of r0 { device minor 9; address 10.0.0.3:1; } }"
    (stacked,) = loaded(f"resource r0 {{ {ALPHA} {BRAVO} }} {upper}").stacked
    assert [severity for severity, _ in unsupported(stacked)] == ["error"]


def test_a_plain_resource_has_none_and_errors_come_first(loaded: Loaded) -> None:
    assert unsupported(loaded(f"resource r0 {{ {ALPHA} {BRAVO} }}").find("r0")) == []
    both = "options { cpu-mask 3; } net { allow-two-primaries; }"
    found = unsupported(loaded(f"resource r0 {{ {both} {ALPHA} {BRAVO} }}").find("r0"))
    assert [severity for severity, _ in found] == ["error", "warn"]


def test_every_entry_of_the_table_has_its_case() -> None:
    stacked_and_cases = 1 + len({word for _, word, *_ in CASES})
    assert len(LIMITATIONS) == stacked_and_cases
