"""URIs and listeners' addresses."""

from __future__ import annotations

import pytest

from nbd.address import Address, AddressError, parse_listen, parse_uri


@pytest.mark.parametrize(
    ("uri", "address", "name"),
    [
        ("nbd://h", Address(host="h"), ""),
        ("nbd://h/", Address(host="h"), ""),
        ("nbd://h/x", Address(host="h"), "x"),
        ("nbd://h//x", Address(host="h"), "/x"),
        ("nbd://h:1234/a%20b", Address(host="h", port=1234), "a b"),
        ("NBD://H/x", Address(host="h"), "x"),
        ("nbd://[::1]:7/x", Address(host="::1", port=7), "x"),
        ("nbd:///x", Address(host="localhost"), "x"),
        ("nbd+unix:///?socket=/run/a.sock", Address(path="/run/a.sock"), ""),
        ("nbd+unix:///d%C3%A9?socket=rel&x-foo=1", Address(path="rel"), "dé"),
        ("nbd+unix:///x?socket=%00abstract", Address(path="\0abstract"), "x"),
    ],
)
def test_uris_that_mean_something(uri: str, address: Address, name: str) -> None:
    assert parse_uri(uri) == (address, name)


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://h/x", "scheme"),
        ("nbds://h/x?tls-type=anon", "x509"),
        ("nbds+unix:///x?tls-hostname=h", "socket=PATH"),
        ("nbd+vsock://1/x", "scheme"),
        ("nbd+ssh://h/x", "scheme"),
        ("/dev/nbd0", "scheme"),
        ("nbd://h:port/x", "not a URI"),
        ("nbd://h:99999/x", "not a URI"),
        ("nbd://[::1/x", "not a URI"),
        ("nbd://h/%ff", "UTF-8"),
        ("nbd://h/x?socket=/a", "belongs to"),
        ("nbd://h/x?tls-secret=a", "unknown parameter"),
        ("nbd+unix:///x", "socket=PATH"),
        ("nbd+unix://h/x?socket=a", "three slashes"),
        ("nbd+unix:///?socket=" + "a" * 108, "107"),
    ],
)
def test_uris_that_can_not_be_used_say_why(uri: str, why: str) -> None:
    with pytest.raises(AddressError, match=why):
        parse_uri(uri)


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("127.0.0.1", Address(host="127.0.0.1"), "127.0.0.1:10809"),
        ("localhost:7", Address(host="localhost", port=7), "localhost:7"),
        ("[::1]", Address(host="::1"), "[::1]:10809"),
        ("[fe80::1]:0", Address(host="fe80::1", port=0), "[fe80::1]:0"),
        ("unix:/run/x y.sock", Address(path="/run/x y.sock"), "unix:/run/x y.sock"),
        ("unix:@name", Address(path="\0name"), "unix:@name"),
    ],
)
def test_listeners(text: str, address: Address, shown: str) -> None:
    assert parse_listen(text) == address
    assert str(address) == shown


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":7",
        "h:x",
        "h:-1",
        "h:65536",
        "::1",
        "[::1",
        "[::1]x",
        "unix:",
        "unix:@",
        "h:²",
        "unix:" + "a" * 108,
        "unix:a\0b",
    ],
)
def test_listeners_that_can_not_be(text: str) -> None:
    with pytest.raises(AddressError):
        parse_listen(text)


@pytest.mark.parametrize(
    ("uri", "address"),
    [
        ("nbds://h/x", Address(host="h", tls=True)),
        ("nbds://h:7/x?tls-certificates=/pki&tls-hostname=n", Address(host="h", port=7, tls=True)),
        ("nbds+unix:///x?socket=/s&tls-type=x509", Address(path="/s", tls=True)),
        ("nbd://h/x", Address(host="h")),
    ],
)
def test_nbds_means_that_tls_is_mandatory(uri: str, address: Address) -> None:
    assert parse_uri(uri) == (address, "x")
