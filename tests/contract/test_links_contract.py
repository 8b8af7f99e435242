"""What a node may rely on of Links, in whichever world."""

from __future__ import annotations

from tests.contract.rigs import LinkRig

SECOND_NS = 1_000_000_000


def pair(rig: LinkRig) -> tuple[int, int]:
    """A connection from node 0 to node 1: its number at either end."""
    near, far = rig.recorders
    rig.links[1].listen(True)
    link = rig.links[0].connect(5 * SECOND_NS)
    rig.run_until(lambda: link in near.connected and bool(far.accepted))
    return link, far.accepted[-1]


def test_a_connection_is_told_at_both_ends(link_rig: LinkRig) -> None:
    link, accepted = pair(link_rig)
    assert link_rig.recorders[0].connected == [link]
    assert link_rig.recorders[1].accepted == [accepted]


def test_nobody_listens_and_the_connect_is_lost_with_a_reason(link_rig: LinkRig) -> None:
    link = link_rig.links[0].connect(5 * SECOND_NS)
    recorder = link_rig.recorders[0]
    assert recorder.lost == {}
    link_rig.run_until(lambda: link in recorder.lost)
    assert recorder.lost[link]
    assert recorder.connected == []


def test_bytes_arrive_in_order_and_complete_in_both_directions(link_rig: LinkRig) -> None:
    link, accepted = pair(link_rig)
    near, far = link_rig.recorders
    there = [bytes([number % 251]) * (number * 37) for number in range(200)]
    for data in there:
        link_rig.links[0].send(link, data)
    link_rig.links[1].send(accepted, memoryview(b"back"))
    whole = b"".join(there)
    link_rig.run_until(lambda: len(far.received.get(accepted, b"")) >= len(whole))
    link_rig.run_until(lambda: near.received.get(link) == b"back")
    assert far.received[accepted] == whole


def test_two_links_between_the_same_nodes_do_not_mix(link_rig: LinkRig) -> None:
    data, data_far = pair(link_rig)
    meta, meta_far = pair(link_rig)
    assert len({data, meta}) == len({data_far, meta_far}) == 2
    link_rig.links[0].send(data, b"data")
    link_rig.links[0].send(meta, b"meta")
    far = link_rig.recorders[1]
    link_rig.run_until(lambda: {data_far, meta_far} <= far.received.keys())
    assert far.received == {data_far: b"data", meta_far: b"meta"}


def test_bytes_sent_before_a_close_still_arrive_and_then_the_loss(link_rig: LinkRig) -> None:
    link, accepted = pair(link_rig)
    near, far = link_rig.recorders
    link_rig.links[1].send(accepted, b"u" * 100_000)
    link_rig.links[0].send(link, b"farewell" * 10_000)
    link_rig.links[0].close(link)
    link_rig.run_until(lambda: accepted in far.lost)
    assert far.received[accepted] == b"farewell" * 10_000
    assert near.lost == {}, "no event follows for a link that was closed here"
    assert near.received == {}


def test_a_paused_link_delivers_nothing_until_it_goes_on(link_rig: LinkRig) -> None:
    link, accepted = pair(link_rig)
    far = link_rig.recorders[1]
    link_rig.links[1].pause(accepted, True)
    other, other_far = pair(link_rig)
    link_rig.links[0].send(link, b"held back")
    link_rig.links[0].send(other, b"passes")
    link_rig.run_until(lambda: far.received.get(other_far) == b"passes")
    assert accepted not in far.received
    link_rig.links[1].pause(accepted, False)
    link_rig.run_until(lambda: far.received.get(accepted) == b"held back")


def test_sending_on_a_lost_link_is_harmless(link_rig: LinkRig) -> None:
    link, accepted = pair(link_rig)
    link_rig.links[0].close(link)
    link_rig.run_until(lambda: accepted in link_rig.recorders[1].lost)
    link_rig.links[1].send(accepted, b"too late")
    link_rig.links[1].close(accepted)
    link_rig.submit()


def test_without_a_listener_connections_are_refused_again(link_rig: LinkRig) -> None:
    pair(link_rig)
    link_rig.links[1].listen(False)
    link = link_rig.links[0].connect(5 * SECOND_NS)
    link_rig.run_until(lambda: link in link_rig.recorders[0].lost)


def test_listening_twice_is_one_listener(link_rig: LinkRig) -> None:
    link_rig.links[1].listen(True)
    link_rig.links[1].listen(True)
    pair(link_rig)
    assert link_rig.recorders[1].listen_failures == []
    assert len(link_rig.recorders[1].accepted) == 1
