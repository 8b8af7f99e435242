"""Every way a configuration can be wrong: the sentence, the place, the exit code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from replblk.admin.resolve import Configuration, load
from replblk.model.errors import AdminError, ConfigError

Loaded = Callable[..., Configuration]

HOSTS = """\
on alpha { device minor 0; disk /dev/sda; address 10.0.0.1:7788; meta-disk internal; }
on bravo { device minor 0; disk /dev/sda; address 10.0.0.2:7788; meta-disk internal; }
"""


def resource(extra: str = "", hosts: str = HOSTS, name: str = "r0") -> str:
    return f"resource {name} {{ {extra}\n{hosts}}}\n"


def host(name: str, number: int, body: str) -> str:
    return f"on {name} {{ address 10.0.0.{number}:7788; {body} }}\n"


FULL = "device minor 0; disk /dev/sda; meta-disk internal;"
EXPLICIT = "volume 0 { device minor 0; disk /dev/sda; meta-disk internal; }"
SECOND = "volume 1 { device minor 1; disk /dev/sdb; meta-disk internal; }"


def parse_error(expected: str, got: str) -> str:
    return f"Parse error: '{expected}' expected,\n\tbut got '{got}'"


FATAL = [
    ("foo { }", parse_error("global | common | resource | skip | include", "foo")),
    (
        "resource r0 { foo; }",
        parse_error(
            "protocol | on | disk | net | syncer | startup | handlers | ignore-on "
            "| stacked-on-top-of",
            "foo",
        ),
    ),
    (resource("net { foo 1; }"), parse_error("an option keyword", "foo")),
    (resource("syncer { foo 1; }"), parse_error("a syncer option keyword", "foo")),
    (
        resource("syncer { delay-probe-volume 1; }"),
        parse_error("a syncer option keyword", "delay-probe-volume"),
    ),
    (resource("handlers { foo x; }"), parse_error("an option keyword", "foo")),
    (resource("net { use-rle maybe; }"), parse_error("yes | no | ;", "maybe")),
    ("resource r0 { net { timeout 60;", parse_error("an option", "")),
    (
        "resource r0 { on alpha { foo; } }",
        parse_error("disk | device | address | meta-disk | flexible-meta-disk", "foo"),
    ),
    (
        "resource r0 { volume 0 { foo; } }",
        parse_error("device | disk | meta-disk | flex-meta-disk | }", "foo"),
    ),
    (
        "global { foo; }",
        parse_error("dialog-refresh | minor-count | disable-ip-verification", "foo"),
    ),
    ("global { usage-count maybe; }", parse_error("yes | no | ask", "maybe")),
    (
        "resource r0 { on alpha { address foo:1; } }",
        parse_error("ssocks | sdp | ipv4 | ipv6 | <ipv4 address> ", "foo"),
    ),
    ("resource " + "x" * 129 + " { }", "Token too long >>>" + "x" * 20 + "...<<<"),
    ('resource "' + "x" * 256 + '" { }', "Double quoted string too long >>>" + "x" * 20),
    (
        'resource "a\nb" { }',
        "Unterminated double quoted string\n  we don't allow embedded newlines\n  >>>a<<<",
    ),
    ("skip { a { b }", "reached eof while parsing this skip block."),
    (
        "resource r0 { floating 10.0.0.1:1 { address 10.0.0.1:2; } }",
        "address statement not allowed for floating {} host sections",
    ),
    ("resource disk { }", parse_error("a resource name", "disk")),
    ("resource " + "y" * 30 + " foo", parse_error("{", "foo")),
    ("\ufeffresource r0 { }", "expected,\n\tbut got '\\ufeff'"),
    (resource("net { shared-secret two words; }"), "a value with blanks must be quoted"),
    ("resource r0 { volume x { } }", "volume: a number of at most 8 digits"),
    ("resource r0 { on alpha { address 10.0.0.1:7K; } }", "port: a number of at most 8 digits"),
    ("resource r0 { connection { } }", "'connection' is a section of DRBD 9"),
]

COLLECTED = [
    (
        resource("disk { resync-rate 5G; }"),
        "resync-rate 5G => 5242880k out of range [1..4194304]k.",
    ),
    (resource("net { timeout 0; }"), "timeout 0 => 0 out of range [1..600]."),
    (resource("net { sndbuf-size 11M; }"), "sndbuf-size 11M => 11534336 out of range"),
    (resource("protocol D;"), "unknown protocol 'D', should be one of A,B,C"),
    (
        resource("disk { fencing maybe; }"),
        "Option --fencing: invalid argument 'maybe', should be one of "
        "dont-care, resource-only, resource-and-stonith",
    ),
    (resource("net { shared-secret " + "x" * 64 + "; }"), "at most 63 are allowed"),
    (resource() + resource(hosts=""), "conflicting use of resource name 'r0' ..."),
    (
        resource("net { } net { }"),
        "conflicting use of net section 'r0' ...",
    ),
    (resource("protocol C; protocol C;"), "conflicting use of protocol statement 'r0' ..."),
    ("common { } common { }", "conflicting use of section 'common' ..."),
    (
        resource(hosts=host("alpha", 1, FULL + " disk /dev/sdb;") + host("bravo", 2, FULL)),
        "conflicting use of statement 'disk' ...",
    ),
    (
        resource(hosts="on alpha { " + FULL + " }\n" + host("bravo", 2, FULL)),
        "in resource r0, on alpha { ... }: 'address' keyword missing.",
    ),
    (
        resource(hosts=host("alpha", 1, "device minor 0; disk /dev/sda;") + host("bravo", 2, FULL)),
        "in resource r0, on alpha { ... }: 'meta-disk' keyword missing.",
    ),
    (
        resource(hosts=host("alpha", 1, "") + host("bravo", 2, "")),
        "in resource r0, on alpha { ... }: 'device' keyword missing.",
    ),
    (
        resource(hosts=host("alpha", 1, EXPLICIT + SECOND) + host("bravo", 2, EXPLICIT)),
        "in resource r0, on alpha { ... }: volume 1 not defined on bravo",
    ),
    (
        resource(hosts=host("alpha", 1, EXPLICIT) + host("bravo", 2, EXPLICIT + SECOND)),
        "in resource r0, on alpha { ... }: volume 1 missing (present on bravo)",
    ),
    (
        resource("device minor 0;", host("alpha", 1, EXPLICIT) + host("bravo", 2, EXPLICIT)),
        "in resource r0: you must not mix implicit and explicit volumes",
    ),
    (
        resource(hosts=host("alpha", 1, FULL + SECOND) + host("bravo", 2, FULL + SECOND)),
        "mixing explicit and implicit volumes is not allowed",
    ),
    (
        resource(hosts=host("alpha", 1, FULL) + host("bravo", 2, EXPLICIT)),
        "in resource r0, on alpha resp. bravo: "
        "volume 0 must not be implicit on one but not the other",
    ),
    (
        resource(hosts=HOSTS.replace("device minor 0", "device /dev/md0 minor 0")),
        "device name must start with /dev/drbd\n\t(/dev/ is optional, but drbd is required)",
    ),
    (
        resource(hosts=HOSTS.replace("device minor 0", "device drbd_x")),
        "no minor given nor device name contains a minor number",
    ),
    (
        resource(hosts=HOSTS.replace("device minor 0", "device drbd1 minor 0")),
        "explicit minor number must match with device name",
    ),
    (
        resource(hosts=HOSTS.replace("device minor 0", "device drbdx minor 0")),
        "arbitrary device name must start with /dev/drbd_",
    ),
    (
        resource(hosts=HOSTS.replace("minor 0", "minor 1048576")),
        "minor 1048576 => 1048576 out of range [0..1048575].",
    ),
    (resource(hosts=HOSTS.replace(":7788", ":0")), "port 0 => 0 out of range [1..65535]."),
    (resource(hosts=HOSTS.replace("10.0.0.1", "10.0.0.256")), "not a valid IPv4 address"),
    ('include "nothing.res";', "Failed to open include file 'nothing.res'."),
    (
        "common { on alpha { address 10.0.0.1:1; } }",
        "in the common section, there are no host sections allowed.",
    ),
    (
        resource(hosts=HOSTS + host("alpha charlie", 3, FULL)),
        "in resource r0, on alpha { ... } ... on alpha charlie { ... }:\n"
        "\tThere are multiple host sections for this node.",
    ),
    (
        resource("disk { resync-after r9; }"),
        "in resource r0:\n\tresource 'r9' mentioned in 'resync-after' option is not known.",
    ),
    (
        resource("startup { become-primary-on charlie; }"),
        "become-primary-on contains 'charlie', which is not named with the 'on' sections.",
    ),
    (
        resource("startup { become-primary-on both; }"),
        "become-primary-on is set to both, but allow-two-primaries is not set.",
    ),
    (
        resource("net { after-sb-0pri discard-node-charlie; }"),
        "the nodename in the 'discard-node-charlie' option is not known.\n"
        "\tvalid nodenames are: 'alpha bravo'.",
    ),
    (
        resource(
            hosts=host(
                "alpha",
                1,
                FULL + " proxy on alpha { inside 127.0.0.1:1; outside 10.0.0.1:2; }",
            )
            + host("bravo", 2, FULL)
        ),
        "Either both 'on' sections must contain a proxy subsection, or none.",
    ),
    (
        "resource u { stacked-on-top-of low { device minor 9; address 10.0.0.3:1; } }",
        "in resource u, referenced resource 'low' not defined.",
    ),
    ('resource "" { }', "invalid resource name ''"),
    ('resource "a\\\tb" { }', "must not be empty nor contain control characters"),
]


@pytest.mark.parametrize(("text", "sentence"), FATAL, ids=lambda value: value[-40:])
def test_reading_stops_at_what_can_not_stand_there(
    loaded: Loaded, text: str, sentence: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 10
    assert caught.value.line >= 1
    assert caught.value.column >= 1


@pytest.mark.parametrize(("text", "sentence"), COLLECTED, ids=lambda value: value[-40:])
def test_what_is_wrong_is_said_with_its_place(loaded: Loaded, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(text)
    assert sentence in str(caught.value)
    assert caught.value.exit_code == 10
    assert caught.value.line >= 1
    assert f"t.conf:{caught.value.line}:{caught.value.column}: " in str(caught.value)


def test_all_errors_are_told_at_once_each_with_its_place(loaded: Loaded) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(resource("protocol D;\n  net { timeout 0; }\n disk { resync-rate 5G; }"))
    lines = str(caught.value).splitlines()
    assert [line.rpartition("t.conf")[2].split(" ")[0] for line in lines] == [
        ":1:24:",
        ":2:17:",
        ":3:21:",
    ]


def test_line_and_column_point_at_the_token(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="did you mean 'timeout'") as caught:
        loaded("resource r0 {\n  net {\n    # a comment\n    timeot 60;\n  }\n}\n")
    assert (caught.value.line, caught.value.column) == (4, 5)


def test_an_option_of_another_section_is_sent_there(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="'fencing' belongs into the disk section"):
        loaded("resource r0 { net { fencing resource-only; } }")


def test_a_word_that_is_no_number_ends_with_20(loaded: Loaded) -> None:
    with pytest.raises(ConfigError, match="10X is not a valid number") as caught:
        loaded(resource("disk { resync-rate 10X; }"))
    assert caught.value.exit_code == 20


def test_the_second_user_is_told_who_was_first(loaded: Loaded) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(resource() + resource(name="r1", hosts=HOSTS.replace(":7788", ":7789")))
    assert "conflicting use of device-minor 'alpha:0' ...\n" in str(caught.value)
    assert "t.conf:2:12: device-minor 'alpha:0' first used here." in str(caught.value)
    assert "conflicting use of disk 'bravo:/dev/sda'" in str(caught.value)
    assert "'IP'" not in str(caught.value)


def test_loopback_addresses_belong_to_each_host_and_others_to_all(loaded: Loaded) -> None:
    loopback = HOSTS.replace("10.0.0.1", "127.0.0.1").replace("10.0.0.2", "127.0.0.1")
    loaded(resource(hosts=loopback))
    with pytest.raises(ConfigError, match=r"conflicting use of IP '10\.0\.0\.1:7788'"):
        loaded(resource(hosts=HOSTS.replace("10.0.0.2", "10.0.0.1")))


def test_a_dangling_resync_after_only_warns_when_nobody_watches(loaded: Loaded) -> None:
    configuration = loaded(resource("disk { resync-after r9; }"), terminal=False)
    assert any("is not known" in warning for warning in configuration.warnings)


def test_resync_after_names_one_volume(loaded: Loaded) -> None:
    both = host("alpha", 3, EXPLICIT + SECOND) + host("bravo", 4, EXPLICIT + SECOND)
    two = resource(
        hosts=both.replace("minor 0", "minor 8").replace("/dev/sda", "/dev/sdz"), name="r2"
    )
    with pytest.raises(ConfigError, match="ambiguous, since it contains 2 volumes"):
        loaded(resource("disk { resync-after r2; }") + two)
    configuration = loaded(resource("disk { resync-after r2/1; }") + two)
    assert configuration.find("r0").local.volumes[0].options.resync_after == "r2/1"
    with pytest.raises(ConfigError, match="r2 has no such volume"):
        loaded(resource("disk { resync-after r2/7; }") + two)
    elsewhere = two.replace("alpha", "charlie")
    with pytest.raises(ConfigError, match="is not known on this host"):
        loaded(resource("disk { resync-after r2/1; }") + elsewhere)


def test_a_missing_file_is_told_with_the_codes_of_drbdadm(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Can not open '.*none': No such file") as caught:
        load(tmp_path / "none", node="alpha")
    assert caught.value.exit_code == 20
    with pytest.raises(ConfigError, match="Can not open") as caught:
        load(tmp_path, node="alpha")
    with pytest.raises(ConfigError, match="Can not open") as caught:
        load("a\0b", node="alpha")


def test_asking_for_what_is_not_there(loaded: Loaded) -> None:
    configuration = loaded(
        resource()
        + resource(
            name="r9",
            hosts=HOSTS.replace("alpha", "x")
            .replace("minor 0", "minor 9")
            .replace("/dev/sda", "/dev/sdi")
            .replace(":7788", ":9999"),
        )
    )
    assert configuration.ignored == ["r9"]
    for argument, code in (("r7", 1), ("r9", 1), ("r0/7", 1), ("dev/drbd5", 20), ("minor-7", 1)):
        with pytest.raises(AdminError) as caught:
            configuration.select([argument])
        assert caught.value.exit_code == code
    assert configuration.select(["r0"]) == [(configuration.find("r0"), None)]
    assert configuration.select(["minor-0"]) == configuration.select(["r0/0"])
    assert configuration.select(["all"]) == configuration.select(["r0"])
    with pytest.raises(AdminError, match="not defined in your config"):
        configuration.dump(["r7"])


def test_nothing_for_this_host_is_said_with_a_hint(loaded: Loaded) -> None:
    with pytest.raises(AdminError, match=r"for this host \(zulu\)!\?\nMisspelled name"):
        loaded(resource(), "zulu").select(["all"])
    with pytest.raises(AdminError, match="no resources defined!"):
        loaded("").select(["all"])


def test_a_stacked_resource_is_not_available_in_normal_mode(loaded: Loaded) -> None:
    upper = "resource u { stacked-on-top-of r0 { device minor 9; address 10.0.0.3:1; } }"
    with pytest.raises(AdminError, match="'u' is a stacked resource, and not available in normal"):
        loaded(resource() + upper).find("u")


def test_the_own_address_must_be_one_of_this_machine(loaded: Loaded) -> None:
    configuration = loaded(resource())
    configuration.check_own_addresses(configuration.resources, ["10.0.0.1"])
    with pytest.raises(ConfigError, match=r"on alpha:\n\tIP 10\.0\.0\.1 not found on this host"):
        configuration.check_own_addresses(configuration.resources, ["10.0.0.2"])
    trusting = loaded("global { disable-ip-verification; }\n" + resource())
    trusting.check_own_addresses(trusting.resources, [])
