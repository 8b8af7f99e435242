"""The text of ``drbdadm status``: resources as small trees, wrapped and coloured as DRBD does.

Sizes in KiB. The peer is called ``peer``, as the tools call it with DRBD 8.4. Escape codes count
nothing towards the width of a line.
"""

from __future__ import annotations

from collections.abc import Iterable

from replblk.admin.state_words import (
    connection_word,
    replication_word,
    resource_state,
    resync_suspended_words,
    suspended_words,
    write_ordering_word,
)
from replblk.model.status import NodeStatus, VolumeStatus
from replblk.model.vocabulary import ConnState, DiskState, Role

WIDTH = 80
_RESET = "\x1b[0m"
_BOLD = {"role": "\x1b[1;36m", "good": "\x1b[1;32m", "bad": "\x1b[1;31m"}
_PLAIN = {"role": "\x1b[36m", "good": "\x1b[32m", "bad": "\x1b[31m"}
_BAD_DISKS = (DiskState.DISKLESS, DiskState.INCONSISTENT, DiskState.OUTDATED)
_BAD_CONNECTIONS = (ConnState.STANDALONE, ConnState.WF_CONNECTION)
_BAD_REPLICATIONS = (ConnState.SYNC_SOURCE, ConnState.SYNC_TARGET, ConnState.PAUSED_SYNC_T)


class _Page:
    """Lines of blank-separated items; an item that does not fit goes to a line of its own."""

    def __init__(self, width: int, colour: bool) -> None:
        self._width = width
        self._colour = colour
        self._lines: list[str] = []
        self._length = 0
        self._wrap = 0
        self._fresh = True

    def line(self, indent: int, wrap: int) -> None:
        """Begin a line; what does not fit on it goes on at *wrap*."""
        self._lines.append(" " * indent)
        self._length, self._wrap, self._fresh = indent, wrap, True

    def item(self, text: str, colour: str = "") -> None:
        """Add *text*; *colour* (an escape code) is for what stands behind the last colon."""
        need = len(text) if self._fresh else len(text) + 1
        if not self._fresh and self._length + need > self._width:
            self.line(self._wrap, self._wrap)
            need = len(text)
        if not self._fresh:
            self._lines[-1] += " "
        self._fresh = False
        self._length += need
        if colour and self._colour:
            key, _, value = text.rpartition(":")
            text = f"{key}:{colour}{value}{_RESET}"
        self._lines[-1] += text

    def text(self) -> str:
        """All lines."""
        return "".join(f"{line}\n" for line in self._lines)


def status_text(
    nodes: Iterable[NodeStatus],
    *,
    verbose: bool = False,
    statistics: bool = False,
    colour: bool = False,
    width: int = WIDTH,
) -> str:
    """The text for *nodes* in name order, an empty line behind each."""
    page = _Page(width, colour)
    for node in sorted(nodes, key=lambda node: node.resource):
        _resource(page, node, verbose, statistics)
        for volume in node.volumes:
            _device(page, node, volume, verbose, statistics)
        if node.has_net:
            _peer(page, node, verbose, statistics)
        page.line(0, 0)
    return page.text()


def _resource(page: _Page, node: NodeStatus, verbose: bool, statistics: bool) -> None:
    state = resource_state(node)
    page.line(0, 4)
    page.item(node.resource)
    page.item(f"role:{state.role}", _role_colour(state.role, _BOLD))
    suspended = suspended_words(state)
    if verbose or suspended != "no":
        page.item(f"suspended:{suspended}")
    if verbose and statistics:
        page.line(4, 4)
        page.item(f"write-ordering:{write_ordering_word(node.write_ordering)}")


def _single(node: NodeStatus) -> bool:
    return len(node.volumes) == 1 and node.volumes[0].number == 0


