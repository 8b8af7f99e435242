"""A stream gives the same packets however it is cut; a hostile one gives ``PeerError`` only."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st

from replblk.model.errors import PeerError
from replblk.wire.commands import SPECS, UNAGREED_ONLY, Cmd, Socket
from replblk.wire.framing import Deframer, Packet, frame


def packets(apv: int) -> st.SearchStrategy[Packet]:
    """Packets of the data socket at *apv*, with payloads of any permitted length."""

    def of(cmd: Cmd) -> st.SearchStrategy[Packet]:
        spec = SPECS[cmd]
        volumes = st.integers(0, 65535) if spec.volume_meaningful and apv >= 100 else st.just(0)
        lengths = st.one_of(
            st.just(spec.fixed_len), st.integers(spec.fixed_len, min(spec.max_len, 6000))
        )
        payloads = lengths.map(lambda length: bytes(i & 255 for i in range(length)))
        return st.builds(Packet, st.just(cmd), volumes, payloads)

    commands = [
        cmd
        for cmd, spec in SPECS.items()
        if spec.socket != "meta" and (cmd in UNAGREED_ONLY) == (apv == 80)
    ]
    return st.sampled_from(commands).flatmap(of)


talks = st.sampled_from([80, 86, 95, 100, 101]).flatmap(
    lambda apv: st.tuples(st.just(apv), st.lists(packets(apv), max_size=8))
)


def parse(stream: Deframer, pieces: list[bytes], *, greedy: bool) -> list[Packet]:
    got = []
    for piece in pieces:
        stream.feed(piece)
        while greedy and (packet := stream.next()) is not None:
            got.append(packet)
    while (packet := stream.next()) is not None:
        got.append(packet)
    return got


@given(talks, st.data(), st.booleans())
def test_cuts_do_not_matter(
    talk: tuple[int, list[Packet]], data: st.DataObject, greedy: bool
) -> None:
    apv, sent = talk
    whole = b"".join(frame(p.cmd, p.volume, p.payload, apv) for p in sent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    pieces = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    stream = Deframer("data")
    stream.apv = apv
    assert parse(stream, pieces, greedy=greedy) == sent


@given(talks, st.data(), st.booleans())
def test_it_is_empty_exactly_while_all_that_was_fed_was_taken(
    talk: tuple[int, list[Packet]], data: st.DataObject, together: bool
) -> None:
    apv, sent = talk
    framed = [frame(p.cmd, p.volume, p.payload, apv) for p in sent]
    whole = b"".join(framed)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=12)))
    stream = Deframer("data")
    stream.apv = apv
    number = taken = 0
    for begin, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        stream.feed(whole[begin:end])
        while True:
            assert stream.empty == (taken == end)
            count = len(stream.writes()) if together else 0
            if not count and stream.next() is not None:
                count = 1
            if not count:
                break
            taken += sum(map(len, framed[number : number + count]))
            number += count
    assert stream.empty


@given(talks)
def test_byte_by_byte_is_like_all_at_once(talk: tuple[int, list[Packet]]) -> None:
    apv, sent = talk
    whole = b"".join(frame(p.cmd, p.volume, p.payload, apv) for p in sent)
    stream = Deframer("data")
    stream.apv = apv
    assert parse(stream, [bytes((byte,)) for byte in whole], greedy=True) == sent


@given(
    st.binary(max_size=300), st.sampled_from([80, 94, 99, 101]), st.sampled_from(["data", "meta"])
)
@example(bytes.fromhex("8620ec20000000000010005800000000"), 101, "data")
def test_hostile_streams_raise_nothing_but_peer_errors(
    noise: bytes, apv: int, socket: Socket
) -> None:
    magics = (b"", bytes.fromhex("8620ec20"), bytes.fromhex("83740267"), bytes.fromhex("835a"))
    for magic in magics:
        stream = Deframer(socket)
        stream.apv = apv
        stream.feed(magic + noise)
        with suppress(PeerError):
            while (packet := stream.next()) is not None:
                spec = SPECS[packet.cmd]
                assert spec.socket in (socket, "both")
                assert spec.fixed_len <= len(packet.payload) <= spec.max_len
