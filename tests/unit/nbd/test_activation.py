"""Socket activation: which descriptors are taken, which are refused, and that no child inherits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nbd.activation import ActivationError, activated_sockets

HIGH = 900
"""Descriptors that no test uses otherwise."""


def told(count: object, names: str | None = None, pid: int | None = None) -> dict[str, str]:
    variables = {"LISTEN_PID": str(pid or os.getpid()), "LISTEN_FDS": str(count), "OTHER": "stays"}
    return variables | ({"LISTEN_FDNAMES": names} if names is not None else {})


@pytest.fixture
def listeners(tmp_path: Path) -> Iterator[list[socket.socket]]:
    """A unix and a TCP listener at HIGH and HIGH + 1."""
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    unix.bind(str(tmp_path / "s"))
    unix.listen()
    tcp = socket.create_server(("127.0.0.1", 0))
    for at, sock in enumerate((unix, tcp)):
        os.dup2(sock.fileno(), HIGH + at, inheritable=True)
    yield [unix, tcp]
    unix.close()
    tcp.close()
    for at in range(2):
        try:
            os.close(HIGH + at)
        except OSError:
            continue  # taken over and closed by the test


@pytest.mark.parametrize(
    ("names", "expected"),
    [(None, ["", ""]), ("one:two", ["one", "two"]), ("one", ["one", ""]), ("a:b:c", ["a", "b"])],
)
def test_sockets_come_in_order_with_their_names(
    listeners: list[socket.socket], names: str | None, expected: list[str]
) -> None:
    variables = told(2, names)
    found = activated_sockets(variables, HIGH)
    assert [name for name, _ in found] == expected
    assert [s.getsockname() for _, s in found] == [s.getsockname() for s in listeners]
    assert not any(s.getblocking() or os.get_inheritable(s.fileno()) for _, s in found)
    assert variables == {"OTHER": "stays"}, "no child takes them as well"
    for _, sock in found:
        sock.close()


@pytest.mark.parametrize("variables", [{}, told(2, pid=1), {"LISTEN_PID": str(os.getpid())}])
def test_sockets_of_others_are_left_alone(variables: dict[str, str]) -> None:
    before = dict(variables)
    assert activated_sockets(variables, HIGH) == []
    assert variables == before


@pytest.mark.parametrize("count", ["0", "-1", "x", "5000", "٣"])
def test_nonsense_counts_are_refused(count: str) -> None:
    with pytest.raises(ActivationError, match="not a number"):
        activated_sockets(told(count), HIGH)


def test_what_is_no_listening_stream_socket_is_named(listeners: list[socket.socket]) -> None:
    with pytest.raises(ActivationError, match=f"descriptor {HIGH + 2} .*not a socket"):
        activated_sockets(told(3), HIGH)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
        os.dup2(datagrams.fileno(), HIGH)
        with pytest.raises(ActivationError, match=r"\(mine\) is not a listening stream socket"):
            activated_sockets(told(1, "mine"), HIGH)
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as idle:
        os.dup2(idle.fileno(), HIGH)
        with pytest.raises(ActivationError, match="not a listening"):
            activated_sockets(told(1), HIGH)


def test_the_little_server_says_that_activation_gave_nothing() -> None:
    environment = os.environ | {"LISTEN_PID": "1", "LISTEN_FDS": "1"}
    command = [sys.executable, "-m", "nbd", "--memory", "1M"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "socket activation gave no socket" in done.stderr
