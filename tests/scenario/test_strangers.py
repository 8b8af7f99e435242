"""Somebody at the peer's address who is not the peer: costs a connection, never the pair."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from replblk.model.vocabulary import ConnState, DiskState
from replblk.sim.world import SECOND_NS
from replblk.wire import auth
from replblk.wire.framing import frame
from replblk.wire.packets import Cmd
from tests.support.lab import BLOCK, Lab
from tests.support.scripted_peer import Rig, ScriptedPeer

SECRET = {"cram_hmac_alg": "sha256", "shared_secret": "known to two"}
DIALECT = struct.pack(">IIII", 110, 15, 120, 0) + bytes(56)


def features(peer: ScriptedPeer) -> None:
    peer.say_features()
    peer.apv, peer.features = 101, 15
    for link in (peer.data, peer.meta):
        peer._deframers[link].apv = 101


def answers_wrongly(peer: ScriptedPeer) -> None:
    features(peer)
    peer.send_payload(Cmd.P_AUTH_CHALLENGE, b"c" * 64, on="data")
    peer.send_payload(Cmd.P_AUTH_RESPONSE, b"guess" * 6 + b"!!", on="data")


def reflects(peer: ScriptedPeer) -> None:
    """Gives our own challenge back, to have it answered for him."""
    features(peer)
    if challenges := peer.of(Cmd.P_AUTH_CHALLENGE):
        peer.send_payload(Cmd.P_AUTH_CHALLENGE, bytes(challenges[0].payload), on="data")


def skips_authentication(peer: ScriptedPeer) -> None:
    features(peer)
    peer.say_parameters()


STRANGERS: dict[str, Callable[[ScriptedPeer], None]] = {
    "answers wrongly": answers_wrongly,
    "reflects": reflects,
    "skips authentication": skips_authentication,
    "other dialect": lambda p: p.raw(p.data, frame(Cmd.P_CONNECTION_FEATURES, 0, DIALECT, 80)),
    "another packet": lambda p: p.raw(p.data, frame(Cmd.P_PROTOCOL, 0, bytes(25), 80)),
    "rubbish": lambda p: p.raw(p.data, b"GET / HTTP/1.1\r\n\r\n" * 4),
    "silence": lambda p: None,
    "hangs up": lambda p: p.hang_up(),
}


def knocks(rig: Rig, stranger: Callable[[ScriptedPeer], None], times: int) -> None:
    """The stranger takes every connection there is, that often."""
    peer = rig.peer
    peer.polite = False
    for _ in range(times):
        rig.run_until(lambda: bool(peer.of(Cmd.P_CONNECTION_FEATURES)), what="features")
        stranger(peer)
        rig.run_for(0.3)  # reflects: the challenge has to be here first
        if stranger is reflects:
            stranger(peer)
        rig.run_until(lambda: not (peer.data and peer.meta), what="the connection refused")


@pytest.mark.parametrize("name", sorted(STRANGERS))
def test_a_stranger_costs_a_connection_and_nothing_else(name: str) -> None:
    rig = Rig(net=SECRET)
    rig.run_for(0.1)
    before = rig.durable_uuids("alpha"), rig.durable_flags("alpha")
    knocks(rig, STRANGERS[name], 5)
    assert rig.alpha.connection is ConnState.WF_CONNECTION
    assert rig.shows("alpha", disk=DiskState.UP_TO_DATE)
    assert (rig.durable_uuids("alpha"), rig.durable_flags("alpha")) == before
    assert not rig.told("alpha", "-> StandAlone")


@pytest.mark.parametrize("name", sorted(STRANGERS))
def test_the_peer_gets_through_right_after_a_stranger(name: str) -> None:
    rig = Rig(net=SECRET)
    knocks(rig, STRANGERS[name], 3)
    peer = rig.peer
    rig.run_for(0.01)
    # The peer calls by itself: the node has to be listening, not to be waiting for its own turn.
    peer.ports.links.listen(False)
    peer.open(lambda link: _opened(peer, link))
    rig.run_until(
        lambda: bool(peer.of(Cmd.P_CONNECTION_FEATURES)), 3 * SECOND_NS, "features for the peer"
    )
    features(peer)
    ours = bytes(rig.gets(Cmd.P_AUTH_CHALLENGE).payload)
    peer.send_payload(Cmd.P_AUTH_CHALLENGE, b"theirs" * 10 + b"1234", on="data")
    secret, alg = SECRET["shared_secret"].encode(), SECRET["cram_hmac_alg"]
    peer.send_payload(Cmd.P_AUTH_RESPONSE, auth.response(secret, ours, alg), on="data")
    rig.gets(Cmd.P_AUTH_RESPONSE)
    peer.say_parameters()
    rig.run_until(lambda: rig.alpha.connection >= ConnState.CONNECTED, SECOND_NS, "connected")


def _opened(peer: ScriptedPeer, link: int) -> None:
    peer.data = link
    peer._deframers[link].socket = "data"
    peer.raw(link, frame(Cmd.P_INITIAL_DATA, 0, b"", 80))
    peer.ports.links.listen(True)


def test_a_stranger_who_keeps_knocking_does_not_fill_the_log() -> None:
    rig = Rig(net=SECRET)
    knocks(rig, answers_wrongly, 20)
    refusals = [line for line in rig.alpha.told if "Authentication of peer failed" in line]
    assert 1 <= len(refusals) < 10
    assert len(refusals) == 1 or "in a row)" in refusals[-1]


def test_a_flood_on_a_socket_that_is_being_set_up_is_cut_off() -> None:
    rig = Rig(net=SECRET)
    peer = rig.peer
    peer.ports.links.listen(False)
    peer.opens_meta = False
    rig.run_for(0.1)
    opened: list[int] = []
    peer.open(opened.append)
    rig.run_until(lambda: bool(opened))
    peer.raw(opened[0], frame(Cmd.P_INITIAL_DATA, 0, b"", 80))
    rig.run_for(0.01)
    peer.raw(opened[0], bytes(1 << 20))
    rig.run_until(lambda: bool(peer.lost), what="the flood cut off")
    assert rig.alpha.connection is ConnState.WF_CONNECTION


def test_two_real_nodes_connect_while_one_was_refused_for_its_secret_before() -> None:
    lab = Lab(net_of={"alpha": SECRET, "beta": {**SECRET, "shared_secret": "wrong"}})
    lab.boot("alpha")
    lab.boot("beta")
    lab.run_for(10)
    lab.beta.kill()
    lab.beta.resource = replace(lab.beta.resource, net=lab.alpha.resource.net)
    lab.boot("beta")
    lab.run_until(lambda: lab.alpha.connection >= ConnState.CONNECTED, 5 * SECOND_NS)
    lab.primary("alpha")
    lab.write("alpha", 0, b"x" * BLOCK)
    lab.in_sync()
