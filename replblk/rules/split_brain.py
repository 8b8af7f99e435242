"""The after-sb policies: which node's changes are given up after a split brain, if any.

``resolve`` applies the policy for the number of Primaries; both nodes get mirrored fates from
mirrored arguments. Whatever a policy does not settle stays UNRESOLVED: nobody loses data without
having been named by a policy or an administrator.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from replblk.model.vocabulary import Policy


class Fate(Enum):
    """What becomes of our changes; the value is DRBD's number."""

    SURVIVOR = 1
    VICTIM = -1
    UNRESOLVED = -100


@dataclass(frozen=True, slots=True, kw_only=True)
class Policies:
    """after-sb-0pri, after-sb-1pri and after-sb-2pri; both nodes have to have the same."""

    zero: Policy = Policy.DISCONNECT
    one: Policy = Policy.DISCONNECT
    two: Policy = Policy.DISCONNECT


@dataclass(frozen=True, slots=True, kw_only=True)
class Conflict:
    """What the policies look at.

    own_older, peer_older: bit 0 of the node's bitmap UUID: it was Primary when the data diverged.
    own_changes, peer_changes: out-of-sync bits as exchanged in P_UUIDS. can_demote: our device is
    not held open, so that we could become Secondary now.
    """

    own_primary: bool
    own_older: bool
    peer_older: bool
    own_changes: int
    peer_changes: int
    resolves_conflicts: bool
    can_demote: bool = False


@dataclass(frozen=True, slots=True)
class Resolution:
    """The fate of our changes. demote: become Secondary first. handlers: to be called.

    stuck: we are the victim, but can't be; the peer does not know that. warnings: DRBD's sentences
    for the log.
    """

    fate: Fate
    demote: bool = False
    stuck: bool = False
    handlers: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


_YOUNGER_OLDER: Final = {
    Policy.DISCARD_YOUNGER_PRI: "younger",
    Policy.DISCARD_OLDER_PRI: "older",
}


def resolve(primaries: int, policies: Policies, conflict: Conflict) -> Resolution:
    """Our fate by the policy for that many Primaries (0, 1 or 2)."""
    if primaries == 0:
        return _no_primary(policies.zero, conflict)
    policy, option = (
        (policies.one, "after-sb-1pri") if primaries == 1 else (policies.two, "after-sb-2pri")
    )
    if policy == Policy.DISCONNECT:
        return Resolution(Fate.UNRESOLVED)
    if policy == Policy.DISCARD_SECONDARY and primaries == 1:
        return Resolution(Fate.SURVIVOR if conflict.own_primary else Fate.VICTIM)
    if policy == Policy.VIOLENTLY:
        return _no_primary(policies.zero, conflict)
    if policy == Policy.CONSENSUS and primaries == 1:
        agreed = _no_primary(policies.zero, conflict)
        expected = Fate.SURVIVOR if conflict.own_primary else Fate.VICTIM
        fate = agreed.fate if agreed.fate == expected else Fate.UNRESOLVED
        return Resolution(fate, warnings=agreed.warnings)
    if policy == Policy.CALL_HELPER:
        return _give_up_primary(_no_primary(policies.zero, conflict), conflict)
    return _misconfigured(policy, option)


def _give_up_primary(by_zero: Resolution, conflict: Conflict) -> Resolution:
    """call-pri-lost-after-sb: a Primary victim has to become Secondary, or nothing happens."""
    if by_zero.fate != Fate.VICTIM or not conflict.own_primary:
        return by_zero
    if conflict.can_demote:
        return Resolution(
            Fate.VICTIM,
            demote=True,
            warnings=(*by_zero.warnings, "Successfully gave up primary role."),
        )
    return Resolution(
        Fate.UNRESOLVED,
        stuck=True,
        handlers=("pri-lost-after-sb",),
        warnings=by_zero.warnings,
    )


def _no_primary(policy: Policy, conflict: Conflict) -> Resolution:
    """after-sb-0pri."""
    if policy == Policy.DISCONNECT:
        return Resolution(Fate.UNRESOLVED)
    if policy == Policy.DISCARD_LOCAL:
        return Resolution(Fate.VICTIM)
    if policy == Policy.DISCARD_REMOTE:
        return Resolution(Fate.SURVIVOR)
    if policy == Policy.DISCARD_ZERO_CHG:
        return Resolution(_by_zero_changes(conflict) or Fate.UNRESOLVED)
    if policy == Policy.DISCARD_LEAST_CHG:
        return Resolution(_by_least_changes(conflict))
    if policy in _YOUNGER_OLDER:
        if conflict.own_older != conflict.peer_older:
            keeps_older = policy == Policy.DISCARD_YOUNGER_PRI
            survives = conflict.own_older == keeps_older
            return Resolution(Fate.SURVIVOR if survives else Fate.VICTIM)
        return Resolution(
            _by_zero_changes(conflict) or _by_least_changes(conflict),
            warnings=(
                f"Discard {_YOUNGER_OLDER[policy]} primary did not find a decision",
                "Using discard-least-changes instead",
            ),
        )
    return _misconfigured(policy, "after-sb-0pri")


def _by_zero_changes(conflict: Conflict) -> Fate | None:
    """A node without changes is the victim; None if both have some."""
    if conflict.own_changes == 0 and conflict.peer_changes == 0:
        return _by_tie(conflict)
    if conflict.peer_changes == 0:
        return Fate.SURVIVOR
    if conflict.own_changes == 0:
        return Fate.VICTIM
    return None


def _by_least_changes(conflict: Conflict) -> Fate:
    """The node with fewer changes is the victim."""
    if conflict.own_changes == conflict.peer_changes:
        return _by_tie(conflict)
    fewer = conflict.own_changes < conflict.peer_changes
    return Fate.VICTIM if fewer else Fate.SURVIVOR


def _by_tie(conflict: Conflict) -> Fate:
    """Nothing tells the nodes apart: the one that resolves conflicts gives in."""
    return Fate.VICTIM if conflict.resolves_conflicts else Fate.SURVIVOR


def _misconfigured(policy: Policy, option: str) -> Resolution:
    """A policy where it means nothing: as if it were disconnect, and say so."""
    return Resolution(
        Fate.UNRESOLVED,
        warnings=(f"Configuration error: {option} can't be {policy}; treated as disconnect",),
    )
