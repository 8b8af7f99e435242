"""The metrics page: drbd-reactor's names and labels, clean to promtool, served over HTTP."""

from __future__ import annotations

import asyncio
import subprocess

import pytest

from replblk.model.latency import Latencies
from replblk.model.state import State
from replblk.model.status import NodeStatus
from replblk.model.vocabulary import ConnState, DiskState, Role
from replblk.shell.metrics import MetricsPage
from replblk.shell.metrics_server import MetricsServer
from tests.support.tools import need
from tests.unit.shell.builders import node_status, volume_status


def samples(status: NodeStatus) -> dict[str, float]:
    page = MetricsPage(lambda: status, Latencies()).text().decode()
    lines = [line for line in page.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


def test_names_labels_and_units_are_drbd_reactors() -> None:
    found = samples(node_status())
    device = '{minor="5",name="r0",volume="0"}'
    peer = '{conn_name="beta",name="r0",peer_node_id="0",volume="0"}'
    expected = {
        "drbdreactor_up": 1,
        "drbd_resource_resources": 1,
        'drbd_resource_suspended{name="r0"}': 0,
        'drbd_resource_role{drbd_resource_role="Primary",name="r0"}': 1,
        'drbd_resource_role{drbd_resource_role="Secondary",name="r0"}': 0,
        f"drbd_device_size_bytes{device}": 65456 * 512,
        f"drbd_device_open{device}": 1,
        f"drbd_device_quorum{device}": 1,
        f"drbd_device_unintentionaldiskless{device}": 0,
        f"drbd_device_read_bytes_total{device}": 40 * 1024,
        f"drbd_device_written_bytes_total{device}": 30 * 1024,
        f"drbd_device_alwrites_total{device}": 5,
        f"drbd_device_bmwrites_total{device}": 6,
        f"drbd_peerdevice_outofsync_bytes{peer}": 16 * 1024,
        f"drbd_peerdevice_sent_bytes{peer}": 10 * 1024,
        f"drbd_peerdevice_sent_bytes_total{peer}": 10 * 1024,
        f"drbd_peerdevice_received_bytes{peer}": 20 * 1024,
        f"drbd_peerdevice_received_bytes_total{peer}": 20 * 1024,
        'replblk_resync_progress_ratio{name="r0",volume="0"}': 0.75,
        'replblk_split_brain{name="r0"}': 0,
    }
    assert {name: found.get(name) for name in expected} == expected
    assert any(name.startswith("replblk_build_info{") for name in found)
    assert any(name.startswith("drbd_version{") for name in found)


def chosen(found: dict[str, float], family: str) -> list[str]:
    """The label value of a state set's only 1."""
    return [
        name.split(f'{family}="')[1].split('"')[0]
        for name, value in found.items()
        if name.startswith(f"{family}{{") and value
    ]


@pytest.mark.parametrize("conn", list(ConnState))
def test_every_connection_state_is_one_of_the_ten_words(conn: ConnState) -> None:
    found = samples(node_status(volume_status(state=State(conn=conn))))
    [word] = chosen(found, "drbd_connection_state")
    expected = {ConnState.WF_CONNECTION: "Connecting"}.get(conn, conn.label)
    assert word == ("Connected" if conn > ConnState.WF_CONNECTION else expected)


@pytest.mark.parametrize("disk", list(DiskState))
def test_every_disk_state_is_one_of_the_words(disk: DiskState) -> None:
    found = samples(node_status(volume_status(state=State(disk=disk))))
    assert chosen(found, "drbd_device_state") == [disk.label]


def test_a_standalone_resource_still_tells_its_connection_state() -> None:
    alone = volume_status(state=State(conn=ConnState.STANDALONE))
    found = samples(node_status(alone, has_net=False))
    assert chosen(found, "drbd_connection_state") == ["StandAlone"]


def test_a_resource_without_peer_or_resync_has_no_such_series() -> None:
    found = samples(node_status(volume_status(resync=None), peer_name=""))
    assert not [name for name in found if name.startswith(("drbd_connection", "drbd_peerdevice"))]
    assert not [name for name in found if name.startswith("replblk_resync")]


def test_promotion_is_advised_only_where_it_would_work() -> None:
    def may(**state: object) -> float:
        return samples(node_status(volume_status(state=State(**state))))[  # type: ignore[arg-type]
            'drbd_resource_maypromote{name="r0"}'
        ]

    assert may(disk=DiskState.UP_TO_DATE) == 1
    assert may(disk=DiskState.INCONSISTENT) == 0
    assert may(disk=DiskState.UP_TO_DATE, peer=Role.PRIMARY) == 0


def test_promtool_finds_nothing_to_complain_about() -> None:
    need("promtool")
    page = MetricsPage(lambda: node_status(split_brain=True), Latencies()).text()
    checked = subprocess.run(
        ["promtool", "check", "metrics"], input=page, capture_output=True, check=False
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, b"")


async def ask(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def test_it_is_served_over_http_and_rude_clients_only_lose_their_connection() -> None:
    async def story() -> None:
        server = MetricsServer(MetricsPage(node_status, Latencies()).text)
        port = await server.listen("127.0.0.1", 0)
        page = await ask(port, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        assert page.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"text/plain; version=0.0.4" in page
        assert b"drbdreactor_up 1.0" in page
        assert (await ask(port, b"GET /other HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404")
        assert (await ask(port, b"POST /metrics HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 405")
        assert (await ask(port, b"\0\xff\r\n\r\n")).startswith(b"HTTP/1.1 405")
        assert await ask(port, b"x" * 100_000) == b""
        head = await ask(port, b"HEAD /metrics HTTP/1.1\r\n\r\n")
        assert head.endswith(b"\r\n\r\n")
        await server.close()

    asyncio.run(story())


def test_latencies_are_a_histogram_of_each_phase() -> None:
    latencies = Latencies()
    for duration_ns in (1_000, 100_000, 60 * 10**9):
        latencies.write.record(duration_ns)
    page = MetricsPage(node_status, latencies).text().decode()
    name = 'replblk_phase_duration_seconds_{}{{{}name="r0",phase="write"}} {}'
    assert name.format("count", "", "3.0") in page
    assert name.format("bucket", 'le="8.192e-06",', "1.0") in page
    assert name.format("bucket", 'le="0.000131072",', "2.0") in page
    assert name.format("bucket", 'le="+Inf",', "3.0") in page
