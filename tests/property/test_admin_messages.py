"""Messages and statuses travel unchanged; hostile lines end in AdminError and nothing else."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from replblk.admin.messages import (
    Lines,
    Reply,
    Request,
    decode_reply,
    decode_request,
    encode_reply,
    encode_request,
)
from replblk.admin.proc_text import proc_text
from replblk.admin.status_json import status_json
from replblk.admin.status_text import status_text
from replblk.model.errors import AdminError
from replblk.model.state import State
from replblk.model.status import NodeStatus, ResyncStatus, VolumeStatus

words = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
counts = st.integers(0, 1 << 60)
resyncs = st.builds(
    ResyncStatus,
    total_kib=counts,
    left_kib=counts,
    rate_kib_s=counts,
    rate_average_kib_s=counts,
    want_kib_s=counts,
    percent_done=st.floats(0, 100),
    seconds_left=st.none() | counts,
    stalled=st.booleans(),
)
volumes = st.builds(
    VolumeStatus,
    number=st.integers(0, 65535),
    minor=st.integers(0, 1 << 20),
    device=words,
    disk_path=words,
    state=st.builds(State),
    size_sectors=counts,
    uuids=st.tuples(*[st.integers(0, (1 << 64) - 1)] * 4),
    sent_kib=counts,
    out_of_sync_kib=counts,
    resync=st.none() | resyncs,
    open_count=counts,
)
nodes = st.builds(
    NodeStatus,
    resource=words,
    protocol=st.sampled_from(["A", "B", "C", ""]),
    has_net=st.booleans(),
    peer_name=words,
    epochs=counts,
    write_ordering=st.sampled_from("ndfb"),
    agreed_protocol=counts,
    split_brain=st.booleans(),
    congested=st.booleans(),
    volumes=st.lists(volumes, max_size=3).map(tuple),
)


@settings(deadline=None)
@given(st.builds(Reply, st.integers(0, 255), words, st.integers(-200, 200), st.none() | nodes))
def test_a_reply_travels_unchanged(reply: Reply) -> None:
    line = encode_reply(reply)
    assert line.count(b"\n") == 1
    assert decode_reply(line) == reply


@given(
    st.builds(
        Request,
        st.sampled_from(["up", "primary", "wait-sync"]),
        st.none() | st.integers(0, 65535),
        st.dictionaries(words, st.booleans() | st.integers(-5, 1 << 62) | words, max_size=4),
    )
)
def test_a_request_travels_unchanged(request: Request) -> None:
    assert decode_request(encode_request(request)) == request


@given(st.binary(max_size=100) | st.text('{}[]",:0123456789.eE-verbolumtins\\u d', max_size=60))
def test_any_line_is_a_message_or_an_admin_error(line: bytes | str) -> None:
    data = line if isinstance(line, bytes) else line.encode()
    for decode in (decode_request, decode_reply):
        with suppress(AdminError):
            decode(data)


@given(st.lists(st.binary(max_size=20)))
def test_lines_are_the_same_however_they_are_split(parts: list[bytes]) -> None:
    whole = b"".join(parts)
    lines = Lines()
    found = [line for part in parts for line in lines.feed(part)]
    assert found == Lines().feed(whole)
    assert b"".join(found) == whole[: whole.rfind(b"\n") + 1]


@settings(deadline=None)
@given(st.lists(nodes, max_size=3), st.booleans(), st.booleans())
def test_every_status_can_be_shown(all_nodes: list[NodeStatus], one: bool, two: bool) -> None:
    assert proc_text(all_nodes).startswith("version: 8.4")
    status_text(all_nodes, verbose=one, statistics=two)
    assert len(status_json(all_nodes)["resources"]) == len(all_nodes)
