"""Payloads of the handshake and of control packets: layouts by version, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from replblk.model.errors import PeerError
from replblk.model.units import DISCARD_BYTES_MAX
from replblk.model.vocabulary import Policy, Protocol
from replblk.wire.packets import (
    FF_TRIM,
    FF_WSAME,
    ID_IN_SYNC,
    ID_SYNCER,
    Barrier,
    BlockAck,
    BlockDesc,
    BlockRange,
    BlockRequest,
    Cmd,
    DelayProbe,
    Features,
    Message,
    ProtocolPacket,
    Sizes,
    StateReply,
    StateWord,
    SyncParam,
    SyncUuid,
    Uuids,
    decode,
    encode,
)

PROTOCOL = ProtocolPacket(
    protocol=Protocol.C,
    after_sb_0p=Policy.DISCARD_ZERO_CHG,
    after_sb_1p=Policy.DISCARD_SECONDARY,
    after_sb_2p=Policy.CALL_HELPER,
    conn_flags=1,
    two_primaries=True,
    integrity_alg="sha1",
)
PARAM = SyncParam(1000, "sha1", "crc32c", 5, 7, 9, 300)
SIZES = Sizes(132, 0, 132, 1 << 20, 0, 0)


def read(cmd: Cmd, payload: bytes, *, features: int = 15, apv: int = 101) -> Message:
    return decode(cmd, payload, features=features, apv=apv)


def write(cmd: Cmd, msg: Message, *, features: int = 15, apv: int = 101) -> bytes:
    return encode(cmd, msg, features=features, apv=apv)


def u32(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "big") for value in values)


# --- features -------------------------------------------------------------------------------------


def test_features_are_min_flags_max_in_72_bytes() -> None:
    payload = write(Cmd.P_CONNECTION_FEATURES, Features(86, 15, 101))
    assert payload == u32(86, 15, 101) + bytes(60)
    assert read(Cmd.P_CONNECTION_FEATURES, payload) == Features(86, 15, 101)


def test_features_without_a_maximum_mean_the_minimum() -> None:
    payload = u32(90, 3, 0) + b"\xee" * 60  # the reserved part is not looked at
    assert read(Cmd.P_CONNECTION_FEATURES, payload) == Features(90, 3, 90)


# --- P_PROTOCOL ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("apv", "length"), [(86, 24), (87, 29), (95, 29), (101, 29)])
def test_protocol_packet_has_the_digest_name_since_87(apv: int, length: int) -> None:
    payload = write(Cmd.P_PROTOCOL, PROTOCOL, apv=apv)
    assert len(payload) == length
    expected = PROTOCOL if apv >= 87 else replace(PROTOCOL, integrity_alg="")
    assert read(Cmd.P_PROTOCOL, payload, apv=apv) == expected


def test_protocol_packet_without_digest_name_ends_in_one_nul() -> None:
    payload = write(Cmd.P_PROTOCOL, replace(PROTOCOL, integrity_alg=""))
    assert len(payload) == 25
    assert payload[24:] == b"\0"


@pytest.mark.parametrize(
    ("tail", "why"),
    [
        (b"", "NUL"),
        (b"sha1", "NUL"),
        (b"sha1\0x\0", "NUL"),
        (b"sh\xe41\0", "ASCII"),
        (b"sha1\n\0", "ASCII"),
        (b"x" * 64 + b"\0", "expected 24 to 88"),
    ],
)
def test_bad_digest_names_are_refused(tail: bytes, why: str) -> None:
    with pytest.raises(PeerError, match=why):
        read(Cmd.P_PROTOCOL, u32(3, 0, 0, 0, 0, 0) + tail)


def test_a_name_where_version_86_has_none_is_refused() -> None:
    with pytest.raises(PeerError, match="expected 24 at protocol version 86"):
        read(Cmd.P_PROTOCOL, u32(3, 0, 0, 0, 0, 0) + b"\0", apv=86)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (0, 0, "protocol 0: expected 1 to 3"),
        (0, 4, "protocol 4: expected 1 to 3"),
        (1, 11, "after_sb_0p 11: expected 0 to 10"),
        (2, 11, "after_sb_1p 11: expected 0 to 10"),
        (3, 0xFFFFFFFF, "after_sb_2p 4294967295: expected 0 to 10"),
        (5, 2, "two_primaries 2: expected 0 or 1"),
    ],
)
@pytest.mark.parametrize("cmd", [Cmd.P_PROTOCOL, Cmd.P_PROTOCOL_UPDATE])
def test_protocol_settings_out_of_range_are_refused(
    cmd: Cmd, field: int, value: int, why: str
) -> None:
    values = [3, 0, 0, 0, 0, 0]
    values[field] = value
    with pytest.raises(PeerError, match=f"{cmd.name} with {why}"):
        read(cmd, u32(*values) + b"\0")


# --- synchronisation parameters -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("apv", "cmd", "length", "expected"),
    [
        (86, Cmd.P_SYNC_PARAM, 4, SyncParam(1000)),
        (87, Cmd.P_SYNC_PARAM, 4, SyncParam(1000)),
        (88, Cmd.P_SYNC_PARAM, 9, SyncParam(1000, "sha1")),
        (89, Cmd.P_SYNC_PARAM89, 132, SyncParam(1000, "sha1", "crc32c")),
        (94, Cmd.P_SYNC_PARAM89, 132, SyncParam(1000, "sha1", "crc32c")),
        (95, Cmd.P_SYNC_PARAM89, 148, PARAM),
        (101, Cmd.P_SYNC_PARAM89, 148, PARAM),
    ],
)
def test_sync_parameters_grew_over_the_versions(
    apv: int, cmd: Cmd, length: int, expected: SyncParam
) -> None:
    payload = write(cmd, PARAM, apv=apv)
    assert len(payload) == length
    assert read(cmd, payload, apv=apv) == expected


def test_the_peers_rates_are_bent_to_what_we_could_be_configured_to() -> None:
    too_much = SyncParam(0xFFFFFFFF, "", "", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    too_little = SyncParam(0, "", "", 0, 0, 0, 0)
    cmd = Cmd.P_SYNC_PARAM89
    assert read(cmd, write(cmd, too_much)) == SyncParam(8388608, "", "", 300, 100, 1048576, 4194304)
    assert read(cmd, write(cmd, too_little)) == SyncParam(1, "", "", 0, 1, 0, 250)


@pytest.mark.parametrize(("apv", "length"), [(101, 132), (94, 148), (95, 147)])
def test_sync_parameters_of_another_version_are_refused(apv: int, length: int) -> None:
    with pytest.raises(PeerError, match=f"P_SYNC_PARAM89 with {length} bytes"):
        read(Cmd.P_SYNC_PARAM89, bytes(length), apv=apv)


@pytest.mark.parametrize(("apv", "cmd"), [(88, Cmd.P_SYNC_PARAM89), (89, Cmd.P_SYNC_PARAM)])
def test_the_other_sync_parameter_command_is_refused(apv: int, cmd: Cmd) -> None:
    with pytest.raises(PeerError, match=f"{cmd.name} at protocol version {apv}: expected"):
        read(cmd, bytes(132 if cmd is Cmd.P_SYNC_PARAM89 else 4), apv=apv)


def test_a_fixed_name_without_nul_is_refused() -> None:
    with pytest.raises(PeerError, match="csums_alg has no NUL in its 64 bytes"):
        read(Cmd.P_SYNC_PARAM89, bytes(68) + b"a" * 64 + bytes(16))


# --- sizes, uuids, states -----------------------------------------------------------------------


def test_sizes_have_the_device_hints_only_with_write_same() -> None:
    with_hints = replace(SIZES, discard_enabled=1, io_opt=65536)
    assert len(write(Cmd.P_SIZES, with_hints, features=FF_TRIM)) == 32
    payload = write(Cmd.P_SIZES, with_hints, features=FF_WSAME)
    assert len(payload) == 56
    assert read(Cmd.P_SIZES, payload, features=FF_WSAME) == with_hints
    assert read(Cmd.P_SIZES, payload[:32], features=FF_TRIM) == SIZES


@pytest.mark.parametrize(("features", "length", "wanted"), [(15, 32, 56), (FF_TRIM, 56, 32)])
def test_sizes_of_the_other_length_are_refused(features: int, length: int, wanted: int) -> None:
    with pytest.raises(PeerError, match=f"P_SIZES with {length} bytes.* {wanted}"):
        read(Cmd.P_SIZES, bytes(length), features=features)


@pytest.mark.parametrize("field", ["d_size", "u_size", "c_size"])
def test_no_device_is_larger_than_a_pebibyte(field: str) -> None:
    largest = replace(SIZES, **{field: 1 << 51})
    assert read(Cmd.P_SIZES, write(Cmd.P_SIZES, largest)) == largest
    beyond = replace(SIZES, **{field: (1 << 51) + 1})
    with pytest.raises(PeerError, match=field):
        read(Cmd.P_SIZES, write(Cmd.P_SIZES, beyond))


def test_unknown_uuid_flags_are_taken_as_they_are() -> None:
    uuids = Uuids(1 << 63, 2, 3, 4, 5, 1 << 40 | 1)
    assert read(Cmd.P_UUIDS, write(Cmd.P_UUIDS, uuids)) == uuids


@pytest.mark.parametrize(
    "word",
    [3, 3 << 2, 24 << 4, 31 << 4, 9 << 9, 15 << 13],
    ids=["role 3", "peer 3", "conn 24", "conn 31", "disk 9", "pdsk 15"],
)
def test_a_state_that_has_no_name_is_refused(word: int) -> None:
    with pytest.raises(PeerError, match="P_STATE 0x"):
        read(Cmd.P_STATE, u32(word))


def test_a_state_is_taken_as_the_word_it_is() -> None:
    assert read(Cmd.P_STATE, u32(0xC882)) == StateWord(0xC882)


@pytest.mark.parametrize("code", [4, 1, 0, -1, -10, -21])
def test_state_replies_are_signed(code: int) -> None:
    payload = write(Cmd.P_STATE_CHG_REPLY, StateReply(code))
    assert payload == code.to_bytes(4, "big", signed=True)
    assert read(Cmd.P_STATE_CHG_REPLY, payload) == StateReply(code)


@pytest.mark.parametrize("code", [5, -3, -22, -(1 << 31)])
def test_a_state_reply_that_is_no_result_is_refused(code: int) -> None:
    with pytest.raises(PeerError, match=f"{code}, which is no state change result"):
        read(Cmd.P_CONN_ST_CHG_REPLY, code.to_bytes(4, "big", signed=True))


@pytest.mark.parametrize("uuid", [0, 4])
def test_a_sync_uuid_must_identify_something(uuid: int) -> None:
    with pytest.raises(PeerError, match="can't identify a resync"):
        read(Cmd.P_SYNC_UUID, write(Cmd.P_SYNC_UUID, SyncUuid(uuid)))


# --- blocks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 511, 513, (1 << 20) + 512, 0xFFFFFFFF])
def test_requests_are_for_whole_sectors_up_to_1_mib(size: int) -> None:
    with pytest.raises(PeerError, match=f"P_OV_REQUEST for {size} bytes at sector 7"):
        read(Cmd.P_OV_REQUEST, write(Cmd.P_OV_REQUEST, BlockRequest(7, ID_SYNCER, size)))


@pytest.mark.parametrize("cmd", [Cmd.P_TRIM, Cmd.P_ZEROES, Cmd.P_WSAME])
@pytest.mark.parametrize("size", [0, 100, DISCARD_BYTES_MAX + 512])
def test_discards_are_for_whole_sectors_up_to_128_mib(cmd: Cmd, size: int) -> None:
    with pytest.raises(PeerError, match=f"{cmd.name} for {size} bytes"):
        read(cmd, write(cmd, BlockRange(0, bytes(8), 1, 64, size)))
    largest = BlockRange(0, bytes(8), 1, 64, DISCARD_BYTES_MAX)
    assert read(cmd, write(cmd, largest)) == largest


def test_a_discard_has_nothing_behind_it_but_write_same_has_a_block() -> None:
    trim = BlockRange(0, bytes(8), 1, 64, 4096, b"x" * 512)
    assert read(Cmd.P_WSAME, write(Cmd.P_WSAME, trim)) == trim
    with pytest.raises(PeerError, match="P_TRIM with 540 bytes of payload"):
        read(Cmd.P_TRIM, write(Cmd.P_WSAME, trim))


def test_deallocated_ranges_are_bounded_like_requests_out_of_sync_ones_like_discards() -> None:
    wide = BlockDesc(0, 2 << 20)
    assert read(Cmd.P_OUT_OF_SYNC, write(Cmd.P_OUT_OF_SYNC, wide)) == wide
    with pytest.raises(PeerError, match="P_RS_DEALLOCATED for 2097152 bytes"):
        read(Cmd.P_RS_DEALLOCATED, write(Cmd.P_RS_DEALLOCATED, wide))


def test_an_acknowledgement_may_be_for_nothing_at_all() -> None:
    # A refused P_TRIM is answered with the length of its data, which is 0.
    ack = BlockAck(8, b"opaque!!", 0, 1)
    assert read(Cmd.P_NEG_ACK, write(Cmd.P_NEG_ACK, ack)) == ack


def test_a_verify_result_is_one_of_two_numbers() -> None:
    good = BlockAck(8, ID_IN_SYNC, 4096, 1)
    assert read(Cmd.P_OV_RESULT, write(Cmd.P_OV_RESULT, good)) == good
    with pytest.raises(PeerError, match="expected 4711 or 4712"):
        read(Cmd.P_OV_RESULT, write(Cmd.P_OV_RESULT, replace(good, block_id=bytes(8))))


def test_digests_follow_the_request_they_are_about() -> None:
    request = BlockRequest(8, ID_SYNCER, 4096, b"d" * 20)
    payload = write(Cmd.P_CSUM_RS_REQUEST, request)
    assert len(payload) == 44
    assert read(Cmd.P_CSUM_RS_REQUEST, payload) == request


def test_pads_are_ignored() -> None:
    garbage = b"\xde\xad\xbe\xef"
    assert read(Cmd.P_BARRIER, b"\x07\0\0\0" + garbage) == Barrier(b"\x07\0\0\0")
    request = write(Cmd.P_DATA_REQUEST, BlockRequest(8, b"12345678", 512))
    assert read(Cmd.P_DATA_REQUEST, request[:20] + garbage) == BlockRequest(8, b"12345678", 512)


def test_the_rest_is_empty_opaque_or_obsolete() -> None:
    assert read(Cmd.P_PING, b"") is None
    assert write(Cmd.P_PING, None) == b""
    assert read(Cmd.P_AUTH_CHALLENGE, b"c" * 64) == b"c" * 64
    assert write(Cmd.P_AUTH_CHALLENGE, b"c" * 64) == b"c" * 64
    assert read(Cmd.P_BITMAP, b"") == b""
    assert read(Cmd.P_DELAY_PROBE, u32(1, 2)) == DelayProbe(1, 2)
    with pytest.raises(PeerError, match="P_BECOME_SYNC_TARGET is obsolete"):
        read(Cmd.P_BECOME_SYNC_TARGET, b"")


@pytest.mark.parametrize("length", [63, 129])
def test_challenges_have_64_to_128_bytes(length: int) -> None:
    with pytest.raises(PeerError, match=f"P_AUTH_CHALLENGE with {length} bytes"):
        read(Cmd.P_AUTH_CHALLENGE, bytes(length))
