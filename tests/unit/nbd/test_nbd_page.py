"""docs/nbd.md names every option, command and flag by its number, and says what becomes of it."""

from __future__ import annotations

import re
from enum import IntEnum, IntFlag
from pathlib import Path

import pytest

from nbd.handshake import OPTIONS_MAX, Handshake, transmission_flags
from nbd.memory import MemoryExports
from nbd.option_data import QUERIES_MAX
from nbd.protocol import Command, CommandFlag, Info, Option, Reply, TransmissionFlag
from nbd.transmission import REQUESTS_MAX, Transmission
from tests.support.nbd_bytes import CLIENT_FLAGS, extended, fed, option, option_replies, replies

PAGE = Path(__file__).resolve().parents[3] / "docs" / "nbd.md"
ROW = re.compile(r"^\| (\d+) \| ([A-Z_]+) \| (0\.1|refused) \|", re.MULTILINE)


def table(title: str) -> dict[str, tuple[int, bool]]:
    """name -> (number, supported) of the table under a heading."""
    section = PAGE.read_text(encoding="utf-8").partition(f"## {title}\n")[2].partition("\n## ")[0]
    return {name: (int(number), since != "refused") for number, name, since in ROW.findall(section)}


@pytest.mark.parametrize(
    ("title", "numbers"),
    [("Options", Option), ("Information of INFO and GO", Info), ("Commands", Command)],
)
def test_every_number_has_its_row(title: str, numbers: type[IntEnum]) -> None:
    assert {name: row[0] for name, row in table(title).items()} == {n.name: int(n) for n in numbers}


@pytest.mark.parametrize(
    ("title", "flags"),
    [("Flags of commands", CommandFlag), ("Transmission flags", TransmissionFlag)],
)
def test_every_flag_has_its_row(title: str, flags: type[IntFlag]) -> None:
    told = {name: 1 << row[0] for name, row in table(title).items()}
    assert told == {flag.name: int(flag) for flag in flags}


def test_the_server_knows_the_options_that_the_page_says() -> None:
    for name, (number, supported) in table("Options").items():
        if name in ("EXPORT_NAME", "STARTTLS"):  # one has no reply, one needs certificates
            continue
        handshake = Handshake(MemoryExports.single(4096, "disk"))
        (_, kind, _), *_ = option_replies(fed(handshake, CLIENT_FLAGS, option(number)))
        assert (kind != Reply.ERR_UNSUP) == supported, name


def test_the_server_carries_out_the_commands_that_the_page_says() -> None:
    for name, (number, supported) in table("Commands").items():
        if name == "DISC":  # has no reply
            continue
        export = MemoryExports.single(4096, "disk").open("disk")
        transmission = Transmission(
            export,  # type: ignore[arg-type]
            structured=True,
            promised_alignment=False,
            wake=lambda: None,
            contexts={1: "base:allocation"},
            extended=True,
        )
        data = b"x" * 512 if name == "WRITE" else b""
        transmission.receive(memoryview(extended(number, 0, 512, data=data)))
        (said,) = replies(b"".join(bytes(piece) for piece in transmission.take()))
        assert (said.error == 0) == supported, name


def test_the_server_sets_the_transmission_flags_that_the_page_says() -> None:
    exports = MemoryExports.single(4096, read_only=True, rotational=True)
    geometry = exports.disks["memory"].geometry
    set_at_most = transmission_flags(geometry, structured=True, status_payload=True)
    for name, (bit, supported) in table("Transmission flags").items():
        assert bool(set_at_most & 1 << bit) == supported, name


def test_the_page_tells_the_limits_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert f"| options of a connection | {OPTIONS_MAX} |" in text
    assert f"| queries of an option | {QUERIES_MAX} |" in text
    assert f"{REQUESTS_MAX} requests, 64 MiB" in text


def test_every_test_that_keeps_a_must_exists() -> None:
    """docs/nbd-musts.md: each demand of the protocol names the tests that keep it."""
    text = PAGE.with_name("nbd-musts.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and "kept by" not in line]
    named = [(row, re.findall(r"`(test_\w+)`", row)) for row in rows if not row.startswith("|--")]
    assert len(named) > 40
    written = set()
    for path in PAGE.parents[1].glob("tests/**/test_*.py"):
        written |= set(re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.M))
    for row, tests in named:
        assert tests, f"no test keeps this: {row}"
        assert not set(tests) - written, f"there is no such test: {row}"
