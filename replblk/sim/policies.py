"""How the administrator of a simulated pair has configured errors, missing data and fencing.

Drawn by profiles ``policies`` and ``fenced``; everywhere else these are DRBD's defaults, and a
handler is configured in a few runs only.
"""

from __future__ import annotations

from dataclasses import dataclass

from replblk.model.vocabulary import Fencing, OnIoError, OnNoData

POLICY_FAULTS = ("stuck", "new-uuid", "suspend-io")
"""Classes of faults of profile policies; see ``policy_faults``."""
HANDLERS = (
    *("local-io-error", "pri-on-incon-degr", "split-brain", "out-of-sync"),
    *("before-resync-target", "after-resync-target", "before-resync-source"),
    *("fence-peer", "unfence-peer"),
)
"""The handlers that such a pair has configured, all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyOptions:
    """What a seed decides about it. disk_timeout: tenths of a second, 0: off."""

    on_io_error: OnIoError = OnIoError.DETACH
    on_no_data: OnNoData = OnNoData.IO_ERROR
    disk_timeout: int = 0
    fencing: Fencing = Fencing.DONT_CARE
    handlers: bool = False
    """Whether there are handlers at all."""
    io_error_ends_node: bool = False
    """The handler local-io-error turns the machine off."""
    vetoes: int = 0
    """So many of the first calls of before-resync-target or -source forbid the resync."""
    agent_fails: float = 0.0
    """Share of the calls of fence-peer that end without having found anything out."""
    skip_first_sync: bool = False
    """Fresh nodes that hold the same: new-current-uuid --clear-bitmap instead of a first sync."""
