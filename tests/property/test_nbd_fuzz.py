"""Mutated sessions against the sans-I/O server: whatever comes, it answers within its limits.

Each input is a whole session, haggling and requests, valid at first and then changed in a few
places, cut and given in pieces. $NBD_FUZZ is the number of inputs (docs/nbd.md says how many were
tried for a release).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbd.alignment import AlignedExport, RangeLocks
from nbd.handshake import OPTION_DATA_MAX, Handshake, Tls
from nbd.handshake import REPLIES_MAX as HANDSHAKE_REPLIES_MAX
from nbd.memory import MemoryExports
from nbd.transmission import REPLIES_MAX, REQUESTS_MAX, Transmission
from tests.support.nbd_bytes import CLIENT_FLAGS, extended, go, meta, option, request

INPUTS = int(os.environ.get("NBD_FUZZ", "600"))
SIZE = 256 << 10

numbers = st.sampled_from([0, 1, 511, 512, 4096, SIZE - 512, SIZE, 1 << 31, (1 << 32) - 1])
far = st.one_of(numbers, st.sampled_from([1 << 32, (1 << 63) - 1, (1 << 64) - 1]))
options = st.one_of(
    st.builds(option, st.integers(0, 12), st.binary(max_size=40)),
    st.sampled_from([option(8), option(11), option(3), option(5), go("disk", 3), go("disk")]),
    st.sampled_from([meta(9, "disk"), meta(10, "disk", "base:allocation"), meta(10, "x", "a:b")]),
)
commands = st.builds(
    lambda command, offset, length, flags, data: request(
        command, offset, length, flags=flags, data=data
    ),
    st.integers(0, 9),
    far,
    numbers,
    st.sampled_from([0, 1, 2, 4, 8, 16, 32, 0x8000]),
    st.sampled_from([b"", b"x" * 512, b"y" * 100]),
)
longer = st.builds(
    lambda command, offset, length, flags, data: extended(
        command, offset, length, flags=flags, data=data
    ),
    st.integers(0, 9),
    far,
    far,
    st.sampled_from([0, 1, 2, 4, 8, 16, 32]),
    st.sampled_from([b"", b"x" * 512, bytes(12)]),
)
sessions = st.builds(
    lambda haggling, ending, requests, more: b"".join(
        [CLIENT_FLAGS, *haggling, *([option(11)] if more else []), ending, *requests]
    ),
    st.lists(options, max_size=4),
    st.sampled_from([go("disk"), go("disk", 3), option(1, b"disk"), go("other"), b""]),
    st.lists(st.one_of(commands, longer), max_size=8),
    st.booleans(),
)
mutations = st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4)


@settings(max_examples=INPUTS, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    session=sessions,
    mutated=mutations,
    cut=st.integers(1, 400),
    tls=st.sampled_from(list(Tls)),
    block=st.sampled_from([1, 512]),
)
def test_no_session_breaks_the_server_or_its_limits(
    session: bytes, mutated: list[tuple[int, int]], cut: int, tls: Tls, block: int
) -> None:
    raw = bytearray(session)
    for at, value in mutated:
        raw[at % len(raw)] = value
    exports = MemoryExports.single(SIZE, "disk", minimum_block=block)
    handshake = Handshake(exports, tls)
    stage: Handshake | Transmission = handshake
    rest = b""
    for at in range(0, len(raw), cut):
        rest += bytes(raw[at : at + cut])
        while True:
            used = stage.receive(memoryview(rest))
            rest = rest[used:]
            sent = sum(len(piece) for piece in stage.take())
            assert sent <= (HANDSHAKE_REPLIES_MAX + 10_000 if stage is handshake else sent_max())
            if stage is handshake and handshake.opened is not None:
                stage = transmission_of(handshake)
            elif not used and not sent:
                break
        if stage.ended is not None or handshake.starting_tls:
            break
        assert len(rest) < 32 + OPTION_DATA_MAX
    if isinstance(stage, Transmission):
        assert stage.in_flight == 0, "the disk answers at once"
        stage.close()
        assert exports.disks["disk"].open_count == 0


def transmission_of(handshake: Handshake) -> Transmission:
    opened = handshake.opened
    assert opened is not None
    export = opened.export
    if export.geometry.minimum_block > 1:
        export = AlignedExport(export, RangeLocks())
    return Transmission(
        export,
        structured=opened.structured,
        promised_alignment=opened.keeps_block_sizes,
        wake=lambda: None,
        contexts=opened.contexts,
        extended=opened.extended,
    )


def sent_max() -> int:
    """Replies of one batch: the limit, and one answer beyond it."""
    return REPLIES_MAX + SIZE + REQUESTS_MAX * 4200
