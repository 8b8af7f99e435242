"""The text of /proc/drbd for running nodes, in DRBD 8.4's layout to the blank.

Line 1 says the DRBD version whose layout, protocol and administration this is, because scripts take
its first words apart to decide what they talk to; line 2, free text in DRBD too, says who wrote it.
"""

from __future__ import annotations

from collections.abc import Iterable

from replblk import __version__
from replblk.admin.state_words import UNCONFIGURED, is_unconfigured
from replblk.model.state import State
from replblk.model.status import NodeStatus, ResyncStatus, VolumeStatus
from replblk.model.vocabulary import ConnState, Role

HEADER = f"version: 8.4.11 (api:1/proto:86-101)\nbuild: replblk {__version__}\n"
"""86-101 are the protocol versions of DRBD 8.4.11."""

_SYNCING = (ConnState.SYNC_SOURCE, ConnState.SYNC_TARGET)
_VERIFYING = (ConnState.VERIFY_S, ConnState.VERIFY_T)
_WITH_WANT = (ConnState.SYNC_TARGET, ConnState.VERIFY_S)
_MIB_FROM_BITS = 1 << 20
"""Above 4 GiB sizes are shown in MiB."""


def proc_text(nodes: Iterable[NodeStatus]) -> str:
    """The whole text, minors ascending; an empty line stands for each gap between them."""
    volumes = sorted(
        ((volume.minor, node, volume) for node in nodes for volume in node.volumes),
        key=lambda item: item[0],
    )
    parts = [HEADER]
    expected = 0
    for minor, node, volume in volumes:
        if minor != expected:
            parts.append("\n")
        expected = minor + 1
        parts.append(_volume(node, volume))
    return "".join(parts)


def _volume(node: NodeStatus, volume: VolumeStatus) -> str:
    state = volume.state
    if is_unconfigured(state) and state.role is Role.SECONDARY:
        return f"{volume.minor:2d}: cs:{UNCONFIGURED}\n"
    text = (
        f"{volume.minor:2d}: cs:{state.conn} ro:{state.role}/{state.peer} "
        f"ds:{state.disk}/{state.pdsk} {node.protocol or ' '} {_flags(node, volume)}\n"
        f"    ns:{volume.sent_kib} nr:{volume.received_kib} dw:{volume.written_kib} "
        f"dr:{volume.read_kib} al:{volume.al_writes} bm:{volume.bm_writes} "
        f"lo:{volume.local_pending} pe:{volume.peer_pending} ua:{volume.unacked} "
        f"ap:{volume.app_pending} ep:{node.epochs} wo:{node.write_ordering} "
        f"oos:{volume.out_of_sync_kib}\n"
    )
    if volume.resync and state.conn in (*_SYNCING, *_VERIFYING):
        text += _progress(state, volume.resync)
    return text


def _flags(node: NodeStatus, volume: VolumeStatus) -> str:
    """Six letters: suspended, paused by dependency, peer, user; congestion; activity log."""
    state = volume.state
    congestion = "n" if node.congested and not state.suspended else "-"
    return "".join(
        (
            "s" if state.suspended else "r",
            "a" if state.aftr_isp else "-",
            "p" if state.peer_isp else "-",
            "u" if state.user_isp else "-",
            congestion,
            "s" if volume.al_suspended else "-",
        )
    )


def permille_done(left_kib: int, total_kib: int) -> int:
    """How far a resync is, 0..1000, in the kernel's coarse arithmetic on bits of 4 KiB."""
    left, total = left_kib // 4, total_kib // 4
    shift = 16 if total >= 1 << 32 else 10
    return max(0, min(1000, 1000 - 1000 * (left >> shift) // (1 + (total >> shift))))


def _progress(state: State, resync: ResyncStatus) -> str:
    permille = permille_done(resync.left_kib, resync.total_kib)
    steps = permille // 50
    bar = "=" * (steps - 1) + ">" + "." * (20 - steps)
    word = "verified:" if state.conn in _VERIFYING else "sync'ed:"
    left, total, unit = resync.left_kib, resync.total_kib, "K"
    if total // 4 > _MIB_FROM_BITS:
        left, total, unit = left >> 10, total >> 10, "M"
    want = f"want: {resync.want_kib_s:,} " if state.conn in _WITH_WANT else ""
    return (
        f"\t[{bar}] {word}{permille // 10:3d}.{permille % 10}% ({left}/{total}){unit}\n"
        f"\tfinish: {_clock(resync.seconds_left)} "
        f"speed: {resync.rate_kib_s:,} ({resync.rate_average_kib_s:,}) {want}K/sec"
        f"{' (stalled)' if resync.stalled else ''}\n"
    )


def _clock(seconds: int | None) -> str:
    """``H:MM:SS``; question marks while there is nothing to estimate from."""
    if seconds is None:
        return "?:??:??"
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
