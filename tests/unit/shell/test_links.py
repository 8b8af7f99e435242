"""What is particular to links over real sockets; the rest is in tests/contract."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from replblk.model.config import Address
from replblk.model.errors import AdminError
from replblk.shell.links import TcpLinks
from replblk.shell.socket_address import resolve
from tests.contract.rigs import ShellLinkRig, shell_links
from tests.support.recorder import Recorder

PORT = 17750
SECOND_NS = 1_000_000_000


@pytest.fixture
def rig() -> Iterator[ShellLinkRig]:
    with shell_links(PORT) as made:
        assert isinstance(made, ShellLinkRig)
        yield made


def dial(source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.2", PORT), 5, (source, 0))


def test_a_stranger_is_closed_counted_and_told_once(rig: ShellLinkRig) -> None:
    recorder = rig.recorders[1]
    rig.links[1].listen(True)
    strangers = [dial("127.0.0.77") for _ in range(3)]
    rig.run_until(lambda: rig.links[1].strangers == 3)
    for stranger in strangers:
        assert stranger.recv(1) == b""
        stranger.close()
    assert recorder.accepted == []
    assert len(recorder.warnings) == 1
    assert "127.0.0.77" in recorder.warnings[0]


@pytest.mark.parametrize("source", ["127.0.0.10", "127.0.0.100", "127.0.0.11", "127.0.1.1"])
def test_an_address_that_begins_like_the_peers_is_a_stranger(
    rig: ShellLinkRig, source: str
) -> None:
    """nbd CVE-2013-6410: an address was compared as far as the one in the list was long."""
    rig.links[1].listen(True)
    with dial(source) as stranger:
        rig.run_until(lambda: rig.links[1].strangers == 1)
        assert stranger.recv(1) == b""
    assert rig.recorders[1].accepted == []


def test_the_peer_may_come_from_any_port(rig: ShellLinkRig) -> None:
    rig.links[1].listen(True)
    peer = dial("127.0.0.1")
    rig.run_until(lambda: bool(rig.recorders[1].accepted))
    peer.close()
    rig.run_until(lambda: bool(rig.recorders[1].lost))


def test_a_port_in_use_is_told_with_the_address(rig: ShellLinkRig) -> None:
    with socket.create_server(("127.0.0.2", PORT)):
        rig.links[1].listen(True)
        assert rig.recorders[1].listen_failures == [], "never from inside the call"
        rig.run_until(lambda: bool(rig.recorders[1].listen_failures))
    [why] = rig.recorders[1].listen_failures
    assert f"127.0.0.2:{PORT}" in why
    assert "in use" in why


def test_a_foreign_own_address_is_told(rig: ShellLinkRig) -> None:
    recorder = Recorder()
    foreign = Address(family="ipv4", host="192.0.2.1", port=PORT)
    peer = Address(family="ipv4", host="127.0.0.2", port=PORT)
    links = TcpLinks(foreign, peer, rig.loop, recorder, recorder.warn)
    links.listen(True)
    link = links.connect(SECOND_NS)
    rig.run_until(lambda: bool(recorder.listen_failures) and link in recorder.lost)
    assert "192.0.2.1" in recorder.lost[link]


def test_a_reset_is_a_loss_with_its_reason(rig: ShellLinkRig) -> None:
    rig.links[1].listen(True)
    peer = dial("127.0.0.1")
    rig.run_until(lambda: bool(rig.recorders[1].accepted))
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    peer.close()
    rig.run_until(lambda: bool(rig.recorders[1].lost))
    assert "reset" in rig.recorders[1].lost[1]


def test_small_packets_are_not_held_back(rig: ShellLinkRig) -> None:
    rig.links[1].listen(True)
    link = rig.links[0].connect(SECOND_NS)
    rig.run_until(lambda: link in rig.recorders[0].connected)
    for links in rig.links:
        for open_link in links._links.values():
            transport = open_link._transport
            assert transport is not None
            raw = transport.get_extra_info("socket")
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_connect_that_is_closed_early_tells_nothing(rig: ShellLinkRig) -> None:
    rig.links[1].listen(True)
    link = rig.links[0].connect(SECOND_NS)
    rig.links[0].close(link)
    second = rig.links[0].connect(SECOND_NS)
    rig.run_until(lambda: second in rig.recorders[0].connected)
    assert link not in rig.recorders[0].connected
    assert rig.recorders[0].lost == {}


def test_no_answer_within_the_timeout_is_a_loss(rig: ShellLinkRig) -> None:
    # A listener whose backlog is full does not answer further connects.
    with socket.create_server(("127.0.0.2", PORT), backlog=0), dial("127.0.0.1"):
        link = rig.links[0].connect(SECOND_NS // 10)
        rig.run_until(lambda: link in rig.recorders[0].lost)
    assert "no answer" in rig.recorders[0].lost[link]


def test_configured_socket_buffers_are_set(rig: ShellLinkRig) -> None:
    recorder = Recorder()
    own = Address(family="ipv4", host="127.0.0.1", port=PORT)
    peer = Address(family="ipv4", host="127.0.0.2", port=PORT)
    links = TcpLinks(
        own, peer, rig.loop, recorder, recorder.warn, sndbuf_bytes=65536, rcvbuf_bytes=32768
    )
    with links._new_socket() as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * 65536
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * 32768


def test_ipv6_nodes_reach_each_other_on_one_address(rig: ShellLinkRig) -> None:
    if not socket.has_ipv6:
        pytest.skip("this Python has no IPv6")
    try:
        socket.create_server(("::1", PORT), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no ::1: {error}")
    recorder = Recorder()
    own = Address(family="ipv6", host="::1", port=PORT)
    links = TcpLinks(own, own, rig.loop, recorder, recorder.warn)
    links.listen(True)
    link = links.connect(SECOND_NS)
    rig.run_until(lambda: link in recorder.connected and bool(recorder.accepted))
    rig.loop.run_until_complete(links.shut(0.5))


def test_an_address_that_is_none_is_refused_with_a_sentence() -> None:
    with pytest.raises(AdminError, match=r"no-such-host\.invalid"):
        resolve(Address(family="ipv4", host="no-such-host.invalid", port=1))
    with pytest.raises(AdminError, match="ssocks"):
        resolve(Address(family="ssocks", host="127.0.0.1", port=1))