def _device(
    page: _Page, node: NodeStatus, volume: VolumeStatus, verbose: bool, statistics: bool
) -> None:
    state = volume.state
    page.line(2, 6)
    if verbose or not _single(node):
        page.item(f"volume:{volume.number}")
    if verbose:
        page.item(f"minor:{volume.minor}")
    page.item(f"disk:{state.disk}", _disk_colour(state.disk, _BOLD))
    if statistics:
        page.line(6, 6)
        if verbose:
            page.item(f"size:{volume.size_sectors // 2}")
        page.item(f"read:{volume.read_kib}")
        page.item(f"written:{volume.written_kib}")
        if verbose:
            page.item(f"al-writes:{volume.al_writes}")
            page.item(f"bm-writes:{volume.bm_writes}")
            page.item(f"upper-pending:{volume.app_pending}")
            page.item(f"lower-pending:{volume.local_pending}")
            page.item(f"al-suspended:{_yes(volume.al_suspended)}")
    if state.suspended or verbose:
        page.item(f"blocked:{'upper' if state.suspended else 'no'}")


def _peer(page: _Page, node: NodeStatus, verbose: bool, statistics: bool) -> None:
    state = resource_state(node)
    connected = state.conn >= ConnState.WF_REPORT_PARAMS
    page.line(2, 6)
    page.item("peer")
    if verbose or not connected:
        bad = _PLAIN["bad"] if state.conn in _BAD_CONNECTIONS else ""
        page.item(f"connection:{connection_word(state.conn)}", bad)
    if verbose or connected:
        page.item(f"role:{state.peer}", _role_colour(state.peer, _PLAIN))
    if verbose or node.congested:
        page.item(f"congested:{_yes(node.congested)}")
    if connected or verbose or statistics:
        for volume in node.volumes:
            _peer_device(page, node, volume, verbose, statistics)


def _peer_device(
    page: _Page, node: NodeStatus, volume: VolumeStatus, verbose: bool, statistics: bool
) -> None:
    state = volume.state
    page.line(4, 8)
    if verbose or not _single(node):
        page.item(f"volume:{volume.number}")
    replication = replication_word(state.conn)
    if verbose or replication != "Off":
        bad = _PLAIN["bad"] if state.conn in _BAD_REPLICATIONS else ""
        page.item(f"replication:{replication}", bad)
    page.item(f"peer-disk:{state.pdsk}", _disk_colour(state.pdsk, _PLAIN))
    done = percent_done(volume)
    if done is not None:
        page.item(f"done:{done:.2f}")
    suspended = resync_suspended_words(state)
    if verbose or suspended != "no":
        page.item(f"resync-suspended:{suspended}")
    if statistics:
        page.line(8, 8)
        page.item(f"received:{volume.received_kib}")
        page.item(f"sent:{volume.sent_kib}")
        if volume.out_of_sync_kib:
            page.item(f"out-of-sync:{volume.out_of_sync_kib}")
        if verbose:
            page.item(f"pending:{volume.peer_pending}")
            page.item(f"unacked:{volume.unacked}")


def percent_done(volume: VolumeStatus) -> float | None:
    """How far a resync is, by what is out of sync; of a verify, by what it has read; else None."""
    conn = volume.state.conn
    if conn in (ConnState.VERIFY_S, ConnState.VERIFY_T) and volume.resync:
        return volume.resync.percent_done
    if ConnState.SYNC_SOURCE <= conn <= ConnState.PAUSED_SYNC_T:
        return percent_in_sync(volume)
    return None


def percent_in_sync(volume: VolumeStatus) -> float:
    """Which part of the device is known to be equal on both nodes."""
    size_kib = volume.size_sectors // 2
    if not size_kib:
        return 100.0
    return max(0.0, 100 * (1 - volume.out_of_sync_kib / size_kib))


def _yes(on: bool) -> str:
    return "yes" if on else "no"


def _role_colour(role: Role, colours: dict[str, str]) -> str:
    return colours["role"] if role is Role.PRIMARY else ""


def _disk_colour(disk: DiskState, colours: dict[str, str]) -> str:
    if disk is DiskState.UP_TO_DATE:
        return colours["good"]
    return colours["bad"] if disk in _BAD_DISKS else ""
