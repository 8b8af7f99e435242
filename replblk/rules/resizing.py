"""May the device be resized now, by whom, and who copies the new part: the rules of ``resize``.

Numbers and sentences are DRBD's (states, other administrative operations); what to do is ours.
Sizes in 512-byte sectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from replblk.model.state import State
from replblk.model.units import kib
from replblk.model.vocabulary import ConnState, DiskState, Role

NO_RESYNC_APV: Final = 93
ERR_NOT_ENOUGH_SPACE: Final = 169
ERR_IMPLICIT_SHRINK: Final = 170


@dataclass(frozen=True, slots=True)
class ResizeRefused:
    """number: DRBD's error number. text: its sentence, and what to do."""

    number: int
    text: str


def may_resize(
    state: State, *, apv: int, assume_clean: bool, moves_log: bool, assume_peer_has_space: bool
) -> ResizeRefused | None:
    """Why ``resize`` is refused before anything is looked at; None if it is not.

    apv: the agreed protocol version, 0 without a connection. moves_log: another activity log is
    wanted.
    """
    if state.conn > ConnState.CONNECTED:
        return ResizeRefused(
            130, "Resize not allowed during resync.: wait until it is done (wait-sync)"
        )
    if state.role is Role.SECONDARY and state.peer is Role.SECONDARY:
        return ResizeRefused(
            131,
            "Need one Primary node to resize.: its data will be copied into the new part; make a "
            "node primary first",
        )
    if state.disk < DiskState.INCONSISTENT:
        return ResizeRefused(138, "Device does not have a disk-config: attach a disk first")
    if assume_clean and 0 < apv < NO_RESYNC_APV:
        return ResizeRefused(
            153,
            "Protocol version 93 required to use --assume-clean: the peer speaks "
            f"{apv}; resize without it",
        )
    if moves_log and state.conn < ConnState.CONNECTED and not assume_peer_has_space:
        return ResizeRefused(
            166,
            "DRBD need to be connected for online MD layout change: connect, or say "
            "--assume-peer-has-space",
        )
    return None


def may_have_size(
    new: int, current: int, *, usable: int, wanted: int, changes_log: bool
) -> ResizeRefused | None:
    """Why the device may not get the size that came out; None if it may.

    new: that size; current: the size now; usable: what the metadata at their new place leave for
    data; wanted: what --size said, 0 for nothing. Only who names a size may make it smaller.
    """
    if new >= current or (wanted and wanted <= usable):
        return None
    if changes_log:
        return ResizeRefused(
            ERR_NOT_ENOUGH_SPACE,
            "Resulting AL does not fit into available meta data space: it would leave "
            f"{kib(usable)} KiB for data, the device has {kib(current)} KiB",
        )
    return ResizeRefused(
        ERR_IMPLICIT_SHRINK,
        f"Implicit device shrinking not allowed. The device has {kib(current)} KiB, there is room "
        f"for {kib(new)} KiB; if its users need no more than that, name it: --size={kib(new)}k",
    )


def awaits_primary(state: State, new: int, current: int) -> bool:
    """Whether the peer has to shrink first: its clients may still be writing behind the new end."""
    return (
        new < current
        and state.conn is ConnState.CONNECTED
        and state.role is Role.SECONDARY
        and state.peer is Role.PRIMARY
    )


def new_part_source(state: State, *, resolves_conflicts: bool) -> bool | None:
    """Whether this node copies the new part to the peer (True), from it, or nobody does (None).

    The Primary is the source, among equals the node that resolves conflicts. Without good data at
    the source, or without a disk at either node, there is nothing to copy.
    """
    if state.disk < DiskState.INCONSISTENT or state.pdsk < DiskState.INCONSISTENT:
        return None
    if state.role is not state.peer:
        source = state.role is Role.PRIMARY
    else:
        source = resolves_conflicts
    good = state.disk if source else state.pdsk
    return source if good is DiskState.UP_TO_DATE else None
