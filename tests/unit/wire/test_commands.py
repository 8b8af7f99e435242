"""The packet table agrees with itself and with the code that reads by it."""

from __future__ import annotations

import pytest

from replblk.wire import layouts
from replblk.wire.commands import PAYLOAD_BYTES_MAX, SPECS, Cmd, Tail

OBSOLETE = {Cmd.P_BECOME_SYNC_TARGET, Cmd.P_BECOME_SYNC_SOURCE}


def test_every_command_but_the_obsolete_ones_has_a_row() -> None:
    assert set(SPECS) == set(Cmd) - OBSOLETE


def test_no_packet_is_longer_than_a_block_with_digest() -> None:
    assert max(spec.max_len for spec in SPECS.values()) == PAYLOAD_BYTES_MAX == 24 + 64 + (1 << 20)


@pytest.mark.parametrize("cmd", SPECS)
def test_only_packets_with_a_tail_vary_in_length(cmd: Cmd) -> None:
    spec = SPECS[cmd]
    assert (spec.max_len > spec.fixed_len) == (spec.tail is not Tail.NONE)


@pytest.mark.parametrize("cmd", layouts.PLAIN)
def test_layouts_are_as_long_as_the_table_says(cmd: Cmd) -> None:
    assert layouts.PLAIN[cmd].layout.sizeof() == SPECS[cmd].fixed_len


def test_the_meta_socket_carries_what_its_reader_knows_and_nothing_else() -> None:
    # A kernel goes StandAlone over anything else on that socket.
    known = {*range(0x13, 0x1E), 0x20, 0x22, 0x27, 0x29, 0x2B, 0x2C, 0xFFF1, 0xFFF2}
    assert {int(cmd) for cmd, spec in SPECS.items() if spec.socket != "data"} == known


def test_connection_wide_packets_have_no_volume() -> None:
    assert {cmd.name for cmd, spec in SPECS.items() if not spec.volume_meaningful} == {
        *("P_INITIAL_META", "P_INITIAL_DATA", "P_CONNECTION_FEATURES", "P_PROTOCOL"),
        *("P_PROTOCOL_UPDATE", "P_AUTH_CHALLENGE", "P_AUTH_RESPONSE", "P_BARRIER"),
        *("P_BARRIER_ACK", "P_PING", "P_PING_ACK", "P_CONN_ST_CHG_REQ", "P_CONN_ST_CHG_REPLY"),
    }
